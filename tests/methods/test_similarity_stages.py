"""The stages of GRIDS from end to end on tiny images: artefacts, resume, memo, routed inference."""

import json
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from skimage import data

import tgsr.methods.grids  # noqa: F401 - registers the stages
from tests.processes import fork
from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner, run_stage
from tgsr.methods.grids import comparison, trainings
from tgsr.methods.grids.oracle import OracleMemo, Trained, TrainingOracle
from tgsr.methods.grids.router import Router, routed_restorers
from tgsr.methods.grids.similarity import Similarity
from tgsr.methods.grids.stages import load_groups
from tgsr.methods.grids.trainings import (
    GroupTrainer,
    Stopped,
    protocol_hash,
    run_name,
    scaled_budget,
    training_protocol,
)
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import append_jsonl, read_json, read_jsonl, write_json
from tgsr.utils.image_io import save_image

NAMES = ["defocus", "ringing", "gaussian_noise"]


def base(root):
    images = {"type": "GTDataset", "dataroot_gt": str(root / "images")}
    return {
        "name": "base",
        "scale": 1,
        "device": "cpu",
        "degradation": {"space": {"type": "NamedMix", "degradations": NAMES}},
        "datasets": {
            "train": {
                "dataset": {**images, "gt_size": 16},
                "batch_size_per_gpu": 2,
                "num_worker_per_gpu": 0,
                "preflight": False,
            },
            "val": {
                "images": {**images, "val_crop": 32, "max_images": 2},
                "whole": images,
                "photos": {"type": "LQDataset", "dataroot_lq": str(root / "images")},
            },
        },
        "network_g": {"type": "SRResNetSameSize", "num_feat": 4, "num_block": 1},
        "train": {
            "total_iter": 3,
            "optim_g": {"type": "AdamW", "lr": 1e-3},
            "scheduler": {"type": "CosineAnnealingLR", "T_max": 3},
            "losses": {"pixel": {"type": "L1Loss"}},
        },
        "val": {"metrics": {"psnr": {"type": "PSNR", "color": "rgb", "crop_border": 0}}},
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "logger": {"use_tb_logger": False},
    }


def options_of(root, name, run, **changes):
    content = {**base(root), "name": name, "run": run, **changes}
    path = root / f"{name}.yml"
    path.write_text(yaml.safe_dump(content))
    return load_options(path)


