"""The stage that collects noise from images, for the degradation `SourceNoise`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.degradations.source_noise import smooth_patches
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.study.stage import Stage
from tgsr.utils.errors import DataError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_io import list_images, read_image

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class CollectNoise(Stage):
    """Cuts the smoothest patches out of the images of a folder -> `noise.npy`, `(N, size, size, 3)` uint8.

    Args:
        source: folder of noisy images.
        size: edge of a patch, px; patches do not overlap.
        max_variance: of a patch that counts, in squared grey levels of 8 bits; None: any.
        num_patches: at most so many, the smoothest.
        max_images: the first so many images only.
    """

    product = "noise.npy"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"size": 16, "max_variance": None, "num_patches": 4, "max_images": 2}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        source: Path,
        size: PositiveInt = 256,
        max_variance: Annotated[float, Range(0)] | None = 20.0,
        num_patches: PositiveInt = 4000,
        max_images: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.source, self.size, self.max_variance = source, size, max_variance
        self.num_patches, self.max_images = num_patches, max_images

    def units(self) -> tuple[float, str]:
        return self.max_images or 1000, "images"

    def work(self) -> None:
        paths = list_images(self.source)[: self.max_images]
        found = []
        for k in range(self.context.rank, len(paths), self.context.world_size):
            if self.context.stop_requested:
                break
            found += [
                (variance, k, top, left) for variance, top, left in smooth_patches(self._read(paths[k]), self.size)
            ]
        self.stop_if_asked()
        found = sorted(self.context.gather(found))
        chosen = [f for f in found if self.max_variance is None or f[0] <= self.max_variance][: self.num_patches]
        if not chosen:
            least = f"the smoothest has a variance of {found[0][0]:.1f}" if found else "no image is as large"
            problem = f"no patch of {self.size} px has a variance of {self.max_variance} or less: {least}"
            raise DataError(problem, place=str(self.source), remedy="raise max_variance or lower size")
        if self.context.is_main:
            self._write(paths, chosen)

    def _write(self, paths: list[Path], chosen: list[tuple[float, int, int, int]]) -> None:
        """In the order of the images, so that each is read once."""
        patches, image, last = [], np.zeros((0, 0, 3), np.uint8), -1
        for _, k, top, left in sorted(chosen, key=lambda entry: entry[1:]):
            if k != last:
                image, last = self._read(paths[k]), k
            patches.append(image[top : top + self.size, left : left + self.size])
        write_atomic(self.folder / self.product, lambda file: np.save(file, np.stack(patches)))
        logger.info("%s: %d patches, variance up to %.1f", self.folder / self.product, len(chosen), chosen[-1][0])

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        image = read_image(path)
        return image if image.dtype == np.uint8 else np.round(255 * image).astype(np.uint8)
