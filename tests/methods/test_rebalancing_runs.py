"""Stages end to end on toy runs: references, training, resume in mid-interval, reports, wrong files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from tests.engine.toy import make_images, toy_options
from tests.methods.rebalancing_toys import TASKS, make_options, run
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.trainer import Trainer
from tgsr.methods.rebalancing.comparison import Comparison, add_comparison
from tgsr.methods.rebalancing.references import References
from tgsr.methods.rebalancing.stages import read_weights
from tgsr.report.builder import Report
from tgsr.tasks.sets import TASK_SETS
from tgsr.utils.errors import ConfigError, DataError

LOGGER = {"print_freq": 10, "save_checkpoint_freq": 3, "use_tb_logger": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with the references of two tasks, trained for 8 iterations."""
    folder = tmp_path_factory.mktemp("rebalancing")
    run(
        make_options(
            folder, stem="refs", run={"type": "SingleTaskReferences", "processes": 1, "interval": 4}, train=train(8)
        )
    )
    return folder


def train(total_iter):
    return {"total_iter": total_iter, "ema_decay": 0.0, "optim_g": {"type": "Adam", "lr": 0.003},
            "losses": {"pixel": {"type": "L1Loss"}}}  # fmt: skip


def sampler(root, **more):
    path = str(root / "experiments" / "refs" / "references.json")
    return {"type": "RebalancingTaskSampler", "references": path, "interval": 4, "temperature": 0.05, **more}


def rebalance(root, stem, *, total_iter=8, **sections):
    sections = {"tasks": {**TASKS, "sampler": sampler(root)}, **sections}
    return make_options(root, stem=stem, run={"type": "Rebalance"}, train=train(total_iter), logger=LOGGER, **sections)


def weights_of(root, name, label="latest"):
    return torch.load(root / "experiments" / name / "models" / f"net_g_{label}.pth", weights_only=True)["params"]


def test_references(root):
    references = References.load(root / "experiments" / "refs" / "references.json")
    assert references.ids.keys() == {"low", "high"}
    assert {tuple(sorted(c)) for c in references.curves.values()} == {(0, 4, 8)}
    assert references.curves["low"][0] != references.curves["high"][0]  # same weights, each on its own task
    states = root / "experiments" / "refs" / "low" / "training_states"
    assert {p.name for p in states.iterdir()} == {"4.state", "8.state"}
    a, b = (weights_of(root, f"refs/{t}") for t in ("low", "high"))
    assert any(not torch.equal(a[k], b[k]) for k in a)


def test_training_writes_weights_and_follows_them(root):
    run(rebalance(root, "whole"))
    folder = root / "experiments" / "whole"
    records = read_weights(folder / "weights.jsonl")
    assert [r["iteration"] for r in records] == [0, 4, 8]
    assert records[0]["sampling"] == {"low": 0.5, "high": 0.5}
    references = References.load(root / "experiments" / "refs" / "references.json")
    for record in records[1:]:
        dp = {t: references.at(t, record["iteration"], "psnr") - record["multi"][t] for t in ("low", "high")}
        assert record["distance"] == pytest.approx(dp)
        raised = {t: np.exp(v / 0.05) for t, v in dp.items()}
        assert record["sampling"]["low"] == pytest.approx(raised["low"] / sum(raised.values()))
    share = records[1]["sampling"]["low"]
    counts = records[2]["counts"]
    assert sum(counts.values()) == 16
    assert abs(counts.get("low", 0) - 16 * share) < 1
    assert (root / "results" / "whole" / "metrics.json").exists()


def test_resume_in_mid_interval_is_bitwise(root):
    if not (root / "experiments" / "whole").exists():
        run(rebalance(root, "whole"))
    first = rebalance(root, "cut")
    trainer = Trainer(first, Context.create(device="cpu"))
    trainer.total_iter = 6  # killed in the second interval, its last checkpoint at 6
    trainer.run()
    run(rebalance(root, "cut"))
    a, b = weights_of(root, "whole"), weights_of(root, "cut")
    assert all(torch.equal(a[k], b[k]) for k in a)
    whole, cut = (read_weights(root / "experiments" / n / "weights.jsonl") for n in ("whole", "cut"))
    assert whole[-1] == cut[-1]


@pytest.fixture(scope="module")
def plain(root):
    """The same training without a weighting."""
    run(rebalance(root, "plain", tasks=TASKS))
    return {label: weights_of(root, "plain", label) for label in (3, 8)}


