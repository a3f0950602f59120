"""A whole iteration of the RealESRNet recipe in one process: read from PNG sub-images, degrade, step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr_baseline import DATASET
from degradation import TorchUSM
from torch.utils.data import DataLoader, RandomSampler

from comparison.measure import Settings, alternate, compare, row
from comparison.photographs import make_folders
from comparison.sides import basicsr_model, copy_weights, free_gpu, our_model, our_options, tuned
from tgsr.config.schema import Options
from tgsr.data.batch import Batch
from tgsr.engine import build
from tgsr.engine.context import Context

CASES = [("msrresnet", 16, 4, 5), ("rrdbnet", 23, 2, 3)]
PREFETCH = 2  # of a worker, torch's own choice
CASES_ON_GPU = [("msrresnet", 16, 12, 7), ("rrdbnet", 23, 12, 7)]
QUICK_CASES = [("msrresnet", 4, 2, 2), ("rrdbnet", 2, 1, 2)]


class TheirLoop:
    """basicsr's dataset, `feed_data` and `optimize_parameters`, without the pair pool."""

    def __init__(
        self, model: Any, paths: dict[str, Path], batch: int, *, is_separable: bool, workers: int = 0
    ) -> None:
        from basicsr.data.realesrgan_dataset import RealESRGANDataset

        self.model = model
        self.sharpen = TorchUSM() if is_separable else model.usm_sharpener
        self.dataset = RealESRGANDataset(
            {
                **DATASET, "io_backend": {"type": "disk"}, "dataroot_gt": str(paths["sub"]),
                "meta_info": str(paths["meta_info"]), "gt_size": 256,
            }
        )  # fmt: skip
        sampler = RandomSampler(self.dataset, replacement=True, num_samples=10**6)  # endless, as basicsr's
        on_gpu = model.device.type == "cuda"
        self.batches: Iterator[Any] = iter(
            DataLoader(self.dataset, batch, sampler=sampler, num_workers=workers, pin_memory=on_gpu)
        )
        self._run = tuned(self._step)

    def __call__(self, i: int) -> float:
        return self._run(i)

    def _step(self, i: int) -> float:
        self.model.usm_sharpener = self.sharpen
        self.model.feed_data(next(self.batches))
        self.model.optimize_parameters(i + 1)
        return self.model.get_current_log()["l_pix"]

    def close(self) -> None:
        self.batches = iter(())


class OurLoop:
    """Our loader and the model's step."""

    def __init__(self, options: Options, theirs: Any, num_batches: int, device: str) -> None:
        context = Context(torch.device(device))
        tasks = build.build_tasks(options)
        self.data = build.TrainData(options, context, tasks, build.build_task_sampler(options, tasks))
        self.batches: Iterator[list[Batch]] = self.data.iterations(0, num_batches)
        self.model = our_model(options, device)
        copy_weights(theirs, self.model)

    def __call__(self, i: int) -> torch.Tensor:
        return self.model.step(next(self.batches), i).losses["pixel"].mean()

    def close(self) -> None:
        self.data.close()


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Seconds per iteration of basicsr as shipped, basicsr with a separable USM, and ours in bf16 and fp32."""
    paths = make_folders(settings.folder / "iterations", settings.images, num_large=2, num_sub=48)
    rows = []
    cases = QUICK_CASES if settings.is_quick else CASES_ON_GPU if settings.on_gpu else CASES
    for network, num_block, batch, usual in cases:
        rounds = settings.num_rounds(usual)
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        theirs = basicsr_model(network, num_block, device=settings.device)
        forms: dict[str, Callable[[], Any]] = {
            name: partial(TheirLoop, theirs, paths, batch, is_separable=separable, workers=settings.workers)
            for name, separable in (("as shipped", False), ("separable USM", True))
        }
        for precision in ("bf16", "fp32"):
            sections = _sections(paths["sub"], batch, settings.workers)
            options = our_options(settings.folder, network, num_block, precision=precision, **sections)
            num_batches = _queued(settings) + (rounds + 1) * settings.repeats
            forms[precision] = partial(OurLoop, options, theirs, num_batches, settings.device)
        seconds = _times(forms, settings, rounds)
        title = f"{ {'msrresnet': 'MSRResNet', 'rrdbnet': 'RRDBNet'}[network] }-{num_block}, batch {batch}, 64 px"
        for base in ("as shipped", "separable USM"):
            for precision in ("bf16", "fp32"):
                values = compare(seconds[base], seconds[precision])
                rows.append(row(f"{title}: basicsr {base} / ours {precision}", "s", 1, values))
        free_gpu()
    return rows


def _times(forms: Mapping[str, Callable[[], Any]], settings: Settings, rounds: int) -> dict[str, list[float]]:
    """Seconds of every round by form.

    Without workers the forms take turns. With workers they come one after the other, for a form that waits would let
    its workers fill its queue and disturb the others; what the queue holds at first is used up before the rounds.
    """
    if not settings.workers:
        loops = {name: make() for name, make in forms.items()}
        seconds = alternate(loops, settings, rounds)
        for loop in loops.values():
            loop.close()
        return seconds
    seconds = {}
    for name, make in forms.items():
        loop = make()
        for i in range(_queued(settings)):
            loop(i)
        seconds |= alternate({name: loop}, settings, rounds)
        loop.close()
    return seconds


def _queued(settings: Settings) -> int:
    """Batches that both sides' loaders prepare ahead, and some."""
    return (PREFETCH + 1) * settings.workers


def _sections(sub_images: Path, batch: int, workers: int) -> dict[str, Any]:
    """What our option file says of degradation and data."""
    dataset = {
        "type": "GTDataset", "dataroot_gt": str(sub_images), "gt_size": 256, "degrade_size": 400, "use_hflip": True,
        "use_rot": False,
    }  # fmt: skip
    return {
        "degradation": {"space": {"type": "SecondOrder", "preset": "x4plus", "scale": 4}, "sharpen_input": True},
        "datasets": {
            "train": {
                "dataset": dataset, "batch_size_per_gpu": batch, "num_worker_per_gpu": workers, "preflight": False,
                "prefetch_factor": PREFETCH,
            }
        },
    }  # fmt: skip
