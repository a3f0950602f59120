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


def inputs_of(runner: Runner, *, optional: bool = True) -> list[Path]:
    """Files and folders that the stages of a runner read and that none of them makes, each once, in order.

    Args:
        optional: with those that a stage can do without.
    """
    stages = all_stages(runner)
    made = [Path(os.path.abspath(path)) for stage in stages for path in stage.outputs()]
    read: dict[Path, None] = {}
    for stage in stages:
        without = set() if optional else {path for _, path in stage.optional_files()}
        read.update(dict.fromkeys(path for _, path in input_paths(stage.used_options()) if path not in without))
    return [p for p in read if not any(Path(os.path.abspath(p)).is_relative_to(folder) for folder in made)]


def missing_lines(runner: Runner) -> list[str]:
    """What is not there, a line each with the command that gets it; then what the stages can do without."""
    absent = [path for path in inputs_of(runner, optional=False) if not path.exists()]
    lines = [f"missing: {path}: {remedy_for(path)}" for path in absent]
    rows: dict[Path, list[str]] = {}
    for what, path in (item for stage in all_stages(runner) for item in stage.optional_files()):
        rows.setdefault(path, []).append(what)
    wanted = set(inputs_of(runner)) - set(absent)
    return lines + [
        f"not there, and done without: {path} ({', '.join(dict.fromkeys(what))})"
        for path, what in rows.items()
        if path in wanted and not path.exists()
    ]


def all_stages(runner: Runner) -> list[Runner]:
    """Those of a study or chain, and of chains inside it."""
    return [stage for r in runner.runners() for stage in all_stages(r)] if runner.runs_stages else [runner]