@pytest.mark.parametrize(
    "weighting",
    [{"type": "DifficultyLossWeighting"}, {"type": "DWA"}, {"type": "RLW"}, {"type": "GLS"}],
    ids=lambda w: w["type"],
)
def test_weightings_train(root, plain, weighting):
    """Each changes the network; the difficulty weights only once their first interval is over."""
    weighting = dict(weighting)
    if weighting["type"] in ("DifficultyLossWeighting", "DWA"):
        weighting["interval"] = 4
    if weighting["type"] == "DifficultyLossWeighting":
        weighting["references"] = sampler(root)["references"]
        weighting["temperature"] = 0.05
    name = f"w_{weighting['type']}"
    run(rebalance(root, name, tasks={**TASKS, "weighting": weighting}))
    ours = {k: weights_of(root, name, k) for k in plain}
    distance = {k: max((v - plain[k][n]).abs().max().item() for n, v in ours[k].items()) for k in plain}
    assert distance[8] > 1e-5
    assert (distance[3] == 0) == (weighting["type"] == "DifficultyLossWeighting")
    state = torch.load(root / "experiments" / name / "training_states" / "8.state", weights_only=True)["loss_weighting"]
    if weighting["type"] in ("DifficultyLossWeighting", "DWA"):
        assert sum(state["weights"]) == pytest.approx(1)
        assert abs(state["weights"][0] - 0.5) > 1e-4
    else:
        assert state == {}


def test_metric_of_which_less_is_better_is_refused(root):
    val = {"metrics": {"niqe": {"type": "NIQE"}}, "val_tasks": "toy"}
    with pytest.raises(ConfigError, match="less of 'niqe' is better"):
        run(rebalance(root, "niqe", val=val, tasks={**TASKS, "sampler": sampler(root, metric="niqe")}))


def test_hybrid_needs_both_halves(root):
    half = {**sampler(root), "type": "HybridLossWeighting"}
    both = {**TASKS, "sampler": sampler(root, rule="hybrid"), "weighting": half}
    run(rebalance(root, "hybrid", total_iter=8, tasks=both))
    with pytest.raises(ConfigError, match="one half of a pair"):
        run(rebalance(root, "half", tasks={**TASKS, "weighting": half}))
    other = {**both, "weighting": {**half, "temperature": 1.0}}
    with pytest.raises(ConfigError, match="halves of the hybrid differ: temperature"):
        run(rebalance(root, "differ", tasks=other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network_g": {"type": "LightSR", "num_feat": 4, "num_block": 1}}, "another network"),
        ({"manual_seed": 7}, "another start"),
        ({"val": {"metrics": {"psnr": {"type": "PSNR", "crop_border": 8}}, "val_tasks": "toy"}}, "another metrics"),
        ({"total_iter": 12}, r"no value at iteration 12 \(interval 4"),
    ],
)
def test_foreign_references_are_refused(root, change, message):
    with pytest.raises(DataError, match=message):
        run(rebalance(root, "foreign", **change))


def test_references_of_another_data_set_and_interval(root, tmp_path):
    make_images(tmp_path / "elsewhere", num=2, seed=5)
    datasets = toy_options(root)["datasets"]
    val = {"toy": {"type": "GTDataset", "dataroot_gt": str(tmp_path / "elsewhere")}}
    with pytest.raises(DataError, match="another validation set"):
        run(rebalance(root, "foreign_val", datasets={**datasets, "val": val}))
    with pytest.raises(DataError, match=r"no value at iteration 3"):
        run(rebalance(root, "foreign_interval", tasks={**TASKS, "sampler": sampler(root, interval=3)}))


def test_references_with_other_options_are_not_mixed(root):
    options = make_options(
        root, stem="mixed", run={"type": "SingleTaskReferences", "processes": 1, "interval": 2}, train=train(2)
    )
    run(options)
    again = make_options(
        root, stem="mixed", run={"type": "SingleTaskReferences", "processes": 1, "interval": 2}, train=train(4)
    )
    with pytest.raises(DataError, match="belongs to another sweep"):
        run(again)


def test_references_trained_in_parts_are_joined(root):
    """Some tasks in one start and all in the next, with other files kept: nothing is trained twice, none refused."""

    def start(**more):
        stage = {"type": "SingleTaskReferences", "processes": 1, "interval": 2, **more}
        run(make_options(root, stem="parts", run=stage, train=train(2)))

    start(tasks=["low"], keep_last=1)
    folder = root / "experiments" / "parts"
    assert References.load(folder / "references.json").curves.keys() == {"low"}
    made = (folder / "low" / "models" / "net_g_latest.pth").stat().st_mtime_ns
    start()
    assert (folder / "low" / "models" / "net_g_latest.pth").stat().st_mtime_ns == made
    joined = References.load(folder / "references.json")
    assert {name: sorted(curve) for name, curve in joined.curves.items()} == {"low": [0, 2], "high": [0, 2]}


