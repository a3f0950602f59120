"""Many small validation images from few large ones."""

from __future__ import annotations

import logging
from pathlib import Path

from tgsr.config.schema import Options
from tgsr.config.spec import OutputPath, PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.utils.errors import DataError
from tgsr.utils.image_io import list_images, read_image, save_image, to_tensor

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class CutPatches(Runner):
    """Cuts every image of a folder into patches of equal size -> PNG files `<image>_p<k>`.

    A validation set for group 0 needs many draws from the whole space, and each image has one: so many small images
    serve better than few large ones.

    Args:
        source: folder of images.
        target: folder of the patches; files that are there stay.
        size: edge of a patch; patches do not overlap, the rest at the right and bottom is left out.
        max_images: use the first so many images only.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        source: Path,
        target: OutputPath,
        size: PositiveInt = 128,
        max_images: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.source, self.target, self.size, self.max_images = source, target, size, max_images

    def run(self) -> None:
        paths = list_images(self.source)[: self.max_images]
        if not paths:
            raise DataError("there are no images", place=str(self.source))
        count = 0
        for path in paths[self.context.rank :: self.context.world_size]:
            image = to_tensor(read_image(path))
            height, width = image.shape[1] // self.size, image.shape[2] // self.size
            for k in range(height * width):
                top, left = k // width * self.size, k % width * self.size
                target = self.target / f"{path.stem}_p{k:02d}.png"
                if not target.exists():
                    save_image(target, image[:, top : top + self.size, left : left + self.size])
                count += 1
        logger.info("%s: %d patches of %d px", self.target, count, self.size)
        self.context.barrier()
