"""LMDB in BasicSR's form: PNG bytes by name without extension; `meta_info.txt` lists `name.png (h,w,c) level`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from tgsr.data.backends import ImageSource, file_stamp, stems
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.files import write_atomic
from tgsr.utils.image_header import parse_bytes
from tgsr.utils.image_io import decode_image, png_bytes
from tgsr.utils.lock import hold

_FIRST_MAP_BYTES = 64 * 2**20
_PER_TRANSACTION = 64
_REDO = "copy it again, or make it again with scripts/create_lmdb.py"
_READERS: dict[str, _Reader] = {}
_OPENING = Lock()


def _lmdb() -> ModuleType:
    try:
        import lmdb
    except ImportError:
        remedy = "pip install lmdb, or use io_backend disk"
        raise UserError("io_backend lmdb needs the package lmdb", remedy=remedy) from None
    return lmdb


class LmdbSource(ImageSource):
    """Images of one LMDB, opened anew in every process that reads it.

    Args:
        root: the folder with `data.mdb` and `meta_info.txt`.
    """

    def __init__(self, root: Path) -> None:
        _lmdb()
        self.root = Path(root)
        if not (self.root / "data.mdb").is_file():
            remedy = "make it with scripts/create_lmdb.py, or use io_backend disk"
            raise DataError("not an LMDB: it has no data.mdb", place=str(root), remedy=remedy)
        try:
            lines = (self.root / "meta_info.txt").read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise DataError("meta_info.txt is damaged: no UTF-8 text", place=str(root), remedy=_REDO) from None
        except OSError:
            remedy = "its writing was not finished: run scripts/create_lmdb.py again"
            raise DataError("the LMDB has no meta_info.txt", place=str(root), remedy=remedy) from None
        self.names, self._sizes = [], []
        for number, line in enumerate(filter(str.strip, lines), 1):
            name, _, rest = line.partition(" (")
            try:
                height, width = (int(n) for n in rest.split(")")[0].split(",")[:2])
            except ValueError:
                problem = f"line {number} is not 'name.png (h,w,c) level'"
                raise DataError(problem, place=f"{root}/meta_info.txt") from None
            self.names.append(name)
            self._sizes.append((height, width))
        if not self.names:
            raise DataError("the LMDB holds no images", place=str(root))
        self._keys = [_key(n) for n in self.names]

    def place(self, index: int) -> str:
        return f"{self.root}:{self._keys[index]}"

    def size(self, index: int) -> tuple[int, int]:
        return self._sizes[index]

    def stamp(self, index: int) -> tuple[int, int] | None:
        return file_stamp(self.root / "data.mdb")

    def read(self, index: int) -> np.ndarray:
        try:
            with _reader(os.path.realpath(self.root)).get().begin(write=False, buffers=True) as transaction:
                value = transaction.get(self._keys[index].encode())
                data = None if value is None else bytes(value)
        except _lmdb().Error as error:
            raise DataError(f"the LMDB is damaged: {error}", place=self.place(index), remedy=_REDO) from None
        if data is None:
            problem = "the LMDB lacks this key, which its meta_info.txt names"
            raise DataError(problem, place=self.place(index), remedy=_REDO)
        return decode_image(data, place=self.place(index))[0]


class _Reader:
    """The one environment through which this process reads an LMDB; opened again after a fork."""

    def __init__(self, root: str) -> None:
        self.root, self._pid, self._environment = root, 0, None

    def get(self) -> Any:
        if self._pid == os.getpid():
            return self._environment
        with _OPENING:
            return self._open_once()

    def _open_once(self) -> Any:
        if self._pid != os.getpid():
            if self._environment is not None:
                self._environment.close()
            environment = None
            try:
                environment = _open(Path(self.root), readonly=True)
                _check_length(environment, Path(self.root))
            except _lmdb().Error as error:
                raise DataError(f"the LMDB cannot be opened: {error}", place=self.root, remedy=_REDO) from None
            except DataError:
                environment.close()
                raise
            self._environment, self._pid = environment, os.getpid()
        return self._environment


def _check_length(environment: Any, root: Path) -> None:
    """DataError for a file that was cut: reading behind its end would end the whole process, without a word."""
    there = (root / "data.mdb").stat().st_size
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if there < needed:
        raise DataError(f"data.mdb is cut: {there:,} of {needed:,} bytes are there", place=str(root), remedy=_REDO)


def _reader(root: str) -> _Reader:
    """One for each LMDB, since the library refuses a second environment of the same file in a process."""
    return _READERS.get(root) or _READERS.setdefault(root, _Reader(root))  # setdefault keeps one of two threads'


def _open(root: Path, *, readonly: bool) -> Any:
    options = {"readonly": True, "readahead": False} if readonly else {"map_size": _FIRST_MAP_BYTES}
    # The library's own lock is a mapped file, which ends the process with SIGBUS on a full disk; see `write_lmdb`.
    return _lmdb().open(str(root), meminit=False, lock=False, **options)


def _key(name: str) -> str:
    return name[:-4] if name.endswith(".png") else name


def write_lmdb(
    source: ImageSource,
    root: Path,
    *,
    png_level: int = 1,
    num_threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write images into an LMDB, a few at a time, growing its map as needed; then read all of it back and compare.

    A stopped writer goes on where it was. `meta_info.txt` is written last, so an LMDB that has one is whole.

    Args:
        source: the images.
        root: the new folder, by custom `<name>.lmdb`.
        png_level: zlib level of the stored PNGs.
        num_threads: threads that read and encode.
        progress: called with (images done, all) after every transaction.

    Returns:
        The number of images written now (those found already are not counted).
    """
    with hold(root):
        return _write(source, root, png_level, num_threads, progress)


