"""The study of rebalancing, rehearsed from data in the official layouts: nothing is named that nothing makes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.originals import lay_out
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.study.rehearsal import Rehearsal

OPTIONS = Path(__file__).resolve().parents[2] / "options"
SETS = ("div2k", "flickr2k", "df2k", "ost", "set14", "realsr", "realsr_v2", "drealsr")


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
