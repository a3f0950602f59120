"""Small photographs and task sets for the tests of the data room."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tgsr.degradations.base import SPACES
from tgsr.tasks.sets import points, union, whole_space
from tgsr.tasks.task import TaskSet
from tgsr.utils.image_io import save_image


def photo(seed: int, height: int = 72, width: int = 96) -> np.ndarray:
    """Smooth random colours, `(H, W, 3)` uint8."""
    noise = np.random.default_rng(seed).integers(0, 255, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    return np.ascontiguousarray(cv2.resize(noise, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)[:height, :width])


def photo_folder(root: Path, num: int = 5, **size: int) -> Path:
    for i in range(num):
        save_image(root / f"img_{i}.png", photo(i, **size))
    return root


def task_set(num_points: int = 3) -> TaskSet:
    space = SPACES.get("SecondOrder")()
    return union(space=space, sets=[whole_space(space=space), points(space=space, num_tasks=num_points)])  # type: ignore
