"""Work over many tasks on the whole machine: shared by ranks and local processes, written at once, resumable."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from tgsr.config.options import import_file, user_files
from tgsr.engine.context import Context, set_up_logging
from tgsr.methods.tgsr.artefacts import Record, TaskLog
from tgsr.utils.errors import UserError

logger = logging.getLogger("tgsr")
SECONDS_BETWEEN_REPORTS = 15.0


class TaskWork(Protocol):
    """What is done to each task. It is pickled into worker processes, so it holds options and paths, no tensors."""

    def open(self, context: Context) -> Callable[[int], Record]:
        """Build networks and data once; returns `measure(task index) -> record`."""


def default_processes(context: Context) -> int:
    """One process per core on a CPU (two processes of one thread do more than one of two); one per rank on a GPU."""
    if context.device.type != "cpu":
        return 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    return max(1, len(os.sched_getaffinity(0)) // ranks_here)


def alone(context: Context) -> Context:
    """The same device as a world of one: a sweep's networks must not wait for those of other ranks."""
    return context.alone()


def run_over_tasks(
    work: TaskWork,
    names: Sequence[str],
    log: TaskLog,
    context: Context,
    *,
    processes: int | None = None,
    label: str,
) -> bool:
    """Measure every task that `log` does not have yet. Called on all ranks.

    Args:
        work: see `TaskWork`; task index i is `names[i]`.
        names: of the tasks to be done, a prefix of the task set's.
        processes: per rank; None: `default_processes`.
        label: for messages.

    Returns:
        Whether all are done; False when asked to stop before.
    """
    done = log.read()
    todo = [i for i, name in enumerate(names) if name not in done]
    if len(todo) < len(names) and context.is_main:
        logger.info("%s: %d of %d tasks are there already", label, len(names) - len(todo), len(names))
    context.barrier()  # every rank must have read the files before any of them writes
    mine = todo[context.rank :: context.world_size]
    processes = min(processes or default_processes(context), len(mine))
    with context.catch_signals():
        if processes <= 1:
            _run_inline(work, mine, log, context, label)
        else:
            _run_processes(work, mine, log, context, processes, label)
        stopped = context.should_stop()
    context.barrier()
    return not stopped


def _run_inline(work: TaskWork, mine: Sequence[int], log: TaskLog, context: Context, label: str) -> None:
    if not mine:
        return
    writer = context.rank * 1000
    measure = work.open(alone(context))
    log.open(writer)
    eta = _Eta(label, len(mine), is_shown=context.is_main)
    for count, index in enumerate(mine, 1):
        log.append(writer, measure(index))
        eta.report(count)
        if context.stop_requested:
            return


def _run_processes(
    work: TaskWork, mine: Sequence[int], log: TaskLog, context: Context, processes: int, label: str
) -> None:
    """Spawned processes take tasks from one shared counter, so that a slow one does not hold the others up."""
    spawn = multiprocessing.get_context("spawn")
    taken, finished, stop = spawn.Value("i", 0), spawn.Value("i", 0), spawn.Event()
    errors = spawn.SimpleQueue()
    threads = max(1, torch.get_num_threads() // processes)
    job = pickle.dumps((work, list(mine), log, alone(context)))
    workers = [
        spawn.Process(
            target=_worker,
            args=(user_files(), job, context.rank * 1000 + 1 + k, threads, taken, finished, stop, errors),
        )
        for k in range(processes)
    ]
    for worker in workers:
        worker.start()
    eta = _Eta(label, len(mine), is_shown=context.is_main)
    try:
        while any(w.is_alive() for w in workers):
            time.sleep(0.2)
            eta.report(finished.value)
            if context.stop_requested:
                stop.set()
            if any(w.exitcode not in (None, 0) for w in workers):
                stop.set()
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    if not errors.empty():
        kind, problem, place, remedy = errors.get()
        raise kind(problem, place=place, remedy=remedy)
    failed = [w.exitcode for w in workers if w.exitcode != 0]
    if failed:
        raise UserError(
            f"{len(failed)} of {processes} processes failed (exit codes {failed}); finished tasks are kept",
            place=label,
            remedy="see their messages above; set run.processes: 1 to run without processes of its own",
        )


def _worker(
    user_files: Sequence[str],
    job: bytes,
    writer: int,
    threads: int,
    taken: Any,
    finished: Any,
    stop: Any,
    errors: Any,
) -> None:
    """One process: take the next task, measure it, write it; end when the parent says so or is gone.

    What the user can mend is for the parent to say, once; it goes into `errors`.
    """
    try:
        _work(user_files, job, writer, threads, taken, finished, stop)
    except UserError as error:
        errors.put((type(error), error.problem, error.place, error.remedy))
        sys.exit(1)


def _work(
    user_files: Sequence[str], job: bytes, writer: int, threads: int, taken: Any, finished: Any, stop: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(threads)
    set_up_logging(rank=0, level=logging.WARNING)
    parent = os.getppid()
    for file in user_files:
        import_file(Path(file))
    work: TaskWork
    work, mine, log, context = pickle.loads(job)
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    measure = work.open(context)
    log.open(writer)
    while not stop.is_set() and os.getppid() == parent:
        with taken.get_lock():
            position = taken.value
            taken.value += 1
        if position >= len(mine):
            return
        log.append(writer, measure(mine[position]))
        with finished.get_lock():
            finished.value += 1


class _Eta:
    """Says now and then how far a sweep is and how long it will take."""

    def __init__(self, label: str, total: int, *, is_shown: bool) -> None:
        self.label, self.total, self.is_shown = label, total, is_shown
        self.start = self.last = time.perf_counter()
        self.shown = 0

    def report(self, done: int) -> None:
        now = time.perf_counter()
        is_last = done == self.total and self.shown != done
        is_due = done > self.shown and now - self.last > SECONDS_BETWEEN_REPORTS
        if not self.is_shown or not (is_last or is_due):
            return
        self.last, self.shown = now, done
        each = (now - self.start) / done
        left = each * (self.total - done)
        logger.info(
            "%s: %d of %d tasks, %.2f s each, %d:%02d left", self.label, done, self.total, each, left // 60, left % 60
        )
