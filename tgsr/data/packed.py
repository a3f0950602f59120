"""Packed images: raw pixels of all images in one memory-mapped file, so that a crop costs no decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.data.backends import ImageSource, stems
from tgsr.data.subimages import window_starts
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, read_json, undamaged, write_atomic, write_json

SCHEMA_VERSION = 1
_INDEX, _PIXELS = "index.json", "pixels.bin"


class PackedSource(ImageSource):
    """Images of a packed folder (`pack_images`).

    Args:
        root: folder with `pixels.bin` and `index.json`.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not (self.root / _INDEX).is_file():
            remedy = "make it with scripts/pack_crops.py, or use io_backend disk"
            raise DataError(f"not a packed folder: it has no {_INDEX}", place=str(root), remedy=remedy)
        index = read_json(self.root / _INDEX)
        check_schema(index, "tgsr.packed", self.root / _INDEX, version=SCHEMA_VERSION)
        size = (self.root / _PIXELS).stat().st_size if (self.root / _PIXELS).is_file() else 0
        if size != index.get("num_bytes"):
            problem = f"{_PIXELS} has {size} bytes, the index says {index.get('num_bytes')}"
            raise DataError(problem, place=str(root), remedy="pack it again")
        with undamaged(self.root / _INDEX, "pack it again"):
            self.names, self._entries = _read_entries(index["images"], size)
        self._map: np.memmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    @property
    def reads_parts(self) -> bool:
        return True

    def place(self, index: int) -> str:
        return f"{self.root}:{self.names[index]}"

    def size(self, index: int) -> tuple[int, int]:
        return self._entries[index][1:3]

    def check(self, index: int) -> tuple[int, int]:
        return self.size(index)  # raw pixels cannot be unreadable, and the length of the file was compared

    def read(self, index: int) -> np.ndarray:
        return np.array(self._view(index))

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        return np.array(self._view(index)[top : top + height, left : left + width])

    def _view(self, index: int) -> np.ndarray:
        if self._map is None:
            self._map = np.memmap(self.root / _PIXELS, dtype=np.uint8, mode="r")
        offset, height, width, dtype = self._entries[index]
        raw = self._map[offset : offset + height * width * 3 * dtype.itemsize]
        return raw.view(dtype).reshape(height, width, 3)


def _read_entries(images: Any, num_bytes: int) -> tuple[list[str], list[tuple[int, int, int, np.dtype[Any]]]]:
    """Names, and offset, height, width and type of each image; ValueError where the pixels are not in the file."""
    names, entries = [], []
    for e in images:
        name, kind = e["name"], np.dtype(e["dtype"])
        offset, height, width = (int(e[k]) for k in ("offset", "height", "width"))
        if not isinstance(name, str) or kind not in (np.uint8, np.float32) or min(height, width) < 1:
            raise ValueError(f"entry {len(names)} is no image")
        if offset < 0 or offset + height * width * 3 * kind.itemsize > num_bytes:
            raise ValueError(f"the pixels of {name!r} are not in the file")
        names.append(name)
        entries.append((offset, height, width, kind))
    if not names:
        raise ValueError("it names no images")
    return names, entries


def pack_images(
    source: ImageSource,
    root: Path,
    *,
    crop_size: int | None = None,
    step: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a packed folder: whole images, or overlapping crops of them.

    Args:
        source: the images; 8 bit costs three bytes a pixel, deeper ones twelve.
        root: the new folder; one that exists is replaced when the new one is whole.
        crop_size: cut images into squares of this edge; None: store them whole (crops can still be read alone).
        step: distance of crops; None: `crop_size`.
        progress: called with (images done, all).

    Returns:
        The number of entries.
    """
    names = stems(source)
    entries: list[dict[str, Any]] = []

    def write(file: Any) -> None:
        offset = 0
        for i in range(len(source)):
            for name, part in _parts(names[i], source.read(i), crop_size, step or crop_size):
                file.write(np.ascontiguousarray(part).tobytes())
                height, width = part.shape[:2]
                entries.append(
                    {"name": name, "offset": offset, "height": height, "width": width, "dtype": part.dtype.str}
                )
                offset += part.nbytes
            if progress is not None:
                progress(i + 1, len(source))

    (root / _INDEX).unlink(missing_ok=True)
    write_atomic(root / _PIXELS, write)
    if not entries:
        raise DataError(f"no image is as large as the crop of {crop_size}", place=source.place(0))
    num_bytes = (root / _PIXELS).stat().st_size
    write_json(
        root / _INDEX,
        {"schema": "tgsr.packed", "version": SCHEMA_VERSION, "num_bytes": num_bytes, "images": entries},
    )
    return len(entries)


def _parts(name: str, image: np.ndarray, size: int | None, step: int | None) -> Iterator[tuple[str, np.ndarray]]:
    if size is None or step is None:
        yield name, image
        return
    if min(image.shape[:2]) < size:
        return
    count = 0
    for top in window_starts(image.shape[0], size, step):
        for left in window_starts(image.shape[1], size, step):
            count += 1
            yield f"{name}_s{count:03d}", image[top : top + size, left : left + size]
