"""A fifth paper is a folder in `methods/` and a study file: nothing else names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import tgsr
from tests.engine.toy import make_images, toy_options

ROOM = '''
"""A toy paper: counts the tasks of a file."""
from pathlib import Path

from tgsr.engine.runner import RUNNERS
from tgsr.report.builder import Report
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import load_tasks
from tgsr.utils.files import write_json


@RUNNERS.register()
class CountTasks(Stage):
    """Counts.

    Args:
        tasks: `tasks.json`.
    """

    product = "count.json"

    def __init__(self, *, options, context, tasks: Path) -> None:
        super().__init__(options=options, context=context)
        self.path = tasks

    def work(self) -> None:
        if self.context.is_main:
            write_json(self.folder / self.product, {"count": len(load_tasks(self.path))})

    def page(self) -> Report:
        return Report("count")
'''
PRINTED = """
title: A toy paper
tables:
  "1":
    title: "Table 1: a set"
    sets: [toy]
    metrics: [psnr]
    rows: {Theirs: [20.5]}
"""
STUDY = """
_base_: [base.yml]
name: fifth
run:
  type: Study
  stages:
    tasks: {run: {type: MakeTasks, num_tasks: 3}}
    count: {run: {type: CountTasks, tasks: "@tasks"}}
    table1: {run: {type: PaperTable, paper: fifth/1, rows: {bicubic: bicubic}}}
"""


def test_a_room_is_found_by_name(tmp_path):
    package = tmp_path / "copy" / "tgsr"
    shutil.copytree(Path(tgsr.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    room = package / "methods" / "fifth"
    room.mkdir()
    (room / "__init__.py").write_text('"""A toy paper."""\n')
    (room / "stages.py").write_text(ROOM)
    (room / "printed.yml").write_text(PRINTED)
    base = toy_options(tmp_path)
    del base["name"]
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val", num=2)
    (tmp_path / "base.yml").write_text(yaml.safe_dump(base))
    (tmp_path / "fifth.yml").write_text(STUDY)
    env = {**os.environ, "PYTHONPATH": str(package.parent)}
    command = [sys.executable, "-m", "tgsr.cli", "train", "-opt", "fifth.yml"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "experiments/fifth/count/count.json").read_text()) == {"count": 3}
    assert (tmp_path / "results/fifth/count/report/index.html").exists()
    page = (tmp_path / "results/fifth/index.html").read_text()
    assert "Theirs" in page
    assert "20.50" in page
