"""Runs of the rebalancing room that take a second, and references made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

import tgsr.methods  # noqa: F401 - registers
from tests.engine.toy import make_images, toy_options
from tgsr.config.options import load_options
from tgsr.config.schema import Options
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.engine.context import Context
from tgsr.engine.runner import run_stage
from tgsr.methods.rebalancing.boxes import partition_tasks
from tgsr.methods.rebalancing.references import References
from tgsr.tasks.task import TaskSet
from tgsr.utils.files import write_json

TASKS = {"set": {"type": "Partition", "cuts": {"noise": [0.5]}, "names": ["low", "high"]}}


def two_tasks() -> TaskSet:
    return partition_tasks(space=SecondOrderSpace(preset="x4plus"), cuts={"noise": [0.5]}, names=["low", "high"])


def four_tasks() -> TaskSet:
    return partition_tasks(space=SecondOrderSpace(preset="cdr"), preset="cdr4")


def fake_references(path: Path, tasks: TaskSet, curves: dict[str, dict[int, float]], *, interval: int = 2) -> Path:
    """A `references.json` with given PSNR curves and no protocol."""
    write_json(
        path,
        {
            "schema": References.schema,
            "version": References.version,
            "interval": interval,
            "protocol": {},
            "tasks": {
                t.name: {"id": t.id, "weights": "", "curve": {i: {"psnr": v} for i, v in curves[t.name].items()}}
                for t in tasks
            },
        },
    )
    return path


def make_options(root: Path, *, stem: str = "toy", **sections: Any) -> Options:
    """Options of a toy run with two tasks, validated on two images."""
    if not (root / "gt").exists():
        make_images(root / "gt")
        make_images(root / "val", num=2, seed=1)
    base: dict[str, Any] = {
        "name": stem,
        "tasks": TASKS,
        "network_g": {"type": "LightSR", "num_feat": 8, "num_block": 1},
        "val": {"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "val_tasks": "toy"},
    }
    path = root / f"{stem}.yml"
    path.write_text(yaml.safe_dump(toy_options(root, **{**base, **sections})))
    return load_options(path)


def run(options: Options, *, auto_resume: bool = True) -> None:
    assert run_stage(options, Context.create(device="cpu", auto_resume=auto_resume))
