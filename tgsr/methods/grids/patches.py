"""Clean images and patches for measuring degradations: a fixed random crop of each image of a set."""

from __future__ import annotations

from typing import Any

import torch

from tgsr.data.augment import pad_to
from tgsr.utils.image_io import to_tensor
from tgsr.utils.rng import generator


def clean_patches(dataset: Any, num_patches: int, patch_px: int, *, seed: int) -> torch.Tensor:
    """`(P, 3, patch, patch)` random crops, one per image while there are new images (as PIES: 800 images).

    Args:
        dataset: an image set with ground truth.
        num_patches: P.
        patch_px: edge; smaller images are continued by reflection.
        seed: patch i depends on it and i alone.
    """
    patches = []
    for i in range(num_patches):
        image = pad_to(dataset.source.read(i % len(dataset)), patch_px)
        rng = generator(seed, "similarity-patch", i)
        top, left = (int(rng.integers(n - patch_px + 1)) for n in image.shape[:2])
        patches.append(to_tensor(image[top : top + patch_px, left : left + patch_px]))
    return torch.stack(patches)