def context():
    return Context.create(device="cpu", auto_resume=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Similarity, search and comparison have run here."""
    root = tmp_path_factory.mktemp("grids")
    photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
    for i in range(6):
        save_image(root / "images" / f"{i}.png", photo[:, 60 * i : 60 * i + 48, 40 * i : 40 * i + 56])
    network = {"type": "MSRResNet", "num_feat": 4, "num_block": 1}
    similarity = {
        "type": "MeasureSimilarity",
        "images": "whole",
        "num_patches": 24,
        "patch_px": 24,
        "descriptor": {"type": "network", "network": network},
        "baselines": {"pixels": {"type": "pixels"}},
    }
    run_stage(options_of(root, "similarity", similarity), context())
    run_stage(search_options(root), context())
    return root


def search_options(root, **changes):
    search = {
        "type": "SearchGrouping",
        "similarity": str(root / "experiments/similarity/similarity.npz"),
        "val": "images",
        "delta": 50.0,
        "processes": 1,
    }
    return options_of(root, "search", {**search, **changes})


def test_similarity_stage(root):
    found = Similarity.load(root / "experiments/similarity/similarity.npz")
    assert list(found.names) == NAMES
    assert found.about["patch_px"] == 24
    assert found.about["descriptor"]["network"]["num_feat"] == 4
    assert (root / "experiments/similarity/similarity_pixels.npz").exists()
    assert (root / "experiments/similarity/report/figures/similarity.png").exists()


def test_search_stage_and_its_memo(root, monkeypatch):
    found = load_groups(root / "experiments/search/groups.json")
    assert [g["members"] for g in found["groups"]] == [sorted(NAMES)]
    assert found["num_trainings"] == 5  # three singles, the best pair, and then all in one
    memo = read_json(root / "experiments/search/oracle.json")
    assert {*NAMES, "+".join(sorted(NAMES))} < set(memo["trainings"])
    assert (root / "experiments/search/report/index.html").exists()
    monkeypatch.setattr(trainings, "train_group", lambda *a, **k: pytest.fail("trained again"))
    make_runner(search_options(root, delta=49.0), context()).run()
    assert load_groups(root / "experiments/search/groups.json")["delta"] == 49.0


def test_memo_of_other_training_options_is_refused(root):
    options = search_options(root)
    changed = options_of(root, "search2", {"type": "SearchGrouping", "similarity": "x", "val": "images"}, manual_seed=7)
    with pytest.raises(DataError, match="another configuration.*seed: 0 there, 7 here"):
        GroupTrainer(changed, context(), root / "experiments/search", val="images")
    with pytest.raises(ConfigError, match="there is no 'nothing'"):
        GroupTrainer(options, context(), root / "experiments/search", val="nothing")


def test_failed_training_is_recorded(root, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *args, **kwargs):
            raise RuntimeError("out of memory")

    monkeypatch.setattr(trainings, "Trainer", Broken)
    options = search_options(root)
    with GroupTrainer(options, context(), tmp_path, val="images", processes=1) as trainer:
        trainer([("defocus",)])
    entry = read_json(tmp_path / "oracle.json")["trainings"]["defocus"]
    assert entry["status"] == "failed"
    assert "out of memory" in entry["error"]


def _rank(ctx, options, folder):
    """One of two ranks: retries a failed training, trains the rest, and is then asked to stop."""
    rank = ctx.rank

    def train(options, context, root, names, *, val, metric):
        assert context.world_size == 1
        append_jsonl(folder / f"calls.{rank}.jsonl", names)
        time.sleep(0.2 * rank if len(names) == 1 else 0.4)
        return None if context.stop_requested else Trained(names, dict.fromkeys(names, 30.0 - len(names)))

    trainings.train_group, trainings.SECONDS_BETWEEN_LOOKS = train, 0.01
    time.sleep(0.3 * rank)  # rank 1 may find what rank 0 has begun
    trainer = GroupTrainer(options, ctx, folder, val="images", processes=1)
    oracle = TrainingOracle(NAMES, trainer.memo, trainer, num_parallel=trainer.num_parallel, retry_failed=True)
    oracle.prepare([(0, 1)])
    found = {"singles": oracle.train_singles(), "drop": oracle((0, 1)), "parallel": oracle.num_parallel}
    write_json(folder / f"found.{rank}.json", found)
    ctx.stop_requested = True
    with pytest.raises(Stopped):
        trainer([("gaussian_noise", "ringing"), ("defocus", "gaussian_noise")])


def test_two_ranks_share_and_retry_trainings(root, tmp_path):
    """Rank 1 failed last time: it is trained once more, by rank 0, and both ranks wait for the new result."""
    options = search_options(root)
    protocol = training_protocol(options, "images")
    before = OracleMemo(tmp_path / "oracle.json", config=protocol_hash(protocol), writer=1)
    before.add(Trained(("defocus", "ringing"), status="failed", error="killed"))
    in_processes(2, _rank, options, tmp_path)
    found = [read_json(tmp_path / f"found.{k}.json") for k in (0, 1)]
    assert found[0] == found[1] == {"singles": dict.fromkeys(NAMES, 29.0), "drop": 1.0, "parallel": 2}
    calls = [tuple(names) for k in (0, 1) for names in read_jsonl(tmp_path / f"calls.{k}.jsonl")]
    assert calls.count(("defocus", "ringing")) == 1
    assert sorted(c for c in calls if len(c) == 1) == sorted((n,) for n in NAMES)
    again = OracleMemo(tmp_path / "oracle.json", config=protocol_hash(protocol))
    assert again.get(("defocus", "ringing")).status == "ok"  # though oracle.1.json is read later
    assert again.get(("defocus", "ringing")).attempt == 2


def test_weights_of_another_configuration_are_not_resumed(root, tmp_path):
    """The memo is lost or was never written, the checkpoints are still there."""
    options = search_options(root)
    search = {"type": "SearchGrouping", "similarity": "x", "val": "images"}
    wider = options_of(root, "search", search, network_g={"type": "SRResNetSameSize", "num_feat": 6, "num_block": 1})
    for changed in (options, wider):
        with GroupTrainer(changed, context(), tmp_path, val="images", processes=1) as trainer:
            trainer([("defocus",)])
            assert trainer.memo.get(("defocus",)).status == "ok"
        (tmp_path / "oracle.json").unlink()
    assert len(list(tmp_path.glob("models/*/defocus/models/net_g_latest.pth"))) == 2


USER_FILE = """
from tgsr.metrics.base import METRICS
from tgsr.metrics.psnr_ssim import PSNR

@METRICS.register()
class UsersOwnPSNR(PSNR):
    pass
"""


@pytest.mark.slow  # fresh processes import torch
def test_processes_know_the_users_files_and_say_when_one_is_killed(root, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(USER_FILE)
    metric = {"type": "UsersOwnPSNR", "color": "rgb", "crop_border": 0}
    search = {"type": "SearchGrouping", "similarity": "x", "val": "images"}
    options = options_of(
        root, "user", search, import_modules=[str(tmp_path / "mine.py")], val={"metrics": {"psnr": metric}}
    )
    with GroupTrainer(options, context(), tmp_path, val="images", processes=2) as trainer:
        trainer([("defocus",), ("ringing",)])
        assert {t.status for t in trainer.memo.trainings} == {"ok"}
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="fewer processes.*finished trainings are kept"):
            trainer([("gaussian_noise",), ("defocus", "ringing")])
    assert len(read_json(tmp_path / "oracle.json")["trainings"]) == 2


def _say_pid_and_wait(folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(120)


def _parent_of_a_worker(folder):
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("fork"), initializer=trainings._start_worker, initargs=(1, [], [])
    ) as pool:
        pool.submit(_say_pid_and_wait, folder).result()


def test_a_worker_leaves_when_its_parent_is_killed(tmp_path):
    """A second writer in the folder of a resumed training would spoil it."""
    parent = fork(_parent_of_a_worker, tmp_path)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text() != "", "the worker begins", seconds=90)
    worker = Path(f"/proc/{pid.read_text()}")
    parent.kill()
    parent.join()
    wait_until(lambda: not worker.exists() or "Z" in (worker / "stat").read_text().split()[2], "the worker leaves")


def wait_until(is_so, what, *, seconds=10.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_processes_train_the_same_weights(root, tmp_path):
    options = search_options(root)
    with GroupTrainer(options, context(), tmp_path, val="images", processes=2) as trainer:
        trainer([("defocus",), ("ringing",)])
        there = {n: trainer.memo.get((n,)).psnr[n] for n in ("defocus", "ringing")}
    memo = read_json(root / "experiments/search/oracle.json")["trainings"]
    assert there == {n: memo[n]["psnr"][n] for n in there}


def test_compare_stage_resumes(root, monkeypatch):
    run = {
        "type": "CompareGrouping",
        "groups": str(root / "experiments/search/groups.json"),
        "val": "images",
        "test": "images",
        "seeds": [0, 1],
        "arms": ["single", "mixed", "grouped"],
        "processes": 1,
    }
    make_runner(options_of(root, "compare", run), context()).run()
    content = read_json(root / "experiments/compare/comparison.json")
    assert {(r["arm"], r["seed"]) for r in content["runs"]} == {
        ("single", 0), ("mixed", 0), ("grouped", 0), ("mixed", 1), ("grouped", 1),
    }  # fmt: skip
    by_arm = {(r["arm"], r["seed"]): r for r in content["runs"]}
    assert by_arm["single", 0]["samples_per_task"]["defocus"] == 6
    assert by_arm["mixed", 0]["samples_per_task"]["defocus"] == 2
    assert by_arm["mixed", 0]["psnr"] == by_arm["grouped", 0]["psnr"]  # one group of all: the same network
    assert not (root / "experiments/compare/seed_0/models").exists()  # all taken over from the search
    monkeypatch.setattr(trainings, "train_group", lambda *a, **k: pytest.fail("trained again"))
    make_runner(options_of(root, "compare", run), context()).run()
    assert len(list(read_jsonl(root / "experiments/compare/measured.jsonl"))) == 5


def _compare_on_rank(ctx, options):
    ctx.auto_resume = True
    make_runner(options, ctx).run()


def test_two_ranks_compare_as_one_does(root, tmp_path):
    """They share trainings and images, wait for each other, and only rank 0 writes."""
    run = {"type": "CompareGrouping", "val": "images", "test": "images", "seeds": [0], "processes": 1}
    run |= {"groups": [NAMES[:2], NAMES[2:]], "arms": ["mixed", "grouped", "random"]}
    alone, shared = (options_of(root, name, run) for name in ("compare_alone", "compare_shared"))
    make_runner(alone, context()).run()
    in_processes(2, _compare_on_rank, shared)
    found = [read_json(root / f"experiments/compare_{name}/comparison.json") for name in ("alone", "shared")]
    assert [(r["arm"], r["groups"]) for r in found[0]["runs"]] == [(r["arm"], r["groups"]) for r in found[1]["runs"]]
    for one, two in zip(found[0]["runs"], found[1]["runs"], strict=True):
        assert two["psnr"] == pytest.approx(one["psnr"], abs=1e-9)
    assert len(list(read_jsonl(root / "experiments/compare_shared/measured.jsonl"))) == 3


def test_compare_stage_measures_other_groups_and_configurations_anew(root, monkeypatch):
    """Records of another grouping or another budget neither count as done nor appear among the runs."""
    calls = []

    def train(options, context, folder, names, *, val, metric):
        calls.append(names)
        return Trained(names, dict.fromkeys(names, 30.0), checkpoint="x.pth")

    monkeypatch.setattr(trainings, "train_group", train)
    monkeypatch.setattr(comparison, "checkpoint_restorer", lambda *a: lambda lq: lq)
    run = {"type": "CompareGrouping", "val": "images", "test": "images", "seeds": [0], "processes": 1}
    first, second = [NAMES[:2], NAMES[2:]], [NAMES[:1], NAMES[1:]]

    def compare(groups, arms=("mixed", "grouped"), **changes):
        calls.clear()
        options = options_of(root, "regrouped", {**run, "arms": list(arms), "groups": groups}, **changes)
        make_runner(options, context()).run()
        return read_json(root / "experiments/regrouped/comparison.json")["runs"]

    assert len(compare(first)) == 2
    assert len(calls) == 3
    by_arm = {r["arm"]: r["groups"] for r in compare(second)}
    assert by_arm["grouped"] == [sorted(g) for g in second]
    assert len(calls) == 2  # the mixed network is the same, and has been measured
    assert {r["arm"]: r["groups"] for r in compare(first[::-1])}["grouped"] == [sorted(g) for g in first]
    assert not calls
    (root / "experiments/regrouped/seed_0").rename(root / "experiments/regrouped/before")
    assert len(compare([NAMES], ["mixed", "mixed_long", "grouped"])) == 3
    assert len(calls) == 1  # with one group all three are the same network
    (root / "experiments/regrouped/seed_0").rename(root / "experiments/regrouped/one_group")
    longer = {**base(root)["train"], "total_iter": 4}
    assert [(r["arm"], r["iterations"]) for r in compare(first, ["grouped"], train=longer)] == [("grouped", 4)]
    assert len(calls) == 2


def test_router_stage_and_inference(root):
    run = {
        "type": "BuildRouter",
        "similarity": str(root / "experiments/similarity/similarity.npz"),
        "groups": str(root / "experiments/search/groups.json"),
        "reference": "whole",
        "test": "whole",
        "rule": "discriminant",
        "ood_distance": None,
        "num_reference": 4,
        "num_test": 3,
        "num_prediction": 1,
        "photos": "photos",
        "unknown": ["haze"],
    }
    options = options_of(root, "router", run)
    make_runner(options, context()).run()
    content = read_json(root / "experiments/router/selection.json")
    assert content["rules"]["discriminant"]["accuracy"]["group"] == 1  # there is one group
    assert set(content["rules"]["divergence"]["unknown_flagged"]) == {"haze"}
    assert np.allclose(np.sum(content["rules"]["divergence"]["confusion"], axis=1), 1)
    assert len(content["prediction"]) == 3
    assert len(content["photos"]) == 6
    router = Router.load(root / "experiments/router/router.json")
    choice = router.choose(torch.rand(3, 40, 40))
    assert choice.weights.exists()
    made = []
    choose = routed_restorers(
        root / "experiments/router/router.json", lambda weights, option_file: made.append(weights) or len(made)
    )
    picked, words = choose((np.random.default_rng(0).random((40, 40, 3)) * 255).astype(np.uint8))
    again, _ = choose(np.zeros((40, 40, 3), np.uint8))
    assert picked == again == 1
    assert {"name", "confidence", "divergence", "is_ood"} <= set(words)
    json.dumps(words)


def test_budget_and_names(root):
    options = search_options(root)
    longer = scaled_budget(options, 4)
    assert longer.train.total_iter == 12
    assert longer.train.scheduler.kwargs["T_max"] == 12
    assert training_protocol(longer, "images") != training_protocol(options, "images")
    assert run_name(["ringing", "defocus"]) == "defocus+ringing"
    assert run_name(["a", "b", "c"]) == run_name(["c", "a", "b"])
    assert len(run_name([f"degradation_{i}" for i in range(11)])) < 20


def test_pack_stage(root):
    run = {"type": "PackImages", "source": str(root / "images"), "output": str(root / "packed")}
    make_runner(options_of(root, "pack", run), context()).run()
    assert (root / "packed/index.json").exists()


def test_group_drops_stage(root):
    """The stage of Table 2 at three degradations: distances of the matrices, drops against the single networks."""
    folder = root / "experiments/similarity"
    files = {"descriptor": str(folder / "similarity.npz"), "pixels": str(folder / "similarity_pixels.npz")}
    run = {"type": "MeasureGroupDrops", "similarity": files, "val": "images", "processes": 1}
    run["groups"] = [["ringing", "defocus"], NAMES]
    make_runner(options_of(root, "drops", run), context()).run()
    content = read_json(root / "experiments/drops/group_drops.json")
    memo = read_json(root / "experiments/drops/oracle.json")["trainings"]
    assert len(memo) == 5
    pair = content["groups"][0]
    similarity = Similarity.load(files["descriptor"])
    assert pair["distances"]["descriptor"] == pytest.approx(similarity.mean_distance(["ringing", "defocus"]))
    assert pair["drops"]["ringing"] == pytest.approx(
        memo["ringing"]["psnr"]["ringing"] - memo["defocus+ringing"]["psnr"]["ringing"]
    )
    assert (root / "experiments/drops/report/index.html").exists()
    with pytest.raises(ConfigError, match="haze"):
        make_runner(options_of(root, "drops", {**run, "groups": [["haze", "defocus"]]}), context()).run()
