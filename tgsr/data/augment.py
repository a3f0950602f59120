"""Where a training sample is cut out and how it is turned: functions of uniform numbers."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from tgsr.utils.rng import generator


class CropDraw(NamedTuple):
    """The random choices of one sample, before any image is known.

    Attributes:
        top, left: place of the crop as a share of the free room, in [0, 1).
        hflip, vflip, transpose: mirror left-right, mirror top-bottom, swap rows and columns, in this order.
    """

    top: float
    left: float
    hflip: bool
    vflip: bool
    transpose: bool

    def place(self, free_height: int, free_width: int) -> tuple[int, int]:
        """Top and left in whole pixels, every place alike, for a crop with so much room to move."""
        return int(self.top * (free_height + 1)), int(self.left * (free_width + 1))


def draw_crop(seed: int, stream: str, sample: int, *, use_hflip: bool = False, use_rot: bool = False) -> CropDraw:
    """The choices of sample number `sample`; `use_rot` allows all eight turns (with `use_hflip`)."""
    top, left, *coins = generator(seed, stream, sample).random(5)
    heads = [c < 0.5 for c in coins]
    return CropDraw(top, left, use_hflip and heads[0], use_rot and heads[1], use_rot and heads[2])


def turn(image: np.ndarray, draw: CropDraw) -> np.ndarray:
    """Mirror and transpose `(H, W, C)`; a contiguous copy or the image itself.

    With OpenCV: NumPy copies mirrored and transposed pixels of three bytes twenty times as slowly.
    """
    turned = np.ascontiguousarray(image)
    if draw.hflip or draw.vflip:
        turned = cv2.flip(turned, {(1, 0): 1, (0, 1): 0, (1, 1): -1}[int(draw.hflip), int(draw.vflip)])
    if draw.transpose:
        turned = cv2.transpose(turned)
    return turned if turned.ndim == image.ndim else turned[..., None]  # OpenCV drops a single channel's axis


def pad_to(image: np.ndarray, size: int) -> np.ndarray:
    """Reflect (without repeating the edge) at the bottom and right until both sides are at least `size`."""
    bottom, right = max(0, size - image.shape[0]), max(0, size - image.shape[1])
    if not (bottom or right):
        return image
    return cv2.copyMakeBorder(np.ascontiguousarray(image), 0, bottom, 0, right, cv2.BORDER_REFLECT_101)