def test_a_comparison_of_the_first_version_is_read(tmp_path):
    old = {
        "schema": "tgsr.rebalancing_comparison", "version": 1, "seed": 0, "options": "", "metric": "psnr",
        "higher_is_better": True, "protocol": "Y", "num_images": 3, "baseline": "uniform", "tasks": ["a"], "runs": {},
        "values": {"bicubic": {"a": 20.0}, "uniform#0": {"a": 21.0}, "ours#0": {"a": 21.5}}, "single": {"a": 22.0},
    }  # fmt: skip
    report = Report("old")
    add_comparison(report, Comparison.from_json(old))
    report.write(tmp_path)
    methods, differences = ((tmp_path / "tables" / f"{n}.csv").read_text() for n in ("methods", "differences"))
    assert "ours,21.5,21.5,21.5,0.5" in methods
    assert "ours,0.5,0.5,0.5,-0.5" in differences


def test_static_groups_comparison_and_variance(root):
    path = sampler(root)["references"]
    run(make_options(root, stem="groups", run={"type": "StaticGroups", "references": path}))
    groups = json.loads((root / "experiments" / "groups" / "groups.json").read_text())
    gains = groups["gains"]
    assert groups["groups"] == [["low", "high"], [max(gains, key=gains.get)]]
    where = str(root / "experiments" / "groups" / "groups.json")
    static = {**TASKS, "sampler": {"type": "GroupedTaskSampler", "groups": where}}
    run(rebalance(root, "static", total_iter=2, tasks=static))
    pretrained = {"pretrain_network_g": str(root / "experiments" / "static" / "models" / "net_g_2.pth")}
    where = toy_options(root)["path"]
    stage = {"type": "GradientVariance", "weights": {"low": 0.8, "high": 0.2}, "num_moments": 12, "num_samples": 12,
             "processes": 1}  # fmt: skip
    run(make_options(root, stem="variance", run=stage, path={**where, **pretrained}))
    variance = json.loads((root / "experiments" / "variance" / "variance.json").read_text())
    energy = {k: v["energy"] for k, v in variance["tasks"].items()}
    expected = 0.8 * (2 * 0.8 - 1) * energy["low"] + 0.2 * (2 * 0.2 - 1) * energy["high"]
    assert variance["differences"]["re-sampling"]["predicted"] == pytest.approx(expected)
    assert variance["schemes"]["re-weighting"]["measured"] > 0
    weights = str(root / "experiments" / "static" / "models" / "net_g_latest.pth")
    runs = {"uniform#0": weights, "uniform#1": weights, "ours#0": weights}
    stage = {
        "type": "CompareRebalancing", "runs": runs, "test": "toy", "baseline": "uniform", "references": path,
        "processes": 1,
        "weights": {"ours": str(root / "experiments" / "static" / "weights.jsonl")},
        "variance": str(root / "experiments" / "variance" / "variance.json"),
    }  # fmt: skip
    run(make_options(root, stem="compare", run=stage))
    content = json.loads((root / "experiments" / "compare" / "comparison.json").read_text())
    found = Comparison.from_json(content).measurements
    assert found.values("uniform", "psnr")["0"] == found.values("ours", "psnr")["0"]
    assert found.values("single-task networks", "psnr")[""].keys() == {"low", "high"}
    table = (root / "results" / "compare" / "report" / "tables" / "differences.csv").read_text()
    assert "ours,0.0" in table
    assert (root / "results" / "compare" / "report" / "figures" / "weights_ours.svg").exists()


def test_operator_sweep(root):
    sweep = {"set": {"type": "OperatorSweep", "operator": "noise", "num_settings": 3}}
    stage = {"type": "SingleTaskReferences", "processes": 1, "interval": 2}
    run(make_options(root, stem="sweep", tasks=sweep, run=stage, train=train(2)))
    path = root / "experiments" / "sweep" / "references.json"
    stage = {"type": "OperatorDiscrimination", "references": {"noise": str(path)}}
    run(make_options(root, stem="discrimination", run=stage))
    content = json.loads((root / "experiments" / "discrimination" / "discrimination.json").read_text())
    found = content["operators"]["noise"]["start"]
    assert found["values"] == [1.0, 15.5, 30.0]
    curves = References.load(path).curves
    assert found["distances"] == pytest.approx([c[2]["psnr"] - c[0]["psnr"] for c in curves.values()])
    assert found["variance"] == pytest.approx(np.var(found["distances"], ddof=1))
    wrong = make_options(root, stem="wrong", run={**stage, "references": {"blur": str(path)}})
    with pytest.raises(DataError, match="not references over a whole sweep of 'blur'"):
        run(wrong)


