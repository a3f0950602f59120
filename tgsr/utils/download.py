"""Downloads that resume, are checked, and say what to do when there is no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from tgsr.utils.errors import DataError, UserError

_CHUNK = 2**20
_PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    remedy: str = "",
    timeout_s: float = 30.0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Path:
    """Fetch `url` into `path`; a file that is there is kept, a part of one is continued.

    Args:
        url: http, https or file address.
        path: where the whole file goes; until then its bytes are in `path` + `.part`.
        sha256: refuse anything else (hexadecimal); may be a prefix of at least eight digits.
        remedy: what the user can do without a network; the default names the address and the place.
        timeout_s: of the connection and of every read.
        progress: called with (bytes so far, all bytes or None).

    Raises:
        UserError: no network, an error of the server, or a full disk; what has come stays for the next try.
        DataError: the checksum differs; the file is deleted.
    """
    if path.exists():
        return path
    remedy = remedy or f"download it by hand and put it at {path}"
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, timeout_s, progress)
    except urllib.error.HTTPError as error:
        raise UserError(f"the server answered {error.code} {error.reason}", place=url, remedy=remedy) from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"cannot be downloaded: {reason}", place=url, remedy=remedy) from None
    except OSError as error:
        advice = "free space or check the folder"
        raise UserError(f"cannot be written: {error}", place=str(part), remedy=advice) from None
    if sha256 and not sha256_of(part).startswith(sha256.lower()):
        part.unlink()
        raise DataError(f"what came from {url} has another checksum than {sha256}", place=str(path), remedy=remedy)
    os.replace(part, path)
    return path


def _fetch(url: str, part: Path, timeout_s: float, progress: Callable[[int, int | None], None] | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "tgsr"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)  # noqa: S310 - addresses come from the program
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after what is there: it is whole
            return
        raise
    with response:
        resumed = have > 0 and getattr(response, "status", None) == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"it ended after {have} of {total} bytes")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar into `folder`, refusing entries that would land outside it.

    Raises:
        DataError: damaged, not an archive, or with such an entry.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                _refuse_outside(packed.namelist(), folder, archive)
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise DataError(f"an entry is refused: {error}", place=str(archive), remedy="get it from its authors") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        advice = "delete it and download again"
        raise DataError(f"damaged archive: {error}", place=str(archive), remedy=advice) from None
    return folder


def unpack_all(folder: Path) -> None:
    """Unpack every archive below `folder` into a folder beside it, of its name without the extension; archives inside
    archives, too. What has been unpacked is not unpacked again; what a stop left half is begun anew."""
    for archive in sorted(p for p in folder.rglob("*") if p.name.lower().endswith(_PACKED) and p.is_file()):
        ending = next(e for e in _PACKED if archive.name.lower().endswith(e))
        target = archive.with_name(archive.name[: -len(ending)])
        if not target.exists():
            building = target.with_name(f".{target.name}.unpacking")
            shutil.rmtree(building, ignore_errors=True)
            unpack(archive, building)
            os.rename(building, target)
            unpack_all(target)


def _refuse_outside(names: list[str], folder: Path, archive: Path) -> None:
    root = folder.resolve()
    for name in names:
        target = (root / name).resolve()
        if target != root and root not in target.parents:
            raise DataError(f"the entry '{name}' would be written outside the folder", place=str(archive))
