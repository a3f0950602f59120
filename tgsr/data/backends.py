"""Where images come from: folders, meta-info files, LMDB, packed files. All look alike to the data sets."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tgsr.utils.errors import DataError
from tgsr.utils.image_io import is_image_name, list_images, probe_image, read_image

IOBackend = Literal["disk", "lmdb", "packed"]

_SIZED = re.compile(r"^(?P<name>.*?)\s+\((?P<h>\d+),\s*(?P<w>\d+)(?:,\s*\d+)?\)(?:\s+\d+)?$")


class ImageSource(ABC):
    """An ordered collection of images that can be read at random, in any process.

    Attributes:
        names: one name an image with `/` between folders, unique; for folders the path inside the root.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def place(self, index: int) -> str:
        """Path or key of an image, for messages."""

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Height and width, without decoding."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """`(H, W, 3)` RGB, uint8 or float32 in [0, 1]."""

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Part of an image; cheaper than `read` only where pixels are stored raw."""
        return self.read(index)[top : top + height, left : left + width]

    def check(self, index: int) -> tuple[int, int]:
        """Height and width after reading the whole image; DataError when it cannot be read."""
        height, width = self.read(index).shape[:2]
        return height, width

    @property
    def reads_parts(self) -> bool:
        """Whether `read_crop` is cheaper than `read`."""
        return False

    def stamp(self, index: int) -> tuple[int, int] | None:
        """Bytes and modification time (ns) of the file that holds the image; None where it is not worth remembering."""
        return None

    def subset(self, indices: Sequence[int]) -> ImageSource:
        """The given images, in the given order."""
        return SubsetSource(self, indices)


