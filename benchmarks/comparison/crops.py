"""Reading a 400-pixel crop as a float RGB tensor: PNG files by basicsr's reader, our reader and a packed memory map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from comparison.measure import Settings, alternate, compare, row
from comparison.photographs import CROP, make_folders
from comparison.sides import load_basicsr
from tgsr.data.backends import ImageSource, open_source
from tgsr.utils.image_io import to_tensor


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Milliseconds per crop; every call reads eight, from files that the page cache holds."""
    paths = make_folders(settings.folder / "crops", settings.images, num_large=4, num_sub=32)
    load_basicsr()
    from basicsr.utils import FileClient, imfrombytes, img2tensor

    client = FileClient("disk")
    sub = sorted(paths["sub"].glob("*.png"))
    large = sorted(paths["2k"].glob("*.png"))
    packed = open_source(paths["packed"], io_backend="packed")
    own_sub = open_source(paths["sub"])
    rng = np.random.default_rng(0)

    def theirs(path: Any) -> torch.Tensor:
        image = imfrombytes(client.get(str(path), "gt"), float32=True)
        top, left = (int(rng.integers(0, n - CROP + 1)) for n in image.shape[:2])
        return img2tensor(image[top : top + CROP, left : left + CROP], bgr2rgb=True, float32=True)

    def ours(source: ImageSource, index: int) -> torch.Tensor:
        if not source.reads_parts:
            return to_tensor(source.read(index))
        top, left = (int(rng.integers(0, n - CROP + 1)) for n in source.size(index))
        return to_tensor(source.read_crop(index, top, left, CROP, CROP))

    forms = {
        "sub": lambda i: [theirs(sub[(8 * i + j) % len(sub)]) for j in range(8)],
        "2k": lambda i: [theirs(large[j % len(large)]) for j in range(8)],
        "ours packed": lambda i: [ours(packed, j % len(packed)) for j in range(8)],
        "ours PNG": lambda i: [ours(own_sub, (8 * i + j) % len(own_sub)) for j in range(8)],
    }
    seconds = alternate(forms, settings, settings.num_rounds(12))
    pairs = [
        ("basicsr PNG sub-image / ours packed", "sub", "ours packed"),
        ("basicsr 2040x1356 PNG / ours packed", "2k", "ours packed"),
        ("basicsr PNG sub-image / ours PNG sub-image", "sub", "ours PNG"),
    ]
    return [row(name, "ms", 1e3 / 8, compare(seconds[a], seconds[b])) for name, a, b in pairs]
