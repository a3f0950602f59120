"""The demo set: crops of photographs that the package scikit-image brings along, so that no download is needed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from tgsr.data.subimages import window_starts
from tgsr.utils.errors import DataError
from tgsr.utils.files import read_json, write_json
from tgsr.utils.image_io import read_image, save_image

VERSION = 2
TRAIN_CROP, TRAIN_STEP, VAL_CROP, GAP = 192, 160, 192, 8
MAX_CROPS = 9  # of one photograph, or the largest ones (a galaxy field, a retina) would rule the set
_MANIFEST = "demo.json"

# Photograph -> where its validation square lies at the right edge, as a share from top to bottom; None: training only.
_PHOTOGRAPHS: dict[str, float | None] = {
    "astronaut.png": 0.5,
    "chelsea.png": 0.5,
    "coffee.png": 0.6,
    "ihc.png": 0.5,
    "motorcycle_left.png": 0.5,
    "rocket.jpg": 1.0,
    "camera.png": 0.5,
    "coins.png": 0.5,
    "brick.png": None,
    "gravel.png": None,
    "hubble_deep_field.jpg": None,
    "retina.jpg": None,
}
_MAX_EDGE = 1000


def photographs() -> list[Path]:
    """Those of the photographs that this installation of scikit-image has, without asking the network."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError("the demo set needs scikit-image", remedy="pip install scikit-image")
    folder = Path(spec.origin).parent / "data"
    found = [folder / n for n in _PHOTOGRAPHS if (folder / n).is_file()]
    if len(found) < 4:
        problem = f"scikit-image has only {len(found)} of the {len(_PHOTOGRAPHS)} photographs"
        raise DataError(problem, place=str(folder), remedy="install another version, or name your own dataroot_gt")
    return found


def prepare_demo(root: Path) -> Path:
    """Make `root/train` and `root/val`: crops of 192 pixels that share no pixel. Done already: nothing happens.

    Validation squares lie at the right edge of a photograph; training crops come from what is left of them, eight
    pixels apart. Several processes may call this at once; the folder appears when it is whole.

    Returns:
        `root`.
    """
    if _is_whole(root):
        return root
    if root.exists() and not (root / _MANIFEST).is_file() and any(root.iterdir()):
        raise DataError("the folder holds something else than the demo set", place=str(root), remedy="move it away")
    building = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    try:
        _write_crops(building)
        if not _is_whole(root):
            shutil.rmtree(root, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(building, root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root


def _write_crops(root: Path) -> None:
    files: list[str] = []
    for path in photographs():
        image = read_image(path)
        if max(image.shape[:2]) > _MAX_EDGE:
            image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
        share = _PHOTOGRAPHS[path.name]
        if share is not None:
            top = int(share * (image.shape[0] - VAL_CROP))
            files.append(f"val/{path.stem}.png")
            save_image(root / files[-1], image[top : top + VAL_CROP, -VAL_CROP:])
            image = image[:, : -VAL_CROP - GAP]
        for number, crop in enumerate(_train_crops(image), 1):
            files.append(f"train/{path.stem}_s{number:03d}.png")
            save_image(root / files[-1], crop)
    write_json(root / _MANIFEST, {"schema": "tgsr.demo", "version": VERSION, "files": files})


def _train_crops(image: np.ndarray) -> list[np.ndarray]:
    height, width = image.shape[:2]
    size = min(TRAIN_CROP, height, width)
    corners = [
        (top, left)
        for top in window_starts(height, size, TRAIN_STEP, thresh=TRAIN_STEP // 4)
        for left in window_starts(width, size, TRAIN_STEP, thresh=TRAIN_STEP // 4)
    ]
    chosen = np.unique(np.linspace(0, len(corners) - 1, min(MAX_CROPS, len(corners))).round().astype(int))
    return [image[top : top + size, left : left + size] for top, left in (corners[i] for i in chosen)]


def _is_whole(root: Path) -> bool:
    if not (root / _MANIFEST).is_file():
        return False
    manifest = read_json(root / _MANIFEST)
    return manifest.get("version") == VERSION and all((root / f).is_file() for f in manifest["files"])