class SubsetSource(ImageSource):
    """Some images of another source."""

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source, self.indices = source, list(indices)
        self.names = [source.names[i] for i in self.indices]

    def place(self, index: int) -> str:
        return self.source.place(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(self.indices[index])

    def read(self, index: int) -> np.ndarray:
        return self.source.read(self.indices[index])

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self.source.read_crop(self.indices[index], top, left, height, width)

    def check(self, index: int) -> tuple[int, int]:
        return self.source.check(self.indices[index])

    @property
    def reads_parts(self) -> bool:
        return self.source.reads_parts

    def stamp(self, index: int) -> tuple[int, int] | None:
        return self.source.stamp(self.indices[index])


class FileSource(ImageSource):
    """Image files below one or several folders.

    Args:
        files: their paths.
        names: one for each.
    """

    def __init__(self, files: Sequence[Path], names: Sequence[str]) -> None:
        self._files, self.names = [str(f) for f in files], list(names)

    @staticmethod
    def from_folders(roots: Sequence[Path]) -> FileSource:
        """All images below `roots`, at any depth, with `joined_names`."""
        files = [list_images(root) for root in roots]
        inside = [[f.relative_to(root).as_posix() for f in found] for root, found in zip(roots, files, strict=True)]
        return FileSource([f for found in files for f in found], joined_names(roots, inside))

    def subset(self, indices: Sequence[int]) -> ImageSource:
        return FileSource([Path(self._files[i]) for i in indices], [self.names[i] for i in indices])

    def place(self, index: int) -> str:
        return self._files[index]

    def size(self, index: int) -> tuple[int, int]:
        info = probe_image(self._files[index])
        return info.height, info.width

    def read(self, index: int) -> np.ndarray:
        return read_image(self._files[index])

    def stamp(self, index: int) -> tuple[int, int] | None:
        return file_stamp(self._files[index])


def joined_names(roots: Sequence[Path], names: Sequence[Sequence[str]]) -> list[str]:
    """One list of the names of several roots: behind as many last parts of their roots as make all of them differ.

    Raises:
        DataError: a root is named twice.
    """
    if len(roots) == 1:
        return list(names[0])
    parts = [Path(os.path.abspath(root)).parts for root in roots]
    for depth in range(1, max(map(len, parts)) + 1):
        joined = ["/".join((*own[-depth:], n)) for own, group in zip(parts, names, strict=True) for n in group]
        if len(set(joined)) == len(joined):
            return joined
    twice = next((str(root) for i, root in enumerate(roots) if parts[i] in parts[:i]), str(roots[0]))
    raise DataError("the same images are named twice", place=twice, remedy="name every folder once")


class JoinedSource(ImageSource):
    """Several collections as one.

    Args:
        sources: the collections.
        names: of all images, in their order.
    """

    def __init__(self, sources: Sequence[ImageSource], names: Sequence[str]) -> None:
        self.names = list(names)
        self._where = [(source, i) for source in sources for i in range(len(source))]

    def place(self, index: int) -> str:
        source, i = self._where[index]
        return source.place(i)

    def size(self, index: int) -> tuple[int, int]:
        source, i = self._where[index]
        return source.size(i)

    def read(self, index: int) -> np.ndarray:
        source, i = self._where[index]
        return source.read(i)

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        source, i = self._where[index]
        return source.read_crop(i, top, left, height, width)

    def check(self, index: int) -> tuple[int, int]:
        source, i = self._where[index]
        return source.check(i)

    @property
    def reads_parts(self) -> bool:
        return all(source.reads_parts for source, _ in self._where)

    def stamp(self, index: int) -> tuple[int, int] | None:
        source, i = self._where[index]
        return source.stamp(i)


def file_stamp(path: Path | str) -> tuple[int, int] | None:
    """Bytes and modification time (ns) of a file; None when it is absent."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


class MetaEntry(NamedTuple):
    """One line of a meta-info file: a ground-truth name and, for pairs, its LQ name."""

    gt: str
    lq: str | None


def read_meta_info(path: Path | str) -> list[MetaEntry]:
    """Lines `name`, `name (h,w,c)`, `name (h,w,c) level` or `gt, lq`; empty lines and comments (#) are skipped.

    Files that Windows wrote are understood: a byte order mark, UTF-16, and `\\` between folders.

    Raises:
        DataError: absent, damaged or without entries.
    """
    try:
        lines = _decoded(Path(path).read_bytes()).splitlines()
    except FileNotFoundError:
        remedy = "make it with scripts/generate_meta_info.py"
        raise DataError("no such meta-info file", place=str(path), remedy=remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as a meta-info file: {error}", place=str(path)) from None
    entries = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if "\0" in line:
            remedy = "save it as UTF-8 text, or make it again with scripts/generate_meta_info.py"
            raise DataError(f"line {number} holds a NUL byte", place=str(path), remedy=remedy)
        if os.sep != "\\":
            line = line.replace("\\", "/")
        sized = _SIZED.match(line)
        if sized:
            entries.append(MetaEntry(sized["name"], None))
        else:
            entries.append(_pair(line))
    if not entries:
        raise DataError("the meta-info file names no images", place=str(path))
    return entries


def _decoded(data: bytes) -> str:
    """Text of UTF-8, or of UTF-16 where a byte order mark says so."""
    return data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def _pair(line: str) -> MetaEntry:
    """`gt, lq`; without the blank only where both look like images, since a name may hold a comma."""
    gt, comma, lq = line.partition(", ")
    if not comma:
        gt, comma, lq = line.partition(",")
        if not (is_image_name(gt.strip()) and is_image_name(lq.strip())):
            return MetaEntry(line, None)
    return MetaEntry(gt.strip(), lq.strip())


def open_source(
    roots: Path | str | Sequence[Path | str], *, io_backend: IOBackend = "disk", names: Sequence[str] | None = None
) -> ImageSource:
    """Open a collection of images.

    Args:
        roots: folder or folders; one `.lmdb` folder; one packed folder.
        io_backend: `disk`, `lmdb` (BasicSR's form) or `packed` (`scripts/pack_crops.py`).
        names: only these, in this order (from a meta-info file); extensions may be left out for lmdb. None: all.
    """
    folders = [Path(roots)] if isinstance(roots, (str, Path)) else [Path(r) for r in roots]
    if io_backend == "disk":
        for folder in folders:
            if not folder.exists() or names is not None and not folder.is_dir():
                raise DataError("no such folder", place=str(folder), remedy=_how_to_get(folder))
        if names is None:
            return FileSource.from_folders(folders)
        return FileSource([_locate(folders, n) for n in names], names)
    if len(folders) != 1:
        raise DataError(f"io_backend {io_backend} reads one store, {len(folders)} are given", remedy="name one")
    source: ImageSource
    if io_backend == "lmdb":
        from tgsr.data.lmdb_store import LmdbSource

        source = LmdbSource(folders[0])
    else:
        from tgsr.data.packed import PackedSource

        source = PackedSource(folders[0])
    if names is None:
        return source
    known = {_stem(n): i for i, n in enumerate(source.names)}
    absent = [n for n in names if _stem(n) not in known]
    if absent:
        problem = f"{len(absent)} names of the meta-info file are not in it: {', '.join(absent[:5])}"
        raise DataError(problem, place=str(folders[0]))
    return source.subset([known[_stem(n)] for n in names])


def _how_to_get(folder: Path) -> str:
    from tgsr.data.recipes import command, recipe_for  # late: recipes cut images, and read them through this module

    name = recipe_for(folder)
    return "check the path; datasets/README.md tells how to get the data" if name is None else command(name)


def _locate(folders: Sequence[Path], name: str) -> Path:
    """The file called `name` in the first folder that has it; the first folder's where none has (found later)."""
    for folder in folders[1:] if len(folders) > 1 and not (folders[0] / name).exists() else ():
        if (folder / name).exists():
            return folder / name
    return folders[0] / name


def _stem(name: str) -> str:
    head, dot, extension = name.rpartition(".")
    return head if dot and "/" not in extension and len(extension) <= 4 else name


def stems(source: ImageSource) -> list[str]:
    """The names without extension, or with it where two would be the same."""
    short = [_stem(n) for n in source.names]
    return short if len(set(short)) == len(short) else list(source.names)
