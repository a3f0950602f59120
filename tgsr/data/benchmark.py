"""Benchmark builder: ground truth, tasks and a seed in; LQ images, their parameters and a manifest out.

The same arguments give the same pixels for every number of workers, on every run and after every stop. Parameters are
functions of (seed, task, image name) and equal on all machines. Pixels come from the pipeline's CPU form, one image
and one thread at a time; between machines they can differ where OpenCV, NumPy or the C library round a float otherwise,
so the manifest records their versions and a digest of every image, and `verify_benchmark` compares.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch

from tgsr.data.backends import ImageSource, open_source, stems
from tgsr.data.subimages import iter_parallel
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import append_jsonl, read_json, read_jsonl, to_json, write_atomic, write_json
from tgsr.utils.image_io import read_image, save_image, to_tensor, to_uint8
from tgsr.utils.lock import hold

SCHEMA_VERSION = 1
MANIFEST, PARAMS, PAIRS, LQ_FOLDER = "benchmark.json", "params.jsonl", "pairs.txt", "LQ"
_PARTIAL = "params.partial.jsonl"

Pairing = Literal["one", "cycle", "all"]


@dataclass(frozen=True)
class _Job:
    """One LQ image to make."""

    image: str
    task: Task
    file: str


def build_benchmark(
    gt: ImageSource | Path,
    tasks: TaskSet,
    output: Path,
    *,
    seed: int = 0,
    pairing: Pairing = "cycle",
    task: str | None = None,
    max_images: int | None = None,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Degrade ground-truth images once and for all.

    Args:
        gt: a folder of images, or any source.
        tasks: whose pipelines degrade. A single task of the whole space draws anew for every image.
        output: gets `LQ/` (PNG), `params.jsonl` (one line an image), `pairs.txt` and `benchmark.json`. A stopped run
            goes on.
        seed: of the draws.
        pairing: `one`: all images by one task; `cycle`: image `i` by task `i mod T`, e.g. 100 images and the tasks of
            a group; `all`: every image by every task, in `LQ/<task>/`.
        task: name of the task for `one`; None: the only one.
        max_images: use the first so many images only.
        num_workers: processes.
        progress: called with (images done, all).

    Returns:
        The LQ folder. As a `PairedDataset`: `dataroot_gt` the ground truth, `dataroot_lq` the output, `meta_info`
        its `pairs.txt`; or, when all images were used, `dataroot_lq` the LQ folder.

    Raises:
        DataError: `output` holds another benchmark, or an image cannot be read.
    """
    source = open_source(gt) if isinstance(gt, Path) else gt
    if max_images is not None:
        source = source.subset(range(min(max_images, len(source))))
    jobs, rows = _jobs(source, tasks, pairing, task)
    identity = _identity(source, tasks, seed, pairing, jobs)
    with hold(output):
        _claim(output, identity)
        done = _finished(output, jobs)
        todo = [(i, job) for i, job in enumerate(jobs) if job.file not in done]
        work = [(source.subset([rows[i]]), job, seed, output) for i, job in todo]
        for record in iter_parallel(_make, work, num_workers=num_workers):
            append_jsonl(output / _PARTIAL, record)
            done[record["file"]] = record
            if progress is not None:
                progress(len(done), len(jobs))
        lines = "".join(to_json(done[job.file]) + "\n" for job in jobs)
        write_atomic(output / PARAMS, lambda file: file.write(lines.encode()))
        pairs = "".join(f"{source.names[row]}, {job.file}\n" for row, job in zip(rows, jobs, strict=True))
        write_atomic(output / PAIRS, lambda file: file.write(pairs.encode()))
        write_json(output / MANIFEST, {**identity, "complete": True, "made_with": versions()})
        (output / _PARTIAL).unlink(missing_ok=True)
    return output / LQ_FOLDER


def build_group_benchmarks(
    gt: ImageSource | Path, tasks: TaskSet, groups: Mapping[str, Sequence[str]], output: Path, **settings: Any
) -> dict[str, Path]:
    """One benchmark for each group of tasks, every image once, the group's tasks in turn (TGSR, section 4.1).

    Args:
        gt, tasks: see `build_benchmark`.
        groups: group name -> names of its tasks.
        output: gets a folder for each group.
        settings: further arguments of `build_benchmark`.

    Returns:
        Group name -> its LQ folder.
    """
    return {
        name: build_benchmark(gt, tasks.subset(members), output / name, pairing="cycle", **settings)
        for name, members in groups.items()
    }


