"""How many threads are sensible here, and those of the linear algebra beneath NumPy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from threadpoolctl import ThreadpoolController


def usable_cpus(cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that this process may keep busy: its affinity, and the quota of its control groups (containers, SLURM).

    A container with a quota of 4 CPUs on a node of 128 sees 128; as many threads would take turns.

    Args:
        cgroup_root: where control groups are mounted (version 2, or 1 with its `cpu` controller).
        membership: which of them this process is in.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas(cgroup_root, membership))]))


def crowding(num_threads: int, load: Path = Path("/proc/loadavg")) -> str | None:
    """Why so many threads will take turns here, and what helps; None where they will not.

    The number of threads itself does not follow the load: it changes the last digits of sums, and a run that is resumed
    on a quieter machine must go on to the same weights.
    """
    cpus, machine = usable_cpus(), os.cpu_count() or 1
    if num_threads > cpus:
        share = f"{cpus} CPU{'s' if cpus > 1 else ''}"
        return f"{num_threads} threads take turns on {share}; set num_threads (or OMP_NUM_THREADS) to {cpus}"
    busy = _busy_threads(load)
    if busy + num_threads < 1.5 * machine or busy < 1:
        return None
    return (
        f"other processes want {busy:.0f} of this machine's {machine} CPUs, and this run gets a share of them; "
        "fewer runs at once finish sooner"
    )


def _busy_threads(load: Path) -> float:
    """Threads that want a processor, over the last minute and now, whichever is less, without this one."""
    try:
        minute, _, _, now, *_ = load.read_text().split()
        return min(float(minute), float(now.split("/")[0]) - 1)
    except (OSError, ValueError):
        return 0.0


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """The quotas, in CPUs, of this process's control group and all above it."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    inner = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    for folder in (root / inner, *(root / inner).parents):
        if folder != root and root not in folder.parents:
            break
        quota = _numbers(folder / "cpu.max")
        if len(quota) == 2 and quota[1] > 0:
            yield quota[0] / quota[1]
    quota = _numbers(root / "cpu" / "cpu.cfs_quota_us") + _numbers(root / "cpu" / "cpu.cfs_period_us")
    if len(quota) == 2 and min(quota) > 0:
        yield quota[0] / quota[1]


def _numbers(path: Path) -> list[float]:
    """The numbers of a file; none where it cannot be read or says `max`."""
    try:
        return [float(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run NumPy's matrix products on one thread: many small ones lose far more by threads than they gain."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
