"""The stages of TGSR on four tiny images, a one-parameter degradation and a network of a few hundred weights."""

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import tgsr.methods  # noqa: F401 - registers the stages
from tests.methods.grouping_toys import toy_space, toy_tasks
from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.degradations.base import PointSpace
from tgsr.engine import checkpoint
from tgsr.engine.build import build_tasks
from tgsr.engine.context import Context
from tgsr.engine.runner import run_stage
from tgsr.methods.tgsr.artefacts import Groups, load_indicators, load_sweep
from tgsr.methods.tgsr.comparison import Comparison
from tgsr.methods.tgsr.gains import spread_over
from tgsr.methods.tgsr.patches import TaskPatches, rows_of, schedule
from tgsr.methods.tgsr.task_sets import neighbourhood, neighbourhoods, task_group
from tgsr.study.rows import weights_by_task
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.sets import whole_space
from tgsr.tasks.task import Task, TaskSet, draw_point_tasks
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import file_digest


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        smooth = cv2.GaussianBlur(rng.random((64, 64, 3)), (0, 0), 2)
        cv2.imwrite(str(folder / f"{i}.png"), np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth)))
    return folder


@pytest.fixture
def stage(tmp_path, images):
    """`stage(name, run=..., **train)` runs one stage in `tmp_path` and returns its folder."""
    val = {"type": "GTDataset", "dataroot_gt": str(images), "val_crop": 32}

    def run(name, *, run=None, resume=False, train=None, **more):
        train = {"total_iter": 8, "lr": 1e-3, **(train or {})}
        data = {
            "name": name,
            "scale": 4,
            "manual_seed": 3,
            "precision": "fp32",
            "degradation": {"space": {"type": "ToySpace"}},
            "network_g": {"type": "LightSR", "num_feat": 4, "num_block": 1},
            "datasets": {
                "train": {
                    "dataset": {"type": "GTDataset", "dataroot_gt": str(images), "gt_size": 16},
                    "batch_size_per_gpu": 4,
                    "num_worker_per_gpu": 0,
                },
                "val": {"small": val},
            },
            "train": {
                "total_iter": train["total_iter"],
                "optim_g": {"type": "Adam", "lr": train["lr"]},
                "losses": {"pixel": {"type": "L1Loss"}},
            },
            "val": {"metrics": {"psnr": {"type": "PSNR", "color": "y", "crop_border": 4}}},
            "path": {"experiments_root": str(tmp_path / "experiments"), "results_root": str(tmp_path / "results")},
            "logger": {"use_tb_logger": False},
            "device": "cpu",
        }
        for key, value in more.items():
            data[key] = {**data[key], **value} if isinstance(data.get(key), dict) else value
        if run is not None:
            data["run"] = run
        file = tmp_path / f"{name}.yml"
        file.write_text(yaml.safe_dump(data))
        context = Context.create(device="cpu", launcher="none", auto_resume=resume)
        run_stage(load_options(file), context)
        return tmp_path / "experiments" / name

    return run


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "tasks.json"
    toy_tasks(6).save(path)
    return str(path)


@pytest.fixture
def start(stage):
    """Weights after a little training on the whole space."""
    return {"pretrain_network_g": str(stage("start", train={"lr": 1e-2}) / "models" / "net_g_latest.pth")}


def sweep(stage, tasks, path, name="sweep", **run):
    more = {k: run.pop(k) for k in ("train", "manual_seed", "resume") if k in run}
    run = {"type": "IndicatorSweep", "tasks": tasks, "num_patches": 8, "num_probe": 6, "processes": 1, **run}
    return stage(name, run=run, path=path, **more)


def test_make_tasks_is_seeded_and_extends(stage):
    few = load_tasks(stage("few", run={"type": "MakeTasks", "num_tasks": 3, "seed": 7}) / "tasks.json")
    more = load_tasks(stage("more", run={"type": "MakeTasks", "num_tasks": 5, "seed": 7}) / "tasks.json")
    assert [t.id for t in few] == [t.id for t in more][:3]
    assert few.source["options"]
    with pytest.raises(ConfigError, match="num_tasks"):
        stage("none", run={"type": "MakeTasks", "num_tasks": 0})


