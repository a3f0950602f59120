"""Images for the measurements: mosaics of DIV2K's size and 400-pixel sub-images of them, as PNG and packed."""

from __future__ import annotations

import random
from pathlib import Path

import cv2
import numpy as np

from tgsr.data.backends import open_source
from tgsr.data.packed import pack_images
from tgsr.utils.image_io import list_images

TILE_HEIGHT, TILE_WIDTH, NUM_TILES = 226, 340, 6
CROP = 400


def make_folders(folder: Path, images: Path | None, *, num_large: int, num_sub: int) -> dict[str, Path]:
    """Write `2k/` (2040x1356 PNG), `sub/` (400x400 PNG), `packed/` and `meta_info.txt` (of `sub/`) into `folder`.

    Args:
        folder: of the measurement.
        images: folder of photographs of at least 340x226; None: those that come with scikit-image.
        num_large: mosaics.
        num_sub: sub-images, cut from them at random.

    Returns:
        The paths by those names.
    """
    draw = random.Random(0)
    photographs = _photographs(images)
    paths = {name: folder / name for name in ("2k", "sub", "packed")}
    for name in ("2k", "sub"):
        paths[name].mkdir(parents=True, exist_ok=True)
    mosaics = []
    for k in range(num_large):
        tiles = [_tile(draw.choice(photographs), draw) for _ in range(NUM_TILES**2)]
        rows = [np.hstack(tiles[i : i + NUM_TILES]) for i in range(0, len(tiles), NUM_TILES)]
        mosaics.append(np.vstack(rows))
        cv2.imwrite(str(paths["2k"] / f"{k:03d}.png"), mosaics[-1])
    names = []
    for k in range(num_sub):
        mosaic = mosaics[k % num_large]
        top, left = (draw.randint(0, n - CROP) for n in mosaic.shape[:2])
        names.append(f"{k:03d}.png")
        cv2.imwrite(str(paths["sub"] / names[-1]), mosaic[top : top + CROP, left : left + CROP])
    pack_images(open_source(paths["2k"]), paths["packed"])
    paths["meta_info"] = folder / "meta_info.txt"
    paths["meta_info"].write_text("".join(f"{name}\n" for name in names))
    return paths


def _photographs(images: Path | None) -> list[np.ndarray]:
    if images is None:
        from skimage import data

        loaded = [cv2.cvtColor(f(), cv2.COLOR_RGB2BGR) for f in (data.astronaut, data.coffee, data.rocket)]
    else:
        loaded = [cv2.imread(str(path)) for path in list_images(images)[:200]]
    loaded = [x if x.shape[1] >= x.shape[0] else np.rot90(x) for x in loaded if x is not None]
    large = [x for x in loaded if x.shape[0] >= TILE_HEIGHT and x.shape[1] >= TILE_WIDTH]
    if not large:
        raise SystemExit(f"{images}: no photograph of at least {TILE_WIDTH}x{TILE_HEIGHT} pixels")
    return large


def _tile(image: np.ndarray, draw: random.Random) -> np.ndarray:
    top, left = draw.randint(0, image.shape[0] - TILE_HEIGHT), draw.randint(0, image.shape[1] - TILE_WIDTH)
    return image[top : top + TILE_HEIGHT, left : left + TILE_WIDTH]
