"""Several ranks in one test: threads that share a store, or forked processes with a process group."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tests.processes import fork, free_port
from tgsr.engine.context import Context
from tgsr.engine.ranks import Ranks

SECONDS = 60


def thread_contexts(num: int) -> list[Context]:
    """Ranks that can do all but collectives on tensors."""
    store = dist.HashStore()
    return [Context(torch.device("cpu"), k, num, k, ranks=Ranks(store, k, num)) for k in range(num)]


def in_threads(num: int, work: Callable[[Context], Any]) -> list[Any]:
    """`work(context)` on every rank; results in rank order, or the first error."""
    contexts = thread_contexts(num)

    def one(context: Context) -> Any:
        try:
            return work(context)
        except BaseException:
            context.fail()
            raise

    with ThreadPoolExecutor(num) as threads:
        futures = [threads.submit(one, context) for context in contexts]
        return [f.result(timeout=SECONDS) for f in futures]


def in_processes(num: int, work: Callable[..., Any], *args: Any, timeout_s: float | None = None) -> list[Any]:
    """`work(context, *args)` in forked processes that meet as torchrun's do; results in rank order.

    Args:
        timeout_s: of collectives.
    """
    results, port = multiprocessing.get_context("forkserver").SimpleQueue(), free_port()
    processes = [fork(_rank, k, num, port, results, timeout_s, work, args) for k in range(num)]
    with ended(processes):
        for process in processes:
            process.join(SECONDS)
    found = {}
    while not results.empty():
        rank, result = results.get()
        found[rank] = result
    codes = [p.exitcode for p in processes]
    assert codes == [0] * num, f"exit codes {codes}"
    return [found[k] for k in range(num)]


@contextmanager
def ended(processes: list[Any]) -> Iterator[None]:
    """Whoever is still there at the end is killed."""
    try:
        yield
    finally:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()


def _rank(
    rank: int, num: int, port: int, results: Any, timeout_s: float | None, work: Callable[..., Any], args: Any
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(num), LOCAL_WORLD_SIZE=str(num),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    context = Context.create(device="cpu", num_threads=1)
    if timeout_s is not None:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), dist.group.WORLD)
    try:
        results.put((rank, work(context, *args)))
    except BaseException:
        traceback.print_exc()
        context.fail()
        raise
    context.close()
