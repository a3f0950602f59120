"""Runner: one stage that an option file describes, and what tells whether it is done."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from tgsr.config.options import input_paths, missing_files, options_hash, output_paths, to_plain, training_hash
from tgsr.config.schema import Options
from tgsr.config.spec import Kind, Spec
from tgsr.engine.context import Context
from tgsr.engine.needs import remedy_for
from tgsr.engine.smallest import short
from tgsr.utils.errors import ConfigError, DataError, Stopped, UserError
from tgsr.utils.files import file_digest, folder_size, read_json, write_json
from tgsr.utils.lock import hold
from tgsr.utils.memory import peak_memory
from tgsr.utils.registry import Registry

logger = logging.getLogger("tgsr")
RUNNERS = Registry("stage", package="tgsr.engine")
_TRAINING = Spec(Kind("tgsr.engine.runner:RUNNERS", runtime=("options", "context")), "Train")


class Runner(ABC):
    """A resumable stage. It reads artefacts of earlier stages from files and leaves its own in its experiment folder.

    Args:
        options: the whole option file.
        context: this process.
    """

    continues_other_options = True
    """Whether the stage itself tells which of its work counts after its options have changed, as those with memos do;
    otherwise a chain starts it afresh."""
    product: ClassVar[str] = ""
    """The file below `experiments/<name>` that `@stage` in a study stands for; empty: the folder."""
    in_results: ClassVar[bool] = False
    """The product lies below `results/<name>`."""
    runs_stages: ClassVar[bool] = False
    """It runs other stages, each with a marker of its own, and has no work to mark as done."""
    SMALLEST: ClassVar[Mapping[str, Any]] = {}
    """Arguments of `run:` in a rehearsal: the smallest at which the stage still makes its product."""
    seconds_per_unit: float | None = None
    """After `run`: what one of `units` took, without the time to start; None: the stage does not know."""

    def __init__(self, *, options: Options, context: Context) -> None:
        self.options, self.context = options, context

    @property
    def folder(self) -> Path:
        """`experiments/<name>`."""
        return Path(self.options.path.experiments_root) / self.options.name

    @property
    def results(self) -> Path:
        """`results/<name>`."""
        return Path(self.options.path.results_root) / self.options.name

    @abstractmethod
    def run(self) -> None:
        """Do the work, continuing what is there when `context.auto_resume`."""

    def outputs(self) -> list[Path]:
        """Files and folders that this stage leaves for later ones."""
        return [self.folder, self.results, *([] if self.options.run is None else output_paths(self.options.run))]

    def claims(self) -> list[Path]:
        """Folders that no other process may work in while this stage does; see `claimed`."""
        own = [self.folder, self.results]
        return [*own, *(p for p in self.outputs() if not any(p.is_relative_to(folder) for folder in own))]

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """Files and folders that this stage reads and that are not there: the first thing that `--check` tells.

        Args:
            made: files and folders that earlier stages of a chain will have made.
            later: the same of this stage and of later ones: no fault where it is not sure that this stage reads them.
        """
        return missing_files(self.used_options(), made=made, later=later, remedy=remedy_for)

    def used_options(self) -> Options:
        """The options without those that this stage does not look at."""
        return self.options

    def runners(self) -> list[Runner]:
        """The stages that this one runs, in order; itself where it runs none."""
        return [self]

    def optional_files(self) -> list[tuple[str, Path]]:
        """`(what, path)` of what is not there and what the stage can do without, such as a row of a table."""
        return []

    def check(self) -> list[str]:
        """What `--check` should say about this stage, without doing it: problems beyond wrong options and missing
        files."""
        return []

    def check_ahead(self) -> list[str]:
        """What can be said of this stage before earlier ones have made what it reads."""
        return []

    def units(self) -> tuple[float, str]:
        """The stage's budget and its unit, such as `(20000, "iterations")`: what its time is proportional to."""
        return 1, "stage"

    def files_kept(self) -> int:
        """How many checkpoints the stage keeps: what its disk is proportional to."""
        return 1

    @classmethod
    def smallest(cls, options: Options) -> Options:
        """The same stage at the smallest budget at which it still makes its product, for rehearsals."""
        return short(options, cls.SMALLEST)


