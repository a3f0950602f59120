"""Memory of a process that makes and drops many images."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that torch has held on a GPU since the last look; on a CPU the most of this process so far."""
    if device.type == "cuda":
        import torch

        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * 1024
