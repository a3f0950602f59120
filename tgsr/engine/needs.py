"""What the stages of an option file read and do not make themselves, and the commands that get it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tgsr.config.options import input_paths
from tgsr.data.recipes import command, recipe_for
from tgsr.models import zoo

if TYPE_CHECKING:
    from tgsr.engine.runner import Runner


def remedy_for(path: Path) -> str:
    """What to do about a file or folder that is not there: the command that gets it, where there is one."""
    name = recipe_for(path)
    return command(name) if name is not None else zoo.command_for(path) or "correct the path"


def inputs_of(runner: Runner) -> list[Path]:
    """Files and folders that the stages of a runner read and that none of them makes, each once, in order."""
    stages = all_stages(runner)
    made = [Path(os.path.abspath(path)) for stage in stages for path in stage.outputs()]
    read = dict.fromkeys(path for stage in stages for _, path in input_paths(stage.used_options()))
    return [p for p in read if not any(Path(os.path.abspath(p)).is_relative_to(folder) for folder in made)]


def all_stages(runner: Runner) -> list[Runner]:
    """Those of a study or chain, and of chains inside it."""
    return [stage for r in runner.runners() for stage in all_stages(r)] if runner.runs_stages else [runner]
