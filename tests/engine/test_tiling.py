"""Tiled equals untiled where the overlap covers the receptive field."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tgsr.engine.tiling import TiledRestorer, Tiling, restore_tiled


class Net(nn.Module):
    """Three 3x3 convolutions (receptive field 7) and x2 nearest up-sampling."""

    receptive_field = 7
    size_multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)])

    def forward(self, x):
        return functional.interpolate(self.convs(x), scale_factor=2)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def test_exact_inside_with_enough_overlap(net):
    lq = torch.rand(1, 3, 37, 51)
    tiling = Tiling.of(net, 16)
    assert (tiling.overlap, tiling.is_exact) == (3, True)
    with torch.no_grad():
        assert torch.allclose(restore_tiled(net, lq, tiling, scale=2), net(lq), atol=1e-6)


def test_too_small_overlap_differs_and_says_so(net, caplog):
    lq = torch.rand(1, 3, 37, 51)
    restorer = TiledRestorer(net, net, scale=2, tile=16, overlap=1)
    with torch.no_grad(), caplog.at_level("WARNING", logger="tgsr"):
        assert not torch.allclose(restorer(lq), net(lq), atol=1e-3)
    assert "do not cover the receptive field" in caplog.text


def test_tiles_are_aligned_to_the_network():
    net = nn.Identity()
    net.size_multiple, net.receptive_field = 8, None
    tiling = Tiling.of(net, 50, 10)
    assert (tiling.tile, tiling.overlap, tiling.is_exact) == (56, 16, False)


def test_whole_below_max_pixels_tiled_above(net):
    sizes = []

    def restore(x):
        sizes.append(tuple(x.shape[-2:]))
        return net(x)

    restorer = TiledRestorer(restore, net, scale=2, max_pixels=400)
    with torch.no_grad():
        restorer(torch.rand(1, 3, 20, 20))
        assert sizes == [(20, 20)]
        restorer(torch.rand(1, 3, 40, 40))
    assert len(sizes) == 5


def test_out_of_memory_retries_once_with_smaller_tiles(net, caplog):
    def restore(x):
        if x.shape[-1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return net(x)

    lq = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), caplog.at_level("WARNING", logger="tgsr"):
        assert torch.allclose(TiledRestorer(restore, net, scale=2)(lq), net(lq), atol=1e-6)
        assert "once more with tiles of 32" in caplog.text
        with pytest.raises(torch.OutOfMemoryError):
            TiledRestorer(lambda x: restore(torch.zeros(1, 3, 50, 50)), net, scale=2)(lq)
