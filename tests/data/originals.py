"""Tiny synthetic originals of every known data set, in the layout that its authors publish.

`lay_out(name, root)` puts them where a person would put downloads and prepares them: what is below `root` afterwards
is what `scripts/prepare_data.py` makes of the real ones.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.data.data_toys import photo
from tgsr.data.prepare import Work, prepare
from tgsr.data.recipes import RECIPES
from tgsr.utils.image_io import save_image

LARGE = (480, 496)
"""Of images that are cut into sub-images of 480 and 400 pixels."""

Files = Iterator[tuple[str, np.ndarray]]


def originals(name: str, edge: int = 64) -> Files:
    """Path inside the original -> image, for the archives of one recipe.

    Args:
        name: of the recipe.
        edge: height of the images; their width is half as much again.
    """
    gt = [photo(i, edge, edge * 3 // 2) for i in range(8)]
    if name == "bsds500":
        for part in ("train", "val", "test"):
            yield from ((f"BSR/BSDS500/data/images/{part}/{100 + i}.jpg", gt[i]) for i in (0, 1))
    elif name == "div2k":
        yield from ((f"DIV2K_train_HR/{i:04d}.png", photo(i, *LARGE)) for i in (1, 2))
        yield from ((f"DIV2K_valid_HR/{800 + i:04d}.png", gt[i]) for i in (1, 2))
    elif name == "flickr2k":
        yield from ((f"Flickr2K/Flickr2K_HR/{i:06d}.png", photo(10 + i, *LARGE)) for i in (1, 2))
        yield "Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png", gt[0][::4, ::4]
    elif name == "ost":
        for kind in ("animal", "sky"):
            yield from ((f"OutdoorSceneTrain_v2/{kind}/{kind}_{i:04d}.png", gt[i]) for i in (1, 2))
    elif name in ("set5", "set14", "b100", "urban100"):
        folder = RECIPES[name].outputs[0].paths[0].split("/")[0]
        yield from ((f"benchmark/{folder}/HR/img_{i}.png", gt[i]) for i in (1, 2))
        yield from ((f"benchmark/{folder}/LR_bicubic/X4/img_{i}x4.png", gt[i][::4, ::4]) for i in (1, 2))
    else:
        yield from _pairs(name, gt)


def _pairs(name: str, gt: list[np.ndarray]) -> Files:
    if name in ("realsr", "realsr_v2"):
        folder = "RealSR(V3)" if name == "realsr" else "RealSR (Final)"
        for camera, first in (("Canon", 0), ("Nikon", 2)):
            for part in ("Train", "Test"):
                for i in (first, first + 1):
                    lq = gt[i][::4, ::4] if name == "realsr" else np.roll(gt[i], 1, axis=1)
                    yield f"{folder}/{camera}/{part}/4/{camera}_{i:03d}_HR.png", gt[i]
                    yield f"{folder}/{camera}/{part}/4/{camera}_{i:03d}_LR4.png", lq
    elif name == "drealsr":
        for part in ("Train", "Test"):
            for i in (1, 2):
                yield f"x4/{part}_x4/{part}_x4/{part.lower()}_HR/Canon_{i}_x4.png", gt[i]
                yield f"x4/{part}_x4/{part}_x4/{part.lower()}_LR/Canon_{i}_x1.png", gt[i][::4, ::4]
    elif name in ("aim2019", "ntire2020"):
        hr, lr, *train = (
            ("valid-gt-clean", "valid-input-noisy", "train-noisy-images", "train-clean-images")
            if name == "aim2019"
            else ("track1-valid-gt", "track1-valid-input", "track1-train-source", "train-target")
        )
        for i in (1, 2):
            yield f"{hr}/{hr}/{800 + i:04d}.png", gt[i]
            yield f"{lr}/{lr}/{800 + i:04d}.png", gt[i][::4, ::4]
            yield from ((f"{folder}/{folder}/{i:06d}.png", gt[i]) for folder in train)
    elif name == "camerasr":
        for camera in ("iPhoneX", "NikonD5500"):
            for i in (1, 20, 21, 100):
                yield f"CameraSR-master/City100/City100_{camera}/{i:03d}H.PNG", gt[i % 8]
                yield f"CameraSR-master/City100/City100_{camera}/{i:03d}L.PNG", np.roll(gt[i % 8], 1, axis=1)
    elif name == "realsr_zero":
        yield from ((f"RealSR-Zero/{i}.png", gt[i]) for i in (1, 2))


def write_originals(name: str, folder: Path, edge: int = 64) -> Path:
    """The originals of one recipe in `folder`, as its authors' archives unpack."""
    for path, image in originals(name, edge):
        save_image(folder / path, image)
    return folder


def lay_out(name: str, root: Path, edge: int = 64) -> None:
    """What `--dataset name` makes below `root` from synthetic originals, of this recipe and of those it needs."""
    for need in RECIPES[name].needs:
        lay_out(need, root, edge)
    recipe = RECIPES[name]
    if recipe.build is None and any(True for _ in originals(name, edge)):
        write_originals(name, root / "originals" / (recipe.originals or name), edge)
    prepare(name, Work(root, num_workers=1))


def pack(folder: Path, archive: Path) -> Path:
    """A zip of a folder's content."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return archive