def test_sweep_measures_resumes_and_stops_early(stage, tasks, start, caplog):
    folder = sweep(stage, tasks, start, pilot=4, agreement=0.0)
    first = load_indicators(folder / "indicators.jsonl", tasks=load_tasks(tasks))
    z = first.column("z")
    assert np.isfinite(z).all()
    assert (np.abs(z - 1) < 0.5).all()
    assert (first.column("se") > 0).all()
    assert first.header["result"]["iters"] == 8
    assert [sorted(r["estimates"]) for r in first.records] == [["probe@8"]] * 6

    lines = (folder / "indicators.jsonl").read_text().splitlines(keepends=True)
    (folder / "indicators.jsonl").unlink()
    (folder / "stage.json").unlink()
    (folder / "indicators.0.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    sweep(stage, tasks, start, pilot=4, agreement=0.0, resume=True)
    again = load_indicators(folder / "indicators.jsonl")
    assert again.column("z") == pytest.approx(z, abs=0)
    assert [r["seconds"] for r in again.records][:3] == [r["seconds"] for r in first.records][:3]


def test_pilot_decides_where_the_others_stop(stage, tasks, start):
    folder = sweep(stage, tasks, start, pilot=4, agreement=0.0, probe_iters=[2, 4, 8])
    found = load_indicators(folder / "indicators.jsonl")
    assert found.header["result"]["iters"] in (2, 4)  # with agreement 0 any ranking that does not turn round is stable
    iters = found.header["result"]["iters"]
    assert f"probe@{iters}" in found.records[5]["estimates"]
    assert "probe@8" in found.records[0]["estimates"]
    assert "probe@8" not in found.records[5]["estimates"]
    assert found.records[0]["z"] == found.records[0]["estimates"][f"probe@{iters}"][0]


def test_study_records_every_estimator(stage, tasks, start):
    folder = sweep(stage, tasks, start, study=True, probe_iters=[4, 8], num_fresh=2, window=3)
    record = load_indicators(folder / "indicators.jsonl").records[0]
    kinds = {k.split("@")[0] for k in record["estimates"]}
    assert kinds == {"probe", "first", "fresh", "same"}
    assert all(np.isfinite(v[0]) for v in record["estimates"].values())


def test_paper_mode_uses_own_patches(stage, tasks, start):
    folder = sweep(stage, tasks, start, mode="paper", window=4, num_fresh=2, num_patches=32)
    found = load_indicators(folder / "indicators.jsonl")
    assert found.header["protocol"]["patches"] == "own"
    assert list(found.records[0]["estimates"]) == ["fresh@8"]
    assert (found.column("se") > 0).all()


def test_a_diverging_task_is_recorded_and_not_fatal(stage, tasks, start):
    folder = sweep(stage, tasks, start, train={"total_iter": 8, "lr": 1e38}, agreement=1.0)
    found = load_indicators(folder / "indicators.jsonl")
    assert found.header["result"]["diverged"]
    assert {r["status"] for r in found.records} == {"diverged"}
    assert found.records[0]["z"] is None


@pytest.mark.parametrize("mode", [{}, {"mode": "paper", "window": 4, "num_patches": 32}], ids=["paired", "paper"])
def test_a_diverging_task_leaves_its_neighbours_alone(stage, start, tmp_path, mode):
    good = toy_tasks(4)
    point = good[2].space
    bad = Task("bad", PointSpace(pipeline=point.pipeline.to_json(), params={**point.params, "sigma": 9.0}))
    files = []
    for name, third in (("with", bad), ("without", good[2])):
        file = tmp_path / f"{name}.json"
        TaskSet([*good[:2], third, good[3]], source=good.source).save(file)
        files.append(sweep(stage, str(file), start, name=name, agreement=1.0, **mode) / "indicators.jsonl")
    ours, theirs = (load_indicators(f).records for f in files)
    assert [r["status"] for r in ours] == ["ok", "ok", "diverged", "ok"]
    assert ours[2]["z"] is None
    for k in (0, 1, 3):
        assert {**ours[k], "seconds": 0} == {**theirs[k], "seconds": 0}
        assert np.isfinite(ours[k]["z"])


def test_bad_settings_of_the_sweep_are_explained(stage, tasks, start):
    with pytest.raises(ConfigError, match=r"must ascend to train.total_iter = 8"):
        sweep(stage, tasks, start, probe_iters=[2, 4])
    with pytest.raises(ConfigError, match="window is 10 but train.total_iter is 8"):
        sweep(stage, tasks, start, mode="paper")
    with pytest.raises(DataError, match="another space"):
        sweep(stage, str(_other_tasks(tasks)), start)


def _other_tasks(tasks):
    data = json.loads(Path(tasks).read_text())
    data["source"]["space"]["high"] = 2.0
    other = Path(tasks).with_name("other.json")
    other.write_text(json.dumps(data))
    return other


@pytest.fixture
def indicators(stage, tasks, start):
    return str(sweep(stage, tasks, start, name="z") / "indicators.jsonl")


def test_grouping_trains_scores_and_resumes(stage, tasks, start, indicators):
    run = {
        "type": "GroupTasks", "tasks": tasks, "indicators": indicators, "val": "small", "share": 0.7,
        "thresholds": [-0.5, -5.0], "processes": 1,
    }  # fmt: skip
    folder = stage("groups", run=run, path=start)
    groups = Groups.load(folder / "groups.json", tasks=load_tasks(tasks))
    assert groups.groups[0] == ["whole_space"]
    assert len(groups.selected) == 4
    assert sorted(groups.grouped + groups.rest) == sorted(groups.selected)
    assert set(groups.rounds[0].pis) == set(groups.selected)
    stamp = (folder / "round_1" / "models" / "net_g_8.pth").stat().st_mtime_ns
    (folder / "groups.json").unlink()
    (folder / "stage.json").unlink()
    stage("groups", run=run, path=start, resume=True)
    assert Groups.load(folder / "groups.json").groups == groups.groups
    assert (folder / "round_1" / "models" / "net_g_8.pth").stat().st_mtime_ns == stamp

    other = stage("longer", path=start, train={"total_iter": 3}) / "models" / "net_g_latest.pth"
    with pytest.raises(DataError, match=r"the indicators are of other weights .*longer.*run the sweep again"):
        stage("foreign", run=run, path={"pretrain_network_g": str(other)})
    assert not folder.with_name("foreign").exists()

    random = {"type": "GroupTasks", "tasks": tasks, "random_like": str(folder / "groups.json")}
    control = Groups.load(stage("random", run=random) / "groups.json")
    assert [len(g) for g in control.groups] == [len(g) for g in groups.groups]

    only = task_group(space=toy_space(), path=tasks, groups=folder / "groups.json", group=1)
    assert only.names == groups.groups[1]
    with pytest.raises(ConfigError, match="no group 9"):
        task_group(space=toy_space(), path=tasks, groups=folder / "groups.json", group=9)


def _run_slowly(context, file, overrides):
    """A stage on a disk that takes its time."""
    write = checkpoint.save_torch

    def save(path, content):
        time.sleep(0.3)
        write(path, content)

    checkpoint.save_torch = save
    run_stage(load_options(file, overrides), context)


def test_two_ranks_group_as_one_does(stage, tasks, start, indicators, tmp_path):
    """Rank 1 measures the weights of a round that rank 0 has written in a background thread."""
    run = {
        "type": "GroupTasks", "tasks": tasks, "indicators": indicators, "val": "small", "share": 0.7,
        "thresholds": [-0.5, -5.0], "processes": 1,
    }  # fmt: skip
    folder = stage("groups", run=run, path=start)
    overrides = ["name=shared", "datasets:train:batch_size_per_gpu=2"]
    in_processes(2, _run_slowly, tmp_path / "groups.yml", overrides)
    alone, shared = (Groups.load(f / "groups.json") for f in (folder, folder.with_name("shared")))
    assert shared.groups == alone.groups
    for ours, theirs in zip(alone.rounds, shared.rounds, strict=True):
        assert theirs.pis == pytest.approx(dict(ours.pis), abs=1e-3)


def test_unreachable_thresholds_keep_the_scores(stage, tasks, start, indicators, tmp_path):
    run = {
        "type": "GroupTasks", "tasks": tasks, "indicators": indicators, "val": "small", "thresholds": [90, 80],
        "processes": 1,
    }  # fmt: skip
    with pytest.raises(DataError, match="no task has a PIS above 80"):
        stage("groups", run=run, path=start)
    assert list((tmp_path / "results" / "groups").glob("measured*.jsonl"))
    with pytest.raises(ConfigError, match="must descend"):
        stage("wrong", run={**run, "thresholds": [0.2, 0.4]}, path=start)


def test_stages_refuse_what_cannot_work_before_they_touch_a_folder(stage, tasks, start, tmp_path):
    group = {"type": "GroupTasks", "tasks": tasks, "indicators": "none.jsonl", "val": "small", "thresholds": [0.1]}
    gains = {"type": "SingleTaskGains", "tasks": tasks, "val": "small"}
    compare = {
        "type": "CompareOnTasks", "tasks": tasks, "groups": "none.json", "val": "smal", "baseline": "a",
        "checkpoints": {"a": start["pretrain_network_g"]},
    }  # fmt: skip
    before = sorted((tmp_path / "experiments").iterdir())
    for run in (group, gains, {"type": "IndicatorSweep", "tasks": tasks}):
        with pytest.raises(ConfigError, match=r"x: path.pretrain_network_g: .*none is named; name its weights"):
            stage("x", run=run)
    for run in ({**group, "val": "smal"}, {**gains, "val": "smal"}, compare):
        with pytest.raises(ConfigError, match=r"run.val: there is no validation set 'smal'; did you mean 'small'\?"):
            stage("x", run=run, path=start)
    with pytest.raises(ConfigError, match=r"run.val_group0: there is no validation set 'big'"):
        stage("x", run={**compare, "val": "small", "val_group0": "big"}, path=start)
    with pytest.raises(ConfigError, match=r"run.metric: there is no metric 'psn' .*'psnr'"):
        stage("x", run={**group, "metric": "psn"}, path=start)
    with pytest.raises(ConfigError, match=r"run.metric: less of 'niqe' is better"):
        stage("x", run={**group, "metric": "niqe"}, path=start, val={"metrics": {"niqe": {"type": "NIQE"}}})
    assert sorted((tmp_path / "experiments").iterdir()) == before


def test_numbers_belong_to_the_content_of_the_weights(stage, tasks, start, tmp_path):
    weights = Path(start["pretrain_network_g"])
    folder = sweep(stage, tasks, start, agreement=1.0)
    stamp = load_indicators(folder / "indicators.jsonl").header["protocol"]["pretrained"]
    assert stamp == {"path": str(weights), "digest": file_digest(weights)}
    table = {"type": "PaperTable", "rows": {"net": str(weights)}, "processes": 1}
    stage("table", run=table)
    file = tmp_path / "results" / "table" / "table.json"
    old = json.loads(file.read_text())
    more = stage("longer", path=start, train={"total_iter": 4}) / "models" / "net_g_latest.pth"
    weights.write_bytes(more.read_bytes())
    (folder / "stage.json").unlink()
    with pytest.raises(DataError, match="belongs to another sweep .pretrained.digest"):
        sweep(stage, tasks, start, agreement=1.0, resume=True)
    stage("table", run=table)
    assert json.loads(file.read_text())["measurements"] != old["measurements"]


def test_gains_on_points_and_ranges(stage, tasks, start, indicators):
    run = {"type": "SingleTaskGains", "tasks": tasks, "val": "small", "num_tasks": 3, "processes": 1}
    points = load_sweep(stage("gains", run=run, path=start, train={"total_iter": 3}) / "gains.jsonl", "tgsr.gains")
    assert points.names == load_tasks(tasks).names[:3]
    for r in points.records:
        assert r["gain_psnr"] == pytest.approx(r["after"]["psnr"] - r["before"]["psnr"])
    spread = {**run, "order": "spread", "indicators": indicators, "radius": 0.1}
    ranges = stage("ranges", run=spread, path=start, train={"total_iter": 3}) / "gains.jsonl"
    z = load_indicators(indicators).values("z")
    names = load_sweep(ranges, "tgsr.gains").names
    assert min(z, key=z.get) in names
    assert max(z, key=z.get) in names


def test_comparison_of_checkpoints(stage, tasks, start, indicators, tmp_path):
    groups = tmp_path / "groups.json"
    members = load_tasks(tasks).names
    _write_groups(groups, tasks, [members[:1], members[1:3]])
    tuned = stage("tuned", train={"total_iter": 4}, path=start) / "models" / "net_g_latest.pth"
    run = {
        "type": "CompareOnTasks", "tasks": tasks, "groups": str(groups), "val": "small", "baseline": "old",
        "checkpoints": {"old": start["pretrain_network_g"], "new#0": str(tuned), "new#1": str(tuned)}, "processes": 1,
    }  # fmt: skip
    found = Comparison.load(stage("compare", run=run) / "comparison.json")
    assert found.runs() == {"old": ["old"], "new": ["new#0", "new#1"]}
    assert found.gains("old", members[:3]) == pytest.approx([0, 0, 0])
    assert found.gains("new#0", members[:3]) == pytest.approx(found.gains("new#1", members[:3]))
    mean = found.data["means"]["new#0"]["Group2"]["psnr"] - found.data["means"]["old"]["Group2"]["psnr"]
    assert mean == pytest.approx(found.gains("new#0", members[1:3]).mean())
    report = {
        "type": "GroupingReport", "tasks": tasks, "indicators": indicators, "groups": str(groups), "val": "small",
        "comparison": str(tmp_path / "experiments" / "compare" / "comparison.json"), "worst_tasks": 1,
        "studies": {"a#0": indicators, "a#1": indicators},
    }  # fmt: skip
    stage("report", run=report)
    folder = tmp_path / "results" / "report" / "report"
    assert (folder / "index.html").exists()
    assert "new" in (folder / "tables" / "gains.md").read_text()
    assert "| 1.00 |" in (folder / "tables" / "estimators.md").read_text()


def test_a_report_refuses_parts_of_other_tasks_or_weights(stage, tasks, start, indicators, tmp_path):
    gains = {"type": "SingleTaskGains", "tasks": tasks, "val": "small", "num_tasks": 2, "processes": 1}
    short = {"path": start, "train": {"total_iter": 2}}
    ours = str(stage("gains", run=gains, **short) / "gains.jsonl")
    few = str(stage("few", run={**gains, "num_tasks": 1, "radius": 0.1}, **short) / "gains.jsonl")
    longer = stage("longer", path=start, train={"total_iter": 3}) / "models" / "net_g_latest.pth"
    theirs = {"path": {"pretrain_network_g": str(longer)}, "train": {"total_iter": 2}}
    other = str(stage("other", run=gains, **theirs) / "gains.jsonl")
    draw_point_tasks(toy_space(), 6, seed=8).save(tmp_path / "drawn.json")
    drawn = str(stage("drawn", run={**gains, "tasks": str(tmp_path / "drawn.json")}, **short) / "gains.jsonl")
    compare = {
        "type": "CompareOnTasks", "tasks": tasks, "val": "small", "baseline": "old", "num_tasks": 2, "processes": 1,
        "checkpoints": {"old": start["pretrain_network_g"], "new": str(longer)},
    }  # fmt: skip
    comparison = str(stage("compare", run=compare) / "comparison.json")
    stage("report", run={"type": "GroupingReport", "gains": ours, "comparison": comparison, "indicators": indicators})
    table = (tmp_path / "results/report/report/tables/fig10_numbers.md").read_text()
    assert "0.30" in table, "the paper's value"
    for parts, message in (
        ({"gains": other, "indicators": indicators}, "indicators are of other weights than .*other"),
        ({"gains": drawn, "indicators": indicators}, "'task_0000' is another degradation"),
        ({"gains": other, "comparison": comparison}, "gains over the baseline are of other weights"),
        ({"gains": ours, "range_gains": few}, "its tasks are not those of .*give both stages the same num_tasks"),
    ):
        with pytest.raises(DataError, match=message):
            stage("refused", run={"type": "GroupingReport", **parts})
    with pytest.raises(ConfigError, match="run.paper: the paper has no groups '6G'"):
        stage("refused", run={"type": "GroupingReport", "paper": "6G"})


def test_two_readings_two_ends_and_the_papers_sizes(stage, tasks, start, indicators, tmp_path):
    gains = {"type": "SingleTaskGains", "tasks": tasks, "val": "small", "num_tasks": 2, "processes": 1}
    ends = {}
    for order in ("lowest", "highest"):
        run = {**gains, "order": order, "indicators": indicators}
        ends[order] = str(stage(order, run=run, path=start, train={"total_iter": 2}) / "gains.jsonl")
    names = load_tasks(tasks).names
    _write_groups(tmp_path / "groups.json", tasks, [names[:2], [], names[2:3]])
    run = {
        "type": "GroupingReport", "gains": {"a": ends["lowest"], "b": ends["highest"]}, "low_gains": ends["lowest"],
        "high_gains": ends["highest"], "groups": str(tmp_path / "groups.json"), "paper": "5G",
    }  # fmt: skip
    stage("report", run=run)
    folder = tmp_path / "results/report/report"
    assert "about 0.4 to 1.4 dB" in (folder / "tables/fig6_numbers.md").read_text()
    groups = (folder / "tables/groups.md").read_text()
    assert "14" in groups
    assert "Group3" in groups
    assert "1.50" in (folder / "tables/printed6.md").read_text()
    assert len(list(folder.rglob("fig1*.svg"))) == 2


def test_each_group_gets_a_network_of_its_own(stage, tasks, start, tmp_path):
    names = load_tasks(tasks).names
    _write_groups(tmp_path / "groups.json", tasks, [names[:2], [], names[2:3]])
    run = {"type": "TrainOnGroups", "tasks": tasks, "groups": str(tmp_path / "groups.json"), "processes": 1}
    folder = stage("alone", run=run, path=start, train={"total_iter": 2})
    found = weights_by_task(folder / "networks.json")
    assert list(found) == ["Group1", "Group3"]
    sets = {name: torch.load(path, weights_only=True)["params"] for name, path in found.items()}
    assert any(not torch.equal(v, sets["Group3"][k]) for k, v in sets["Group1"].items())
    stamps = [p.stat().st_mtime_ns for p in found.values()]
    (folder / "stage.json").unlink()
    stage("alone", run=run, path=start, train={"total_iter": 2}, resume=True)
    assert [p.stat().st_mtime_ns for p in found.values()] == stamps
    in_processes(2, _run_slowly, tmp_path / "alone.yml", ["name=shared", "datasets:train:batch_size=4"])
    assert list(weights_by_task(folder.with_name("shared") / "networks.json")) == ["Group1", "Group3"]


def _write_groups(path, tasks, groups, **more):
    Groups(tasks=load_tasks(tasks).digest, groups=[["whole_space"], *groups], kind="random", **more).save(path)


def test_benchmarks_and_their_table(stage, tasks, start, images, tmp_path, monkeypatch):
    monkeypatch.setattr("tgsr.study.pool.default_processes", lambda context: 1)
    groups = tmp_path / "groups.json"
    members = load_tasks(tasks).names
    _write_groups(groups, tasks, [members[:2], [], members[2:3]])
    target = tmp_path / "sets"
    run = {
        "type": "BuildGroupBenchmarks", "tasks": tasks, "groups": str(groups), "gt": str(images),
        "target": str(target), "num_pairs": 3,
    }  # fmt: skip
    stage("benchmarks", run=run)
    assert sorted(p.name for p in target.iterdir()) == ["Group0", "Group1", "Group3", "random"]
    assert len(list((target / "Group1" / "LQ").glob("*.png"))) == 3

    val = {"small": None}
    for name in ("Group0", "Group1"):
        pair = {"dataroot_gt": str(images), "dataroot_lq": str(target / name / "LQ")}
        val[name] = {"type": "PairedDataset", **pair, "meta_info": str(_meta(tmp_path))}
    weights = {"RealESRGAN": start["pretrain_network_g"]}
    run = {"type": "CompareOnBenchmarks", "checkpoints": weights, "table": "TABLE_1"}
    stage("table", run=run, datasets={"val": {k: v for k, v in val.items() if v}})
    text = (tmp_path / "results" / "table" / "report" / "tables" / "table.md").read_text()
    assert "20.10" in text  # the paper's Group1
    with pytest.raises(ConfigError, match="no table TABLE_9|no table 9"):
        stage("wrong", run={**run, "table": "TABLE_9"})


def _meta(tmp_path):
    path = tmp_path / "meta.txt"
    path.write_text("".join(f"{i}.png, {i}.png\n" for i in range(3)))
    return path


def test_neighbourhood_surrounds_its_point(tasks):
    space = toy_space()
    task = load_tasks(tasks)[0]
    around = neighbourhood(task, space, radius=0.1)
    drawn = around.draw(np.random.default_rng(0).random((500, around.num_uniforms)))
    sigma = task.space.params["sigma"]
    assert np.abs(drawn["sigma"] - sigma).max() <= 0.0101
    assert drawn["sigma"].std() > 0.002
    assert around.contains(drawn).all()
    assert (drawn["sigma"] >= 0).all()
    assert (drawn["sigma"] <= 0.1).all()
    from tgsr.degradations.base import space_from_json

    same = space_from_json(around.to_json())
    assert same.intervals == around.intervals
    assert len(neighbourhoods(space=space, path=tasks, radius=0.1)) == 6
    with pytest.raises(ConfigError, match="radius is 0"):
        neighbourhood(task, space, radius=0.0)
    with pytest.raises(DataError, match="not a point"):
        neighbourhood(whole_space(space=space)[0], space, radius=0.1)


def test_schedule_turns_patches_instead_of_repeating_them():
    plan = schedule(8, 4, 5)
    assert plan[0] == ([0, 1, 2, 3], 0)
    assert plan[1] == ([4, 5, 6, 7], 0)
    assert plan[2] == ([0, 1, 2, 3], 1)
    assert plan[4][1] == 2
    with pytest.raises(ConfigError, match="do not fill a batch"):
        schedule(3, 4, 1)


def test_noise_of_patches_depends_on_their_numbers_alone(images, tmp_path):
    def made(noise, numbers):
        data = {
            "name": "patches", "scale": 4, "network_g": {"type": "LightSR", "num_feat": 4, "num_block": 1},
            "degradation": {"space": {"type": "SecondOrder", "preset": "first_order"}, "noise": noise},
            "datasets": {
                "train": {
                    "dataset": {"type": "GTDataset", "dataroot_gt": str(images), "gt_size": 32}, "batch_size_per_gpu": 2
                }
            },
        }  # fmt: skip
        file = tmp_path / "patches.yml"
        file.write_text(yaml.safe_dump(data))
        options = load_options(file)
        patches = TaskPatches(options, torch.device("cpu"), build_tasks(options))
        return patches.of(0, numbers, keep=False).lq

    for noise in ("sample", "batch"):
        assert torch.equal(made(noise, [4, 5]), made(noise, [4, 5]))
        assert not torch.equal(made(noise, [4, 5]), made(noise, [6, 7]))
    assert not torch.equal(made("batch", [4, 5]), made("sample", [4, 5]))
    assert torch.equal(made("auto", [4, 5]), made("sample", [4, 5])), "on a CPU"


def test_turned_rows_keep_gt_and_lq_together():
    from tgsr.data.batch import Batch

    gt = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    batch = Batch(gt=gt, lq=gt[:, :, ::4, ::4], task_ids=torch.zeros(2, dtype=torch.int64))
    for turn in range(8):
        part = rows_of(batch, [1], turn)
        assert part.gt.shape == (1, 3, 8, 8)
        corners = {0: (0, 0), 1: (0, -1), 2: (-1, 0), 3: (-1, -1)}
        assert part.gt[0, 0, 0, 0] == gt[1, 0][corners[turn & 3]]


def test_spread_takes_both_ends():
    values = {str(i): float(i) for i in range(10)} | {"nan": float("nan")}
    assert spread_over([*values], values, 4) == ["0", "3", "6", "9"]
    assert len(spread_over([*values], values, 20)) == 10
