"""Studies run, skip what is done, go on after a stop, rehearse and plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.engine.toy import make_images, toy_options
from tests.ranks import in_processes
from tgsr.cli import main
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.engine.trainer import Trainer
from tgsr.study.rehearsal import Rehearsal

STUDY = """
_base_: [base.yml]
name: toy
run:
  type: Study
  axes: {seed: [0, 1]}
  stages:
    pre: {}
    tuned: {over: [seed], path: {pretrain_network_g: "@pre"}}
    test: {run: Test, path: {pretrain_network_g: "@tuned[0]"}}
    table: {run: {type: PaperTable, rows: {tuned: "@tuned", bicubic: bicubic, elsewhere: {images: restored/x}}}}
"""
GONE = "pre: {datasets: {train: {dataset: {dataroot_gt: gone}}}}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val")
    base = toy_options(Path())
    del base["name"]
    base["path"] = {}
    base["train"]["total_iter"] = 4
    (tmp_path / "base.yml").write_text(yaml.safe_dump(base))
    (tmp_path / "toy.yml").write_text(STUDY)
    return tmp_path


def done(folder):
    """Stage -> when it was marked as done."""
    root = folder / "experiments"
    return {p.parent.relative_to(root).as_posix(): p.stat().st_mtime_ns for p in sorted(root.glob("**/stage.json"))}


def test_a_study_runs_in_order_and_starts_afresh_what_has_changed(folder):
    assert main(["train", "-opt", "toy.yml"]) == 0
    first = done(folder)
    assert list(first) == ["toy/pre", "toy/table", "toy/test", "toy/tuned-0", "toy/tuned-1"]
    page = (folder / "results/toy/index.html").read_text()
    assert "all done" in page
    assert "toy/tuned-1" in page
    assert "Not measured, since the files are not there: elsewhere" in page
    assert main(["train", "-opt", "toy.yml"]) == 0
    assert done(folder) == first
    (folder / "toy.yml").write_text(STUDY.replace("tuned: {", "tuned: {train: {ema_decay: 0.75}, "))
    assert main(["train", "-opt", "toy.yml"]) == 0
    second = done(folder)
    assert [name for name in first if second[name] == first[name]] == ["toy/pre"]


def test_plan_and_rehearsal(folder, capsys):
    assert main(["train", "-opt", "toy.yml", "--rehearse", "tiny"]) == 0
    assert list(done(folder)) == [f"rehearsal/toy/{name}" for name in ("pre", "table", "test", "tuned-0", "tuned-1")]
    cost = json.loads((folder / "experiments/rehearsal/toy/pre/stage.json").read_text())["cost"]
    assert cost["units"] == 3
    assert cost["seconds_per_unit"] > 0
    assert "toy/tuned-0" in (folder / "results/rehearsal/toy/index.html").read_text()
    capsys.readouterr()
    assert main(["train", "-opt", "toy.yml", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["toy/pre", "to", "do", "4"]
    assert lines[-2].startswith("5 stages, 0 done, 5 to do: ")
    assert lines[-1] == "not there, and done without: restored/x (row 'elsewhere')"
    assert not (folder / "experiments/toy").exists()


def on_ranks(context, rehearse):
    runner = make_runner(load_options("toy.yml"), context)
    (Rehearsal(runner, is_tiny=True) if rehearse else runner).run()
    return context.stop_requested


@pytest.mark.parametrize("rehearse", [False, True])
def test_two_ranks_make_all_products(folder, rehearse):
    assert in_processes(2, on_ranks, rehearse) == [False, False]
    names = ["pre", "table", "test", "tuned-0", "tuned-1"]
    root = "rehearsal/toy" if rehearse else "toy"
    assert list(done(folder)) == [f"{root}/{name}" for name in names]
    assert (folder / "results" / root / "table/table.json").exists()


def test_a_study_goes_on_after_a_stop(folder, monkeypatch):
    """Asked to stop in the second stage: the first is done, the second goes on, nothing is trained twice."""
    context = Context.create(device="cpu")
    real = Trainer.run

    def stopped(self):
        if self.options.name == "toy/tuned-0":
            self.context.stop_requested = True
        return real(self)

    monkeypatch.setattr(Trainer, "run", stopped)
    make_runner(load_options("toy.yml"), context).run()
    assert list(done(folder)) == ["toy/pre"]
    first = done(folder)
    monkeypatch.setattr(Trainer, "run", real)
    make_runner(load_options("toy.yml"), Context.create(device="cpu")).run()
    assert done(folder)["toy/pre"] == first["toy/pre"]
    assert len(done(folder)) == 5


def test_what_fails_in_a_rehearsal_is_named_and_what_needs_it_left_out(folder, capsys):
    (folder / "toy.yml").write_text(STUDY.replace("pre: {}", GONE))
    assert main(["train", "-opt", "toy.yml", "--rehearse"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("toy/pre: failed: ") and "gone" in line for line in lines)
    assert "toy/tuned-0: left out: needs toy/pre" in lines


def test_what_a_later_stage_lacks_is_told_before_the_first_runs(folder, capsys):
    later = STUDY.replace("tuned: {", "tuned: {datasets: {train: {dataset: {dataroot_gt: gone}}}, ")
    (folder / "toy.yml").write_text(later)
    assert main(["train", "-opt", "toy.yml"]) == 2
    assert (
        "run.stages.tuned and 1 more: toy.yml:9: datasets.train.dataset.dataroot_gt = gone" in capsys.readouterr().err
    )
    assert not done(folder)


def test_a_row_that_comes_later_is_measured_and_nothing_else(folder, capsys):
    (folder / "toy.yml").write_text(STUDY.replace("{images: restored/x}", "weights/x.pth"))
    assert main(["train", "-opt", "toy.yml"]) == 0
    first = done(folder)
    (folder / "weights").mkdir()
    weights = (folder / "experiments/toy/pre/models/net_g_latest.pth").read_bytes()
    (folder / "weights/x.pth").write_bytes(weights)
    capsys.readouterr()
    assert main(["train", "-opt", "toy.yml", "--plan"]) == 0
    assert "stale (what it reads has changed: ../weights/x.pth)" in capsys.readouterr().out
    assert main(["train", "-opt", "toy.yml"]) == 0
    second = done(folder)
    assert [name for name in first if second[name] != first[name]] == ["toy/table"]
    assert "are not there: elsewhere" not in (folder / "results/toy/index.html").read_text()


def test_a_plan_says_what_follows_from_a_change(folder, capsys):
    assert main(["train", "-opt", "toy.yml"]) == 0
    (folder / "toy.yml").write_text(STUDY.replace("pre: {}", "pre: {manual_seed: 3}"))
    capsys.readouterr()
    assert main(["train", "-opt", "toy.yml", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "stale (its options have changed)" in lines[1]
    assert all("to be done first" in line for line in lines[2:6])


def test_plan_names_what_is_missing(folder, capsys):
    (folder / "toy.yml").write_text(STUDY.replace("pre: {}", GONE))
    assert main(["train", "-opt", "toy.yml", "--plan"]) == 0
    assert "missing: gone: correct the path" in capsys.readouterr().out.splitlines()
