"""Restoring images that do not fit: tiles with an overlap taken from the network's receptive field."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from tgsr.engine.logger import progress

logger = logging.getLogger("tgsr")
DEFAULT_OVERLAP = 32


@dataclass(frozen=True)
class Tiling:
    """How one network is tiled; all lengths in LQ pixels.

    Attributes:
        tile: edge of the region that a tile contributes; a multiple of `multiple`.
        overlap: margin around it that is restored and thrown away; a multiple of `multiple`.
        is_exact: whether the overlap covers the receptive field, so that tiled equals untiled.
    """

    tile: int
    overlap: int
    is_exact: bool

    @property
    def extent(self) -> int:
        """Edge of what the network sees at once."""
        return self.tile + 2 * self.overlap

    @staticmethod
    def of(net: nn.Module, tile: int, overlap: int | None = None) -> Tiling:
        """For a network that says its `receptive_field` and `size_multiple`.

        Args:
            net: the network.
            tile: wished edge; rounded up to the network's multiple.
            overlap: None takes the receptive field's radius where it is known and at most a third of the tile (a larger
                one would cost more than it is worth), else an eighth of the tile, but at least 32.
        """
        multiple = _multiple(net)
        radius = _radius(net)
        if overlap is None:
            affordable = radius is not None and radius <= max(DEFAULT_OVERLAP, tile // 3)
            overlap = radius if affordable else max(DEFAULT_OVERLAP, tile // 8)  # type: ignore[assignment]
        rounded = math.ceil(overlap / multiple) * multiple
        return Tiling(math.ceil(tile / multiple) * multiple, rounded, radius is not None and rounded >= radius)

    @staticmethod
    def within(net: nn.Module, extent: int, overlap: int | None = None) -> Tiling:
        """Tiles that show the network at most `extent` pixels each way, overlap included (where that leaves a tile)."""
        multiple = _multiple(net)
        margin = Tiling.of(net, extent * 3 // 5, overlap).overlap
        tile = max((extent - 2 * margin) // multiple * multiple, extent // 4, multiple)
        return Tiling.of(net, tile, margin)


def _multiple(net: nn.Module) -> int:
    return int(getattr(net, "size_multiple", 1) or 1)


def _radius(net: nn.Module) -> int | None:
    field = getattr(net, "receptive_field", None)
    return None if field is None else math.ceil((field - 1) / 2)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or on a CPU the allocator, had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "not enough memory" in text)


def restore_tiled(
    restore: Callable[[torch.Tensor], torch.Tensor],
    lq: torch.Tensor,
    tiling: Tiling,
    *,
    scale: int,
    is_shown: bool = False,
) -> torch.Tensor:
    """Restore `(B, C, h, w)` tile by tile; the input may stay on the CPU.

    Args:
        restore: of one tile.
        lq: the images.
        tiling: tiles begin at multiples of `tiling.tile`.
        scale: output size divided by input size.
        is_shown: a bar that counts tiles, on a terminal.

    Returns:
        `(B, 3, h * scale, w * scale)` on the CPU.
    """
    _, _, height, width = lq.shape
    corners = [(y, x) for y in range(0, height, tiling.tile) for x in range(0, width, tiling.tile)]
    result: torch.Tensor | None = None
    for top, left in progress(corners, "tiles", is_shown=is_shown and len(corners) > 1):
        bottom, right = min(top + tiling.tile, height), min(left + tiling.tile, width)
        y0, x0 = max(top - tiling.overlap, 0), max(left - tiling.overlap, 0)
        y1, x1 = min(bottom + tiling.overlap, height), min(right + tiling.overlap, width)
        tile = restore(lq[:, :, y0:y1, x0:x1]).cpu()
        if result is None:
            result = tile.new_empty(*tile.shape[:2], height * scale, width * scale)
        inner = tile[:, :, (top - y0) * scale : (bottom - y0) * scale, (left - x0) * scale : (right - x0) * scale]
        result[:, :, top * scale : bottom * scale, left * scale : right * scale] = inner
    assert result is not None, "an image has at least one tile"
    return result


class TiledRestorer:
    """Restores images of any size: whole where they fit, tiled above a size, smaller tiles once after an OOM error.

    Of a batch as many images go at once as fit, after an OOM error half as many; tiles are of one image.

    Args:
        restore: `(B, 3, h, w)` -> `(B, 3, H, W)`.
        net: the network behind it, for receptive field and size multiple.
        scale: H / h.
        tile: tile edge without overlap; None tiles only above `max_pixels`, in tiles that stay below it with overlap.
        max_pixels: largest LQ image that is restored whole; so many pixels of a batch go at once.
        overlap: None: from the receptive field.
        is_shown: a bar that counts the tiles of an image, on a terminal.
    """

    def __init__(
        self,
        restore: Callable[[torch.Tensor], torch.Tensor],
        net: nn.Module,
        *,
        scale: int,
        tile: int | None = None,
        max_pixels: int = 1_500_000,
        overlap: int | None = None,
        is_shown: bool = False,
    ) -> None:
        self.restore, self.net, self.scale = restore, net, scale
        self.tile, self.max_pixels, self.overlap = tile, max_pixels, overlap
        self.is_shown = is_shown
        self._at_once = sys.maxsize
        self._shrunk: Tiling | None = None
        self._warned_inexact = False

    def __call__(self, lq: torch.Tensor) -> torch.Tensor:
        """`(B, 3, h, w)` in [0, 1] -> `(B, 3, H, W)` on the CPU."""
        num = min(self._at_once, self.max_pixels // (lq.shape[-2] * lq.shape[-1])) if self._tiling(lq) is None else 1
        if len(lq) > num:
            return torch.cat([self(part) for part in lq.split(max(1, num))])
        tiling = self._tiling(lq)
        try:
            return self._once(lq, tiling)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(lq) > 1:
            self._at_once = len(lq) // 2
            return self(lq)
        return self._once(lq, self._shrink(lq, tiling))

    def _tiling(self, lq: torch.Tensor) -> Tiling | None:
        """Tiles for this image; None: it is restored whole."""
        height, width = lq.shape[-2:]
        if self._shrunk is not None:
            return self._shrunk if max(height, width) > self._shrunk.extent else None
        if self.tile is not None:
            return Tiling.of(self.net, self.tile, self.overlap) if max(height, width) > self.tile else None
        if height * width <= self.max_pixels:
            return None
        return Tiling.within(self.net, math.isqrt(self.max_pixels), self.overlap)

    def _shrink(self, lq: torch.Tensor, failed: Tiling | None) -> Tiling:
        """Tiles that need about a quarter of the memory, for this image and those that follow."""
        extent = max(lq.shape[-2:]) if failed is None else failed.extent
        self._shrunk = Tiling.within(self.net, max(extent // 2, _multiple(self.net)), self.overlap)
        logger.warning(
            "out of memory; once more with tiles of %d pixels (a smaller --tile, or val.tile, avoids this)",
            self._shrunk.tile,
        )
        return self._shrunk

    def _once(self, lq: torch.Tensor, tiling: Tiling | None) -> torch.Tensor:
        if tiling is None:
            return self.restore(lq).cpu()
        if not tiling.is_exact and not self._warned_inexact:
            self._warned_inexact = True
            self._warn_inexact(tiling)
        return restore_tiled(self.restore, lq, tiling, scale=self.scale, is_shown=self.is_shown)

    def _warn_inexact(self, tiling: Tiling) -> None:
        radius = _radius(self.net)
        field = "unbounded" if radius is None else f"{2 * radius + 1} pixels wide"
        logger.warning(
            "tiles of %d with an overlap of %d do not cover the receptive field of %s (%s): results differ slightly "
            "from untiled ones%s",
            tiling.tile,
            tiling.overlap,
            type(self.net).__name__,
            field,
            "" if radius is None else f"; tiles of {3 * radius} or more would be exact",
        )
