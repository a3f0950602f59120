"""The stages of GRIDS from end to end on tiny images: artefacts, resume, memo, routed inference."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from skimage import data

from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner, run_stage
from tgsr.methods.grids import trainings
from tgsr.methods.grids.oracle import TrainingOracle
from tgsr.methods.grids.router import Router, routed_restorers
from tgsr.methods.grids.similarity import Similarity
from tgsr.methods.grids.stages import load_groups
from tgsr.methods.grids.trainings import (
    GroupTrainer,
    GroupWork,
    Trained,
    group_key,
    protocol_hash,
    run_name,
    training_protocol,
)
from tgsr.utils.errors import ConfigError, DataError
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


def search_run(root):
    similarity = str(root / "experiments/similarity/similarity.npz")
    return {"type": "SearchGrouping", "similarity": similarity, "val": "images", "delta": 50.0, "processes": 1}


def search_options(root, **changes):
    return options_of(root, "search", {**search_run(root), **changes})


def test_similarity_stage(root):
    found = Similarity.load(root / "experiments/similarity/similarity.npz")
    assert list(found.names) == NAMES
    assert found.about["patch_px"] == 24
    assert found.about["descriptor"]["network"]["num_feat"] == 4
    assert (root / "experiments/similarity/similarity_pixels.npz").exists()
    assert (root / "results/similarity/report/figures/similarity.svg").exists()


def lines(path):
    return {r["key"]: r for r in read_jsonl(path) if "key" in r}


def never(*args, **kwargs):
    pytest.fail("trained again")


def test_search_stage_and_its_journal(root, monkeypatch):
    found = load_groups(root / "experiments/search/groups.json")
    assert [g["members"] for g in found["groups"]] == [sorted(NAMES)]
    assert found["num_trainings"] == 5  # three singles, the best pair, and then all in one
    assert {*NAMES, "+".join(sorted(NAMES))} < set(lines(root / "experiments/search/oracle.0.jsonl"))
    assert (root / "results/search/report/index.html").exists()
    monkeypatch.setattr(GroupWork, "_made", never)
    make_runner(search_options(root, delta=49.0), context()).run()
    assert load_groups(root / "experiments/search/groups.json")["delta"] == 49.0


def test_search_takes_networks_that_other_stages_trained(root, monkeypatch):
    models = next((root / "experiments/search/models").iterdir())
    known = {n: str(models / n / "models/net_g_latest.pth") for n in NAMES}
    options = options_of(root, "search_known", {**search_run(root), "networks": known, "max_size": 1})
    monkeypatch.setattr("tgsr.methods.grids.trainings.train", never)
    make_runner(options, context()).run()
    theirs = load_groups(root / "experiments/search/groups.json")["single_psnr"]
    found = load_groups(root / "experiments/search_known/groups.json")["single_psnr"]
    assert found == pytest.approx(theirs, abs=1e-4)
    wrong = options_of(root, "search_known", {**search_run(root), "networks": {"defocus+rain": "x.pth"}})
    with pytest.raises(ConfigError, match="no degradation 'rain'"):
        make_runner(wrong, context()).run()


def test_trainings_of_other_options_are_refused(root):
    options = search_options(root)
    changed = options_of(root, "search2", {**search_run(root)}, manual_seed=7)
    with pytest.raises(DataError, match=r"another sweep.*seed: 0 there, 7 here"):
        GroupTrainer(changed, context(), root / "experiments/search", val="images")
    with pytest.raises(ConfigError, match="there is no 'nothing'"):
        GroupTrainer(options, context(), root / "experiments/search", val="nothing")


def old_memo(path, options, trainings, **changes):
    protocol = {**training_protocol(options, "images", context()), **changes}
    data = {"schema": "tgsr.oracle", "version": 1, "config": protocol_hash(protocol), "protocol": protocol}
    write_json(path, {**data, "trainings": {group_key(t.names): asdict(t) for t in trainings}})


def test_memos_of_earlier_versions_are_taken_over(root, tmp_path, monkeypatch):
    """`oracle.json` of rank 0, `oracle.1.json` of rank 1, the precision as the option file had it."""
    options = search_options(root)
    old_memo(tmp_path / "oracle.json", options, [Trained(("defocus",), {"defocus": 30.0}, checkpoint="a.pth")])
    failed = Trained(("ringing",), status="failed", error="killed")
    old_memo(tmp_path / "oracle.1.json", options, [failed], precision="auto")
    monkeypatch.setattr(GroupWork, "_made", never)
    with GroupTrainer(options, context(), tmp_path, val="images", processes=1) as trainer:
        trainer([("defocus",)])
        assert trainer.get(["defocus"]).psnr == {"defocus": 30.0}
        assert trainer.get(["ringing"]).error == "killed"
    old_memo(tmp_path / "other/oracle.json", options, [failed], seed=7)
    with pytest.raises(DataError, match=r"another configuration \(seed: 7 there, 0 here"):
        GroupTrainer(options, context(), tmp_path / "other", val="images")


def test_failed_training_is_recorded(root, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainings, "train", broken)
    with GroupTrainer(search_options(root), context(), tmp_path, val="images", processes=1) as trainer:
        trainer([("defocus",)])
    entry = lines(tmp_path / "oracle.0.jsonl")["defocus"]
    assert entry["status"] == "failed"
    assert "out of memory" in entry["error"]


def _rank(ctx, options, folder):
    """One of two ranks: retries a failed training and trains the rest."""

    def made(self, names, context):
        append_jsonl(folder / f"calls.{ctx.rank}.jsonl", names)
        return {"psnr": dict.fromkeys(names, 30.0 - len(names)), "status": "ok", "checkpoint": "x.pth"}

    GroupWork._made = made
    with GroupTrainer(options, ctx, folder, val="images", processes=1) as trainer:
        oracle = TrainingOracle(NAMES, trainer, retry_failed=True)
        oracle.prepare([(0, 1)])
        return {"singles": oracle.train_singles(), "drop": oracle((0, 1)), "parallel": trainer.num_parallel}


def test_two_ranks_share_and_retry_trainings(root, tmp_path):
    """Rank 1 failed last time: it is trained once more, and both ranks know the new result."""
    options = search_options(root)
    old_memo(tmp_path / "oracle.1.json", options, [Trained(("defocus", "ringing"), status="failed", error="killed")])
    found = in_processes(2, _rank, options, tmp_path)
    assert found[0] == found[1] == {"singles": dict.fromkeys(NAMES, 29.0), "drop": 1.0, "parallel": 2}
    done = [r for k in (0, 1) for r in read_jsonl(tmp_path / f"oracle.{k}.jsonl") if "key" in r]
    assert [r["attempt"] for r in done if r["key"] == "defocus+ringing"] == [1, 2] or len(done) == 5
    newest = max((r for r in done if r["key"] == "defocus+ringing"), key=lambda r: r.get("attempt", 1))
    assert (newest["status"], newest["attempt"]) == ("ok", 2)


def test_weights_of_another_configuration_are_not_resumed(root, tmp_path):
    """The journal is lost or was never written, the checkpoints are still there."""
    wider = options_of(
        root, "search", search_run(root), network_g={"type": "SRResNetSameSize", "num_feat": 6, "num_block": 1}
    )
    for changed in (search_options(root), wider):
        with GroupTrainer(changed, context(), tmp_path, val="images", processes=1) as trainer:
            trainer([("defocus",)])
            assert trainer.get(("defocus",)).status == "ok"
        (tmp_path / "oracle.0.jsonl").unlink()
    assert len(list(tmp_path.glob("models/*/defocus/models/net_g_latest.pth"))) == 2


@pytest.mark.slow  # fresh processes import torch
def test_processes_train_the_same_weights(root, tmp_path):
    options = search_options(root)
    with GroupTrainer(options, context(), tmp_path, val="images", processes=2) as trainer:
        trainer([("defocus",), ("ringing",)])
        there = {n: trainer.get((n,)).psnr[n] for n in ("defocus", "ringing")}
    known = lines(root / "experiments/search/oracle.0.jsonl")
    assert there == {n: known[n]["psnr"][n] for n in there}


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
    monkeypatch.setattr(GroupWork, "_made", never)
    monkeypatch.setattr("tgsr.study.measure._values", never)
    make_runner(options_of(root, "compare", run), context()).run()
    assert read_json(root / "experiments/compare/comparison.json") == content


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
        assert two["psnr"] == pytest.approx(one["psnr"], abs=1e-3)  # gradients are summed in another order


def test_compare_stage_trains_what_other_groups_and_budgets_need_and_no_more(root, monkeypatch):
    """The mix is one network whatever the groups; records of other groups do not appear among the runs."""
    calls = []
    weights = next(root.glob("experiments/search/models/*/defocus/models/net_g_latest.pth"))

    def made(self, names, context):
        calls.append(names)
        return {"psnr": dict.fromkeys(names, 30.0), "status": "ok", "checkpoint": str(weights)}

    monkeypatch.setattr(GroupWork, "_made", made)
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
    assert len(calls) == 2
    compare(first[::-1])
    assert not calls
    long = {r["arm"]: r["iterations"] for r in compare(first, ["mixed", "mixed_long", "grouped"])}
    assert long == {"mixed": 3, "grouped": 3, "mixed_long": 6}
    assert len(calls) == 1
    with pytest.raises(ConfigError, match="no arm 'groped'.*known: single"):
        compare(first, ["groped"])
    with pytest.raises(ConfigError, match="random_passed needs the arm single"):
        compare(first, ["random_passed"])


def test_random_groups_that_fail_are_drawn_anew_until_they_pass(root, monkeypatch):
    """Only {defocus, ringing} keeps within the search's delta of 50."""

    def made(self, names, context):
        psnr = -50.0 if len(names) == 2 and "gaussian_noise" in names else 30.0
        weights = next(root.glob("experiments/search/models/*/defocus/models/net_g_latest.pth"))
        return {"psnr": dict.fromkeys(names, psnr), "status": "ok", "checkpoint": str(weights)}

    monkeypatch.setattr(GroupWork, "_made", made)
    groups = {**read_json(root / "experiments/search/groups.json"), "delta": 50.0}
    groups["groups"] = [{"members": ["gaussian_noise", "ringing"]}, {"members": ["defocus"]}]
    write_json(root / "pairs/groups.json", groups)
    run = {"type": "CompareGrouping", "groups": str(root / "pairs/groups.json"), "val": "images", "test": "images"}
    run |= {"seeds": [0], "processes": 1, "arms": ["single", "random_passed"]}
    make_runner(options_of(root, "passed", run), context()).run()
    found = {r["arm"]: r for r in read_json(root / "experiments/passed/comparison.json")["runs"]}
    assert sorted(map(sorted, found["random_passed"]["groups"])) == [["defocus", "ringing"], ["gaussian_noise"]]


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
        "clean": True,
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
    assert 0 <= content["rules"]["divergence"]["auroc"]["haze"] <= 1
    assert content["rules"]["discriminant"]["clean_kept"] is not None
    with_keep = routed_restorers(root / "experiments/router/router.json", never, on_unknown="keep")
    flat = np.full((40, 40, 3), 51, np.uint8)  # constant: like nothing that is known
    kept, words = with_keep(flat)
    assert words["is_kept"]
    assert np.allclose(kept(flat)[0], 0.2)
    assert kept.size_of(flat) == (40, 40)
    without = options_of(root, "router_plain", {**run, "clean": False, "num_prediction": 0, "photos": None})
    make_runner(without, context()).run()
    with pytest.raises(ConfigError, match="no clean class"):
        routed_restorers(root / "experiments/router_plain/router.json", never, on_unknown="keep")


def test_names_of_runs():
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
    memo = lines(root / "experiments/drops/oracle.0.jsonl")
    assert len(memo) == 5
    pair = content["groups"][0]
    similarity = Similarity.load(files["descriptor"])
    assert pair["distances"]["descriptor"] == pytest.approx(similarity.mean_distance(["ringing", "defocus"]))
    assert pair["drops"]["ringing"] == pytest.approx(
        memo["ringing"]["psnr"]["ringing"] - memo["defocus+ringing"]["psnr"]["ringing"]
    )
    assert (root / "results/drops/report/index.html").exists()
    with pytest.raises(ConfigError, match="haze"):
        make_runner(options_of(root, "drops", {**run, "groups": [["haze", "defocus"]]}), context()).run()
