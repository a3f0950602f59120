"""What there is to use and what there is already: `tgsr list`, `runs`, `compare`, `diff`, and the same from Python."""

from __future__ import annotations

import json

import pytest

from tests.engine.toy import toy_options, write_options
from tgsr.cli import main
from tgsr.config.catalogue import KINDS, find_component, list_components
from tgsr.report.runs import find_run, find_runs
from tgsr.utils.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that is done, a longer one that was stopped, and one that was moved aside."""
    root = tmp_path_factory.mktemp("runs")
    first = toy_options(root, name="study/a", val={"val_freq": 2, "metrics": toy_options(root)["val"]["metrics"]})
    second = {**first, "name": "b", "train": {**first["train"], "ema_decay": 0.9}}
    (root / "study").mkdir()
    for options in (first, second):
        assert main(["train", "-opt", str(write_options(root, options))]) == 0
    written = root / "experiments" / "b"
    (root / "results" / "b" / "metrics.json").unlink()
    (written / "b.yml").write_text((written / "b.yml").read_text().replace("total_iter: 6", "total_iter: 10"))
    (root / "results" / "old_archived_20250101_000000").mkdir()
    numbers = (root / "results" / "study" / "a" / "metrics.json").read_bytes()
    (root / "results" / "old_archived_20250101_000000" / "metrics.json").write_bytes(numbers)
    return root


def run(root, capsys, *arguments):
    capsys.readouterr()
    code = main([*arguments, "--experiments", str(root / "experiments"), "--results", str(root / "results")])
    return code, "".join(capsys.readouterr())


def test_runs_and_their_page(folder, capsys):
    code, text = run(folder, capsys, "runs")
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines()}
    measured = json.loads((folder / "results" / "study" / "a" / "metrics.json").read_text())
    psnr = measured["datasets"]["toy"]["metrics"]["psnr"]["mean"]
    assert "  done  " in lines["study/a"]
    assert f"toy psnr {psnr:.4g}" in lines["study/a"]
    assert "iteration 6 of 10" in lines["b"]
    assert "toy psnr" in lines["b"]  # of its last validation
    assert not any("archived" in name for name in lines)
    page = (folder / "results" / "index.html").read_text()
    assert '<a href="study/a/report/index.html">study/a</a>' in page
    empty = ["runs", "--experiments", str(folder / "none"), "--results", str(folder / "none")]
    assert main(empty) == 2


def test_two_runs_beside_each_other(folder, capsys):
    code, text = run(folder, capsys, "diff", "study/a", str(folder / "experiments" / "b"))
    assert code == 0
    assert text.splitlines() == ["train.total_iter: 6 -> 10", "train.ema_decay: 0.5 -> 0.9"]
    code, text = run(folder, capsys, "compare", "study/a", "b")
    assert code == 0
    assert "  train.ema_decay: 0.5 -> 0.9" in text
    report = folder / "results" / "compare" / "study_a_and_b"
    assert text.splitlines()[-1] == str(report / "index.html")
    assert "bicubic" in (report / "tables" / "results.md").read_text()
    assert {p.stem for p in (report / "figures").iterdir()} == {"psnr_toy", "loss_pixel"}
    code, text = run(folder, capsys, "compare", "study/a", "bb")
    assert code == 2
    assert "there is no run 'bb'" in text
    assert "did you mean 'b'" in text
    code, text = run(folder, capsys, "compare", "b")
    assert code == 2
    assert "needs two runs" in text


def test_from_python(folder):
    experiments, results = folder / "experiments", folder / "results"
    assert {r.name: r.state for r in find_runs(experiments, results)} == {"study/a": "done", "b": "iteration 6 of 10"}
    assert find_run("b", experiments, results).options["train"]["total_iter"] == 10
    with pytest.raises(DataError, match="no run 'c'"):
        find_run("c", experiments, results)


def test_everything_that_an_option_file_may_name_has_a_line(capsys):
    found = list_components()
    assert list(found) == list(KINDS)
    nameless = [f"{kind}: {c.name}" for kind, entries in found.items() for c in entries if not c.summary]
    assert not nameless
    assert main(["list", "networks"]) == 0
    assert any(line.split()[0] == "RRDBNet" for line in capsys.readouterr().out.splitlines()[1:])
    (network,) = find_component("RRDBNet")
    assert any(argument.startswith("num_block: ") and argument.endswith("= 23") for argument in network.arguments)
    assert not {a.split(":")[0] for c in found["task_samplers"] for a in c.arguments} & {"tasks", "seed"}
    assert main(["list", "L1Loss"]) == 0
    assert "loss_weight: " in capsys.readouterr().out
    assert main(["list", "RRDBNett"]) == 2
    assert "did you mean 'RRDBNet'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no kind of component 'network'; did you mean 'networks'"):
        list_components("network")