def verify_benchmark(output: Path) -> list[str]:
    """Names of the LQ files whose pixels are not those in `params.jsonl` (absent and unreadable ones included)."""
    manifest = read_json(output / MANIFEST)
    if not manifest.get("complete"):
        raise DataError("the benchmark is not finished", place=str(output), remedy="build it again; it goes on")
    wrong = []
    for record in read_jsonl(output / PARAMS):
        try:
            same = digest(read_image(output / record["file"])) == record["lq_digest"]
        except DataError:
            same = False
        if not same:
            wrong.append(record["file"])
    return wrong


def digest(image: np.ndarray) -> str:
    """32 hex digits of the shape and the pixels."""
    state = hashlib.blake2b(f"{image.shape}{image.dtype.str}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(image).tobytes())
    return state.hexdigest()


def versions() -> dict[str, str]:
    """Of everything that can change a pixel."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def _jobs(source: ImageSource, tasks: TaskSet, pairing: Pairing, task: str | None) -> tuple[list[_Job], list[int]]:
    """What to make, in order, and each one's row of the source."""
    names = stems(source)
    if pairing == "one":
        if task is None and len(tasks) > 1:
            raise ConfigError(f"pairing 'one' and {len(tasks)} tasks", remedy="name the task, or use cycle or all")
        chosen = tasks[0] if task is None else tasks[tasks.index(task)]
        return [_Job(n, chosen, f"{LQ_FOLDER}/{n}.png") for n in names], list(range(len(names)))
    if pairing == "cycle":
        jobs = [_Job(n, tasks[i % len(tasks)], f"{LQ_FOLDER}/{n}.png") for i, n in enumerate(names)]
        return jobs, list(range(len(names)))
    jobs = [_Job(n, t, f"{LQ_FOLDER}/{t.name}/{n}.png") for t in tasks for n in names]
    return jobs, list(range(len(names))) * len(tasks)


def _identity(
    source: ImageSource, tasks: TaskSet, seed: int, pairing: Pairing, jobs: Sequence[_Job]
) -> dict[str, Any]:
    used = {job.task.name: job.task for job in jobs}
    return {
        "schema": "tgsr.benchmark",
        "version": SCHEMA_VERSION,
        "seed": seed,
        "pairing": pairing,
        "scale": tasks.scale,
        "num_images": len(source),
        "images": hashlib.blake2b("\n".join(source.names).encode(), digest_size=16).hexdigest(),
        "first_image": source.place(0),
        "tasks": [
            {"name": t.name, "id": t.id, "space": t.space.to_json()} for t in used.values()
        ],
    }


def _claim(output: Path, identity: dict[str, Any]) -> None:
    """Mark `output` as this benchmark's before the first image; refuse another's."""
    if (output / MANIFEST).exists():
        found = read_json(output / MANIFEST)
        keys = [k for k in identity if k != "first_image" and to_json(found.get(k)) != to_json(identity[k])]
        if keys:
            problem = f"the folder holds another benchmark (other {', '.join(keys)})"
            raise DataError(problem, place=str(output), remedy="choose another folder or remove it")
    else:
        write_json(output / MANIFEST, {**identity, "complete": False})


def _finished(output: Path, jobs: Sequence[_Job]) -> dict[str, dict[str, Any]]:
    """Records of images that are there already."""
    wanted = {job.file for job in jobs}
    records = [*read_jsonl(output / PARAMS), *read_jsonl(output / _PARTIAL)]
    done = {r["file"]: r for r in records if r["file"] in wanted and (output / r["file"]).is_file()}
    if (output / _PARTIAL).exists():  # without the line that a killed writer may have cut
        lines = "".join(to_json(r) + "\n" for r in done.values())
        write_atomic(output / _PARTIAL, lambda file: file.write(lines.encode()))
    return done


def _make(source: ImageSource, job: _Job, seed: int, output: Path) -> dict[str, Any]:
    """Degrade one image, write it, return its line of `params.jsonl`."""
    cv2.setNumThreads(0)
    image = source.read(0)
    scale = job.task.space.pipeline.scale
    height, width = (n // scale * scale for n in image.shape[:2])
    if min(height, width) < scale:
        raise DataError(f"the image is smaller than the scale {scale}", place=source.place(0))
    params = job.task.draw(seed, "benchmark", job.task.id, job.image)
    gt = to_tensor(image[:height, :width])[None]
    lq = to_uint8(job.task.space.pipeline.apply(gt, params, backend="cpu"))
    save_image(output / job.file, lq)
    return {
        "file": job.file,
        "image": job.image,
        "task": job.task.name,
        "task_id": job.task.id,
        "gt_digest": digest(image),
        "lq_digest": digest(lq),
        "params": params.to_json()[0],
    }
