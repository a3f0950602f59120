"""What a resume may meet: other options, other states, half-written files, ranks that disagree."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.engine.toy import assert_same, events, run, toy_options, weights, write_options
from tgsr.config.options import load_options
from tgsr.engine import build
from tgsr.engine.checkpoint import CheckpointWriter, Experiment
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.engine.trainer import Trainer
from tgsr.tasks.samplers import TASK_SAMPLERS, Feedback
from tgsr.tasks.weighting import LOSS_WEIGHTINGS, EqualWeighting
from tgsr.utils.errors import CheckpointError, DataError, UserError

EVERY = {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False}


def states(root):
    return sorted(p.name for p in (root / "experiments" / "toy" / "training_states").iterdir())


def test_killed_before_the_first_checkpoint_logs_every_iteration_once(tmp_path):
    log = tmp_path / "experiments" / "toy" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"event": "train", "iter": 1, "losses": {}}) + "\n")
    run(tmp_path, auto_resume=True)
    assert [e["iter"] for e in events(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]


def test_damaged_state_never_displaces_good_ones(tmp_path):
    short = {**toy_options(tmp_path)["train"], "total_iter": 4}
    run(tmp_path, logger=EVERY, train=short)
    folder = tmp_path / "experiments" / "toy" / "training_states"
    (folder / "4.state").write_bytes(b"cut")
    trainer = run(tmp_path, auto_resume=True, logger={**EVERY, "keep_last": 1}, train={**short, "total_iter": 3})
    assert trainer.iteration == 3
    assert states(tmp_path) == ["3.state", "4.state.old"]  # saved once more with the validation of the new end
    run(tmp_path, auto_resume=True, logger={**EVERY, "keep_last": 1}, train={**short, "total_iter": 4})
    assert states(tmp_path) == ["4.state", "4.state.old"]


def test_own_newest_state_before_the_one_in_the_options(tmp_path):
    run(tmp_path, logger=EVERY)
    state = tmp_path / "experiments" / "toy" / "training_states" / "2.state"
    elsewhere = tmp_path / "2.state"
    elsewhere.write_bytes(state.read_bytes())
    expected = weights(tmp_path)
    with_path = {**toy_options(tmp_path)["path"], "resume_state": str(elsewhere)}
    options = load_options(write_options(tmp_path, toy_options(tmp_path, path=with_path, logger=EVERY)))
    Trainer(options, Context.create(device="cpu")).run()
    assert [n for n in states(tmp_path) if n.endswith(".old")] == [f"{i}.state.old" for i in (3, 4, 5, 6)]
    assert [e["iter"] for e in events(tmp_path, "train")] == [1, 2, 3, 4, 5, 6]
    assert_same(weights(tmp_path), expected)
    again = Trainer(options, Context.create(device="cpu", auto_resume=True))
    again.run()
    assert len([n for n in states(tmp_path) if n.endswith(".old")]) == 4, "it went on from its own 6.state"


def test_half_written_files_of_a_kill_are_removed(tmp_path):
    experiment = Experiment(tmp_path, "run")
    experiment.prepare(resume=False)
    (experiment.states / ".5.state.123.tmp").write_bytes(b"half")
    (experiment.models / ".net_g_5.pth.123.tmp").write_bytes(b"half")
    experiment.prepare(resume=True)
    assert not list(experiment.path.rglob("*.tmp"))


def test_best_weights_whose_metric_ends_in_a_number_are_kept(tmp_path):
    experiment = Experiment(tmp_path, "run")
    experiment.prepare(resume=False)
    writer = CheckpointWriter(experiment, keep_last=1)
    writer.save_named("net_g_best_psnr_4.pth", {"params": {}})
    for i in (1, 2):
        writer.save(i, {"net_g": {"params": {}}, "net_d": {"params": {}}}, {"iteration": i})
    writer.wait()
    kept = sorted(p.name for p in experiment.models.iterdir())
    assert kept == ["net_d_2.pth", "net_d_latest.pth", "net_g_2.pth", "net_g_best_psnr_4.pth", "net_g_latest.pth"]


def test_two_sets_with_the_same_best_metric_have_files_of_their_own(tmp_path):
    write_options(tmp_path, toy_options(tmp_path))
    val = {n: {"type": "GTDataset", "dataroot_gt": str(tmp_path / f)} for n, f in (("one", "val"), ("two", "gt"))}
    run(
        tmp_path,
        datasets={**toy_options(tmp_path)["datasets"], "val": val},
        logger={**EVERY, "best": {"one": "psnr", "two": "psnr"}},
    )
    names = {p.name for p in (tmp_path / "experiments" / "toy" / "models").glob("*best*")}
    assert names == {"net_g_best_one_psnr.pth", "net_g_best_two_psnr.pth"}


def test_another_network_is_one_line(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit the options .*size mismatch.*pretrain_network_g"):
        run(tmp_path, auto_resume=True, network_g={"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 4})


def test_betas_and_decay_are_the_options_and_averages_the_states(tmp_path):
    short = {**toy_options(tmp_path)["train"], "total_iter": 2}
    run(tmp_path, train=short)
    optimizer = {"type": "Adam", "lr": 0.001, "betas": [0.5, 0.9]}
    trainer = run(tmp_path, auto_resume=True, train={**short, "total_iter": 4, "optim_g": optimizer})
    optimizer = trainer.model.g.optimizer
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    assert {int(s["step"]) for s in optimizer.state.values()} == {4}


def test_averaging_that_begins_with_a_resume_begins_at_the_trained_weights(tmp_path):
    short = {**toy_options(tmp_path)["train"], "total_iter": 2, "ema_decay": 0.0}
    run(tmp_path, train=short)
    trainer = run(tmp_path, auto_resume=True, train={**short, "ema_decay": 0.999})
    assert_same(trainer.model.ema_g.state_dict(), trainer.model.net_g.state_dict())


class Pretender(Context):
    """Rank 0 or 1 of two, without a process group: what the other one says is given."""

    said: object = None

    def barrier(self) -> None: ...

    def gather(self, items):
        return [*items, self.said]

    def from_main(self, value):
        return value if self.is_main else self.said


def test_ranks_that_see_different_checkpoints_all_stop(tmp_path):
    run(tmp_path)
    options = load_options(write_options(tmp_path, toy_options(tmp_path)))
    context = Pretender(torch.device("cpu"), auto_resume=True)
    context.said = 0
    trainer = Trainer(options, context)
    with pytest.raises(UserError, match=r"different checkpoints: of iterations 6, 0.*all nodes share"):
        trainer.run()
    assert states(tmp_path) == ["2.state", "4.state", "6.state"]


def test_all_ranks_leave_out_what_rank_0_found_bad(tmp_path):
    options = load_options(write_options(tmp_path, toy_options(tmp_path)))
    context = Pretender(torch.device("cpu"), rank=1, world_size=2)
    for said, expected in ((set(), 6), ({0, 4}, 4)):
        dataset = options.datasets.train.dataset.build(scale=4, tasks=build.build_tasks(options))
        context.said = said
        build.preflight(dataset, context)
        assert len(dataset) == expected
    context.said = DataError("2 of 6 images cannot be used")
    with pytest.raises(DataError, match="2 of 6"):
        build.preflight(dataset, context)


def test_bad_validation_image_is_named_before_training(tmp_path):
    path = write_options(tmp_path, toy_options(tmp_path))
    image = tmp_path / "val" / "01.png"
    image.write_bytes(image.read_bytes()[:400])
    with pytest.raises(DataError, match=r"01\.png"):
        Trainer(load_options(path), Context.create(device="cpu"))


def test_micro_batches_have_noise_of_their_own(tmp_path):
    base = toy_options(tmp_path)
    raw = toy_options(
        tmp_path,
        degradation={**base["degradation"], "where": "device", "noise": "batch"},
        train={**base["train"], "accumulation_steps": 2},
    )
    trainer = Trainer(load_options(write_options(tmp_path, raw)), Context.create(device="cpu"))
    seeds = []
    trainer.data.dataset.degrade_on_device = lambda batch, generator: seeds.append(generator.initial_seed()) or batch
    for _ in range(2):
        next(trainer.data.iterations(3, 4))
    assert seeds[:2] == seeds[2:]
    assert seeds[0] != seeds[1]


@LOSS_WEIGHTINGS.register()
class ListeningWeighting(EqualWeighting):
    """Remembers its feedback; hears every third iteration, the test sampler every second."""

    interval = 3

    def __init__(self, tasks, *, seed: int) -> None:
        super().__init__(tasks, seed=seed)
        self.seen: list[Feedback] = []

    def update(self, feedback: Feedback) -> None:
        self.seen.append(feedback)


def test_sampler_and_weighting_each_hear_of_their_own_interval(tmp_path):
    tasks = {
        "set": {"type": "Points", "num_tasks": 3, "seed": 5},
        "sampler": {"type": "HardestTaskSampler"},
        "weighting": {"type": "ListeningWeighting"},
    }
    assert "HardestTaskSampler" in TASK_SAMPLERS
    a, b = tmp_path / "a", tmp_path / "b"
    whole = run(a, tasks=tasks)
    assert [(f.iteration, sum(f.counts.values())) for f in whole.sampler.seen] == [(2, 8), (4, 8), (6, 8)]
    assert [(f.iteration, sum(f.counts.values())) for f in whole.weighting.seen] == [(3, 12), (6, 12)]
    run(b, tasks=tasks, train={**toy_options(b)["train"], "total_iter": 5}, logger={**EVERY, "save_checkpoint_freq": 5})
    resumed = run(b, tasks=tasks, auto_resume=True)
    assert [f.losses for f in resumed.weighting.seen] == [f.losses for f in whole.weighting.seen[1:]]
    assert_same(weights(a), weights(b))


class Outage(Hook):
    def after_step(self, trainer, result, batches):
        if trainer.iteration == 5:
            trainer.writer.wait()
            raise KeyboardInterrupt


def test_what_lies_between_checkpoints_is_not_lost(tmp_path, caplog):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    rare = {"print_freq": 3, "save_checkpoint_freq": 1000, "use_tb_logger": False}
    run(whole, logger=rare)
    cut.mkdir()
    options = load_options(write_options(cut, toy_options(cut, logger={**rare, "save_checkpoint_seconds": 0})))
    with pytest.raises(KeyboardInterrupt):
        Trainer(options, Context.create(device="cpu"), hooks=[Outage()]).run()
    assert states(cut) == ["4.state"]  # one file, however long the run
    assert not list((cut / "experiments" / "toy" / "models").iterdir())
    run(cut, auto_resume=True, logger=rare)
    assert states(cut) == ["6.state"]
    assert_same(weights(cut), weights(whole))
    lines = [
        [(e["iter"], e["losses"], e["tasks"], e["grad_norm"]) for e in events(root, "train")] for root in (cut, whole)
    ]
    assert lines[0] == lines[1]  # the window of the log that was cut, too

    shutil.rmtree(cut / "experiments" / "toy" / "training_states")
    caplog.set_level("WARNING", "tgsr")
    run(cut, auto_resume=True, logger=rare)
    assert "toy starts from the beginning" in caplog.text


def test_states_between_checkpoints_do_not_count_as_checkpoints(tmp_path):
    experiment = Experiment(tmp_path, "run")
    experiment.prepare(resume=False)
    writer = CheckpointWriter(experiment, keep_last=2)
    for iteration, has_weights in ((1, True), (2, False), (3, True), (4, False), (5, False)):
        writer.save(iteration, {"net_g": {"params": {}}} if has_weights else {}, {"iteration": iteration})
    writer.wait()
    assert experiment.iterations() == [1, 3, 5]
    assert experiment.load_newest()["iteration"] == 5
