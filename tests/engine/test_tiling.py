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
    assert len(sizes) == 1 + 9
    assert max(max(s) for s in sizes) == 20  # with its overlap a tile is no larger than what fits


def test_wide_receptive_fields_do_not_multiply_the_work(net, caplog):
    net.receptive_field = 699
    assert Tiling.of(net, 1047) == Tiling(1047, 349, is_exact=True)
    small = Tiling.of(net, 256)
    assert (small.overlap, small.is_exact) == (32, False)
    whole = Tiling.within(net, 1224)
    assert whole.extent <= 1224
    assert not whole.is_exact
    restorer = TiledRestorer(net, net, scale=2, tile=16)
    with torch.no_grad(), caplog.at_level("WARNING", logger="tgsr"):
        restorer(torch.rand(1, 3, 20, 20))
    assert "699 pixels wide" in caplog.text
    assert "tiles of 1047 or more would be exact" in caplog.text


def test_out_of_memory_retries_once_with_smaller_tiles(net, caplog):
    def restore(x):
        if x.shape[-1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return net(x)

    lq = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), caplog.at_level("WARNING", logger="tgsr"):
        assert torch.allclose(TiledRestorer(restore, net, scale=2)(lq), net(lq), atol=1e-6)
        assert "once more with tiles of 26" in caplog.text  # 26 and twice the overlap of 3 are half of 64
        with pytest.raises(torch.OutOfMemoryError):
            TiledRestorer(lambda x: restore(torch.zeros(1, 3, 50, 50)), net, scale=2)(lq)


def test_every_image_has_its_own_second_try_and_cpu_allocators_count(net):
    limit = 40

    def restore(x):
        if x.shape[-1] > limit:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B")
        return net(x)

    restorer = TiledRestorer(restore, net, scale=2)
    lq = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(restorer(lq), net(lq), atol=1e-6)
        limit = 20
        assert torch.allclose(restorer(lq), net(lq), atol=1e-6)

    def broken(x):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        TiledRestorer(broken, net, scale=2)(lq)


def test_batches_go_in_parts_that_fit_then_in_halves_then_in_tiles(net):
    """Of five images of 400 pixels three fit by the limit; memory holds two, later one, and at last no whole one."""
    seen, most = [], 800

    def restore(x):
        seen.append(tuple(x.shape))
        if x.shape[0] * x.shape[2] * x.shape[3] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return net(x)

    lq = torch.rand(5, 3, 20, 20)
    with torch.no_grad():
        restorer = TiledRestorer(restore, net, scale=2, max_pixels=1200)
        assert torch.allclose(restorer(lq), net(lq), atol=1e-6)
        assert [s[0] for s in seen] == [3, 1, 1, 1, 1, 1]  # halves of three are one each
        most = 399
        assert torch.allclose(restorer(lq), net(lq), atol=1e-6)
        assert all(s[0] == 1 for s in seen[1:])
        assert torch.allclose(TiledRestorer(net, net, scale=2, tile=8)(lq), net(lq), atol=1e-6)
