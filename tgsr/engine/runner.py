"""Runner: one stage that an option file describes; and the chain of several."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path

from tgsr.config.options import load_options, options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import Kind, Spec
from tgsr.engine.context import Context
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import read_json, write_json
from tgsr.utils.registry import Registry

logger = logging.getLogger("tgsr")
RUNNERS = Registry("stage", package="tgsr.engine")
_KIND = Kind("tgsr.engine.runner:RUNNERS", runtime=("options", "context"))


class Runner(ABC):
    """A resumable stage. It reads artefacts of earlier stages from files and leaves its own in its experiment folder.

    Args:
        options: the whole option file.
        context: this process.
    """

    def __init__(self, *, options: Options, context: Context) -> None:
        self.options, self.context = options, context

    @property
    def folder(self) -> Path:
        """`experiments/<name>`."""
        return Path(self.options.path.experiments_root) / self.options.name

    @abstractmethod
    def run(self) -> None:
        """Do the work, continuing what is there when `context.auto_resume`."""

    def check(self) -> list[str]:
        """What `--check` should say about this stage, without doing it: problems beyond wrong options."""
        return []


def make_runner(options: Options, context: Context) -> Runner:
    """The stage that an option file describes; plain training when it names none."""
    spec = options.run or Spec(_KIND, "Train")
    return spec.build(options=options, context=context)


def run_stage(options: Options, context: Context) -> bool:
    """Run a stage and mark it as done; a done stage of the same options is not run again when resuming.

    Returns:
        Whether it is done; False when it was asked to stop.
    """
    marker = Path(options.path.experiments_root) / options.name / "stage.json"
    is_chain = options.run is not None and options.run.type == "Chain"
    if context.auto_resume and not is_chain and _is_done(marker, options):
        logger.info("%s is done already", options.name)
        return True
    make_runner(options, context).run()
    if context.should_stop():
        return False
    context.barrier()
    if context.is_main:
        if not is_chain:
            write_json(marker, {"schema": "tgsr.stage", "version": 1, "options": options_hash(options)})
        if context.after_stage is not None:
            context.after_stage(options)
    context.barrier()
    return True


def _is_done(marker: Path, options: Options) -> bool:
    try:
        return read_json(marker).get("options") == options_hash(options)
    except DataError:
        return False


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
            if not run_stage(options, self.context):
                return

    def check(self) -> list[str]:
        self.load()
        return []
