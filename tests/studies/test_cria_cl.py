"""A table of Cria-CL's study rehearsed: its stages for real, narrow and short, on data laid out as the recipes do."""

import shutil
from pathlib import Path

import pytest

from tests.data.originals import lay_out
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.study.paper import TableFile
from tgsr.study.rehearsal import Rehearsal

OPTIONS = Path(__file__).resolve().parents[2] / "options"
SETS = ("ntire2020", "realsr", "camerasr", "realsr_zero", "div2k", "flickr2k")
RESULTS = Path("results/rehearsal/cria_cl")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """`datasets/` of the study, and its option files beside."""
    root = tmp_path_factory.mktemp("cria_cl")
    for name in SETS:
        lay_out(name, root / "datasets")
    shutil.copytree(OPTIONS, root / "options")
    return root


@pytest.fixture
def folder(data, tmp_path, monkeypatch):
    for name in ("datasets", "options"):
        (tmp_path / name).symlink_to(data / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rehearse(file, context):
    study = make_runner(load_options(file), context)
    rehearsal = Rehearsal(study, is_tiny=True)
    rehearsal.run()
    return {o.name: (o.word, o.why) for o in rehearsal.outcomes}


def write(file, only, base="options/cria_cl/paper.yml"):
    Path(file).write_text(f"_base_: [{Path(base).absolute()}]\nrun: {{only: [{only}]}}\n")
    return file


def test_a_table_of_three_trainings_and_its_noise(folder):
    outcomes = rehearse(write("one.yml", "table6"), Context.create(device="cpu", launcher="none"))
    assert {name: o for name, o in outcomes.items() if o[0] != "ok"} == {}
    assert list(outcomes)[0] == "cria_cl/noise"
    table = TableFile.load(RESULTS / "table6/table.json")
    assert not table.not_measured
    assert "paper 26.21" in table.table().to_markdown()


@pytest.mark.slow
def test_the_whole_paper(folder):
    outcomes = rehearse("options/cria_cl/paper.yml", Context.create(device="cpu", launcher="none"))
    assert {name: o for name, o in outcomes.items() if o[0] != "ok"} == {}
    assert {f"cria_cl/table{i}" for i in range(1, 8)} <= set(outcomes)
    assert not any("from_ESRGAN" in name or "rebalancing" in name for name in outcomes), "not in the paper"
    table = TableFile.load(RESULTS / "table5/table.json")
    assert not table.not_measured
    assert len(table.measurements.names) == 8
