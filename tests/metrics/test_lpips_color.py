"""LPIPS (random backbone) against the lpips package, and colour drift."""

import pytest
import torch

from tgsr.metrics.color import ColorDrift
from tgsr.metrics.lpips import LPIPS, load_lpips
from tgsr.utils.errors import DataError, UserError


@pytest.fixture(scope="module")
def squeeze():
    return LPIPS(net="squeeze", pretrained=False)


def pair(side=40):
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(3, side, side, generator=generator)
    return (gt + 0.2 * torch.randn(3, side, side, generator=generator)), gt


def test_lpips_of_equal_images_is_zero(squeeze):
    _, gt = pair()
    assert squeeze(gt, gt) == 0.0
    assert squeeze(gt + 0.3 / 255, (gt * 255).round() / 255) < 1e-3


def test_lpips_range_and_rounding(squeeze):
    """Inputs become 8-bit values in [-1, 1]: what the package takes."""
    restored, gt = pair()
    scaled = [(i.clamp(0, 1) * 255).round()[None] / 127.5 - 1 for i in (restored, gt)]
    expected = squeeze._net(*scaled).item()
    assert expected > 0
    assert squeeze(restored, gt) == pytest.approx(expected, rel=1e-5)


def test_lpips_random_backbone_is_reproducible_and_says_so(squeeze):
    state = torch.random.get_rng_state()
    again = LPIPS(net="squeeze", pretrained=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again(*pair()) == squeeze(*pair())
    assert squeeze.protocol == "LPIPS 0.1 squeeze, RGB, crop 0, 8-bit, random backbone: not a quality measure"


def test_lpips_backbone_from_a_file(tmp_path, squeeze):
    """A file with torchvision's keys fills every backbone weight."""
    import re

    own = squeeze._net.net.state_dict()
    state = {re.sub(r"^slice\d+", "features", k): v + 1 for k, v in own.items()}
    torch.save(state, tmp_path / "squeeze.pth")
    loaded = load_lpips("squeeze", weights=tmp_path / "squeeze.pth").net.state_dict()
    assert all(torch.equal(loaded[k], v + 1) for k, v in own.items())
    torch.save({k: v for k, v in state.items() if "features.0" not in k}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="do not fit squeezenet1_1"):
        load_lpips("squeeze", weights=tmp_path / "part.pth")


def test_lpips_refuses_what_is_too_small(squeeze):
    with pytest.raises(DataError, match="too small"):
        squeeze(*pair(side=31))


def test_color_drift_by_hand():
    gt = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    gt = (gt * 255).round() / 255
    red = gt.clone()
    red[0] += 6 / 255
    assert ColorDrift()(red, gt) == pytest.approx(2.0, abs=1e-4)
    assert ColorDrift()(gt, gt) == 0.0
    half = gt.clone()
    half[:, :, :32] += 4 / 255
    half[:, :, 32:] -= 4 / 255
    assert ColorDrift()(half, gt) == pytest.approx(4.0, abs=1e-4)


def test_color_drift_does_not_see_detail():
    gt = torch.full((3, 32, 32), 100 / 255)
    checks = torch.ones(32, 32)
    checks[::2, ::2] = checks[1::2, 1::2] = -1
    assert ColorDrift()(gt + checks * 40 / 255, gt) == pytest.approx(0, abs=1e-4)
    assert ColorDrift(crop_border=4)(gt[:, :20, :20], gt[:, :20, :20]) == 0.0
