"""How our cost grows: a training step with the batch and the patch, the loader with its workers, threads with cores,
and a run with its tasks, images and ranks and with the size of an image.

    python benchmarks/scaling.py [--clock wall|cpu] [--only batch,patch,workers,threads,tasks,images,ranks,inference]
                                 [--json FILE]

Steps are those of MSRResNet (64 features, 16 blocks) in bf16; the loader degrades 400-pixel crops of PNG files as in
the RealESRNet recipe and nothing takes time beside it. Processor time of the loader includes its workers. Images are
names without files, ranks are what one of them plans: neither needs the machine that it stands for. A curve's last
column is the cost of one more task, image or pixel: where it stays the same, the cost is linear.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from comparison.measure import Settings, alternate  # noqa: E402
from comparison.photographs import make_folders  # noqa: E402
from comparison.sides import our_options  # noqa: E402
from comparison.steps import Case, our_step  # noqa: E402

from tgsr.archs import ARCHS  # noqa: E402
from tgsr.data.backends import FileSource  # noqa: E402
from tgsr.data.plan import BatchPlan  # noqa: E402
from tgsr.degradations.second_order import SecondOrderSpace  # noqa: E402
from tgsr.engine import build  # noqa: E402
from tgsr.engine.context import Context  # noqa: E402
from tgsr.engine.inference import ImageRestorer  # noqa: E402
from tgsr.engine.ledger import TaskLedger  # noqa: E402
from tgsr.models.base import StepResult  # noqa: E402
from tgsr.tasks.samplers import UniformTaskSampler  # noqa: E402
from tgsr.tasks.task import Task, TaskSet, draw_point_tasks  # noqa: E402

BATCHES, PATCHES, WORKERS, THREADS = (1, 2, 4, 8), (24, 32, 48, 64), (0, 1, 2), (1, 2)
TASKS, IMAGES, RANKS = (4_000, 10_000, 30_000, 100_000), (10_000, 100_000, 1_000_000), (1, 4, 16, 64)
SIDES = (64, 128, 256, 512, 1024)


def steps(cases: dict[str, Case], settings: Settings) -> list[dict[str, Any]]:
    """Milliseconds of a step, in all and for a thousand input pixels."""
    forms = {name: our_step(case, "bf16") for name, case in cases.items()}
    rows = []
    for name, seconds in alternate(forms, settings, settings.num_rounds(5)).items():
        milliseconds = statistics.median(seconds) * 1e3
        pixels = cases[name].batch * cases[name].lq ** 2
        rows.append({"name": name, "ms": milliseconds, "ms per 1000 LQ pixels": milliseconds / pixels * 1e3})
    return rows


def loader(settings: Settings, *, batch: int = 8) -> list[dict[str, Any]]:
    """Images per second, and processor milliseconds for each, with 0, 1 and 2 workers: all of a sample made in the
    loader, and what is left of it where a GPU sharpens and degrades."""
    paths = make_folders(settings.folder, settings.images, num_large=2, num_sub=48)
    forms = [("PNG, degraded", "sub", "loader", 12), ("PNG", "sub", "device", 40), ("packed", "packed", "device", 200)]
    rows = []
    for (form, folder, where, num_batches), workers in itertools.product(forms, WORKERS):
        dataset = {
            "type": "GTDataset", "dataroot_gt": str(paths[folder]), "gt_size": 256, "degrade_size": 400,
            "io_backend": "packed" if folder == "packed" else "disk",
        }  # fmt: skip
        train = {"dataset": dataset, "batch_size_per_gpu": batch, "num_worker_per_gpu": workers, "preflight": False}
        space = {"type": "SecondOrder", "preset": "x4plus", "scale": 4}
        options = our_options(
            settings.folder, "msrresnet", 16, precision="bf16", datasets={"train": train},
            degradation={"space": space, "sharpen_input": True, "where": where},
        )  # fmt: skip
        tasks = build.build_tasks(options)
        sampler = build.build_task_sampler(options, tasks)
        data = build.TrainData(options, Context(torch.device("cpu")), tasks, sampler)
        before = _cpu_seconds()
        data.batch_sampler.set_range(0, 2 + num_batches)
        batches = iter(data.loader)  # as the loader hands them over, before anything on a device
        next(batches), next(batches)  # until the workers are up
        start = time.perf_counter()
        for _ in batches:
            pass
        rate = num_batches * batch / (time.perf_counter() - start)
        del batches
        data.close()
        cpu = (_cpu_seconds() - before) * 1e3 / (2 + num_batches) / batch
        rows.append({"name": f"{form}, {workers} workers", "images per s": rate, "CPU ms per image": cpu})
    return rows


def _cpu_seconds() -> float:
    """Of this process and the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


