"""basicsr as an oracle: imports it with the alias it needs on current torchvision, or skips the test."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest


def load_basicsr(module: str = "basicsr") -> ModuleType:
    """Import `module` of basicsr; skip the calling test where basicsr is not installed."""
    import torchvision.transforms.functional as functional

    sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
    pytest.importorskip("basicsr", exc_type=ImportError)
    return importlib.import_module(module)
