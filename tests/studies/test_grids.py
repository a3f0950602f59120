"""GRIDS' studies rehearsed: every stage of every table and figure really runs, on data that the recipes laid out."""

import os
import shutil
from pathlib import Path

import pytest

from tests.data.originals import lay_out
from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.methods.grids.paper_values import PAPER_GROUPS, TABLE2
from tgsr.methods.grids.trainings import group_key
from tgsr.study.paper import TableFile
from tgsr.study.rehearsal import Rehearsal
from tgsr.utils.files import read_json

OPTIONS = Path(__file__).parents[2] / "options"


def rehearsed(context, file, *overrides):
    """The study of an option file, rehearsed tiny in the current folder."""
    study = make_runner(load_options(OPTIONS / file, list(overrides)), context)
    missing = study.missing_files()
    assert not missing, "\n".join(map(str, missing))
    rehearsal = Rehearsal(study, is_tiny=True)
    rehearsal.run()
    assert not rehearsal.failed, [(o.name, o.why) for o in rehearsal.failed]
    return rehearsal


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals") / "datasets"
    for name in ("bsds500", "df2k", "realsr", "demo"):
        lay_out(name, root)
    for folder in ("DIV2K/DIV2K_train_HR", "bsds500/train"):  # a router needs some reference images
        for image in sorted((root / folder).glob("*.*")):
            for k in range(2):
                shutil.copy(image, image.with_stem(f"{image.stem}{k}"))
    return root


@pytest.fixture
def place(data, tmp_path, monkeypatch):
    (tmp_path / "datasets").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_paper_from_end_to_end(place):
    """All that the paper has, and the search that it describes; each network is trained once."""
    rehearsal = rehearsed(Context.create(device="cpu", auto_resume=True), "grids/paper.yml", "run.only=null")
    trained = [o.name for o, s in zip(rehearsal.outcomes, rehearsal.stages, strict=True) if s.run is None]
    # 11 alone, 1 of all, 4 groups, 12 of Table 2, 1 of Fig. 2
    assert sum("Restormer" in name for name in trained) == 29
    assert sum("SRResNet" in name for name in trained) == 16
    table = TableFile.load("results/rehearsal/grids/table1/table.json")
    assert set(table.not_measured) == {"RealESRNet (released)", "AirNet (released)", "IDR", "RealESRNet", "AMIRNet"}
    ours = {name: table.measurements.numbers(name) for name in table.measurements.names}
    assert {
        len(ours[f"{net} {row}"]) for net in ("SRResNet", "Restormer") for row in ("single", "mixed", "grouped")
    } == {11}
    for number, rows in (("2a", 8), ("2b", 4), ("2c", 2)):
        drops = read_json(f"experiments/rehearsal/grids/table{number}/group_drops.json")
        assert len(drops["groups"]) == rows
        assert Path(f"results/rehearsal/grids/table{number}/report/index.html").exists()
        assert not list(
            Path(f"experiments/rehearsal/grids/table{number}").glob("models/*/*")
        )  # nothing was trained here
    groups = {group_key(g["members"]) for g in read_json("experiments/rehearsal/grids/search/groups.json")["groups"]}
    assert sorted(n for key in groups for n in key.split("+")) == sorted(n for g in PAPER_GROUPS for n in g)


def test_every_file_of_the_paper_names_its_table():
    """Table 2's groups are those in print, and no file trains what another one trains under another name."""
    names: dict[str, str] = {}
    for file in sorted((OPTIONS / "grids").glob("*.yml")):
        study = make_runner(load_options(file), Context.create(device="cpu"))
        for options in study.stages:
            if options.run is None:
                assert options.tasks.set is None or names.setdefault(options.name, file.name)
    mixed = {name.rsplit("-", 1)[1] for name in names if "-Restormer-" in name and "+" in name}
    assert mixed >= {group_key(row.group) for row in TABLE2} | {group_key(g) for g in PAPER_GROUPS}


def test_the_mini_study(place):
    rehearsed(Context.create(device="cpu", auto_resume=True), "mini/grids.yml", "run.only=[compare,router,table2]")
    content = read_json("experiments/rehearsal/grids_mini/compare/comparison.json")
    assert {r["arm"] for r in content["runs"]} == {"single", "mixed", "mixed_long", "grouped", "random"}


@pytest.mark.slow
def test_the_mini_study_again(place):
    rehearsed(
        Context.create(device="cpu", auto_resume=True),
        "mini/grids.yml",
        "run.only=['again[0]',again_mixed,router_again]",
    )


def _on_rank(context, file, overrides, folder):
    os.chdir(folder)
    context.auto_resume = True
    rehearsed(context, file, *overrides)


def test_two_ranks(place):
    in_processes(2, _on_rank, "grids/figure3.yml", [], place)
    assert Path("experiments/rehearsal/grids/similarity/similarity.npz").exists()
    assert Path("results/rehearsal/grids/similarity/report/index.html").exists()


@pytest.mark.slow
def test_tables_on_two_ranks(place):
    """Table 2 (c) needs its four single-task networks and its two groups, and no other training."""
    in_processes(2, _on_rank, "grids/table2c.yml", [], place)
    drops = read_json("experiments/rehearsal/grids/table2c/group_drops.json")
    assert [len(g["drops"]) for g in drops["groups"]] == [3, 3]
    assert len(list(Path("experiments/rehearsal/grids").glob("*/models/net_g_latest.pth"))) == 7  # and the descriptor


@pytest.mark.slow
def test_figure5_on_two_ranks(place):
    in_processes(2, _on_rank, "grids/figure5.yml", [], place)
    assert Path("experiments/rehearsal/grids/figure5/router.json").exists()