def threads(settings: Settings) -> list[dict[str, Any]]:
    """A step on 1 and 2 threads, each in a process of its own."""
    rows = []
    for num in THREADS:
        command = [sys.executable, __file__, "--only", "batch", "--threads", str(num), "--clock", settings.clock]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "out.json"
            subprocess.run([*command, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
            for row in json.loads(path.read_text())["batch"]:
                rows.append({**row, "name": f"{num} threads, {row['name']}"})
    return rows


def curve(name: str, sizes: Sequence[int], parts: Callable[[int], Iterator[str]], unit: str) -> list[dict[str, Any]]:
    """Milliseconds of each part for each size, and microseconds of one more since the size before.

    Args:
        name: what grows.
        sizes: ascending.
        parts: does the parts of one size, and yields the name of each when it is done.
        unit: of the sizes.
    """
    rows: list[dict[str, Any]] = []
    before: dict[str, tuple[int, float]] = {}
    for size in sizes:
        start = time.process_time()
        for part in parts(size):
            seconds = time.process_time() - start
            row = {"name": f"{name} {size}: {part}", "ms": seconds * 1e3, f"us a {unit}": seconds / size * 1e6}
            if part in before:
                smaller, less = before[part]
                row[f"us for one more {unit}"] = (seconds - less) / (size - smaller) * 1e6
            before[part] = size, seconds
            rows.append(row)
            start = time.process_time()
    return rows


def task_parts(num: int) -> Iterator[str]:
    """A sweep's tasks from the draw to the sampler."""
    tasks = draw_point_tasks(SecondOrderSpace(), num, seed=0)
    yield "draw"
    with tempfile.TemporaryDirectory() as folder:
        tasks.save(Path(folder) / "tasks.json")
        yield "save, digest"
        loaded = TaskSet.load(Path(folder) / "tasks.json")
        yield "load"
    sampler = UniformTaskSampler(loaded, seed=0)
    for i in range(100):
        sampler.draw(i, 48)
    yield "100 batches of 48 drawn"
    ledger = TaskLedger(loaded.names, Context(torch.device("cpu")))
    for _ in range(100):
        losses = torch.zeros(48)
        ledger.add(StepResult({"pixel": losses}, losses, torch.zeros(48, dtype=torch.int64)))
    ledger.read()
    yield "100 batches counted, read once"


def image_parts(num: int) -> Iterator[str]:
    """A training set from the list of its names to the plans of a thousand batches, and the next epoch."""
    names = [f"{i // 1000:04d}/{i % 1000:03d}.png" for i in range(num)]
    source = FileSource([Path("images") / name for name in names], names)
    yield "list"
    sampler = UniformTaskSampler(TaskSet([Task("whole", SecondOrderSpace())]), seed=0)
    plan = BatchPlan(len(source.names), batch_size=48, sampler=sampler, seed=0)
    for i in range(1000):
        plan.local_batch(i)
    yield "1000 batches planned"
    plan.local_batch(num // 48 + 1)
    yield "first batch of the next epoch"


def rank_parts(num: int) -> Iterator[str]:
    """What the first of so many ranks does for a thousand batches of 12 a rank."""
    sampler = UniformTaskSampler(draw_point_tasks(SecondOrderSpace(), 100, seed=0), seed=0)
    plan = BatchPlan(100_000, batch_size=12 * num, sampler=sampler, seed=0, world_size=num)
    for i in range(1000):
        plan.local_batch(i)
    yield "1000 batches planned"


def inference() -> list[dict[str, Any]]:
    """A square image restored by LightSR; in tiles above 0.25 megapixels."""
    net = ARCHS.get("LightSR")(num_feat=32, num_block=8, upscale=4).eval()
    restorer = ImageRestorer(net, scale=4, device=torch.device("cpu"), precision="auto")
    rows = []
    for side in (SIDES[0], *SIDES):  # the first call fills caches
        start = time.process_time()
        restorer(np.zeros((side, side, 3), np.uint8))
        seconds = time.process_time() - start
        rows.append({"name": f"{side}x{side}", "ms": seconds * 1e3, "us a pixel": seconds / side**2 * 1e6})
    return rows[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="batch,patch,workers,threads,tasks,images,ranks,inference")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--images", type=Path, help="folder of photographs; default: scikit-image's")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            arguments.clock, arguments.threads, arguments.rounds, is_quick=False, images=arguments.images,
            folder=Path(folder),
        )  # fmt: skip
        sections = {
            "batch": lambda: steps({f"batch {b}, 48 px": Case("msrresnet", 16, b, 48) for b in BATCHES}, settings),
            "patch": lambda: steps({f"batch 4, {p} px": Case("msrresnet", 16, 4, p) for p in PATCHES}, settings),
            "workers": lambda: loader(settings),
            "threads": lambda: threads(settings),
            "tasks": lambda: curve("tasks", TASKS, task_parts, "task"),
            "images": lambda: curve("images", IMAGES, image_parts, "image"),
            "ranks": lambda: curve("ranks", RANKS, rank_parts, "rank"),
            "inference": inference,
        }
        for name in arguments.only.split(","):
            report[name] = sections[name]()
            for row in report[name]:
                print(name, "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
