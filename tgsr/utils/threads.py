"""Threads of the linear algebra beneath NumPy, which torch's and OpenCV's own settings do not reach."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

_NAMES = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads64_")
_NAMES += ("openblas_{}_num_threads",)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run NumPy's matrix products on one thread: many small ones lose far more by threads than they gain.

    Works on OpenBLAS, which NumPy's wheels contain; another library keeps its own setting.
    """
    libraries = _openblas()
    before = [get() for get, _ in libraries]
    for _, set_threads in libraries:
        set_threads(1)
    try:
        yield
    finally:
        for (_, set_threads), num in zip(libraries, before, strict=True):
            set_threads(num)


@lru_cache(maxsize=1)
def _openblas() -> list[tuple[Callable[[], int], Callable[[int], None]]]:
    """(get, set) of the number of threads of every OpenBLAS that this process may use through NumPy."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".libs", package / ".dylibs")
    paths = {str(p) for folder in folders for p in folder.glob("*openblas*")}
    maps = Path("/proc/self/maps")
    if not paths and maps.exists():
        paths = {line.split()[-1] for line in maps.read_text().splitlines() if "openblas" in line}
    found = []
    for path in sorted(paths):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        name = next((n for n in _NAMES if hasattr(library, n.format("set"))), None)
        if name is not None:
            found.append((getattr(library, name.format("get")), getattr(library, name.format("set"))))
    return found
