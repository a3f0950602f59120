"""A stage's folder, continued or made anew without losing an old one, and the hash that identifies its numbers."""

from __future__ import annotations

from dataclasses import replace

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.engine.checkpoint import Experiment
from tgsr.engine.runner import Runner


def result_hash(options: Options) -> str:
    """Hash of all options that can change a stage's numbers; the number of processes is not among them."""
    if options.run is not None:
        kwargs = {k: v for k, v in options.run.kwargs.items() if k != "processes"}
        options = replace(options, run=replace(options.run, kwargs=kwargs))
    return options_hash(options)


def open_folder(runner: Runner) -> None:
    """Make `experiments/<name>`; one that exists is kept with `--auto_resume` and moved aside without. On all ranks."""
    if runner.context.is_main:
        experiment = Experiment(runner.options.path.experiments_root, runner.options.name)
        experiment.prepare(resume=runner.context.auto_resume)
        for unused in (experiment.models, experiment.states):
            if not any(unused.iterdir()):
                unused.rmdir()
    runner.context.barrier()
