"""The training loader: workers that use one thread, errors in one line, and a watchdog that names worker and file."""

from __future__ import annotations

import atexit
import os
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from tgsr.data.base import ImageDataset, Sample
from tgsr.data.batch import Batch
from tgsr.data.plan import PlanBatchSampler, SamplePlan
from tgsr.utils.errors import DataError, UserError


class LoaderError(RuntimeError):
    """A worker failed in a way that no input explains; the text holds its traceback and the image."""


@dataclass
class _Failure:
    """What a worker sends instead of samples: the user's error as it is, or one that holds place and traceback."""

    error: UserError | LoaderError


class _Fetch(Dataset[Any]):
    """Makes the samples of a batch; notes in shared memory what it is at; turns exceptions into `_Failure`."""

    def __init__(self, dataset: ImageDataset, progress: torch.Tensor) -> None:
        self.dataset, self.progress = dataset, progress

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

    def collate(self, samples: list[Sample] | _Failure) -> Batch | _Failure:
        return samples if isinstance(samples, _Failure) else self.dataset.collate(samples)


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
        fetch = _Fetch(dataset, self._progress)
        options: dict[str, Any] = {}
        if num_workers > 0:
            options = {
                "prefetch_factor": prefetch_factor,
                "persistent_workers": True,
                "timeout": timeout_s,
                "worker_init_fn": partial(_start_worker, closing=self._closing),
            }
        self._loader: DataLoader[Any] | None = DataLoader(
            fetch,
            batch_sampler=batch_sampler,  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=fetch.collate,
            pin_memory=pin_memory and torch.cuda.is_available(),
            **options,
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            raise RuntimeError("the loader is closed")
        batches = iter(self._loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                found = self.dead_worker(error)
                self._closing.fill_(1)
                raise found or self._explain(error) from None
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
        workers = getattr(getattr(self._loader, "_iterator", None), "_workers", ())
        has_died = any(not worker.is_alive() for worker in workers)
        is_told = "DataLoader worker" in text and ("exited unexpectedly" in text or "is killed by signal" in text)
        if self._closing.item() or not (has_died or is_told) or isinstance(error, UserError):
            return None
        told = f" ({text.splitlines()[0].strip()})" if is_told else ""
        return DataError(
            f"a loader worker died{told}; {self._stuck()}",
            remedy="often memory or /dev/shm ran out: lower num_worker_per_gpu or prefetch_factor",
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
