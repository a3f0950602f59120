"""Option files of the room, benchmarks and paper tables."""

from pathlib import Path

import pytest

from tests.methods.rebalancing_toys import make_options, run
from tgsr.config.options import load_options
from tgsr.data.benchmark import verify_benchmark
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.methods.rebalancing.references import COMPARED, protocol_of
from tgsr.report.artefacts import Metrics
from tgsr.study.paper import beside_results
from tgsr.study.printed import printed
from tgsr.study.study import Chain
from tgsr.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "options" / "rebalancing").glob("*.yml"), *(ROOT / "options" / "mini").glob("cdr*.yml")])


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_option_files_build(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = load_options(path)
    if options.tasks.set is not None:
        assert len(build.build_tasks(options)) >= 2
    runner = make_runner(options, Context.create(device="cpu"))
    if isinstance(runner, Chain):
        stages = runner.load()
        names = [o.name for o in stages]
        assert len(set(names)) == len(names)


def test_mini_chain_makes_what_it_compares(monkeypatch):
    monkeypatch.chdir(ROOT)
    chain = make_runner(load_options("options/mini/cdr.yml"), Context.create(device="cpu"))
    seen = set()
    for options in chain.load():
        runner = make_runner(options, Context.create(device="cpu")) if options.run is not None else None
        for weights in getattr(runner, "runs", {}).values():
            assert weights.parts[1] in seen, f"{options.name} needs {weights}"
        seen.add(options.name)


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


def test_measured_values_stand_beside_the_papers(tmp_path):
    protocol = {"protocol": "Y, crop 4", "higher_is_better": True}
    runs = [
        Metrics(tmp_path, f"r{k}", {"RealSRset-Nikon": {"metrics": {"psnr": {"mean": 26.0 + k, **protocol}}}})
        for k in (0, 1)
    ]
    table = beside_results(printed("rebalancing").table(4), {"Ours": runs})
    cell = table.cell("Ours", "RealSRset-Nikon/psnr")
    assert (cell.value, cell.paper, cell.num_runs) == (26.5, 26.16, 2)
    assert "n/a (paper 26.02)" in table.to_markdown()
    with pytest.raises(ConfigError, match="table 4 has no row 'ours'.*did you mean 'Ours'"):
        beside_results(printed("rebalancing").table(4), {"ours": runs})


def test_tables_stage(tmp_path):
    run(make_options(tmp_path, stem="tables", run={"type": "RebalancingTables"}))
    report = tmp_path / "results" / "tables" / "report"
    assert {p.stem for p in (report / "tables").glob("*.md")} == {f"table_{k}" for k in range(1, 6)}
    with pytest.raises(ConfigError, match="there is no table 9"):
        run(make_options(tmp_path, stem="wrong", run={"type": "RebalancingTables", "tables": {"9": {}}}))


def test_cria_cl_and_its_references_fit(tmp_path, monkeypatch):
    """Both stages start from one file, and what references and run must share is the same in both."""
    monkeypatch.chdir(ROOT)
    start = tmp_path / "start.pth"
    start.write_bytes(b"weights")
    made, ours = (
        load_options(f"options/cria_cl/{name}.yml", [f"path.pretrain_network_g={start}"])
        for name in ("with_rebalancing_references", "with_rebalancing")
    )
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


def test_table_3_is_made_by_its_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    rows = load_options("options/rebalancing/5_tables.yml").run.kwargs["tables"]["3"]
    assert set(rows) == set(printed("rebalancing").table(3).rows)
    for stem in ("srgan", "swinir", "hat"):
        test = load_options(f"options/rebalancing/4_test_{stem}.yml")
        training = load_options(f"options/rebalancing/2_train_{stem}.yml")
        plain = load_options(f"options/rebalancing/2_train_uniform_{stem}.yml")
        assert str(test.path.pretrain_network_g) == f"experiments/{training.name}/models/net_g_latest.pth"
        assert test.network_g == training.network_g == plain.network_g
        assert plain.path == training.path
        assert plain.tasks.sampler is None
        assert f"results/{test.name}" in {path for paths in rows.values() for path in map(str, paths)}
