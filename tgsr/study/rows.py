"""Rows of a table as an option file names them, and the test sets of a folder: what is measured on what."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tgsr.config.schema import DatasetSpec, NetworkSpec, Options
from tgsr.config.spec import Kind, Spec
from tgsr.data.benchmark import MANIFEST, PAIRS
from tgsr.study.measure import Subject
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import read_json

logger = logging.getLogger("tgsr")
BICUBIC = "bicubic"


@dataclass(frozen=True)
class Run:
    """One run of a row.

    Attributes:
        weights: a checkpoint, or task or set -> checkpoint where each has a network of its own, or an artefact that
            says so of tasks (`groups.json` of networks, `references.json`).
        network: of the weights; None: `network_g`, or what the file shows.
        images: folder of images restored elsewhere.
        results: results folder with a `metrics.json`.
    """

    weights: Path | dict[str, Path] | None = None
    network: NetworkSpec | None = None
    images: Path | None = None
    results: Path | None = None


Rows = dict[str, Path | Run | list[Path | Run] | dict[str, Path | Run]]
"""Label -> weights, `bicubic`, a results folder, a folder of images, a `Run`; several of them, seed -> one, or task or
set -> weights."""
Sets = Path | list[Path] | dict[str, Path]


def expand(rows: Mapping[str, Any], place: str = "", places: Collection[str] = ()) -> dict[str, Run]:
    """`NAME` or `NAME#SEED` -> run.

    Args:
        rows: of the option file, see `Rows`.
        place: of it, for messages.
        places: names of tasks and sets: a mapping of such names is one run, each with its own weights.

    Raises:
        ConfigError: an entry that says nothing, or too much.
    """
    found: dict[str, Run] = {}
    for label, entry in rows.items():
        for name, run in _runs(label, entry, places):
            here = f"{place}.{label}" if place else label
            if name in found:
                raise ConfigError(f"there are two runs '{name}'", place=here)
            found[name] = _checked(run, here)
    return found


def _runs(label: str, entry: Any, places: Collection[str]) -> Iterator[tuple[str, Path | Run]]:
    if isinstance(entry, (list, tuple)):
        yield from ((f"{label}#{k}", run) for k, run in enumerate(entry))
    elif isinstance(entry, Mapping) and entry and all(key in places for key in entry):
        yield label, Run(weights=dict(entry))
    elif isinstance(entry, Mapping):
        yield from ((f"{label}#{seed}", run) for seed, run in entry.items())
    else:
        yield label, entry


def _checked(entry: Path | Run, place: str) -> Run:
    run = entry if isinstance(entry, Run) else _run_of(entry)
    named = [f.name for f in fields(Run) if f.name != "network" and getattr(run, f.name) is not None]
    if len(named) > 1:
        raise ConfigError(f"a row has {' and '.join(named)}", place=place, remedy="give one of them")
    if not named and str(entry) != BICUBIC:
        raise ConfigError("a row without weights, images or results", place=place, remedy="give one of them")
    return run


def _run_of(path: Path) -> Run:
    if str(path) == BICUBIC:
        return Run()
    if (path / "metrics.json").is_file():
        return Run(results=path)
    return Run(images=path) if path.is_dir() else Run(weights=path)


def check_seeds(rows: Mapping[str, Any], place: str) -> None:
    """ConfigError where a key of a row's runs can only be a misspelt key of a single run."""
    known = [f.name for f in fields(Run)]
    for label, entry in rows.items():
        for key in entry if isinstance(entry, Mapping) else ():
            close = difflib.get_close_matches(str(key), known, n=1, cutoff=0.7)
            if close:
                problem, remedy = f"a run has no '{key}'", f"did you mean '{close[0]}'?"
                raise ConfigError(problem, place=f"{place}.{label}", remedy=remedy)


def subjects_of(label: str, run: Run) -> list[Subject] | None:
    """What is measured for a run; None while its files are not there."""
    weights = run.weights
    if isinstance(weights, Path) and weights.suffix == ".json" and weights.is_file():
        weights = weights_by_task(weights)
    if isinstance(weights, Mapping):
        if not all(Path(p).is_file() for p in weights.values()):
            return None
        by_file: dict[Path, list[str]] = {}
        for name, path in weights.items():
            by_file.setdefault(Path(path), []).append(name)
        return [Subject(label, file, run.network, on=tuple(names)) for file, names in by_file.items()]
    if weights is not None:
        return [Subject(label, weights, run.network)] if weights.is_file() else None
    if run.images is not None:
        return [Subject(label, images=run.images)] if run.images.is_dir() else None
    return [Subject(label)]


