"""Stages one after the other: `Study`, whose file holds them all, and `Chain`, which names an option file for each."""

from __future__ import annotations

import logging
import shlex
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tgsr.config.bind import join_problems
from tgsr.config.options import folder_of, load_options, options_hash, place_of, write_options
from tgsr.config.schema import Options
from tgsr.config.yaml_loader import COMMAND_LINE
from tgsr.engine.build import micro_batches
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner, make_runner, run_stage
from tgsr.engine.stages import Test, Train
from tgsr.study.matrix import Branch, Matrix
from tgsr.study.page import write_study_page
from tgsr.study.paper import PaperTable
from tgsr.study.plan import Plan
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.text import clock

logger = logging.getLogger("tgsr")
A, B = TypeVar("A"), TypeVar("B")


class Stages(Runner):
    """Runs stages in order; done ones are skipped on restart, the one that was stopped goes on."""

    runs_stages = True

    @cached_property
    def stages(self) -> list[Options]:
        """Options of all stages, so that a mistake in the last one is found before the first one runs.

        Raises:
            ConfigError: the mistakes of all stages, a line each with its place.
        """
        return self.load()

    @abstractmethod
    def load(self) -> list[Options]:
        """See `stages`."""

    @abstractmethod
    def place(self, number: int) -> str:
        """Where a stage is written."""

    def run(self) -> None:
        self.context.auto_resume = True
        self._check_ranks()
        runners = self.runners()  # on all ranks: what a stage refuses is told before the first one runs
        plan = Plan(runners) if self.context.is_main else None
        if problem := self.context.from_main(None if plan is None else self._refusal(runners, plan)):
            raise problem
        for number, options in enumerate(self.stages):
            if plan is not None:
                self.write_page(plan)
                left = plan.seconds_left(number)
                eta = "" if left is None else f", about {clock(left)} left"
                logger.info("stage %d of %d: %s%s", number + 1, len(self.stages), options.name, eta)
            if not run_stage(options, self.context, is_in_chain=True):
                return
            if plan is not None:
                plan.note(number, make_runner(options, self.context))
        if plan is not None:
            self.write_page(plan)

    def _refusal(self, runners: Sequence[Runner], plan: Plan) -> ConfigError | None:
        """What a later stage would end with: files that it is sure to read, ranks that do not divide its batch."""
        todo = {number for number, entry in enumerate(plan.entries) if not entry.is_done}
        problems = self._missing(lambda number, problem: number in todo and _is_sure(runners[number], problem))
        for number in todo:
            options, place = runners[number].options, self.place(number)
            if isinstance(runners[number], Train):  # other stages give their trainings shares of the ranks
                try:
                    micro_batches(options, self.context.world_size)
                except ConfigError as error:
                    problems.append(in_stage(str(error), place))
        return join_problems(problems) if problems else None

    def write_page(self, plan: Plan) -> None:
        """Called on rank 0 before each stage and after the last."""

    def outputs(self) -> list[Path]:
        return [path for runner in self.runners() for path in runner.outputs()]

    def claims(self) -> list[Path]:
        """Its own name; each stage claims its folders when it is reached, for a done one may be another's, too."""
        return [self.folder, self.results]

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """Those of all stages, without what earlier ones make; each once, at the first stage that lacks it."""
        return self._missing(lambda _number, _problem: True, made, later)

    def _missing(
        self, counts: Callable[[int, ConfigError], bool], made: Sequence[Path] = (), later: Sequence[Path] = ()
    ) -> list[ConfigError]:
        runners = self.runners()
        outputs = [runner.outputs() for runner in runners]
        found: dict[str, tuple[ConfigError, list[int]]] = {}
        for number, runner in enumerate(runners):
            before, after = (list(chain.from_iterable(part)) for part in (outputs[:number], outputs[number:]))
            for problem in runner.missing_files([*made, *before], [*after, *later]):
                if counts(number, problem):
                    found.setdefault(str(problem), (problem, []))[1].append(number)
        missing = []
        for problem, (first, *others) in found.values():
            stages = self.place(first) + (f" and {len(others)} more" if others else "")
            missing.append(in_stage(str(problem), stages))
        return missing

    def check(self) -> list[str]:
        """What the first stage says; later ones may need what it makes."""
        return self.runners()[0].check()

    def check_every(self) -> list[str]:
        """What all stages say; of those whose inputs are not made yet, what can be said without."""
        problems = []
        for number, runner in enumerate(self.runners()):
            try:
                found = runner.check_ahead() if runner.missing_files() else runner.check()
            except UserError as error:
                found = str(error).splitlines()
            problems += [str(in_stage(line, self.place(number))) for line in found]
        return problems

    def runners(self) -> list[Runner]:
        return self.for_each(self.stages, lambda _, options: make_runner(options, self.context))

    def for_each(self, items: Sequence[A], work: Callable[[int, A], B]) -> list[B]:
        """`work(number, item)` for every stage; ConfigError with the problems of all."""
        done: list[B] = []
        problems: list[ConfigError] = []
        for number, item in enumerate(items):
            try:
                done.append(work(number, item))
            except UserError as error:
                problems += [in_stage(line, self.place(number)) for line in str(error).splitlines()]
        if problems:
            raise join_problems(problems)
        return done

    def _check_ranks(self) -> None:
        """A file that is edited while the processes start gives them different stages."""
        ours = [options_hash(options) for options in self.stages]
        if any(theirs != ours for theirs in self.context.gather([ours])):
            raise UserError("the processes read different stages", place=self.options.name, remedy="start them again")


