"""The training loader: workers that use one thread, errors in one line, and a watchdog that names worker and file."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from pickle import UnpicklingError
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tgsr.data.base import ImageDataset, Sample
from tgsr.data.batch import Batch
from tgsr.data.plan import PlanBatchSampler, SamplePlan
from tgsr.utils.errors import DataError, UserError

logger = logging.getLogger("tgsr")
_SHARED = "/dev/shm"
_MORE_SHARED = "give it more (docker run --shm-size=2g), or lower num_worker_per_gpu or prefetch_factor"


class LoaderError(RuntimeError):
    """A worker failed in a way that no input explains; the text holds its traceback and the image."""


@dataclass
class _Failure:
    """What a worker sends instead of samples: the user's error as it is, or one that holds place and traceback."""

    error: UserError | LoaderError


@dataclass
class _TooLarge:
    """What a worker sends instead of the first batch when those ahead would not fit into shared memory."""

    num_bytes: int


@dataclass(frozen=True)
class _Room:
    """Shared memory: bytes that are free, and the loader that wants them."""

    free: int
    num_workers: int
    prefetch_factor: int

    def needed(self, batch_bytes: int) -> int:
        """Bytes of all batches ahead, of the one in use and of the one on its way."""
        return (self.num_workers * self.prefetch_factor + 2) * batch_bytes

    def holds(self, batch_bytes: int) -> bool:
        """Whether they fit."""
        return self.needed(batch_bytes) <= self.free


class _Fetch(Dataset[Any]):
    """Makes the samples of a batch; notes in shared memory what it is at; turns exceptions into `_Failure`."""

    def __init__(self, dataset: ImageDataset, progress: torch.Tensor, room: _Room) -> None:
        self.dataset, self.progress, self.room = dataset, progress, room
        self.is_first = True

    def __getitems__(self, plans: Sequence[SamplePlan]) -> list[Sample] | _Failure:
        worker = get_worker_info()
        row = None if worker is None else self.progress[worker.id]
        samples = []
        for plan in plans:
            if row is not None:
                row[0], row[1] = plan.image, time.time()
            try:
                samples.append(self.dataset[plan])
            except UserError as error:
                return _Failure(error)
            except Exception as error:
                place, name = self.dataset.place(plan.image), type(error).__name__
                return _Failure(LoaderError(f"{place}: {name}: {error}\n{traceback.format_exc()}"))
        if row is not None:
            row[0] = -1
        return samples

    def collate(self, samples: list[Sample] | _Failure) -> Batch | _Failure | _TooLarge:
        if isinstance(samples, _Failure):
            return samples
        batch = self.dataset.collate(samples)
        worker, is_first, self.is_first = get_worker_info(), self.is_first, False
        if worker is not None and worker.id == 0 and is_first:
            num_bytes = sum(v.nbytes for v in vars(batch).values() if isinstance(v, torch.Tensor))
            if not self.room.holds(num_bytes):
                return _TooLarge(num_bytes)
        return batch