def weights_by_task(path: Path) -> dict[str, Path]:
    """Task -> weights, from an artefact with `groups: [{members, weights}]` or `tasks: {name: {weights}}`.

    Raises:
        DataError: it says nothing of the kind.
    """
    data = read_json(path)
    groups = data.get("groups", []) if isinstance(data, Mapping) else []
    tasks = data.get("tasks", {}) if isinstance(data, Mapping) else {}
    entries = [(g.get("members", []), g) for g in groups if isinstance(g, Mapping)]
    entries += [([name], t) for name, t in tasks.items()] if isinstance(tasks, Mapping) else []
    found = {task: Path(e["weights"]) for members, e in entries for task in members if e.get("weights")}
    if found:
        return found
    raise DataError("it names no weights of tasks", place=str(path), remedy="give weights, or TASK: weights")


def with_sets(options: Options, sets: Sets | None, wanted: Sequence[str] = ()) -> tuple[Options, list[str]]:
    """Options whose validation sets are those of a table, and their names in order.

    Args:
        options: of the run.
        sets: names under `datasets.val`, benchmark folders, folders of several; as a list, or as name -> one; of a
            folder of several, the name follows that of each (`_4k`: `Group0_4k`, ...). None: all of `datasets.val`.
        wanted: sets of the printed table: those of a folder of several that are not among them are left out, where
            some are, and those of `datasets.val` that are among them are added.

    Raises:
        ConfigError, DataError: there is no such set or folder.
    """
    if sets is None:
        return options, list(options.datasets.val)
    paths = [sets] if isinstance(sets, Path) else list(sets)
    named = list(sets.items()) if isinstance(sets, Mapping) else [("", Path(path)) for path in paths]
    found: dict[str, DatasetSpec] = {}
    for label, path in named:
        found.update(_sets_at(path, label, options, wanted))
    found.update({n: spec for n, spec in options.datasets.val.items() if n in wanted and n not in found})
    if not found:
        raise ConfigError("there is no data set to measure on", place=f"{options.name}: run.sets")
    return replace(options, datasets=replace(options.datasets, val=found)), list(found)


def _sets_at(path: Path, label: str, options: Options, wanted: Sequence[str]) -> dict[str, Any]:
    """Name -> data set, of a set of the options, a benchmark or a folder of several."""
    if str(path) in options.datasets.val:
        return {label or str(path): options.datasets.val[str(path)]}
    if (path / MANIFEST).is_file():
        return {label or path.name: benchmark_spec(path)}
    if not path.is_dir():
        remedy = f"name one of datasets.val ({', '.join(options.datasets.val) or 'none'}) or a folder of benchmarks"
        raise ConfigError(f"there is no set or folder '{path}'", place=f"{options.name}: run.sets", remedy=remedy)
    folders = {p.parent.name + label: p.parent for p in path.glob(f"*/{MANIFEST}")}
    chosen = [name for name in sorted(folders, key=_natural) if name in wanted] or sorted(folders, key=_natural)
    if not chosen:
        problem = "the folder holds no benchmark"
        raise DataError(problem, place=str(path), remedy="build them first, run: {type: BuildBenchmarks}")
    if len(chosen) < len(folders):
        logger.info("%s: not in the paper's table: %s", path, ", ".join(sorted(set(folders) - set(chosen))))
    return {name: benchmark_spec(folders[name]) for name in chosen}


def _natural(name: str) -> list[Any]:
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def benchmark_spec(folder: Path) -> DatasetSpec:
    """The data set of a benchmark folder: its LQ images beside the ground truth that its manifest names.

    Raises:
        DataError: it is not finished, or the ground truth is not where it was.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest.get("complete"):
        raise DataError("the benchmark is not finished", place=str(folder), remedy="build it again; it goes on")
    first = (folder / PAIRS).read_text().split(",", 1)[0].strip()
    place = str(manifest.get("first_image", ""))
    gt = Path(manifest.get("gt") or place.removesuffix(first))
    if not (gt / first).is_file():
        problem = f"its ground truth is not at {gt} any more"
        raise DataError(problem, place=str(folder), remedy="put it there, or name the pair under datasets.val")
    kwargs = {"dataroot_gt": gt, "dataroot_lq": folder, "meta_info": folder / PAIRS}
    return Spec(Kind("tgsr.data.datasets:DATASETS", runtime=("scale", "tasks")), "PairedDataset", kwargs, str(folder))
