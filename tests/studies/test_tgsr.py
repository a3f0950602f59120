"""TGSR's study: its files name all tables and figures, and it runs, rehearsed from data as the recipes lay it out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.originals import lay_out
from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.methods.tgsr.artefacts import Groups
from tgsr.study import pool
from tgsr.study.paper import TableFile
from tgsr.study.rehearsal import Rehearsal
from tgsr.study.study import Study
from tgsr.utils.files import read_json

OPTIONS = Path(__file__).resolve().parents[2] / "options"
FILES = [f"table{k}" for k in range(1, 8)] + [f"figure{k}" for k in (1, *range(3, 14))]
TRAINED = {"IndicatorSweep", "SingleTaskGains", "TrainOnGroups"}


def study(file: str, *overrides: str) -> Study:
    runner = make_runner(load_options(OPTIONS / file, overrides), Context.create(device="cpu", launcher="none"))
    assert isinstance(runner, Study)
    return runner


def test_every_table_and_figure_has_its_file_and_the_study_has_them_all():
    everything = {branch.key.stage for branch in _branches("tgsr/paper.yml")}
    for name in FILES:
        stages = _branches(f"tgsr/{name}.yml")
        assert name in {branch.key.stage for branch in stages}
        assert {branch.key.stage for branch in stages} <= everything
    assert not {"z_text", "own_sets", "table1_text", "table1_own"} & everything, "what the paper does not have"
    for name in ("table1_text", "table1_own"):
        assert name in {branch.key.stage for branch in _branches(f"tgsr/{name}.yml")}
    assert {b.key.name for b in _branches("tgsr/table1_text.yml")} >= {
        "tgsr/z_text-RealESRGAN",
        "tgsr/tuned-RealESRGAN-text",
    }


def _branches(file: str):
    found = study(file)
    assert found.stages
    return found.branches


@pytest.mark.parametrize("file", ["tgsr/paper.yml", "mini/tgsr.yml"])
def test_fine_tuning_has_a_start_and_batches_are_the_papers(file):
    for options in study(file, "run.only=null").stages:
        kind = "Train" if options.run is None else options.run.type
        starts = kind in TRAINED or (kind == "GroupTasks" and options.run.kwargs.get("random_like") is None)
        if starts or (kind == "Train" and options.tasks.set is not None):
            assert options.path.pretrain_network_g is not None, options.name
        if kind in ("Train", "TrainOnGroups") and options.name.startswith("tgsr/"):
            assert options.datasets.train.batch_size == 48, options.name


def test_the_mini_study_asks_its_further_questions():
    names = [o.name for o in study("mini/tgsr.yml").stages]
    assert len(names) == 22
    assert names[-1] == "tgsr_mini/report-32-1"
    few = [o.name for o in study("mini/tgsr.yml", "run.only=[compare_16]").stages]
    assert "tgsr_mini/compare_16-16-1" in few
    assert not [n for n in few if "-32" in n]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for name in ("df2k_ost", "set14", "realsr", "realsr_v2", "aim2019"):
        lay_out(name, folder / "datasets")
    return folder


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    """Of the pools; `rehearse` changes it, in other ranks, too."""
    monkeypatch.setattr(pool, "default_processes", pool.default_processes)


def rehearse(context: Context, *overrides: str) -> dict[str, str]:
    """Stage -> what became of it, in a tiny rehearsal in a folder."""
    pool.default_processes = lambda context: 1  # a process of its own takes seconds to start
    runner = make_runner(load_options(OPTIONS / "tgsr/paper.yml", list(overrides)), context)
    assert isinstance(runner, Study)
    rehearsal = Rehearsal(runner, is_tiny=True)
    assert not [p for p in rehearsal.missing_files() if "weights/" not in str(p)]
    rehearsal.run()
    return {o.name.removeprefix("tgsr/"): f"{o.word} {o.why}".strip() for o in rehearsal.outcomes}


LIGHT = ["table3", "table6", "figure1", "figure3", "figure6", "figure7", "figure10"]


def test_the_study_of_one_network_is_rehearsed(data, monkeypatch):
    """All kinds of stages of the paper, on RealESRGAN."""
    monkeypatch.chdir(data)
    outcomes = rehearse(Context.create(device="cpu", launcher="none"), f"run.only=[{','.join(LIGHT)}]")
    assert {k: v for k, v in outcomes.items() if v != "ok"} == {}
    root = Path("experiments/rehearsal/tgsr")
    groups = Groups.load(root / "groups-RealESRGAN-5G/groups.json")
    assert list(groups.members) == ["Group1", "Group2", "Group3", "Group4"]
    assert groups.rest, "group 0 has tasks of its own"
    assert [g["members"] for g in read_json(root / "alone-RealESRGAN-5G/networks.json")["groups"]] == [
        [f"Group{k}"] for k in (1, 2, 3, 4)
    ]
    table = TableFile.load("results/rehearsal/tgsr/table3/table.json")
    alone = table.measurements.numbers("RealESRGAN-SG")
    assert {c.split("/")[0] for c in alone} == {"Group1", "Group2", "Group3", "Group4"}, "each on its own group"
    assert {c.split("/")[0] for c in table.measurements.numbers("RealESRGAN-TG")} == {f"Group{k}" for k in range(5)}
    figure10 = json.loads((root / "compare-RealESRGAN/comparison.json").read_text())
    gains = (root / "gains_gan-RealESRGAN/gains.jsonl").read_text().splitlines()
    assert json.loads(gains[0])["protocol"]["pretrained"]["digest"] == figure10["weights"]["RealESRGAN"], "one start"


def _on_two(context: Context) -> dict[str, str]:
    roots = ("path.experiments_root=two", "path.results_root=two_results")
    return rehearse(context, "run.only=[figure3, figure6]", *roots)


def test_two_ranks_rehearse_it(data, monkeypatch):
    monkeypatch.chdir(data)
    monkeypatch.setattr("tests.ranks.SECONDS", 240)  # on a busy machine
    outcomes = in_processes(2, _on_two)
    assert outcomes[0] == outcomes[1]
    assert {k: v for k, v in outcomes[0].items() if v != "ok"} == {}


@pytest.mark.slow
def test_the_whole_study_is_rehearsed(data, monkeypatch):
    monkeypatch.chdir(data)
    outcomes = rehearse(Context.create(device="cpu", launcher="none"))
    assert {k: v for k, v in outcomes.items() if v != "ok"} == {}
