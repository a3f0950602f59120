"""The study of rebalancing, rehearsed from data in the official layouts: nothing is named that nothing makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.originals import lay_out
from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.study.rehearsal import Rehearsal

OPTIONS = Path(__file__).resolve().parents[2] / "options"
SETS = ("bsds500", "div2k", "flickr2k", "df2k", "ost", "set14", "realsr", "realsr_v2", "drealsr")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rebalancing")
    for name in SETS:
        lay_out(name, folder / "datasets")
    return folder


def rehearse(context: Context, folder: Path, file: str, only: list[str] | None = None) -> dict[str, str]:
    """Stage -> what became of it."""
    overrides = [] if only is None else [f"run.only=[{','.join(only)}]"]
    study = make_runner(load_options(OPTIONS / file, overrides), context)
    rehearsal = Rehearsal(study, is_tiny=True)
    rehearsal.run()
    return {o.name.removeprefix("rebalancing/"): f"{o.word} {o.why}".strip() for o in rehearsal.outcomes}


def artefact(folder: Path, kind: str, name: str) -> dict:
    return json.loads((folder / kind / "rehearsal/rebalancing" / name).read_text())


@pytest.mark.slow
def test_every_table_and_figure(data, monkeypatch):
    monkeypatch.chdir(data)
    outcomes = rehearse(Context.create(device="cpu", num_threads=1), data, "rebalancing/paper.yml")
    assert {name: word for name, word in outcomes.items() if word != "ok"} == {}


@pytest.mark.slow
def test_two_ranks_share_trainings_and_images(data, monkeypatch):
    """Of three references two queue and the third is data parallel; each value of a curve is written once."""
    monkeypatch.chdir(data)
    only = ['"references[RealESRGAN,3]"', "figure7", "figure5b"]
    found = in_processes(2, rehearse, data, "rebalancing/paper.yml", only)
    assert {name: word for name, word in found[0].items() if word != "ok"} == {}
    references = artefact(data, "experiments", "references-RealESRGAN-3/references.json")
    assert references["tasks"].keys() == {"mild", "blur", "noise"}
    for name, entry in references["tasks"].items():
        assert sorted(map(int, entry["curve"])) == [0, 1, 2, 3]
        curve = data / "experiments/rehearsal/rebalancing/references-RealESRGAN-3" / name / "curve.jsonl"
        assert len(curve.read_text().splitlines()) == 5, "a header and four values"
    compared = artefact(data, "experiments", "figure7/comparison.json")["measurements"]["records"]
    rows = {name: {r["set"] for r in compared if r["name"] == name} for name in ("Ours", "single-task networks")}
    assert rows == dict.fromkeys(("Ours", "single-task networks"), {"mild", "blur", "noise", "severe"})
    assert (data / "results/rehearsal/rebalancing/figure5b/report/figures/weights_Ours.svg").is_file()


def test_six_checkpoints_or_as_many_as_there_are(data, monkeypatch):
    monkeypatch.chdir(data)
    outcomes = rehearse(Context.create(device="cpu", num_threads=1), data, "rebalancing/paper.yml", ["figure8"])
    assert {name: word for name, word in outcomes.items() if word != "ok"} == {}
    operators = artefact(data, "experiments", "figure8/discrimination.json")["operators"]
    assert {o: list(found) for o, found in operators.items()} == {"blur": ["3"], "noise": ["3"]}


def test_the_mini_study(data, monkeypatch):
    """Everything of the small one that needs three seeds and a pre-training, on one rank."""
    monkeypatch.chdir(data)
    only = ["compare_paper", "variance", "discrimination", '"trained[static groups,0]"', '"trained[hybrid T 0.2,0]"']
    outcomes = rehearse(Context.create(device="cpu", num_threads=1), data, "mini/rebalancing.yml", only)
    assert {name: word for name, word in outcomes.items() if word != "ok"} == {}
    page = (data / "results/rehearsal/rebalancing_mini/compare_paper-paper/report/tables/differences.csv").read_text()
    assert [line.split(",")[0] for line in page.splitlines()[1:]] == ["rebalancing", "rebalancing T 0.2"]