def test_groups_as_tasks(root):
    from tgsr.degradations.second_order import SecondOrderSpace
    from tgsr.tasks.task import TaskSet

    space = SecondOrderSpace()
    made = TASK_SETS.get("Points")(space=space, num_tasks=4, seed=1)
    made.save(root / "points.json")
    groups = {"schema": "tgsr.groups", "version": 1, "tasks": made.digest, "groups": [["whole_space"], made.names[:3]]}
    (root / "groups.json").write_text(json.dumps(groups))
    points = str(root / "points.json")
    tasks = {
        "set": {
            "type": "GroupsAsTasks",
            "parent": {"type": "Union", "sets": [{"type": "WholeSpace"}, {"type": "File", "path": points}]},
            "groups": str(root / "groups.json"),
        }
    }
    stage = {"type": "SingleTaskReferences", "processes": 1, "interval": 2}
    run(make_options(root, stem="grefs", tasks=tasks, run=stage, train=train(2)))
    ours = sampler(root, references=str(root / "experiments" / "grefs" / "references.json"), interval=2)
    run(rebalance(root, "grouped", total_iter=2, tasks={**tasks, "sampler": ours}))
    saved = TaskSet.load(root / "experiments" / "grefs" / "tasks.json")
    group = saved[saved.index("group1")].space
    params = group.draw(np.random.default_rng(0).random((60, group.num_uniforms)))
    member = np.stack([t.space.contains(params) for t in made])
    assert (member.sum(0) >= 1).all()
    assert (member[:3].sum(1) > 8).all()
    assert not member[3].any()
    (root / "groups.json").write_text(json.dumps({**groups, "tasks": "0" * 12}))
    with pytest.raises(DataError, match="belongs to other tasks"):
        run(make_options(root, stem="other", tasks=tasks, run=stage, train=train(2)))


def test_adversarial_model(root):
    options = yaml.safe_load((root / "refs.yml").read_text())
    options.update(
        name="gan", model="AdversarialModel", run={"type": "Rebalance", "measure": False},
        network_d={"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},
        tasks={**TASKS, "sampler": sampler(root)}, logger=LOGGER,
        train={**train(8), "optim_d": {"type": "Adam", "lr": 0.001}, "gan": {"type": "GANLoss", "loss_weight": 0.1}},
    )  # fmt: skip
    path = root / "gan.yml"
    path.write_text(yaml.safe_dump(options))
    run(load_options(path))
    assert [r["iteration"] for r in read_weights(root / "experiments" / "gan" / "weights.jsonl")] == [0, 4, 8]


def test_stopped_references_go_on(root):
    """Stopped after 2 of 4 iterations of the first task, then started again."""
    options = make_options(
        root, stem="stopped", run={"type": "SingleTaskReferences", "processes": 1, "interval": 2}, train=train(4)
    )
    whole = replace(options, name="unstopped")
    run(whole)
    from tgsr.engine.runner import make_runner

    context = Context.create(device="cpu", auto_resume=True)
    runner = make_runner(options, context)
    original, calls = Trainer._run_segment, []

    def stop_soon(self, stop):
        calls.append(stop)
        original(self, 2)
        self.is_stopping = True
        self.save()

    Trainer._run_segment = stop_soon
    try:
        runner.run()
    finally:
        Trainer._run_segment = original
    assert len(calls) == 1
    assert context.stop_requested
    run(options)
    a, b = (References.load(root / "experiments" / n / "references.json") for n in ("stopped", "unstopped"))
    assert a.curves == b.curves


def test_named_degradations_as_tasks(root):
    """The degradations of GRIDS: input and output have one size."""
    data = {"type": "GTDataset", "dataroot_gt": str(root / "gt"), "gt_size": 32}
    shared = {
        "scale": 1,
        "degradation": {"space": {"type": "NamedMix"}},
        "network_g": {"type": "LightSR", "num_feat": 4, "num_block": 1, "upscale": 1},
        "datasets": {
            "train": {"dataset": data, "batch_size_per_gpu": 4, "num_worker_per_gpu": 0},
            "val": {"toy": {"type": "GTDataset", "dataroot_gt": str(root / "val")}},
        },
    }
    tasks = {"set": {"type": "NamedTasks", "names": ["gaussian_blur", "gaussian_noise", "jpeg"]}}
    stage = {"type": "SingleTaskReferences", "processes": 1, "interval": 2}
    run(make_options(root, stem="named", tasks=tasks, run=stage, train=train(4), **shared))
    ours = sampler(root, references=str(root / "experiments" / "named" / "references.json"), interval=2)
    run(rebalance(root, "named_run", total_iter=4, tasks={**tasks, "sampler": ours}, **shared))
    records = read_weights(root / "experiments" / "named_run" / "weights.jsonl")
    assert [r["iteration"] for r in records] == [0, 2, 4]
    assert records[1]["sampling"].keys() == {"gaussian_blur", "gaussian_noise", "jpeg"}
