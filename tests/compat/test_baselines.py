"""The baselines' option files say what the publications do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgsr.config.options import load_options
from tgsr.utils.errors import ConfigError

FILES = sorted((Path(__file__).resolve().parents[2] / "options" / "baselines").glob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_baseline_binds_and_a_misspelt_key_is_named(file):
    options = load_options(file)
    assert options.name == file.stem
    assert options.network_g.kwargs.get("upscale", options.network_g.kwargs.get("scale", 4)) == options.scale
    if options.degradation is not None:
        assert options.degradation.space.kwargs["scale"] == options.scale
    with pytest.raises(ConfigError, match="total_itr"):
        load_options(file, ["train:total_itr=3"])


def test_stages_follow_each_other():
    options = {file.stem: load_options(file) for file in FILES}
    for second, first in (("esrgan_x4", "esrnet_x4"), ("esrgan_x2", "esrnet_x2"), ("hat_gan_x4", "hat_mse_x4")):
        name, after = f"real_{second}", f"real_{first}"
        assert options[name].path.pretrain_network_g.parts[1] == after
        assert options[name].network_g == options[after].network_g
        assert options[name].model == "AdversarialModel"
        assert set(options[name].train.losses) == {"pixel", "perceptual"}
        assert options[name].degradation == options[after].degradation
