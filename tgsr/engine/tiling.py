"""Restoring images that do not fit: tiles with an overlap taken from the network's receptive field."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

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

    @staticmethod
    def of(net: nn.Module, tile: int, overlap: int | None = None) -> Tiling:
        """For a network that says its `receptive_field` and `size_multiple`.

        Args:
            net: the network.
            tile: wished edge; rounded up to the network's multiple.
            overlap: None takes the receptive field's radius where it is known and no larger than the tile, else 32.
        """
        multiple = int(getattr(net, "size_multiple", 1) or 1)
        field = getattr(net, "receptive_field", None)
        radius = None if field is None else math.ceil((field - 1) / 2)
        wished = overlap if overlap is not None else DEFAULT_OVERLAP if radius is None else min(radius, max(tile, 32))
        rounded = math.ceil(wished / multiple) * multiple
        return Tiling(math.ceil(tile / multiple) * multiple, rounded, radius is not None and rounded >= radius)


def restore_tiled(
    restore: Callable[[torch.Tensor], torch.Tensor], lq: torch.Tensor, tiling: Tiling, *, scale: int
) -> torch.Tensor:
    """Restore `(1, C, h, w)` tile by tile; the input may stay on the CPU.

    Returns:
        `(1, 3, h * scale, w * scale)` on the CPU.
    """
    _, _, height, width = lq.shape
    result: torch.Tensor | None = None
    for top in range(0, height, tiling.tile):
        for left in range(0, width, tiling.tile):
            bottom, right = min(top + tiling.tile, height), min(left + tiling.tile, width)
            y0, x0 = max(top - tiling.overlap, 0), max(left - tiling.overlap, 0)
            y1, x1 = min(bottom + tiling.overlap, height), min(right + tiling.overlap, width)
            tile = restore(lq[:, :, y0:y1, x0:x1]).cpu()
            if result is None:
                result = tile.new_empty(1, tile.shape[1], height * scale, width * scale)
            inner = tile[
                :, :, (top - y0) * scale : (bottom - y0) * scale, (left - x0) * scale : (right - x0) * scale
            ]
            result[:, :, top * scale : bottom * scale, left * scale : right * scale] = inner
    assert result is not None, "an image has at least one tile"
    return result


class TiledRestorer:
    """Restores images of any size: whole where they fit, tiled above a size, smaller tiles once after an OOM error.

    Args:
        restore: `(1, 3, h, w)` -> `(1, 3, H, W)`.
        net: the network behind it, for receptive field and size multiple.
        scale: H / h.
        tile: tile edge; None tiles only above `max_pixels`, with an edge near its square root.
        max_pixels: largest LQ image that is restored whole.
        overlap: None: from the receptive field.
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
    ) -> None:
        self.restore, self.net, self.scale = restore, net, scale
        self.tile, self.max_pixels, self.overlap = tile, max_pixels, overlap
        self._warned_inexact = False
        self._shrunk = False

    def __call__(self, lq: torch.Tensor) -> torch.Tensor:
        """`(1, 3, h, w)` in [0, 1] -> `(1, 3, H, W)` on the CPU."""
        try:
            return self._once(lq)
        except (torch.OutOfMemoryError, MemoryError):
            if self._shrunk:
                raise
            self._shrunk = True
            current = self.tile or int(math.sqrt(min(self.max_pixels, lq.shape[-1] * lq.shape[-2])))
            self.tile = max(32, current // 2)
            logger.warning("out of memory; once more with tiles of %d pixels (set val.tile to avoid this)", self.tile)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self._once(lq)

    def _once(self, lq: torch.Tensor) -> torch.Tensor:
        height, width = lq.shape[-2:]
        is_whole = height * width <= self.max_pixels if self.tile is None else max(height, width) <= self.tile
        if is_whole:
            return self.restore(lq).cpu()
        tiling = Tiling.of(self.net, self.tile or int(math.sqrt(self.max_pixels)), self.overlap)
        if not tiling.is_exact and not self._warned_inexact:
            self._warned_inexact = True
            logger.warning(
                "tiles of %d with an overlap of %d do not cover the receptive field of %s: results differ slightly "
                "from untiled ones",
                tiling.tile,
                tiling.overlap,
                type(self.net).__name__,
            )
        return restore_tiled(self.restore, lq, tiling, scale=self.scale)