def make_runner(options: Options, context: Context) -> Runner:
    """The stage that an option file describes; plain training when it names none."""
    spec = options.run or _TRAINING
    return spec.build(options=options, context=context)


@dataclass(frozen=True)
class State:
    """How far a stage is.

    Attributes:
        word: `done`, `stale` (done, but what it reads or its options have changed since), `partial` or `to do`.
        why: what has changed.
        starts_afresh: whether a new start moves aside what is there instead of going on with it.
        marker: the content of the `stage.json` of a done stage.
        inputs: digests of what it reads now.
    """

    word: Literal["done", "stale", "partial", "to do"]
    why: str = ""
    starts_afresh: bool = False
    marker: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)


def stage_state(options: Options, *, is_in_chain: bool = False) -> State:
    """What the folder of a stage tells."""
    folder = Path(options.path.experiments_root) / options.name
    inputs, marked = input_digests(options), _read_marker(folder / "stage.json")
    if marked is None:
        return State("partial" if folder.exists() else "to do", inputs=inputs)
    if marked.get("options") == options_hash(options):
        known = marked.get("inputs")
        changed = [] if known is None else [name for name in inputs if _has_changed(name, known, inputs)]
        if changed:
            why = f"what it reads has changed: {', '.join(changed)}"
            return State("stale", why, starts_afresh=True, marker=marked, inputs=inputs)
        if known is not None or not inputs:
            return State("done", marker=marked, inputs=inputs)
        return State("partial", marker=marked, inputs=inputs)
    afresh = is_in_chain and _has_other_weights(marked, options)
    return State("stale", "its options have changed", starts_afresh=afresh, marker=marked, inputs=inputs)


@contextmanager
def claimed(runner: Runner) -> Iterator[None]:
    """Hold the locks of what a stage writes, in rank 0, until the outermost stage or chain of this process ends.

    Raises:
        UserError: another process holds one; on all ranks, and nothing was touched.
    """
    context, paths = runner.context, runner.options.path
    refused: UserError | None = None
    with ExitStack() as locks:
        if context.is_main:
            try:
                locks.enter_context(hold(*runner.claims(), roots=(paths.experiments_root, paths.results_root)))
            except UserError as error:
                refused = error
        refused = context.from_main(refused)
        if refused is not None:
            raise refused
        yield


def run_stage(options: Options, context: Context, *, is_in_chain: bool = False) -> bool:
    """Run a stage and mark it as done; a done stage of the same options and inputs is not run again when resuming.

    Where a file that it reads has changed since (a grouping searched anew, weights trained anew), it starts afresh; in
    a chain also a done training whose options have changed, those of validation aside. What was there is moved aside.
    Outside a chain such a training goes on, as `--auto_resume` says: so it can be made longer.

    Returns:
        Whether it is done; False when it was asked to stop.
    """
    with context.catch_signals():
        try:
            return _run_stage(options, context, is_in_chain=is_in_chain)
        except Stopped:
            context.stop_requested = True
            return False


def _run_stage(options: Options, context: Context, *, is_in_chain: bool) -> bool:
    if RUNNERS.get((options.run or _TRAINING).type).runs_stages:
        return _run(options, context)
    state = context.from_main(stage_state(options, is_in_chain=is_in_chain) if context.is_main else None)
    if context.auto_resume and state.word == "done":
        logger.info("%s is done already", options.name)
        return True
    auto_resume = context.auto_resume
    if auto_resume and state.starts_afresh:
        logger.warning("%s starts afresh, since %s", options.name, state.why)
        context.auto_resume = False
    try:
        return _run(options, context, inputs=state.inputs)
    finally:
        context.auto_resume = auto_resume


