"""Shared by all tests: one thread per process, so that results and timings do not depend on the machine's load."""

import cv2
import pytest
import torch

torch.set_num_threads(1)
cv2.setNumThreads(0)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What runs remember is remembered for these tests only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
