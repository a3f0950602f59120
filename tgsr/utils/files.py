"""Files that are either whole or absent: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from tgsr.utils.errors import DataError, UserError


def write_atomic(path: Path | str, write: Callable[[IO[bytes]], Any]) -> None:
    """Call `write(file)` on a temporary neighbour of `path`, sync it and rename it over `path`.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    disk: _Disk | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            disk = _Disk(file)
            write(disk)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        _remove(temporary)
        raise _cannot_write(path, error if disk is None or disk.error is None else disk.error) from error
    except BaseException:
        _remove(temporary)
        raise


class _Disk:
    """A file that remembers what the disk said: torch.save makes a puzzle of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def archive_damage(path: Path | str) -> str:
    """What is wrong with a zip archive such as torch writes; empty: nothing. Reads all of it.

    An archive none of whose entries has its checksum was written without (`torch.serialization.set_crc32_options`).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > os.path.getsize(path):
                return "it names more bytes than it has"  # torch compresses nothing
            damaged = [entry.filename for entry in entries if not _is_whole(archive, entry)]
    except Exception as error:  # arbitrary bytes make zipfile raise nearly anything
        return f"no zip archive: {error or type(error).__name__}"
    return f"the checksum of {damaged[0]} is wrong" if damaged and len(damaged) < len(entries) else ""


def _is_whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def unwritable(folder: Path) -> str:
    """Why nothing can be written below a folder that may not exist yet; empty: it can."""
    there = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"nothing can be written to {there}: {error.strerror}"


def _cannot_write(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot be written: {error}", place=str(path), remedy="free space or check the folder")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # e.g. its folder is a file: the error that led here says more
        path.unlink()


class _Encoder(json.JSONEncoder):
    def default(self, o: Any) -> Any:
        if isinstance(o, np.generic):
            return o.item()
        if isinstance(o, np.ndarray):
            return o.tolist()
        if isinstance(o, Path):
            return str(o)
        return super().default(o)


def to_json(data: Any, *, indent: int | None = None) -> str:
    """JSON text; NumPy values and paths are understood."""
    return json.dumps(data, indent=indent, cls=_Encoder)


def write_json(path: Path | str, data: Any) -> None:
    """Write JSON atomically."""
    write_atomic(path, lambda f: f.write((to_json(data, indent=1) + "\n").encode()))


def read_json(path: Path | str) -> Any:
    """Read JSON; DataError with the place when it is absent or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", place=str(path)) from None
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"damaged JSON: {error}", place=str(path)) from None


@contextlib.contextmanager
def undamaged(place: Path | str, remedy: str = "copy or make it again") -> Iterator[None]:
    """Around what makes an object of a file's entries: whatever a missing or foreign entry leads to is a DataError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:150]
        raise DataError(f"damaged ({type(error).__name__}: {told})", place=str(place), remedy=remedy) from error


def check_schema(data: Any, schema: str, place: Path | str, *, version: int = 1, made_by: str = "") -> None:
    """DataError unless `data` is a file of this schema and version: the one check of everything that tgsr writes.

    Args:
        data: content of the file, or its first line.
        schema: e.g. `tgsr.groups`.
        place: the file.
        version: that this tgsr reads.
        made_by: the stage that writes such files, for the message.
    """
    found = (data.get("schema"), data.get("version")) if isinstance(data, Mapping) else (None, None)
    if found != (schema, version):
        raise DataError(
            f"not a {schema} file of version {version} (schema {found[0]!r}, version {found[1]!r})",
            place=str(place),
            remedy="make it again with this version of tgsr" + (f", run: {{type: {made_by}}}" if made_by else ""),
        )


def cache_folder() -> Path:
    """Where results are remembered: `$TGSR_CACHE`, else `~/.cache/tgsr`."""
    return Path(os.environ.get("TGSR_CACHE") or Path.home() / ".cache" / "tgsr")


def file_digest(path: Path | str) -> str:
    """16 hex digits of the content of a file, e.g. weights; DataError when it is absent."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("no such file", place=str(path)) from None
    return digest.hexdigest()


def append_jsonl(path: Path | str, record: Any) -> None:
    """Append one line and sync it, so that a kill loses at most the line being written.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write(to_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(path, error) from error


def read_jsonl(path: Path | str) -> Iterator[Any]:
    """The records of a JSON-lines file; a cut last line (a killed writer) is left out."""
    path = Path(path)
    if not path.exists():
        return
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            if number != len(lines):
                raise DataError(f"line {number} is damaged", place=str(path)) from None


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