def _write(
    source: ImageSource, root: Path, png_level: int, num_threads: int, progress: Callable[[int, int], None] | None
) -> int:
    lmdb = _lmdb()
    names = [f"{s}.png" for s in stems(source)]
    try:
        root.mkdir(parents=True, exist_ok=True)
        environment = _open(root, readonly=False)
    except (OSError, lmdb.Error) as error:
        raise UserError(f"cannot be written: {error}", place=str(root)) from None
    (root / "meta_info.txt").unlink(missing_ok=True)
    with environment.begin() as transaction:
        todo = [i for i, n in enumerate(names) if transaction.get(_key(n).encode()) is None]
    try:
        with ThreadPoolExecutor(max(1, num_threads)) as pool:
            encoded = _bounded(pool, lambda i: (i, png_bytes(source.read(i), level=png_level)), todo, 4 * num_threads)
            done = len(names) - len(todo)
            while chunk := list(islice(encoded, _PER_TRANSACTION)):
                _put(environment, [(_key(names[i]).encode(), data) for i, data in chunk])
                done += len(chunk)
                if progress is not None:
                    progress(done, len(names))
            lines = list(pool.map(lambda i: _verified(environment, names[i], source, i, png_level), range(len(names))))
        environment.sync(True)
    finally:
        environment.close()
    write_atomic(root / "meta_info.txt", lambda file: file.write("".join(lines).encode()))
    return len(todo)


def _bounded(pool: ThreadPoolExecutor, work: Callable[[int], Any], items: list[int], ahead: int) -> Iterator[Any]:
    """Results in order, with at most `ahead` of them in memory."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= max(1, ahead):
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _put(environment: Any, entries: list[tuple[bytes, bytes]]) -> None:
    """One transaction; the map doubles until it fits."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, data in entries:
                    transaction.put(key, data)
            return
        except _lmdb().MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
        except _lmdb().Error as error:
            raise UserError(f"cannot be written: {error}", place=environment.path(), remedy="free space") from None


def _verified(environment: Any, name: str, source: ImageSource, index: int, level: int) -> str:
    """The image's line of meta_info.txt, after its stored bytes have been compared with the source's pixels."""
    with environment.begin() as transaction:
        data = transaction.get(_key(name).encode())
    place = f"{environment.path()}:{_key(name)}"
    if data is None or not np.array_equal(decode_image(data, place=place)[0], source.read(index)):
        remedy = "delete the folder and write it again"
        raise DataError(f"what was written differs from {source.place(index)}", place=place, remedy=remedy)
    info = parse_bytes(data)
    assert info is not None
    return f"{name} ({info.height},{info.width},{info.channels}) {level}\n"


