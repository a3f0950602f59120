"""Validation and evaluation: a model over data sets, sharded over the ranks, the same numbers on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tgsr.data.batch import Batch
from tgsr.engine.context import Context
from tgsr.engine.logger import progress
from tgsr.metrics.base import Metric
from tgsr.metrics.measure import Remembered, mean_of, measure
from tgsr.tasks.task import Task
from tgsr.utils.errors import DataError, Stopped
from tgsr.utils.image_io import save_image
from tgsr.utils.resize import imresize

Restore = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ImageResult:
    """One image's numbers and, where saved, its files relative to the results folder."""

    name: str
    metrics: Mapping[str, float]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationResult:
    """All images of one set, in the set's order, equal on all ranks."""

    images: Sequence[ImageResult]

    def means(self) -> dict[str, float]:
        """Metric -> mean over the images for which it was taken."""
        return {name: mean for name, (mean, _) in mean_of([i.metrics for i in self.images]).items()}


def bicubic(scale: int) -> Restore:
    """The baseline: MATLAB's bicubic up-sampling."""
    return lambda lq: imresize(lq, scale=scale).clamp(0, 1)


def validate(
    restore: Restore,
    dataset: Any,
    metrics: Mapping[str, Metric],
    context: Context,
    *,
    task: Task | None = None,
    save_to: Path | None = None,
    relative_to: Path | None = None,
    save_inputs: bool = False,
    label: str = "",
    remembered: Remembered | None = None,
    observe: Callable[[int, str, Batch, torch.Tensor], None] | None = None,
) -> ValidationResult:
    """Restore every image of a data set and measure it.

    Args:
        restore: `(1, 3, h, w)` in [0, 1] -> `(1, 3, H, W)`.
        dataset: has `__len__`, `name(i)` and `val_sample(i, task) -> Batch` of one.
        metrics: by name; left out where the set has no GT for them, or an image is too small.
        context: ranks share the images.
        task: degrade the set's GT images by this task.
        save_to: folder for the restored images; None saves none.
        relative_to: what file names in the result are relative to.
        save_inputs: save LQ and GT too, for strips.
        label: what the progress bar says.
        remembered: values that were measured before; None: all are measured.
        observe: called with index, name, batch and restored image of every image of this rank.

    Raises:
        Stopped: a rank was asked to stop; on all ranks.
    """
    rows = []
    stems = [] if save_to is None else file_stems([dataset.name(i) for i in range(len(dataset))])
    values_of = measure if remembered is None else remembered.measure
    indices = range(context.rank, len(dataset), context.world_size)
    with context.stopping(at_once=True):
        for i in progress(indices, label, is_shown=context.is_main and bool(label)):
            if context.may_leave and context.stop_requested:
                break
            batch: Batch = dataset.val_sample(i, task)
            if getattr(dataset, "is_luma", False):
                batch = batch.luma()
            restored = restore(batch.lq).clamp(0, 1)
            values = values_of(metrics, restored[0], None if batch.gt is None else batch.gt[0], context.device)
            if observe is not None:
                observe(i, dataset.name(i), batch, restored)
            files = {}
            if save_to is not None:
                images = {"sr": restored, **({"lq": batch.lq, "gt": batch.gt} if save_inputs else {})}
                files = _save(images, stems[i], save_to, relative_to or save_to)
            rows.append((i, ImageResult(dataset.name(i), values, files)))
    found = context.gather([(context.stop_requested, rows)])
    if context.may_leave and any(is_asked for is_asked, _ in found):
        raise Stopped
    ordered = sorted((row for _, part in found for row in part), key=lambda r: r[0])
    return ValidationResult([r for _, r in ordered])


def file_stems(names: Sequence[str]) -> list[str]:
    """A file stem for each image: `/` becomes `_`, and a number follows where two files of the set would have one name
    (on a disk that knows no capitals, too).
    """
    taken: set[str] = set()
    stems = []
    for name in names:
        stem, number = name.replace("/", "_"), 1
        while not taken.isdisjoint(files := {f"{stem}{kind}".lower() for kind in ("", "_lq", "_gt")}):
            number += 1
            stem = f"{name.replace('/', '_')}~{number}"
        taken |= files
        stems.append(stem)
    return stems


def _save(images: Mapping[str, torch.Tensor | None], stem: str, folder: Path, root: Path) -> dict[str, str]:
    files = {}
    for kind, image in images.items():
        if image is not None:
            path = folder / (f"{stem}.png" if kind == "sr" else f"{stem}_{kind}.png")
            save_image(path, image[0])
            files[kind] = str(path.relative_to(root))
    return files


def evaluate(
    restore: Restore,
    datasets: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    context: Context,
    *,
    results: Path,
    scale: int,
    stamp: Mapping[str, Any],
    save_images: bool = True,
    baselines: Mapping[str, Restore] | None = None,
) -> dict[str, Any]:
    """Measure a model and its baselines on several sets.

    Args:
        restore, metrics, context: see `validate`.
        datasets: by name.
        results: `results/<name>`; images go to `images/<set>/` below it.
        scale: 1 takes the input itself as the first baseline, any other the bicubic enlargement.
        stamp: what identifies the weights: name, option hash, weights, iteration.
        save_images: keep restored images, inputs and those of the baselines.
        baselines: further ones by name, such as the network that a fine-tuning starts from.

    Returns:
        The content of `metrics.json` (schema `tgsr.metrics`), the protocol beside every number.
    """
    if not datasets:
        raise DataError("there is no data set to test on", remedy="name one under datasets.val")
    remembered = Remembered()
    first = {"bicubic": bicubic(scale)} if scale > 1 else {"input": lambda lq: lq}
    content: dict[str, Any] = {"schema": "tgsr.metrics", "version": 1, **stamp, "datasets": {}}
    for name, dataset in datasets.items():
        folder = results / "images" / name
        result = validate(
            restore, dataset, metrics, context,
            save_to=folder if save_images else None, relative_to=results, save_inputs=True, label=name,
        )  # fmt: skip
        others = {
            baseline: validate(
                theirs, dataset, metrics, context,
                save_to=folder / baseline if save_images else None, relative_to=results, remembered=remembered,
            )
            for baseline, theirs in {**first, **(baselines or {})}.items()
        }  # fmt: skip
        content["datasets"][name] = _dataset_entry(result, others, metrics)
    return content


def _dataset_entry(
    result: ValidationResult, others: Mapping[str, ValidationResult], metrics: Mapping[str, Metric]
) -> dict[str, Any]:
    return {
        "metrics": {
            m: {
                "mean": value,
                "protocol": metrics[m].protocol,
                "num_images": num_images,
                "higher_is_better": metrics[m].higher_is_better,
            }
            for m, (value, num_images) in mean_of([image.metrics for image in result.images]).items()
        },
        "baselines": {name: {m: {"mean": v} for m, v in o.means().items()} for name, o in others.items()},
        "images": [
            {
                "name": ours.name,
                "metrics": dict(ours.metrics),
                "baselines": {name: dict(o.images[i].metrics) for name, o in others.items()},
                "files": {
                    **ours.files,
                    **{name: o.images[i].files["sr"] for name, o in others.items() if o.images[i].files},
                },
            }
            for i, ours in enumerate(result.images)
        ],
    }