def _run(options: Options, context: Context, *, inputs: Mapping[str, str] | None = None) -> bool:
    """Run it; with `inputs`, mark it as done with what it read."""
    runner, start = make_runner(options, context), time.perf_counter()
    is_whole = not (context.auto_resume and runner.folder.exists())
    with claimed(runner):
        runner.run()
        context.barrier()  # one rank may be done hours before another
        if context.should_stop():
            return False
        if context.is_main:
            cost = _cost(runner, time.perf_counter() - start, is_whole=is_whole)
            if context.after_stage is not None:  # before the marker: a done stage is not run again, nor reported
                context.after_stage(options)
            if inputs is not None:
                hashes = {"options": options_hash(options), "training": training_hash(options)}
                marker = {"schema": "tgsr.stage", "version": 1, **hashes, "inputs": inputs, "cost": cost}
                write_json(runner.folder / "stage.json", marker)
        context.barrier()
    return True


def _cost(runner: Runner, seconds: float, *, is_whole: bool) -> dict[str, Any]:
    """What the last start of a stage took, for the plan of others; `is_whole`: it was the only one."""
    units, unit = runner.units()
    return {
        "seconds": round(seconds, 2),
        "units": units,
        "unit": unit,
        "seconds_per_unit": runner.seconds_per_unit,
        "peak_memory_gib": round(peak_memory(runner.context.device) / 2**30, 3),
        "disk_gib": round(folder_size(runner.folder) / 2**30, 6),
        "files_kept": runner.files_kept(),
        "device": runner.context.device.type,
        "ranks": runner.context.world_size,
        "form": cost_form(runner.options),
        "is_whole": is_whole,
    }


def cost_form(options: Options) -> str:
    """Digest of what the time of a unit depends on, whatever the budget: networks, batches and crops, precision."""
    parts = (options.network_g, options.network_d, options.datasets.train, options.precision)
    return hashlib.blake2b(json.dumps(to_plain(parts), sort_keys=True).encode(), digest_size=6).hexdigest()


def _read_marker(marker: Path) -> dict[str, Any] | None:
    """The marker of a done stage."""
    try:
        return read_json(marker)
    except DataError:
        return None


def _has_other_weights(marked: Mapping[str, Any] | None, options: Options) -> bool:
    """Whether a done stage was trained with other options and would not notice it."""
    if RUNNERS.get((options.run or _TRAINING).type).continues_other_options or marked is None:
        return False
    return marked.get("training", training_hash(options)) != training_hash(options)


def _has_changed(name: str, known: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Older markers know nothing of what lies outside the experiments."""
    return known.get(name) != now[name] and (name in known or not name.startswith("../"))


def _outer_digest(path: Path) -> str:
    if not path.is_file():
        return "folder" if path.is_dir() else "absent"
    status = path.stat()
    return _known_digest(path, status.st_mtime_ns, status.st_size)


@cache
def _known_digest(path: Path, _time: int, _size: int) -> str:
    """Many stages read the same weights."""
    return file_digest(path)


def input_digests(options: Options) -> dict[str, str]:
    """What the options name of earlier stages and of files: place from the experiments root -> digest of its content.

    Of a stage's folder it is what the stage was made from. What lies in the stage's own folder is its own work and not
    among them. Of other folders, only that they are there, and only where `run` names them: a table's row may come
    later, while the data sets of a study's base need not be this stage's.
    """
    root = Path(options.path.experiments_root).resolve()
    results = Path(options.path.results_root).resolve()
    own, found = root / options.name, {}
    for key, named in input_paths(options):
        path = named.resolve()
        if path.is_dir() and path.is_relative_to(results):  # of what the stage with these results was made
            path = root / path.relative_to(results)
        if path.is_relative_to(own) or path == root or path.is_relative_to(results / options.name):
            continue
        if not path.is_relative_to(root):
            if path.is_file() or key.startswith("run."):
                found[Path(os.path.relpath(path, root)).as_posix()] = _outer_digest(path)
            continue
        if path.is_file():
            found[path.relative_to(root).as_posix()] = file_digest(path)
        elif path.is_dir():
            above = [f / "stage.json" for f in (path, *path.parents) if f.is_relative_to(root)]
            marker = next((_read_marker(f) for f in above if f.exists()), None)
            if marker is not None:
                text = json.dumps([marker.get("options"), marker.get("inputs")], sort_keys=True)
                found[path.relative_to(root).as_posix()] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return dict(sorted(found.items()))
