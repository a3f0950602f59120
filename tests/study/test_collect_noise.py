"""The stage that collects noise: the smoothest patches, in a file that the degradation reads."""

import numpy as np
import pytest
import yaml

from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import run_stage
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import save_image, to_tensor


@pytest.fixture
def collect(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8, 8:] = np.arange(8)[:, None, None] * 2  # variance 21
    image[8:, :8] = np.arange(8)[:, None, None]  # variance 5.25
    image[8:, 8:] = np.arange(8)[:, None, None] * 30
    save_image(tmp_path / "source/a.png", to_tensor(image))

    def run(**arguments):
        stage = {"type": "CollectNoise", "source": "source", "size": 8, **arguments}
        options = {"name": "noise", "scale": 4, "run": stage}
        (tmp_path / "noise.yml").write_text(yaml.safe_dump(options))
        run_stage(load_options(tmp_path / "noise.yml"), Context.create(device="cpu", launcher="none"))
        return np.load(tmp_path / "experiments/noise/noise.npy")

    return run


def test_patches_up_to_the_variance_and_the_smoothest_of_them(collect):
    patches = collect()
    assert patches.shape == (2, 8, 8, 3)
    assert (patches[0] == 0).all()
    assert patches[1, :, 0, 0].tolist() == list(range(8))
    assert len(collect(max_variance=22.0)) == 3
    assert len(collect(max_variance=None, num_patches=1)) == 1


def test_nothing_smooth_enough_is_told_with_what_there_is(collect):
    with pytest.raises(DataError, match="no patch of 16 px has a variance of 0.0 or less: the smoothest has"):
        collect(max_variance=0.0, size=16)