class TrainLoader:
    """Yields the micro batches of the iterations that the batch sampler's range names, in their order.

    Workers stay alive between passes. The content of the batches does not depend on the number of workers.

    Args:
        dataset: configured (`ImageDataset.configure`); workers get a copy when the first pass begins.
        batch_sampler: plans batches in this process.
        num_workers: processes that make samples; 0 makes them here.
        prefetch_factor: batches that each worker prepares ahead.
        pin_memory: use page-locked memory for copies to a GPU; ignored without CUDA.
        timeout_s: give up when no batch has come for so long; 0: wait for ever.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_sampler: PlanBatchSampler,
        *,
        num_workers: int = 2,
        prefetch_factor: int = 4,
        pin_memory: bool = False,
        timeout_s: float = 300.0,
    ) -> None:
        self.dataset, self.batch_sampler = dataset, batch_sampler
        self.num_workers, self.timeout_s = num_workers, timeout_s
        self._progress = torch.full((max(1, num_workers), 2), -1.0, dtype=torch.float64).share_memory_()
        self._closing = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self._at_exit = partial(self._closing.fill_, 1)
        atexit.register(self._at_exit)
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self._loader: DataLoader[Any] | None = self._make(prefetch_factor)

    def _make(self, prefetch_factor: int) -> DataLoader[Any]:
        self._room = _Room(_free_shared_memory(), self.num_workers, prefetch_factor)
        fetch = _Fetch(self.dataset, self._progress, self._room)
        options: dict[str, Any] = {}
        if self.num_workers > 0:
            options = {
                "prefetch_factor": prefetch_factor,
                "persistent_workers": True,
                "timeout": self.timeout_s,
                "worker_init_fn": partial(_start_worker, closing=self._closing),
            }
        return DataLoader(
            fetch,
            batch_sampler=self.batch_sampler,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            collate_fn=fetch.collate,
            pin_memory=self.pin_memory,
            **options,
        )

    def _smaller(self, batch_bytes: int) -> DataLoader[Any]:
        """The loader again, with as many batches ahead as shared memory can hold: when it is full, batches are lost.

        Raises:
            DataError: not even one batch a worker fits.
        """
        room = self._room
        asked = f"{room.num_workers} workers that prepare {room.prefetch_factor} batches of {batch_bytes / 1e6:.1f} MB"
        needed, free = f"{room.needed(batch_bytes) / 1e6:.0f} MB", f"{room.free / 1e6:.0f} MB are free"
        problem = f"{asked} need {needed} in {_SHARED}, where {free}"
        factors = range(room.prefetch_factor - 1, 0, -1)
        fitting = next((f for f in factors if replace(room, prefetch_factor=f).holds(batch_bytes)), 0)
        if not fitting:
            raise DataError(problem, remedy=_MORE_SHARED)
        logger.warning("%s: prefetch_factor is %d; %s", problem, fitting, _MORE_SHARED)
        return self._make(fitting)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        batches = iter(self._loader)
        while True:
            if self._has_dead_worker():  # told once, and perhaps to somebody who goes on after any error
                raise self._death()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                found = self.dead_worker(error)
                self._closing.fill_(1)
                raise found or self._explain(error) from None
            if isinstance(batch, _TooLarge):  # in place of the very first batch
                self._loader = self._smaller(batch.num_bytes)
                batches = iter(self._loader)
                continue
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._closing.fill_(1)
        self._loader = None
        atexit.unregister(self._at_exit)

    def dead_worker(self, error: Exception) -> DataError | None:
        """The user's line where a worker has died, of whatever an error told of it; else None.

        torch raises from a signal's handler, at any place of the main thread; a queue may tell of half a message.
        """
        text = str(error)
        if isinstance(error, (OSError, EOFError, UnpicklingError)):  # its pipe breaks a moment before it is dead
            try:
                wait([worker.sentinel for worker in self._workers], timeout=1.0)
            except RuntimeError as told:  # and torch's handler may tell of it while we wait
                text = str(told)
        is_told = "DataLoader worker" in text and ("exited unexpectedly" in text or "is killed by signal" in text)
        if not (self._has_dead_worker() or is_told) or isinstance(error, UserError):
            return None
        return self._death(f" ({text.splitlines()[0].strip()})" if is_told else "")

    @property
    def _workers(self) -> Sequence[Any]:
        return getattr(getattr(self._loader, "_iterator", None), "_workers", ())

    def _has_dead_worker(self) -> bool:
        return not self._closing.item() and any(not worker.is_alive() for worker in self._workers)

    def _death(self, told: str = "") -> DataError:
        with suppress(ValueError, AttributeError):  # not in the main thread; Windows
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch tells it again when the other workers end
        for worker in self._workers:  # one may wait for ever for a lock that the dead one held
            worker.kill()
        return DataError(
            f"a loader worker died{told}; {self._stuck()}",
            remedy=f"often memory or {_SHARED} ran out: lower num_worker_per_gpu or prefetch_factor",
        )

    def _explain(self, error: Exception) -> Exception:
        text = str(error)
        if "timed out" in text:
            return DataError(
                f"no batch for {self.timeout_s:g} s; {self._stuck()}",
                remedy="check the disk, copy the data to a local one, or lower num_worker_per_gpu",
            )
        return error

    def _stuck(self) -> str:
        now, parts = time.time(), []
        for worker, (image, since) in enumerate(self._progress.tolist()):
            if image >= 0:
                parts.append(f"worker {worker} is at {self.dataset.place(int(image))} since {now - since:.0f} s")
        return ", ".join(parts) or "no worker is at an image"


def _start_worker(_worker: int, *, closing: torch.Tensor) -> None:
    # Ctrl-C and a scheduler's signals reach workers too, but the main process saves first. It ends workers with a
    # SIGTERM of its own when it closes or exits, and says so before.
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):  # Windows lacks the second one
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if closing.item() else None)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    Queue._on_queue_feeder_error = _send_failure  # type: ignore[method-assign]


def _send_failure(queue: Any, error: Exception, item: tuple[int, Any]) -> None:
    """Send why a batch cannot be handed over in its place; without it the main process would wait for its time-out."""
    if "No space left" in str(error) or "unable to allocate shared memory" in str(error).lower():
        problem = f"{_SHARED} is full: a batch cannot be handed over"
        queue.put((item[0], _Failure(DataError(problem, remedy=_MORE_SHARED))))
    else:
        text = "".join(traceback.format_exception(error))
        queue.put((item[0], _Failure(LoaderError(f"a batch cannot be handed over: {error}\n{text}"))))


def _free_shared_memory() -> int:
    """Bytes that this process may count on; without bound where there is no such place."""
    try:
        free = shutil.disk_usage(_SHARED).free
    except OSError:
        return 2**62
    return int(0.95 * free) // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
