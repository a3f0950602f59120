"""Pictures while a run trains: the same few crops of each validation set at every validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tgsr.data.batch import Batch
from tgsr.engine.context import Context
from tgsr.utils.image_io import save_image, to_uint8

FOLDER = "visualization"
"""Below the experiment; `<set>/<image>_<iteration>.png`, and once `<image>_lq.png` and `<image>_gt.png`."""
NUM_IMAGES = 3
SIZE = 192


@dataclass
class Samples:
    """Crops of one data set, collected while it is validated.

    Args:
        num_images: of the set; the crops are of images spread evenly over it.
        scale: output size / input size.
    """

    num_images: int
    scale: int

    def __post_init__(self) -> None:
        places = np.linspace(0, self.num_images - 1, min(NUM_IMAGES, self.num_images)).round()
        self.wanted = {int(place) for place in places}
        self.taken: list[tuple[str, dict[str, np.ndarray]]] = []

    def take(self, index: int, name: str, batch: Batch, restored: torch.Tensor) -> None:
        """Called for every image of this rank; `restored` is (1, 3, H, W) in [0, 1]."""
        if index not in self.wanted:
            return
        images = {"lq": batch.lq[0], "sr": restored[0], **({} if batch.gt is None else {"gt": batch.gt[0]})}
        self.taken.append((name, {kind: self._crop(image, kind == "lq") for kind, image in images.items()}))

    def _crop(self, image: torch.Tensor, is_lq: bool) -> np.ndarray:
        """The middle of an image, `SIZE` pixels of the restored one: (H, W, 3) uint8."""
        factor = 1 if is_lq else self.scale
        size = max(1, SIZE // self.scale) * factor
        top, left = (max(0, (edge // factor - size // factor) // 2) * factor for edge in image.shape[1:])
        return to_uint8(image[:, top : top + size, left : left + size])

    def save(self, folder: Path, iteration: int, context: Context) -> dict[str, np.ndarray]:
        """Write the crops of all ranks on rank 0.

        Returns:
            Name -> input, restored image and ground truth side by side, (H, W, 3) uint8, for TensorBoard and W&B.
        """
        rows: dict[str, np.ndarray] = {}
        for name, images in sorted(context.gather(self.taken), key=lambda t: t[0]):
            stem = name.replace("/", "_")
            for kind, image in images.items() if context.is_main else ():
                path = folder / f"{stem}_{iteration if kind == 'sr' else kind}.png"
                if kind == "sr" or not path.exists():
                    save_image(path, image)
            rows[name] = _side_by_side(images)
        return rows


def _side_by_side(images: dict[str, Any]) -> np.ndarray:
    height, width = images["sr"].shape[:2]
    lq = images["lq"]
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), lq.shape[:2], strict=True))
    parts = [lq[rows][:, columns], images["sr"]]  # pixels of the input as squares
    if "gt" in images and images["gt"].shape[0] == height:
        parts.append(images["gt"])
    return np.concatenate(parts, axis=1)
