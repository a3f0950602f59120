"""Memory of a process that makes and drops many images."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
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
    """Bytes: the most that was held since the last look, by torch on a GPU, or by this process on a CPU.

    On a CPU the largest local process that has ended since counts, too. Where the system does not tell (other than
    Linux), it is the most since the process started.
    """
    if device.type == "cuda":
        import torch

        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    own, children = (resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own, children = _since_last_look(own), children if children > _seen.get("children", 0) else 0
    _seen["children"] = max(children, _seen.get("children", 0))
    return max(own, children) * 1024


_seen: dict[str, int] = {}
"""Largest child process at the last look, in KiB."""


def _since_last_look(fallback: int) -> int:
    """KiB: Linux keeps a high-water mark of the process that can be set back."""
    try:
        status = Path("/proc/self/status").read_text()
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return fallback
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), fallback)
