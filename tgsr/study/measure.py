"""Subjects (rows) on conditions (sets, tasks) by metrics: measured once, kept in a journal, read as one value.

A measurement is known by digests of what it depends on: the content of the weights or images, the set, the task, the
metric. So a table goes on after a kill, a new row or metric costs its own numbers only, and weights trained anew are
measured anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tgsr.config.options import to_plain
from tgsr.config.schema import Options
from tgsr.config.spec import Spec, freeze
from tgsr.data.batch import Batch
from tgsr.data.benchmark import PARAMS
from tgsr.engine import build
from tgsr.engine.build import build_metrics, build_network, build_val_sets
from tgsr.engine.context import Context
from tgsr.engine.network_files import load_network
from tgsr.engine.validation import Restore, bicubic
from tgsr.metrics.base import Metric
from tgsr.metrics.measure import measure as measure_pair
from tgsr.models.precision import resolve_precision
from tgsr.study.journal import Journal, Record
from tgsr.study.measurements import Measurement, Measurements
from tgsr.study.pool import run_all
from tgsr.study.subrun import Stopped
from tgsr.tasks.artefacts import json_digest
from tgsr.tasks.task import Task
from tgsr.utils.errors import CheckpointError, ConfigError, DataError, UserError
from tgsr.utils.files import file_digest
from tgsr.utils.image_io import list_images, read_image, to_tensor
from tgsr.utils.luma import luma_of
from tgsr.utils.registry import did_you_mean

CHUNK = 16
"""Images of a unit of work at most."""
BATCH_PIXELS = 1 << 16
"""LQ pixels restored at once where several images are of one size; a larger image is restored alone."""


@dataclass(frozen=True)
class Subject:
    """One run of a row: weights, a folder of images restored elsewhere, or neither: bicubic enlargement.

    Attributes:
        label: `NAME`, or `NAME#SEED` for one of several runs.
        weights: checkpoint of the network.
        network: of the weights; None: `network_g` of the options where they fit it, else as the file shows.
        images: folder with a folder for each set (in it one for each task where tasks are measured), or of the images
            of a single set.
        on: names of the tasks or sets that it is measured on; None: all. Networks of single tasks or of single groups
            together make a row.
    """

    label: str
    weights: Path | None = None
    network: Spec | None = None
    images: Path | None = None
    on: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Condition:
    """What subjects are measured on.

    Attributes:
        set: name under `datasets.val`.
        task: that degrades its images; None: as the set itself says.
    """

    set: str
    task: Task | None = None

    @property
    def place(self) -> str:
        """Of its images below a folder of restored ones: `<set>`, or `<set>/<task>`."""
        return self.set if self.task is None else f"{self.set}/{self.task.name}"

    def is_for(self, subject: Subject) -> bool:
        """Whether a subject is measured here."""
        return subject.on is None or self.set in subject.on or (self.task is not None and self.task.name in subject.on)


def usable_metrics(options: Options, context: Context) -> tuple[list[str], dict[str, str]]:
    """Which of the options' metrics work here: one whose weights cannot be had (LPIPS offline) does not.

    Returns:
        Names of those that work, and name -> why not of the others; as rank 0 finds it, on all ranks.

    Raises:
        ConfigError: none works.
    """
    probe = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0)).to(context.device)
    left_out: dict[str, str] = {}
    if context.is_main:
        for name in options.val.metrics:
            try:
                build_metrics(with_metrics(options, [name]))[name](probe, probe.flip(2))
            except UserError as error:
                left_out[name] = str(error)
    left_out = context.from_main(left_out)
    kept = [name for name in options.val.metrics if name not in left_out]
    if not kept:
        problem = "none of the metrics can be computed here" if left_out else "no metric is named"
        remedy = next(iter(left_out.values()), "add psnr: {type: PSNR}")
        raise ConfigError(problem, place=f"{options.name}: val.metrics", remedy=remedy)
    return kept, left_out


def with_metrics(options: Options, names: Sequence[str]) -> Options:
    """The options with these metrics alone: one that is not used may not even be there to build."""
    metrics = {name: spec for name, spec in options.val.metrics.items() if name in names}
    return replace(options, val=replace(options.val, metrics=freeze(metrics)))


def make_restorer(options: Options, subject: Subject, context: Context) -> Restore:
    """What restores LQ images `(B, 3, h, w)` of any size, whole or tiled.

    Args:
        options: scale, precision, tiling, and `network_g` for weights that fit it.
        subject: with weights; without, it is bicubic enlargement, or the input itself at scale 1.
        context: the device.

    Raises:
        CheckpointError: the weights fit neither the named network nor any known one.
    """
    if subject.weights is None:
        return bicubic(options.scale) if options.scale > 1 else lambda lq: lq
    return build.make_restorer(options, context, _network(options, subject, context.device))


def _network(options: Options, subject: Subject, device: torch.device) -> torch.nn.Module:
    assert subject.weights is not None
    path = replace(options.path, pretrain_network_g=subject.weights)
    own = subject.network or options.network_g
    problem: CheckpointError | None = None
    if own is not None:
        try:
            return build_network(replace(options, network_g=own, path=path, train=None))
        except CheckpointError as error:
            if subject.network is not None:
                raise
            problem = error
    try:
        net, scale = load_network(subject.weights, device)
    except UserError as error:
        raise (problem or error) from None
    if scale != options.scale:
        place = f"{subject.label}: {subject.weights}"
        raise ConfigError(f"this network enlarges by {scale}, the run by {options.scale}", place=place)
    return net


def restored_files(folder: Path, set_name: str, names: Sequence[str]) -> dict[str, Path] | None:
    """Image name -> its file in a folder of restored images; None where the folder has no images of the set.

    Looked for in `<folder>/<set>`, `<folder>/<set>/LQ`, `<folder>/LQ/<set>` and, where it has images of its own, the
    folder itself. File names are those of the set, or those with the same ending each (`0801_out.png`).

    Args:
        folder: of the row.
        set_name: of the data set.
        names: of its images, without extension.

    Raises:
        DataError: images of the set are missing.
    """
    places = [folder / set_name / "LQ", folder / "LQ" / set_name, folder / set_name]
    found = next((p for p in places if p.is_dir() and _images_of(p)), None)
    if found is None and any(p.parent == folder for p in _images_of(folder)):
        found = folder
    if found is None:
        return None
    files = {str(p.relative_to(found).with_suffix("")): p for p in _images_of(found)}
    there = {e: [n for n in names if n + e in files] for e in _endings(names, files)}
    ending = max(there, key=lambda e: len(there[e]))
    missing = [name for name in names if name + ending not in files]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} images of '{set_name}' are missing: {', '.join(missing[:5])}",
            place=str(found), remedy="name the restored images as those of the set",
        )  # fmt: skip
    return {name: files[name + ending] for name in names}


def _restored_of(folder: Path, condition: Condition, names: Sequence[str]) -> dict[str, Path] | None:
    """See `restored_files`; those of a task are in `<folder>/<set>/<task>` or `<folder>/<task>`."""
    if condition.task is None:
        return restored_files(folder, condition.set, names)
    for base in (folder / condition.set, folder):
        if (base / condition.task.name).is_dir():
            return restored_files(base, condition.task.name, names)
    return None


def _images_of(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except UserError:
        return []


def _endings(names: Sequence[str], files: Mapping[str, Path]) -> list[str]:
    """What may follow the names of a set: nothing, or what some file has beyond one of the first names."""
    beyond = {f[len(name) :] for name in names[:3] for f in files if f.startswith(name)}
    return ["", *sorted(beyond - {""})]


@dataclass(frozen=True)
class _Unit:
    """Some images of a condition, for the subjects and metrics that they lack."""

    condition: Condition
    digest: str
    start: int
    stop: int
    lacking: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Work:
    """The units of a measurement (see `pool.Work`); subjects by digest."""

    options: Options
    subjects: Mapping[str, Subject]
    files: Mapping[tuple[str, str], Mapping[str, Path]]
    units: Mapping[str, _Unit]
    metrics: Mapping[str, str]

    def open(self, context: Context) -> Callable[[str], Record]:
        metrics = build_metrics(self.options)
        named = {digest: metrics[name] for name, digest in self.metrics.items()}
        sets: dict[str, Any] = {}
        restorers: dict[str, Restore] = {}

        def images_of(digest: str, unit: _Unit, samples: Sequence[Batch]) -> Iterator[torch.Tensor]:
            files = self.files.get((digest, unit.condition.place))
            if files is not None:
                return _read(list(files.values())[unit.start : unit.stop])
            if digest not in restorers:
                restorers[digest] = make_restorer(self.options, self.subjects[digest], context)
            return _restore(restorers[digest], samples)

        def run(key: str) -> Record:
            start, unit = time.perf_counter(), self.units[key]
            name, task = unit.condition.set, unit.condition.task
            dataset = sets.get(name) or sets.setdefault(name, open_set(self.options, name))
            samples = [dataset.val_sample(i, task) for i in range(unit.start, unit.stop)]
            values = {}
            for digest, wanted in unit.lacking.items():
                if context.stop_requested:
                    raise Stopped
                images = images_of(digest, unit, samples)
                on = {k: named[k] for k in wanted}
                values[digest] = _values(images, samples, on, context.device, is_luma=dataset.is_luma)
            about = {"key": key, "condition": unit.digest, "set": name, "task": task and task.name, "start": unit.start}
            return {**about, "values": values, "seconds": round(time.perf_counter() - start, 3)}

        return run


def open_set(options: Options, name: str) -> Any:
    """The validation set called `name`, alone; ConfigError when there is none."""
    specs = options.datasets.val
    if name not in specs:
        problem, remedy = f"there is no validation set '{name}'", did_you_mean(name, specs)
        raise ConfigError(problem, place=f"{options.name}: datasets.val", remedy=remedy)
    only = replace(options.datasets, val={name: specs[name]})
    return build_val_sets(replace(options, datasets=only))[name]


def _read(files: Sequence[Path]) -> Iterator[torch.Tensor]:
    for file in files:
        yield to_tensor(read_image(file))


def _restore(restore: Restore, samples: Sequence[Batch]) -> Iterator[torch.Tensor]:
    """Restored images, those of equal size that follow each other at once."""
    start = 0
    while start < len(samples):
        shape = samples[start].lq.shape  # type: ignore[union-attr]
        most = max(1, BATCH_PIXELS // (shape[2] * shape[3]))
        stop = start + 1
        while stop < min(len(samples), start + most) and samples[stop].lq.shape == shape:  # type: ignore[union-attr]
            stop += 1
        batch = torch.cat([s.lq for s in samples[start:stop]])  # type: ignore[misc]
        yield from restore(batch).clamp(0, 1)
        start = stop


def _values(
    images: Iterator[torch.Tensor],
    samples: Sequence[Batch],
    metrics: Mapping[str, Metric],
    device: torch.device,
    *,
    is_luma: bool,
) -> dict[str, list[float]]:
    """Metric -> value of each image; without those that need a ground truth where there is none.

    Where the run's network has one channel, every row is measured on luma, as its validation is.
    """
    found: dict[str, list[float]] = {}
    for image, sample in zip(images, samples, strict=True):
        gt = None if sample.gt is None else sample.gt[0].to(image.device)
        if is_luma:
            image = luma_of(image[None])[0]
        if gt is not None and image.shape[1:] != gt.shape[1:]:
            height, width = gt.shape[1:]
            problem = f"a restored image is {image.shape[2]}x{image.shape[1]}, its ground truth {width}x{height}"
            raise DataError(problem, remedy="restore at the scale of the run, from its LQ images")
        for name, value in measure_pair(metrics, image, gt, device).items():
            found.setdefault(name, []).append(value)
    return found


def subject_digest(options: Options, subject: Subject, files: Mapping[str, Mapping[str, Path]], device: str) -> str:
    """What a subject's images depend on.

    Args:
        options: of the run.
        subject: the subject.
        files: place of a condition -> image -> file, where it is a folder of images.
        device: kind of device, which `precision: auto` depends on.
    """
    if subject.images is not None:
        digests = {s: {n: file_digest(p) for n, p in named.items()} for s, named in files.items()}
        return json_digest({"images": digests})
    if subject.weights is None:
        return json_digest({"bicubic": options.scale})
    precision = resolve_precision(options.precision, torch.device(device))
    how = [options.scale, precision, options.val.tile, options.val.max_pixels, options.path.param_key_g]
    network = to_plain(subject.network or options.network_g)
    return json_digest({"weights": file_digest(subject.weights), "network": network, "how": how})


def set_digest(options: Options, name: str, dataset: Any) -> str:
    """What the images of a set depend on: the set as the options have it, their names, the pixels of a benchmark."""
    spec = options.datasets.val[name]
    root = spec.kwargs.get("dataroot_lq")
    pixels = [root / PARAMS, root.parent / PARAMS] if isinstance(root, Path) else []
    return json_digest({
        "set": to_plain(spec),
        "images": [dataset.name(i) for i in range(len(dataset))],
        "pixels": next((file_digest(p) for p in pixels if p.is_file()), None),
    })  # fmt: skip


def condition_digest(options: Options, condition: Condition, of_set: str) -> str:
    """The same with the task, or with the space that a set without one is degraded by."""
    if condition.task is not None:
        return json_digest([of_set, condition.task.id])
    makes_lq = getattr(options.datasets.val[condition.set].entry, "uses_tasks", True)
    return json_digest([of_set, to_plain(options.degradation.space) if makes_lq and options.degradation else None])


def metric_digests(options: Options, names: Sequence[str]) -> dict[str, str]:
    """Metric -> digest of its type, arguments and protocol."""
    metrics = build_metrics(options)
    of_luma = {"luma": True} if build.is_luma(options) else {}
    return {
        n: json_digest({**to_plain(options.val.metrics[n]), "protocol": metrics[n].protocol, **of_luma}) for n in names
    }


class _Plan:
    """Everything of a measurement by digest, and what of it is to be done."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        conditions: Sequence[Condition],
        metrics: Sequence[str],
        options: Options,
        context: Context,
        num_images: int | None,
    ) -> None:
        self.subjects, self.conditions, self.world_size = subjects, conditions, context.world_size
        self.metrics = metric_digests(options, metrics)
        self._needs_gt = {n: m.needs_gt for n, m in build_metrics(options).items()}
        datasets = {name: open_set(options, name) for name in dict.fromkeys(c.set for c in conditions)}
        self.has_gt = {name: getattr(d, "has_gt", True) for name, d in datasets.items()}
        self.names = {n: _distinct([d.name(i) for i in range(len(d))])[:num_images] for n, d in datasets.items()}
        of_sets = {name: set_digest(options, name, d) for name, d in datasets.items()}
        self.condition_digests = [condition_digest(options, c, of_sets[c.set]) for c in conditions]
        images = [self._files(s) for s in subjects]
        device = context.device.type
        digests: list[str] = []
        if context.is_main:
            digests = [subject_digest(options, s, f, device) for s, f in zip(subjects, images, strict=True)]
        self.digests: list[str] = context.from_main(digests)
        self.files = {
            (own, name): named for own, found in zip(self.digests, images, strict=True) for name, named in found.items()
        }

    def _files(self, subject: Subject) -> dict[str, Mapping[str, Path]]:
        if subject.images is None:
            return {}
        found = {c.place: _restored_of(subject.images, c, self.names[c.set]) for c in self.conditions}
        return {place: named for place, named in found.items() if named is not None}

    def _metrics_of(self, subject: Subject, own: str, condition: Condition) -> dict[str, str]:
        """Metric -> digest, of those that a subject gets on a condition."""
        if not condition.is_for(subject) or (subject.images is not None and (own, condition.place) not in self.files):
            return {}
        has_gt = self.has_gt[condition.set]
        return {name: digest for name, digest in self.metrics.items() if has_gt or not self._needs_gt[name]}

    def units(self, known: _Known) -> dict[str, _Unit]:
        """What is to be measured: a few images each, so that it can be shared out and a kill loses little."""
        total = sum(len(self.names[c.set]) for c in self.conditions)
        chunk = min(CHUNK, max(1, -(-total // (4 * self.world_size))))
        found = {}
        for condition, digest in zip(self.conditions, self.condition_digests, strict=True):
            num_images = len(self.names[condition.set])
            for start in range(0, num_images, chunk):
                stop = min(start + chunk, num_images)
                lacking = self._lacking(condition, digest, range(start, stop), known)
                if lacking:
                    unit = _Unit(condition, digest, start, stop, lacking)
                    found[f"{digest}-{start}-{stop}-{json_digest(lacking)}"] = unit
        return found

    def _lacking(self, condition: Condition, digest: str, images: range, known: _Known) -> dict[str, tuple[str, ...]]:
        found = {}
        for subject, own in zip(self.subjects, self.digests, strict=True):
            metrics = self._metrics_of(subject, own, condition).values()
            lacking = tuple(m for m in metrics if not known.has(own, digest, m, images))
            if lacking:
                found[own] = lacking
        return found

    def measurements(self, known: _Known) -> list[Measurement]:
        """One for each subject, condition and metric."""
        found = []
        for subject, own in zip(self.subjects, self.digests, strict=True):
            for condition, digest in zip(self.conditions, self.condition_digests, strict=True):
                names, task = self.names[condition.set], condition.task and condition.task.name
                for metric, metric_digest in self._metrics_of(subject, own, condition).items():
                    values = known.values(own, digest, metric_digest)
                    images = {name: values[i] for i, name in enumerate(names) if i in values}
                    if images:  # none: all are too small for the metric
                        found.append(Measurement.of(subject.label, condition.set, task, metric, images))
        return found


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of images; one that occurs again, with another LQ image, gets a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


class _Known:
    """Values of a journal: subject, condition, metric (digests) -> image index -> value."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        for record in records.values():
            for subject, metrics in record["values"].items():
                for metric, values in metrics.items():
                    own = self._values.setdefault((subject, record["condition"], metric), {})
                    own.update(zip(range(record["start"], record["start"] + len(values)), values, strict=True))

    def values(self, *digests: str) -> dict[int, float]:
        return self._values.get((digests[0], digests[1], digests[2]), {})

    def has(self, subject: str, condition: str, metric: str, images: range) -> bool:
        values = self.values(subject, condition, metric)
        return all(i in values for i in images)


def measure(
    subjects: Sequence[Subject],
    conditions: Sequence[Condition],
    metrics: Sequence[str],
    path: Path,
    options: Options,
    context: Context,
    *,
    num_images: int | None = None,
    processes: int | None = None,
) -> Measurements:
    """Measure what a journal lacks, and read all of it. All ranks call it and get the same.

    Args:
        subjects: rows.
        conditions: sets and tasks.
        metrics: names under `val.metrics`; see `usable_metrics`.
        path: the journal.
        options: of the run: sets, metrics, network, scale, precision.
        context: the ranks share the images.
        num_images: the first so many of each set only.
        processes: per rank; None: as `pool` chooses.

    Raises:
        Stopped: it was asked to stop; what is measured stays.
    """
    options = with_metrics(options, metrics)
    plan = _Plan(subjects, conditions, metrics, options, context, num_images)
    journal = Journal(path, schema="tgsr.measured", protocol={})
    units = plan.units(_Known(journal.shared(context)))
    if units:
        by_digest = dict(zip(plan.digests, subjects, strict=True))
        work = _Work(options, by_digest, plan.files, units, plan.metrics)
        if not run_all(work, list(units), journal, context, processes=processes, label=options.name):
            raise Stopped
    known = _Known(journal.shared(context))
    built = build_metrics(options)
    about = {n: {"protocol": built[n].protocol, "higher_is_better": built[n].higher_is_better} for n in metrics}
    return Measurements(records=plan.measurements(known), metrics=about)
