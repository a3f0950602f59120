"""Option files of the room, benchmarks and paper tables."""

import re
from pathlib import Path

import pytest

from tests.methods.rebalancing_toys import make_options, run
from tgsr.config.options import load_options
from tgsr.data.benchmark import verify_benchmark
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.methods.rebalancing.references import COMPARED, protocol_of
from tgsr.study.printed import printed

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "options" / "rebalancing").glob("*.yml"))


def stages(file, *overrides):
    """Stage -> its options, of a study file."""
    study = make_runner(load_options(file, list(overrides)), Context.create(device="cpu"))
    return {options.name.split("/", 1)[1]: options for options in study.stages}


@pytest.fixture(scope="module")
def paper():
    return stages(ROOT / "options/rebalancing/paper.yml")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_file_makes_what_it_is_called(path):
    made = stages(path)
    for options in made.values():
        make_runner(options, Context.create(device="cpu"))
    if path.stem != "paper":
        assert any(name.startswith(path.stem) for name in made)


def test_the_paper_has_its_tables_and_figures_and_no_more(paper):
    shown = {re.sub(r"\D*$", "", n.split("-")[0]) for n in paper if n.startswith(("table", "figure"))}
    assert shown == {f"table{k}" for k in range(1, 6)} | {f"figure{k}" for k in (1, *range(4, 12))}
    assert not any(n.startswith("conclusion2") or "hybrid" in n for n in paper)


def test_batches_are_the_papers_on_any_number_of_gpus(paper):
    for name, options in paper.items():
        if name.split("-")[0] in ("references", "ours", "others", "references_pixel", "ours_pixel"):
            for ranks in (1, 4, 8):
                micro, steps = build.micro_batches(options, ranks)
                assert build.global_batch(options, ranks) == 48
                assert ranks * micro * steps == 48
                most = 4 if "HAT" in name or "SwinIR" in name else 48 if name.endswith("GLS") else 12
                assert micro <= most
                assert steps == 1 or not name.endswith("GLS")


def test_rows_are_those_in_print(paper):
    for number in range(1, 6):
        rows = paper[f"table{number}"].run.kwargs["rows"]
        assert set(printed("rebalancing").table(number).rows) <= set(rows)
    first = paper["table1"].run.kwargs["rows"]
    assert str(first["RealESRGAN"]) == "weights/RealESRGAN_x4plus.pth"
    assert str(first["RealESRGAN, uniform fine-tuning"]).endswith("others-RealESRGAN-uniform/models/net_g_latest.pth")


def test_figure_9_sweeps_blur_beyond_the_end_of_the_line(paper):
    tasks = build.build_tasks(paper["sweep_wide-RealESRGAN-blur"])
    values = tasks.source["values"]
    assert (values[0], len(values)) == (0.2, 50)
    assert max(values) > 3.8
    last = tasks[49].space.params
    assert last["kernel1_sigma_x"] == pytest.approx(5)
    assert last["kernel2_sigma_x"] == pytest.approx(2.5)


def test_four_level_benchmark(tmp_path):
    stage = {"type": "TaskBenchmark", "gt": str(tmp_path / "val"), "output": str(tmp_path / "levels")}
    options = make_options(
        tmp_path, stem="levels", run=stage, tasks={"set": {"type": "Partition", "preset": "cdr4"}},
        degradation={"space": {"type": "SecondOrder", "preset": "cdr"}},
    )  # fmt: skip
    run(options)
    found = sorted(str(p.relative_to(tmp_path / "levels")) for p in (tmp_path / "levels").rglob("*.png"))
    assert found == sorted(f"LQ/{t}/{i}.png" for t in ("mild", "blur", "noise", "severe") for i in ("00", "01"))
    assert verify_benchmark(tmp_path / "levels") == []
    roots = {"dataroot_gt": str(tmp_path / "val"), "dataroot_lq": str(tmp_path / "levels" / "LQ" / "blur")}
    test = make_options(tmp_path, stem="pairs", datasets={"val": {"pairs": {"type": "PairedDataset", **roots}}}, val={})
    assert len(build.build_val_sets(test)["pairs"]) == 2


def test_cria_cl_and_its_references_fit(tmp_path, monkeypatch):
    """Both stages start from one file, and what references and run must share is the same in both."""
    monkeypatch.chdir(ROOT)
    start = tmp_path / "start.pth"
    start.write_bytes(b"weights")
    found = stages("options/cria_cl/paper.yml", "run.only=[with_rebalancing]", f"path.pretrain_network_g={start}")
    made, ours = found["references"], found["with_rebalancing"]
    for options in (made, ours):
        make_runner(options, Context.create(device="cpu"))
    theirs, mine = protocol_of(made), protocol_of(ours)
    assert {k: theirs[k] for k in COMPARED} == {k: mine[k] for k in COMPARED}
    assert mine["network"]["type"] == "CriaCLPaper"
    kwargs = ours.tasks.sampler.kwargs
    assert str(kwargs["references"]) == f"experiments/{made.name}/references.json"
    assert kwargs["interval"] % made.run.kwargs["interval"] == 0
    assert ours.train.total_iter <= made.train.total_iter
    assert [t.id for t in build.build_tasks(ours)] == [t.id for t in build.build_tasks(made)]
