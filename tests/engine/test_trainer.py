"""The loop, judged by what it leaves behind: weights, states, log lines."""

from __future__ import annotations

import json

import pytest
import torch

from tests.engine.toy import POINTS, assert_same, events, run, toy_options, weights, write_options
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.trainer import Trainer
from tgsr.tasks.samplers import TaskSampler
from tgsr.utils.errors import UserError


def test_artefacts(tmp_path):
    run(tmp_path, val={"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "val_freq": 3})
    folder = tmp_path / "experiments" / "toy"
    assert sorted(p.name for p in (folder / "models").iterdir()) == [
        "net_g_2.pth", "net_g_4.pth", "net_g_6.pth", "net_g_latest.pth",
    ]  # fmt: skip
    assert sorted(p.name for p in (folder / "training_states").iterdir()) == ["2.state", "4.state", "6.state"]
    assert [e["iter"] for e in events(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]
    assert [e["iter"] for e in events(tmp_path, "val")] == [3, 6]
    assert events(tmp_path, "train")[0]["tasks"]["whole_space"]["count"] == 4
    assert (folder / "toy.yml").exists()
    content = torch.load(folder / "models" / "net_g_latest.pth", weights_only=True)
    assert set(content) == {"params", "params_ema"}


def test_it_learns(tmp_path):
    run(
        tmp_path,
        degradation={"space": {"type": "Bicubic", "scale": 4}},
        network_g={"type": "LightSR", "num_feat": 16, "num_block": 2},
        train={
            "total_iter": 60,
            "ema_decay": 0.0,
            "optim_g": {"type": "Adam", "lr": 0.003},
            "losses": {"pixel": {"type": "L1Loss"}},
        },
        val={"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "val_freq": 20},
    )
    bicubic = json.loads((tmp_path / "results/toy/metrics.json").read_text())["datasets"]["toy"]["baselines"]["bicubic"]
    psnr = [e["metrics"]["psnr"] for e in events(tmp_path, "val")]
    assert psnr[-1] > bicubic["psnr"]["mean"] + 0.3, (psnr, bicubic)


def test_resume_is_bitwise(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(a)
    run(b, train={**toy_options(b)["train"], "total_iter": 3}, logger={"save_checkpoint_freq": 3, "print_freq": 1,
        "use_tb_logger": False})  # fmt: skip
    resumed = run(b, auto_resume=True)
    assert resumed.iteration == 6
    assert_same(weights(a), weights(b))
    assert [e["iter"] for e in events(b, "train")] == [1, 2, 3, 4, 5, 6]


def test_number_of_workers_changes_nothing(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(a)
    train = toy_options(b)["datasets"]["train"]
    run(b, datasets={"train": {**train, "num_worker_per_gpu": 2}})
    assert_same(weights(a), weights(b))


def test_accumulation_equals_one_large_batch(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    one = toy_options(a)["datasets"]["train"]
    run(a, datasets={"train": {**one, "batch_size_per_gpu": 4}})
    two = toy_options(b)["datasets"]["train"]
    options = toy_options(b)["train"]
    run(b, datasets={"train": {**two, "batch_size_per_gpu": 2}}, train={**options, "accumulation_steps": 2})
    first, second = weights(a), weights(b)
    assert all(torch.allclose(first[k], second[k], atol=2e-5) for k in first)


def test_existing_experiment_is_moved_aside(tmp_path):
    run(tmp_path)
    before = weights(tmp_path)
    run(tmp_path, manual_seed=1)
    archived = list((tmp_path / "experiments").glob("toy_archived_*"))
    assert len(archived) == 1
    old = torch.load(archived[0] / "models" / "net_g_latest.pth", weights_only=True)["params"]
    assert all(torch.equal(old[k], before[f"params.{k}"]) for k in old)


def test_results_go_with_their_experiment(tmp_path):
    run(tmp_path)
    numbers = (tmp_path / "results/toy/metrics.json").read_bytes()
    run(tmp_path, auto_resume=True)
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["toy"]  # its own numbers, measured again
    run(tmp_path, manual_seed=1)
    archived = next((tmp_path / "experiments").glob("toy_archived_*")).name  # the same stamp in both folders
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == ["toy", archived]
    assert (tmp_path / "results" / archived / "metrics.json").read_bytes() == numbers


def test_damaged_newest_state_falls_back(tmp_path, caplog):
    run(tmp_path)
    expected = weights(tmp_path)
    states = tmp_path / "experiments" / "toy" / "training_states"
    (states / "6.state").write_bytes((states / "6.state").read_bytes()[:1000])
    (tmp_path / "experiments" / "toy" / "models" / "net_g_6.pth").unlink()
    with caplog.at_level("WARNING", logger="tgsr"):
        trainer = run(tmp_path, auto_resume=True)
    assert "6.state: damaged" in caplog.text
    assert trainer.iteration == 6
    assert_same(weights(tmp_path), expected)


def test_keep_last(tmp_path):
    run(tmp_path, logger={"keep_last": 1, "save_checkpoint_freq": 2, "print_freq": 10, "use_tb_logger": False})
    folder = tmp_path / "experiments" / "toy"
    assert [p.name for p in (folder / "training_states").iterdir()] == ["6.state"]
    assert sorted(p.name for p in (folder / "models").iterdir()) == ["net_g_6.pth", "net_g_latest.pth"]


def test_best_by_metric(tmp_path):
    run(
        tmp_path,
        val={"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "val_freq": 1},
        logger={"best": {"toy": "psnr"}, "save_checkpoint_freq": 1, "print_freq": 10, "use_tb_logger": False},
    )
    values = {e["iter"]: e["metrics"]["psnr"] for e in events(tmp_path, "val")}
    best = max(values, key=values.get)
    assert_same(weights(tmp_path, "best_psnr"), weights(tmp_path, best))


def test_feedback_changes_the_next_interval_only(tmp_path):
    train = toy_options(tmp_path)["datasets"]["train"]
    for workers in (0, 2):
        root = tmp_path / str(workers)
        trainer = run(root, tasks=POINTS, datasets={"train": {**train, "num_worker_per_gpu": workers,
            "dataset": {**train["dataset"], "dataroot_gt": str(root / "gt")}}})  # fmt: skip
        sampler: TaskSampler = trainer.sampler
        assert [f.iteration for f in sampler.seen] == [2, 4, 6]
        assert sum(sampler.seen[0].counts.values()) == 8
        worst = max(sampler.seen[0].losses, key=sampler.seen[0].losses.get)
        assert sampler.seen[1].counts == {worst: 8}
    assert_same(weights(tmp_path / "0"), weights(tmp_path / "2"))


def test_resume_in_the_middle_of_an_interval(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(a, tasks=POINTS)
    run(b, tasks=POINTS, train={**toy_options(b)["train"], "total_iter": 3},
        logger={"save_checkpoint_freq": 3, "print_freq": 1, "use_tb_logger": False})  # fmt: skip
    trainer = run(b, tasks=POINTS, auto_resume=True)
    assert [f.iteration for f in trainer.sampler.seen] == [4, 6]
    assert sum(trainer.sampler.seen[0].counts.values()) == 8
    assert_same(weights(a), weights(b))


def test_nan_names_loss_iteration_and_tasks(tmp_path):
    from tgsr.losses.base import LOSSES, PairLoss

    if "NaNLoss" not in LOSSES:

        @LOSSES.register()
        class NaNLoss(PairLoss):
            """NaN in every third call."""

            calls = 0

            def compare(self, restored, target):
                NaNLoss.calls += 1
                return restored.mean((1, 2, 3)) * (float("nan") if NaNLoss.calls % 3 == 0 else 1.0)

    train = {**toy_options(tmp_path)["train"], "losses": {"pixel": {"type": "L1Loss"}, "broken": {"type": "NaNLoss"}}}
    with pytest.raises(UserError, match=r"not finite at iteration 3: broken, gradient \(tasks: whole_space"):
        run(tmp_path, train=train)
    dump = torch.load(tmp_path / "experiments" / "toy" / "bad_batch_3_rank0.pth", weights_only=True)
    assert dump[0]["lq"].shape == (4, 3, 8, 8)
    assert len(dump[0]["params"]) == 4

    LOSSES.get("NaNLoss").calls = 0
    trainer = run(tmp_path / "skip", train={**train, "on_nan": "skip"})
    assert trainer.iteration == 6
    assert all(torch.isfinite(v).all() for v in weights(tmp_path / "skip").values())
    assert_same(weights(tmp_path / "skip", 2), weights(tmp_path / "skip", 2))


def test_bad_step_leaves_weights_alone(tmp_path):
    options = load_options(write_options(tmp_path, toy_options(tmp_path)))
    trainer = Trainer(options, Context.create(device="cpu"))
    batch = next(trainer.data.iterations(0, 1))
    before = {k: v.clone() for k, v in trainer.model.net_g.state_dict().items()}
    batch[0].gt[0, 0, 0, 0] = float("nan")
    result = trainer.model.step(batch, 0)
    assert dict(zip(result.checks, result.bad.tolist(), strict=True)) == {"pixel": 1.0, "gradient": 0.0}
    assert_same(before, trainer.model.net_g.state_dict())


def test_sigterm_saves(tmp_path):
    from tgsr.engine.hooks import Hook

    class Terminate(Hook):
        def after_step(self, trainer, result, batches):
            if trainer.iteration == 3:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)

    options = load_options(write_options(tmp_path, toy_options(tmp_path)))
    trainer = Trainer(options, Context.create(device="cpu"), hooks=[Terminate()])
    trainer.run()
    assert trainer.iteration == 4
    assert (tmp_path / "experiments" / "toy" / "training_states" / "4.state").exists()
    run(tmp_path, auto_resume=True)
    run(tmp_path / "whole")
    assert_same(weights(tmp_path), weights(tmp_path / "whole"))


@pytest.mark.parametrize("sharpen", [False, True])
def test_degrading_in_the_loader_or_on_the_device_is_the_same(tmp_path, sharpen):
    train = {
        **toy_options(tmp_path)["train"],
        "losses": {"pixel": {"type": "L1Loss", "target": "gt_usm" if sharpen else "gt"}},
    }
    results = []
    for where in ("loader", "device"):
        root = tmp_path / where
        space = toy_options(root)["degradation"]["space"]
        data = toy_options(root)["datasets"]["train"]
        data["dataset"] = {**data["dataset"], "degrade_size": 40}
        run(
            root,
            degradation={"space": space, "where": where, "sharpen_input": sharpen},
            datasets={"train": data},
            train=train,
        )
        results.append(weights(root))
    assert all(torch.allclose(results[0][k], results[1][k], atol=1e-6) for k in results[0])


def test_real_pairs_train_without_a_degradation(tmp_path):
    import cv2

    write_options(tmp_path, toy_options(tmp_path))
    for folder, lq in (("gt", "lq"), ("val", "val_lq")):
        (tmp_path / lq).mkdir()
        for path in sorted((tmp_path / folder).iterdir()):
            cv2.imwrite(str(tmp_path / lq / path.name), cv2.resize(cv2.imread(str(path)), None, fx=0.25, fy=0.25))
    pairs = {"type": "PairedDataset", "dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": str(tmp_path / "lq")}
    val = {"type": "PairedDataset", "dataroot_gt": str(tmp_path / "val"), "dataroot_lq": str(tmp_path / "val_lq")}
    trainer = run(
        tmp_path,
        degradation=None,
        datasets={
            "train": {"dataset": {**pairs, "gt_size": 32}, "batch_size_per_gpu": 4, "num_worker_per_gpu": 0},
            "val": {"pairs": val},
        },
    )
    assert trainer.iteration == 6
    assert events(tmp_path, "train")[0]["tasks"] == {"real_pairs": {"loss": pytest.approx(
        events(tmp_path, "train")[0]["losses"]["pixel"]), "count": 4}}  # fmt: skip