@RUNNERS.register()
class Chain(Stages):
    """Stages one after the other, each from its own option file; done ones are skipped on restart.

    Args:
        stages: option files, relative to the working folder or to the file that names them; `file.yml key=value ...`
            overrides options of one stage, a value with spaces in quotes.
    """

    def __init__(self, *, options: Options, context: Context, stages: list[str]) -> None:
        super().__init__(options=options, context=context)
        if not stages:
            raise ConfigError("a chain needs at least one stage", place=place_of(options, "run.stages"))
        self.entries = stages

    def load(self) -> list[Options]:
        places: dict[tuple[Path, str], str] = {}

        def load_stage(number: int, stage: str) -> Options:
            file, overrides = self._parse(stage)
            options = load_options(file, overrides, debug=self.context.debug)
            if options.run is not None and options.run.type == "Chain" and options.name == self.options.name:
                raise ConfigError("a chain cannot be a stage of itself")
            place = self.place(number)
            first = places.setdefault((file.resolve(), options.name), place)
            if first != place:
                raise ConfigError(
                    f"'{file}' under the name '{options.name}' is a stage already ({first})",
                    remedy="remove one, or add name=OTHER",
                )
            return options

        return self.for_each(self.entries, load_stage)

    def place(self, number: int) -> str:
        return f"{place_of(self.options, 'run.stages')}[{number}]"

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


@RUNNERS.register()
class Study(Stages):
    """A paper's tables and figures in one file: stages, multiplied by axes, that name each other's products.

    Args:
        stages: name -> partial option file, laid over the file's own sections; `over: [axis, ...]` multiplies it.
        axes: name -> values of one option, or label -> partial option file and `$names`.
        only: stages (`stage` or `stage[label]`) to run, with all that they need. None: all.
    """

    branches: list[Branch]

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        stages: dict[str, Any],
        axes: dict[str, Any] | None = None,
        only: list[str] | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        if not stages:
            raise ConfigError("a study needs at least one stage", place=place_of(options, "run.stages"))
        assert options.source is not None, "load_options keeps the source of files with stages"
        self.source = options.source

    def load(self) -> list[Options]:
        found = Matrix(self.source).options(debug=self.context.debug)
        self.branches = [branch for branch, _ in found]
        return [options for _, options in found]

    def place(self, number: int) -> str:
        return self.branches[number].place

    def expand(self, folder: Path) -> list[Path]:
        """Write every stage as an ordinary option file."""
        written = []
        for options in self.stages:
            path = folder / f"{options.name}.yml"
            write_options(options, path)
            written.append(path)
        return written

    def write_page(self, plan: Plan) -> None:
        write_study_page(self.options, plan)


def _is_sure(runner: Runner, problem: ConfigError) -> bool:
    """Whether a stage is sure to read a missing file; the sections of a study may name more than it needs."""
    return isinstance(runner, (Train, Test, PaperTable)) or ": run." in problem.place


def in_stage(line: str, place: str) -> ConfigError:
    """A stage's problem with its place in the chain, which is also where the overrides of the stage stand."""
    return ConfigError(line.removeprefix(f"{COMMAND_LINE}: "), place=place)
