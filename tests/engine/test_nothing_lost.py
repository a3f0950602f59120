"""What a user would lose: a validation that fails, states that cannot be read, stages whose options have changed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.engine.toy import assert_same, events, run, toy_options, weights, write_options
from tgsr.config.options import load_options
from tgsr.engine import hooks
from tgsr.engine.checkpoint import CheckpointWriter, Experiment, snapshot
from tgsr.engine.context import Context
from tgsr.engine.hooks import MAX_BAD_BATCHES, GuardHook, ValidationHook
from tgsr.engine.runner import RUNNERS, Runner, run_stage
from tgsr.engine.stages import Train
from tgsr.utils.errors import CheckpointError, ConfigError, UserError

VALIDATED = {
    "val": {"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "val_freq": 2},
    "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False, "best": {"toy": "psnr"}},
}


def test_a_failing_validation_loses_nothing(tmp_path, monkeypatch):
    run(tmp_path / "a", **VALIDATED)
    calls = []

    def fails_the_second_time(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise UserError("out of memory")
        return validate(*args, **kwargs)

    validate = hooks.validate
    monkeypatch.setattr(hooks, "validate", fails_the_second_time)
    with pytest.raises(UserError, match="out of memory"):
        run(tmp_path / "b", **VALIDATED)
    monkeypatch.undo()
    resumed = run(tmp_path / "b", auto_resume=True, **VALIDATED)
    assert resumed.iteration == 6
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert_same(weights(tmp_path / "a", "best_psnr"), weights(tmp_path / "b", "best_psnr"))
    first, second = ([(e["iter"], e["metrics"]) for e in events(tmp_path / k, "val")] for k in "ab")
    assert first == second
    assert [i for i, _ in first] == [2, 4, 6]


def test_a_made_up_validation_counts(tmp_path, monkeypatch):
    """Of the last iteration: no step follows that would save it."""

    def fails(*args, **kwargs):
        raise UserError("out of memory")

    only_last = {**VALIDATED, "val": {**VALIDATED["val"], "val_freq": 6}}
    monkeypatch.setattr(hooks, "validate", fails)
    with pytest.raises(UserError):
        run(tmp_path, **only_last)
    monkeypatch.undo()
    for _ in range(2):
        run(tmp_path, auto_resume=True, **only_last)
    assert [e["iter"] for e in events(tmp_path, "val")] == [6]


def test_no_start_from_the_beginning_where_no_state_can_be_read(tmp_path):
    run(tmp_path)
    folder = tmp_path / "experiments" / "toy"
    for path in (folder / "training_states").iterdir():
        path.write_bytes(b"")
    log = (folder / "log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"none of the 3 training states.*--auto_resume"):
        run(tmp_path, auto_resume=True)
    assert (folder / "log.jsonl").read_bytes() == log
    assert len(list((folder / "training_states").glob("*.state"))) == 3


def test_numbers_of_numpy_are_saved_as_python_numbers(tmp_path):
    experiment = Experiment(tmp_path, "x")
    experiment.prepare(resume=False)
    writer = CheckpointWriter(experiment, keep_last=None)
    writer.save(1, {}, {"iteration": 1, "record": np.float64(2.5), "count": [np.int64(3)]})
    writer.wait()
    assert experiment.load_newest()["record"] == 2.5
    assert type(experiment.load_newest()["count"][0]) is int
    assert snapshot({np.int64(3): 1}) == {3: 1}
    assert all(type(k) is int for k in snapshot({np.int64(3): 1}))
    with pytest.raises(CheckpointError, match=r"cannot hold .*ndarray"):
        snapshot({"hooks": {"mine": np.zeros(2)}})


def test_best_weights_after_a_first_nan():
    saved = []
    trainer = SimpleNamespace(
        metrics={"niqe": SimpleNamespace(higher_is_better=False)},
        context=SimpleNamespace(is_main=True),
        writer=SimpleNamespace(save_named=lambda file, weights: saved.append(file)),
        weights=lambda: {"net_g": {}},
    )
    hook = ValidationHook(every=1, best={"set": "niqe"})
    hook.load_state_dict({"records": {"set/niqe": float("nan")}})  # of a version that kept it
    for value in (float("nan"), 9.0, 10.0, 5.0):
        hook._keep_best(trainer, "set", {"niqe": value})
    assert saved == ["net_g_best_niqe.pth"] * 2
    assert hook.records == {"set/niqe": 5.0}


def test_skipped_batches_do_not_fill_the_disk(tmp_path):
    trainer = SimpleNamespace(
        tasks=[SimpleNamespace(name="t")],
        experiment=SimpleNamespace(path=tmp_path),
        context=SimpleNamespace(rank=0),
        options=SimpleNamespace(name="x"),
    )
    result = SimpleNamespace(checks=("pixel",), task_ids=torch.tensor([0]))
    guard = GuardHook("skip")
    for iteration in range(MAX_BAD_BATCHES + 3):
        guard._judge(trainer, iteration, torch.ones(1), result, [])
        guard._judge(trainer, iteration, torch.zeros(1), result, [])
    assert len(list(tmp_path.glob("bad_batch_*"))) == MAX_BAD_BATCHES


class _Counted(Runner):
    """Notes whether it was told to resume."""

    seen: list[bool] = []

    def run(self):
        self.seen.append(self.context.auto_resume)


class _CountedTraining(_Counted):
    continues_other_options = False


@pytest.mark.parametrize(("stage", "resumes"), [(_Counted, True), (_CountedTraining, False)])
def test_a_chain_does_not_relabel_weights_of_other_options(tmp_path, stage, resumes):
    """A done training is made anew, a stage with a memo of its own decides itself; alone, both go on."""
    if stage.__name__ not in RUNNERS:
        RUNNERS.register(stage.__name__)(stage)
    stage.seen.clear()
    raw = toy_options(tmp_path, run={"type": stage.__name__})

    def run_with(lr, *, is_in_chain):
        raw["train"]["optim_g"]["lr"] = lr
        context = Context.create(device="cpu", auto_resume=True)
        assert run_stage(load_options(write_options(tmp_path, raw)), context, is_in_chain=is_in_chain)

    for lr in (1e-3, 1e-3, 2e-3):
        run_with(lr, is_in_chain=True)
    assert stage.seen == [True, resumes]
    raw["val"] = {**raw["val"], "max_pixels": 1000}  # another measurement of the same weights
    run_with(2e-3, is_in_chain=True)
    run_with(3e-3, is_in_chain=False)
    assert stage.seen == [True, resumes, True, True]
    assert Train.continues_other_options is False


def check(root, **sections):
    options = load_options(write_options(root, toy_options(root, **sections)))
    return Train(options=options, context=Context.create(device="cpu")).check()


def test_check_measures_the_first_image_of_every_set(tmp_path, caplog):
    with caplog.at_level("WARNING", "tgsr"):
        assert check(tmp_path, val={"metrics": {"niqe": {"type": "NIQE"}}}) == []
    assert "niqe is left out for 2 of 2 images" in caplog.text
    assert check(tmp_path) == []


def test_check_steps_where_the_generator_learns(tmp_path):
    train = toy_options(tmp_path)["train"]
    game = {"gan": {"type": "GANLoss"}, "optim_d": train["optim_g"], "net_d_init_iters": 3, "net_d_iters": 2}
    discriminator = {"type": "UNetDiscriminatorSN", "num_feat": 4}
    assert check(tmp_path, model="AdversarialModel", network_d=discriminator, train={**train, **game}) == []


def test_images_are_kept_where_they_are_asked_for(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", val={"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "save_img": False})
    assert list((tmp_path / "a/results/toy/images").rglob("*.png"))
    assert not list((tmp_path / "b/results").rglob("*.png"))
    a, b = (json.loads((tmp_path / k / "results/toy/metrics.json").read_text()) for k in "ab")
    assert a["datasets"]["toy"]["metrics"] == b["datasets"]["toy"]["metrics"]
    assert a["precision"] == "fp32"


def test_clipping_to_nothing_is_refused(tmp_path):
    train = {**toy_options(tmp_path)["train"], "clip_grad_norm": 0}
    with pytest.raises(ConfigError, match="leave it out"):
        load_options(write_options(tmp_path, toy_options(tmp_path, train=train)))


def test_a_nested_name_keeps_its_option_file_where_reports_look(tmp_path):
    (tmp_path / "study").mkdir()
    run(tmp_path, name="study/toy")
    folder = tmp_path / "experiments" / "study" / "toy"
    assert (folder / "toy.yml").exists()
    assert not (folder / "study").exists()
