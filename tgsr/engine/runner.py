"""Runner: one stage that an option file describes; and the chain of several."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgsr.config.options import input_paths, load_options, missing_files, options_hash, training_hash
from tgsr.config.schema import Options
from tgsr.config.spec import Kind, Spec
from tgsr.engine.context import Context
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import read_json, write_json
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

    def missing_files(self) -> list[ConfigError]:
        """Files and folders that this stage reads and that are not there: the first thing that `--check` tells."""
        return missing_files(self.options)

    def check(self) -> list[str]:
        """What `--check` should say about this stage, without doing it: problems beyond wrong options and missing
        files."""
        return []


def make_runner(options: Options, context: Context) -> Runner:
    """The stage that an option file describes; plain training when it names none."""
    spec = options.run or _TRAINING
    return spec.build(options=options, context=context)


def run_stage(options: Options, context: Context, *, is_in_chain: bool = False) -> bool:
    """Run a stage and mark it as done; a done stage of the same options and inputs is not run again when resuming.

    Where a file that it reads has changed since (a grouping searched anew, weights trained anew), it starts afresh; in
    a chain also a done training whose options have changed, those of validation aside. What was there is moved aside.
    Outside a chain such a training goes on, as `--auto_resume` says: so it can be made longer.

    Returns:
        Whether it is done; False when it was asked to stop.
    """
    if options.run is not None and options.run.type == "Chain":
        return _run(options, context)
    marker = Path(options.path.experiments_root) / options.name / "stage.json"
    inputs = context.from_main(input_digests(options) if context.is_main else {})
    marked = _read_marker(marker) if context.auto_resume else None
    found = marked if marked is not None and marked.get("options") == options_hash(options) else None
    known = None if found is None else found.get("inputs")
    changed = [] if known is None else [name for name, digest in inputs.items() if known.get(name) != digest]
    if found is not None and not changed and (known is not None or not inputs):
        logger.info("%s is done already", options.name)
        return True
    auto_resume = context.auto_resume
    if changed:
        logger.warning("%s starts afresh, since what it reads has changed: %s", options.name, ", ".join(changed))
        context.auto_resume = False
    elif is_in_chain and found is None and _has_other_weights(marked, options):
        logger.warning("%s starts afresh, since its options have changed", options.name)
        context.auto_resume = False
    try:
        return _run(options, context, marker=marker, inputs=inputs)
    finally:
        context.auto_resume = auto_resume


def _run(
    options: Options, context: Context, *, marker: Path | None = None, inputs: Mapping[str, str] | None = None
) -> bool:
    make_runner(options, context).run()
    if context.should_stop():
        return False
    context.barrier()
    if context.is_main:
        if marker is not None:
            hashes = {"options": options_hash(options), "training": training_hash(options)}
            write_json(marker, {"schema": "tgsr.stage", "version": 1, **hashes, "inputs": inputs})
        if context.after_stage is not None:
            context.after_stage(options)
    context.barrier()
    return True


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


def input_digests(options: Options) -> dict[str, str]:
    """What the options name of earlier stages: place of a file below the experiments root -> digest of its content.

    What lies in the stage's own folder is its own work and not among them.
    """
    root = Path(options.path.experiments_root).resolve()
    own, found = root / options.name, {}
    for _, named in input_paths(options):
        path = named.resolve()
        if path.is_relative_to(root) and not path.is_relative_to(own) and path.is_file():
            found[path.relative_to(root).as_posix()] = _digest(path)
    return dict(sorted(found.items()))


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@RUNNERS.register()
class Chain(Runner):
    """Stages one after the other, each from its own option file; done ones are skipped on restart.

    Args:
        stages: option files, relative to the working folder; `file.yml key=value ...` overrides options of one stage.
    """

    def __init__(self, *, options: Options, context: Context, stages: list[str]) -> None:
        super().__init__(options=options, context=context)
        if not stages:
            raise ConfigError("a chain needs at least one stage", place="run.stages")
        self.stages = stages

    def load(self) -> list[Options]:
        """Options of all stages, so that a mistake in the last one is found before the first one runs."""
        loaded = []
        for stage in self.stages:
            file, *overrides = stage.split()
            loaded.append(load_options(file, overrides, debug=self.context.debug))
        return loaded

    def run(self) -> None:
        self.context.auto_resume = True
        stages = self.load()
        for number, options in enumerate(stages, 1):
            logger.info("stage %d of %d: %s", number, len(stages), options.name)
            if not run_stage(options, self.context, is_in_chain=True):
                return

    def check(self) -> list[str]:
        self.load()
        return []
