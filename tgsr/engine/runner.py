"""Runner: one stage that an option file describes; and the chain of several."""

from __future__ import annotations

import logging
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tgsr.config.bind import join_problems
from tgsr.config.options import (
    folder_of,
    input_paths,
    load_options,
    missing_files,
    options_hash,
    output_paths,
    place_of,
    training_hash,
)
from tgsr.config.schema import Options
from tgsr.config.spec import Kind, Spec
from tgsr.config.yaml_loader import COMMAND_LINE
from tgsr.engine.context import Context
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import file_digest, read_json, write_json
from tgsr.utils.registry import Registry

logger = logging.getLogger("tgsr")
RUNNERS = Registry("stage", package="tgsr.engine")
_TRAINING = Spec(Kind("tgsr.engine.runner:RUNNERS", runtime=("options", "context")), "Train")
A, B = TypeVar("A"), TypeVar("B")


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

    def outputs(self) -> list[Path]:
        """Files and folders that this stage leaves for later ones."""
        return [self.folder, self.results, *([] if self.options.run is None else output_paths(self.options.run))]

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """Files and folders that this stage reads and that are not there: the first thing that `--check` tells.

        Args:
            made: files and folders that earlier stages of a chain will have made.
            later: the same of this stage and of later ones: no fault where it is not sure that this stage reads them.
        """
        return missing_files(self.options, made=made, later=later)

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
            found[path.relative_to(root).as_posix()] = file_digest(path)
    return dict(sorted(found.items()))


@RUNNERS.register()
class Chain(Runner):
    """Stages one after the other, each from its own option file; done ones are skipped on restart.

    Args:
        stages: option files, relative to the working folder or to the file that names them; `file.yml key=value ...`
            overrides options of one stage, a value with spaces in quotes.
    """

    def __init__(self, *, options: Options, context: Context, stages: list[str]) -> None:
        super().__init__(options=options, context=context)
        if not stages:
            raise ConfigError("a chain needs at least one stage", place=place_of(options, "run.stages"))
        self.stages = stages

    def load(self) -> list[Options]:
        """Options of all stages, so that a mistake in the last one is found before the first one runs.

        Raises:
            ConfigError: the mistakes of all stages, a line each with the stage's place.
        """
        places: dict[tuple[Path, str], str] = {}

        def load_stage(number: int, stage: str) -> Options:
            file, overrides = self._parse(stage)
            options = load_options(file, overrides, debug=self.context.debug)
            if options.run is not None and options.run.type == "Chain" and options.name == self.options.name:
                raise ConfigError("a chain cannot be a stage of itself")
            place = self._place(number)
            first = places.setdefault((file.resolve(), options.name), place)
            if first != place:
                raise ConfigError(
                    f"'{file}' under the name '{options.name}' is a stage already ({first})",
                    remedy="remove one, or add name=OTHER",
                )
            return options

        return self._for_each(self.stages, load_stage)

    def run(self) -> None:
        self.context.auto_resume = True
        stages = self.load()
        for number, options in enumerate(stages, 1):
            logger.info("stage %d of %d: %s", number, len(stages), options.name)
            if not run_stage(options, self.context, is_in_chain=True):
                return

    def outputs(self) -> list[Path]:
        return [path for runner in self._runners() for path in runner.outputs()]

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """Those of all stages, without what earlier ones make; each once, at the first stage that lacks it."""
        runners = self._runners()
        outputs = [runner.outputs() for runner in runners]
        found: dict[str, tuple[ConfigError, list[int]]] = {}
        for number, runner in enumerate(runners):
            before, after = (list(chain.from_iterable(part)) for part in (outputs[:number], outputs[number:]))
            for problem in runner.missing_files([*made, *before], [*after, *later]):
                found.setdefault(str(problem), (problem, []))[1].append(number)
        missing = []
        for problem, (first, *others) in found.values():
            stages = self._place(first) + (f" and {len(others)} more" if others else "")
            missing.append(_in_stage(str(problem), stages))
        return missing

    def check(self) -> list[str]:
        """What the first stage says; later ones may need what it makes."""
        return self._runners()[0].check()

    def _runners(self) -> list[Runner]:
        return self._for_each(self.load(), lambda _, options: make_runner(options, self.context))

    def _parse(self, stage: str) -> tuple[Path, list[str]]:
        """Option file and overrides of one entry."""
        try:
            words = shlex.split(stage)
        except ValueError as error:
            raise ConfigError(f"'{stage}': {error}", remedy="quote values with spaces, 'key=a b'") from None
        if not words:
            raise ConfigError("there is no option file here", remedy="give FILE.yml key=value ...")
        named = Path(words[0]).expanduser()
        beside = folder_of(self.options.places.get("run.stages", COMMAND_LINE)) / named
        for path in (named, beside):
            if path.exists():
                return path, words[1:]
        raise ConfigError("no such option file: " + " or ".join(dict.fromkeys([str(named), str(beside)])))

    def _place(self, number: int) -> str:
        return f"{place_of(self.options, 'run.stages')}[{number}]"

    def _for_each(self, items: Sequence[A], work: Callable[[int, A], B]) -> list[B]:
        """`work(number, item)` for every stage; ConfigError with the problems of all."""
        done: list[B] = []
        problems: list[ConfigError] = []
        for number, item in enumerate(items):
            try:
                done.append(work(number, item))
            except UserError as error:
                problems += [_in_stage(line, self._place(number)) for line in str(error).splitlines()]
        if problems:
            raise join_problems(problems)
        return done


def _in_stage(line: str, place: str) -> ConfigError:
    """A stage's problem with its place in the chain, which is also where the overrides of the stage stand."""
    return ConfigError(line.removeprefix(f"{COMMAND_LINE}: "), place=place)
