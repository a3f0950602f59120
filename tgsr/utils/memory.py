"""Memory of a process that makes and drops many images."""

from __future__ import annotations

import ctypes
from functools import lru_cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 * 2**20


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let the C library keep up to 256 MB of freed memory for the next image, in this process, from now on.

    By default glibc gives blocks of an image's size back to the system at once, and the next image pays a page fault
    for every 4 KB: half the time of some operators. Elsewhere than on glibc nothing is done.

    Returns:
        Whether the C library accepted it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
