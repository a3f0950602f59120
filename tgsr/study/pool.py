"""Pool: work on many keys, taken by ranks and local processes when they are free, each record written at once."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

import torch
import torch.distributed as dist

from tgsr.config.options import import_file, user_files
from tgsr.engine.context import Context, set_up_logging
from tgsr.study.journal import Journal, Record, key_of
from tgsr.study.subrun import Stopped
from tgsr.utils.errors import UserError

logger = logging.getLogger("tgsr")
Measure = Callable[[str], Record]
SECONDS_BETWEEN_REPORTS = 15.0
SECONDS_BETWEEN_LOOKS = 0.2


class Work(Protocol):
    """What is done to each key. It is pickled into processes, so it holds options and paths, no tensors."""

    def open(self, context: Context) -> Measure:
        """Build networks and data once; returns `measure(key) -> record`, which may raise `Stopped`.

        Args:
            context: the world of each measurement: one process, or the ranks that share a training.
        """


def run_all(
    work: Work,
    keys: Sequence[str],
    journal: Journal,
    context: Context,
    *,
    processes: int | None = None,
    label: str,
    trains: bool = False,
    batch_size: int | None = None,
) -> bool:
    """Do every key that the journal lacks; see `Pool`. Called on all ranks.

    Returns:
        Whether the journal holds all of them; False when asked to stop before.
    """
    with Pool(work, journal, context, processes=processes, label=label, trains=trains, batch_size=batch_size) as pool:
        return pool.run(keys)


class Pool:
    """Processes that stay open over several calls of `run`. A context manager, opened on all ranks.

    Each rank works itself, or through local processes of its own; whoever is free takes the next key, so that a slow
    one holds nobody up, and a rank without work waits without a time-out.

    Args:
        work: see `Work`.
        journal: where the records are.
        context: this process.
        processes: per rank; None: `default_processes`.
        label: for messages.
        trains: each key is a training that several ranks can share: where fewer are left than there are ranks, the
            ranks are divided among them.
        batch_size: global batch of such a training; a share is a number of ranks that divides it. None: any.
    """

    def __init__(
        self,
        work: Work,
        journal: Journal,
        context: Context,
        *,
        processes: int | None = None,
        label: str,
        trains: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.work, self.journal, self.context, self.label = work, journal, context, label
        self.trains, self.batch_size = trains, batch_size
        self.processes = processes or default_processes(context)
        self._lonely = self._told = context.alone()
        self._measure: Measure | None = None
        self._workers: list[_Worker] = []

    @property
    def num_parallel(self) -> int:
        """Keys that are done at once over all ranks."""
        return self.processes * self.context.world_size

    def run(self, keys: Sequence[str], *, again: Sequence[str] = ()) -> bool:
        """Do the keys that the journal lacks, and those of `again` anew (`attempt` counts them). On all ranks.

        Returns:
            Whether the journal holds all of them, to be read on any rank; False when asked to stop before.

        Raises:
            UserError: of a worker or because one was killed; finished records are kept.
        """
        todo = self._todo(keys, again)
        context, jobs = self.context, _Jobs(self.context, todo, self.label)
        num_shared = len(todo) % context.world_size if self.trains else 0
        with context.catch_signals(), context.stopping(at_once=False), self._told_to_stop(jobs):
            is_stopped = self._phase(jobs, lambda: self._work(jobs, len(todo) - num_shared))
            if num_shared and not is_stopped:
                is_stopped = self._phase(jobs, lambda: self._share(jobs, list(todo)[-num_shared:]))
        if not is_stopped and context.is_main:
            self._see(todo)
        context.barrier()
        return not is_stopped

    def _phase(self, jobs: _Jobs, work: Callable[[], None]) -> bool:
        """Work, then wait until nobody works any more; whether the run is to stop, the same answer on all ranks."""
        try:
            work()
        except Stopped:
            self.context.stop_requested = True
        jobs.wait_for_all()
        return self.context.from_main(jobs.is_stopped())

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.close(at_once=error[0] is not None)
        self._workers.clear()

    def _todo(self, keys: Sequence[str], again: Sequence[str]) -> dict[str, int]:
        """Key -> attempt, as rank 0 sees it."""
        todo: dict[str, int] = {}
        if self.context.is_main:
            keys, done = list(dict.fromkeys(keys)), self.journal.read()
            for key in keys:
                if key not in done or key in again:
                    todo[key] = done[key].get("attempt", 1) + 1 if key in done else 1
            if len(todo) < len(keys):
                logger.info("%s: %d of %d are there already", self.label, len(keys) - len(todo), len(keys))
        return self.context.from_main(todo)

    def _see(self, todo: dict[str, int], patience: float = 120.0) -> None:
        """Until the records of other nodes can be read here: a network disk shows new files late."""
        start = time.monotonic()
        while True:
            done = self.journal.read()
            missing = [k for k, attempt in todo.items() if k not in done or done[k].get("attempt", 1) < attempt]
            if not missing:
                return
            if time.monotonic() - start > patience:
                raise UserError(
                    f"{len(missing)} records are not there, first '{missing[0]}'",
                    place=str(self.journal.path),
                    remedy="put path.experiments_root on a disk that all nodes share",
                )
            time.sleep(1)

    @contextmanager
    def _told_to_stop(self, jobs: _Jobs) -> Iterator[None]:
        """Inside, what one rank was told reaches the others, in the middle of a key too."""
        over = Event()

        def look() -> None:
            with suppress(RuntimeError):  # the store is gone: the other thread hears of it, too
                while not over.wait(SECONDS_BETWEEN_LOOKS):
                    if jobs.is_stopped():
                        self._told.stop_requested = self.context.stop_requested = True

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _work(self, jobs: _Jobs, num: int) -> None:
        """The first `num` keys, each by one process."""
        jobs.num_open = num
        processes = min(self.processes, -(-num // self.context.world_size))
        if processes > 1:
            self._in_processes(jobs, processes)
        else:
            self._inline(jobs)

    def _inline(self, jobs: _Jobs) -> None:
        while (key := jobs.take()) is not None:
            with self._tells_stop(self._lonely):
                if self._measure is None:
                    self._measure = self.work.open(self._lonely)
                record = self._measure(key)
            self._note(jobs, key, record)

    def _share(self, jobs: _Jobs, keys: list[str]) -> None:
        """Each of fewer keys than ranks on its share of them."""
        sizes = shares(self.context.world_size, len(keys), self.batch_size)
        idle = self.context.world_size - sum(sizes)
        share = self.context.split([*sizes, *([1] * idle)])
        first = self.context.rank - share.rank
        number = next((k for k in range(len(keys)) if sum(sizes[:k]) == first), None)
        if number is not None:
            with self._tells_stop(share):
                record = self.work.open(share)(keys[number])
            if share.is_main:
                self._note(jobs, keys[number], record)
        share.close()

    @contextmanager
    def _tells_stop(self, world: Context) -> Iterator[None]:
        """Around work in a world of its own: a training in it catches the signals itself."""
        self._told, world.stop_requested = world, self.context.stop_requested
        try:
            yield
        finally:
            self.context.stop_requested |= world.stop_requested

    def _in_processes(self, jobs: _Jobs, processes: int) -> None:
        while len(self._workers) < processes:
            self._workers.append(_Worker(self.work, self.context.alone(), processes))
        idle, busy = self._workers[:processes], dict[Any, tuple[_Worker, str]]()
        error: UserError | None = None
        while True:
            while idle and error is None and (key := jobs.take()) is not None:
                worker = idle.pop()
                worker.give(key)
                busy[worker.connection] = worker, key
            if not busy:
                break
            for ready in wait(busy, SECONDS_BETWEEN_LOOKS):
                worker, key = busy.pop(ready)
                try:
                    self._note(jobs, key, worker.result(self.label))
                    idle.append(worker)
                except Stopped:
                    self.context.stop_requested = True
                except UserError as raised:
                    error = error or raised
            if error is not None or jobs.is_stopped():
                for worker, _ in busy.values():
                    worker.stop()
            jobs.report()
        if error is not None:
            raise error

    def _note(self, jobs: _Jobs, key: str, record: Record) -> None:
        attempt = jobs.todo[key]
        named = record if key_of(record) is not None else {"key": key, **record}
        self.journal.append({**named, **({"attempt": attempt} if attempt > 1 else {})}, writer=self.context.rank)
        jobs.finish()


def default_processes(context: Context) -> int:
    """One process per core on a CPU (two processes of one thread do more than one of two); one per rank on a GPU."""
    if context.device.type != "cpu":
        return 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    return max(1, len(os.sched_getaffinity(0)) // ranks_here)


def shares(num_ranks: int, num_keys: int, batch_size: int | None = None) -> list[int]:
    """Ranks for each of fewer keys, as equal as can be; each number divides the batch, so some may be left over."""
    sizes = [0] * num_keys
    fits = [n for n in range(1, num_ranks + 1) if batch_size is None or batch_size % n == 0]
    for wanted in fits:
        for k in range(num_keys):
            if sum(sizes) - sizes[k] + wanted <= num_ranks:
                sizes[k] = wanted
    return sizes


class _Jobs:
    """The keys of one run, told apart over all ranks by counters in the store.

    Args:
        context: of this rank.
        todo: key -> attempt, the same on all ranks.
        label: for messages.
    """

    def __init__(self, context: Context, todo: dict[str, int], label: str) -> None:
        self.context, self.todo, self._keys = context, todo, list(todo)
        self.num_open = self._num_waits = 0
        self._store = context.ranks.fresh() if context.ranks is not None else dist.HashStore()
        self._eta = _Eta(label, len(todo), is_shown=context.is_main)

    def take(self) -> str | None:
        """The next key that nobody has; None when there is none or the run is asked to stop."""
        if self.is_stopped():
            return None
        position = self._store.add("taken", 1) - 1
        return self._keys[position] if position < self.num_open else None

    def finish(self) -> None:
        self._store.add("finished", 1)
        self.report()

    def report(self) -> None:
        if self._eta.is_due():
            self._eta.report(self._store.add("finished", 0))

    def is_stopped(self) -> bool:
        """Whether any rank was asked to stop."""
        if self.context.stop_requested:
            self._store.set("stop", "")
            return True
        return self.context.world_size > 1 and self._store.check(["stop"])

    def wait_for_all(self) -> None:
        """Until no rank has a key any more; no collective, so nothing dies of waiting."""
        if self.context.ranks is None:
            return
        self._num_waits += 1
        name = f"ended/{self._num_waits}"
        self.is_stopped()
        if self._store.add(name, 1) == self.context.world_size:
            self._store.set(f"{name}/all", "")

        def is_over() -> bool:
            self.is_stopped()  # tells the others
            self.report()
            return self._store.check([f"{name}/all"])

        self.context.ranks.wait(is_over)


class _Eta:
    """Says now and then how far a run is and how long it will take."""

    def __init__(self, label: str, total: int, *, is_shown: bool) -> None:
        self.label, self.total, self.is_shown = label, total, is_shown
        self.start = self.last = time.perf_counter()

    def is_due(self) -> bool:
        return self.is_shown and time.perf_counter() - self.last > SECONDS_BETWEEN_REPORTS

    def report(self, done: int) -> None:
        self.last = time.perf_counter()
        if done:
            each = (self.last - self.start) / done
            left = each * (self.total - done)
            text = "%s: %d of %d, %.2f s each, %d:%02d left"
            logger.info(text, self.label, done, self.total, each, left // 60, left % 60)


class _Worker:
    """One local process: keys go in, records come out.

    Args:
        work: what it does.
        context: its world.
        processes: that share this rank's threads.
    """

    def __init__(self, work: Work, context: Context, processes: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        stop, self._stop = spawn.Pipe(duplex=False)
        threads = max(1, torch.get_num_threads() // processes)
        job = pickle.dumps((work, context))
        self.process = spawn.Process(
            target=_serve, args=(theirs, stop, threads, _packages(), user_files(), job), daemon=False
        )
        self.process.start()
        theirs.close()
        stop.close()
        self._is_told = False

    def give(self, key: str) -> None:
        """The next key; its record comes from `result` as soon as `connection` is ready."""
        with suppress(OSError):  # it has ended, and `result` will say how
            self.connection.send(key)

    def result(self, label: str) -> Record:
        """What came out; raises what the measurement raised."""
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise UserError(
                f"a process ended with exit code {self.process.exitcode}; finished work is kept",
                place=label,
                remedy="see its message above; none: it was killed, perhaps for want of memory, so start again with "
                "fewer processes (run.processes)",
            ) from None
        if kind == "error":
            error, problem, place, remedy = content
            raise error(problem, place=place, remedy=remedy)
        if kind == "stopped":
            raise Stopped
        return content[0]

    def stop(self) -> None:
        """Ask it to leave its key as soon as it can."""
        if not self._is_told:
            self._is_told = True
            with suppress(OSError):  # it has ended, and `result` will say how
                self._stop.send("stop")

    def close(self, *, at_once: bool) -> None:
        """Let it end; `at_once` in the middle of its key."""
        if at_once:
            self.process.kill()
        self.connection.close()
        self.process.join()


def _packages() -> list[str]:
    """Packages that this process has imported: what they register must be known before a job is read."""
    return [n for n, m in list(sys.modules.items()) if n.startswith("tgsr.") and hasattr(m, "__path__")]


def _serve(
    connection: Connection, stop: Connection, threads: int, packages: Sequence[str], files: Sequence[str], job: bytes
) -> None:
    """A process of a pool: measures keys until its parent closes the connection or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(threads)
    set_up_logging(rank=0, level=logging.WARNING)
    for package in packages:
        importlib.import_module(package)
    for file in files:
        import_file(Path(file))
    work, context = pickle.loads(job)  # noqa: S301 - of our own parent
    Thread(target=_listen, args=(stop, context), daemon=True).start()
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    measure: Measure | None = None
    while True:
        try:
            key = connection.recv()
        except (EOFError, OSError):
            return
        try:
            measure = measure or work.open(context)
            connection.send(("done", measure(key)))
        except Stopped:
            connection.send(("stopped",))
        except UserError as error:
            connection.send(("error", type(error), error.problem, error.place, error.remedy))


def _listen(stop: Connection, context: Context) -> None:
    """Hear the parent: `stop`, or its end, after which nobody would read what this process makes."""
    try:
        while True:
            stop.recv()
            context.stop_requested = True
    except (EOFError, OSError):
        os._exit(1)
