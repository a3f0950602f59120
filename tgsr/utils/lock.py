"""Locks on the folders of a run: one process at a time works in them; a lock ends with its process, however that ends.

POSIX record locks: they hold between the machines that share a disk (NFS, and Lustre mounted with `flock`), a killed
process loses them at once, and loader workers do not inherit them. The lock of `experiments/x` is the file
`experiments/.x.lock`, beside the folder: that may be moved aside while the file stays.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from tgsr.utils.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tgsr")
_held: dict[Path, IO[bytes]] = {}
_depth = 0


@contextmanager
def hold(*folders: Path, roots: Sequence[Path] = ()) -> Iterator[None]:
    """Own folders until the outermost `hold` of this process ends; they need not exist.

    Args:
        folders: what this process owns already is no obstacle, so a stage may hold what its chain holds.
        roots: folders between one of them and a folder are shared: `a/b` and `a/c` may run at once, not `a` beside.

    Raises:
        UserError: another process works in one of them (it is named), or the lock cannot be written.
    """
    global _depth
    _depth += 1
    try:
        for folder in folders:
            path = folder.resolve()
            for root in (r.resolve() for r in roots):
                if path.is_relative_to(root):
                    for parent in list(path.parents)[: len(path.relative_to(root).parts) - 1]:
                        _acquire(parent, shared=True)
            _acquire(path)
        yield
    finally:
        _depth -= 1
        if _depth == 0:
            while _held:
                _release(*_held.popitem())


def lock_file(folder: Path) -> Path:
    """Where the lock of a folder lies."""
    return folder.with_name(f".{folder.name}.lock")


def _acquire(folder: Path, *, shared: bool = False) -> None:
    if fcntl is None or (folder in _held and shared):
        return
    file = _held.pop(folder, None) or _open(folder)
    try:
        while True:
            fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is_still(file, lock_file(folder)):
                break
            file.close()  # its last holder has just removed it
            file = _open(folder)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = _read(file)
            file.close()
            remedy = "wait for it or stop it, or give this run another name"
            raise UserError(f"in use by {holder}", place=str(folder), remedy=remedy) from None
        logger.warning("%s: its disk knows no locks (%s): start no second run of it", folder, error.strerror)
    _held[folder] = file
    with contextlib.suppress(OSError):  # a full disk is found, and told, by what is written next
        file.truncate(0)
        file.write(_myself().encode())


def _open(folder: Path) -> IO[bytes]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return open(lock_file(folder), "ab+", buffering=0)
    except OSError as error:
        raise UserError(f"cannot be locked: {error}", place=str(folder), remedy="check its disk") from None


def _is_still(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _release(folder: Path, file: IO[bytes]) -> None:
    """Remove the file unless others share it, then let go."""
    with contextlib.suppress(OSError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock_file(folder).unlink()
    file.close()


def _myself() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return (
        f"process {os.getpid()} on {socket.gethostname()}{f' (SLURM job {job})' if job else ''} since "
        f"{datetime.now():%Y-%m-%d %H:%M:%S}: {' '.join(sys.argv)[:200]}"
    )


def _read(file: IO[bytes]) -> str:
    with contextlib.suppress(OSError):
        file.seek(0)
        return " ".join(file.read(1000).decode(errors="replace").split()) or "another process"
    return "another process"
