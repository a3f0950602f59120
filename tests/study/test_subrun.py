"""Trainings inside a stage: options, budgets, resuming, stopping, shares of the ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.engine.toy import POINTS, toy_options, write_options
from tests.ranks import in_processes, in_threads
from tgsr.config.options import load_options
from tgsr.config.schema import Options
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.study.journal import Journal
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.study.subrun import Stopped, latest_weights, stoppable, sub_options, task_set, train
from tgsr.utils.files import file_digest


@pytest.fixture
def options(tmp_path):
    raw = toy_options(tmp_path, name="study/stage", run={"type": "Train"}, tasks={"set": POINTS["set"]})
    raw["train"] = {**raw["train"], "total_iter": 4, "scheduler": {"type": "MultiStepLR", "milestones": [1, 2]}}
    raw["name"] = "stage"
    file = write_options(tmp_path, raw)
    return load_options(file, ["name=study/stage"])


def alone():
    return Context(torch.device("cpu"))


def test_options_of_a_training_inside_a_stage(options, tmp_path):
    tasks = task_set("Points", num_tasks=1, seed=2)
    run = sub_options(options, "one", tasks=tasks, seed=9, budget=2.5, save_every=4, keep_last=1)
    assert (run.name, run.run, run.manual_seed, run.tasks.set) == ("study/stage/one", None, 9, tasks)
    assert (run.datasets.val, run.logger.use_tb_logger, run.logger.best) == ({}, False, {})
    assert (run.logger.save_checkpoint_freq, run.logger.keep_last) == (4, 1)
    assert (run.train.total_iter, run.train.scheduler.kwargs["milestones"]) == (10, [2, 5])
    elsewhere = sub_options(options, "one", root=tmp_path / "models")
    assert (elsewhere.name, elsewhere.path.experiments_root) == ("one", tmp_path / "models")
    assert elsewhere.tasks == options.tasks


def test_a_fixed_batch_is_that_of_one_rank_whatever_the_share(options):
    run = sub_options(options, "one", fixed_batch=True)
    assert [global_batch(run, n) for n in (1, 2)] == [4, 4]
    assert [global_batch(sub_options(options, "one"), n) for n in (1, 2)] == [4, 8]
    assert run.datasets.train.batch_size_per_gpu == 4


class Stop(Hook):
    def after_step(self, trainer, result, batches):
        trainer.context.stop_requested |= trainer.iteration == 1


def test_a_stopped_training_resumes(options, tmp_path):
    context = alone()
    with stoppable(context):
        train(sub_options(options, "one"), context, hooks=[Stop()])
        pytest.fail("it was stopped")
    assert context.stop_requested
    with pytest.raises(Stopped):
        train(sub_options(options, "one"), context)
    again = alone()
    trainer = train(sub_options(options, "one"), again)
    whole = train(sub_options(options, "whole"), alone())
    assert (again.auto_resume, trainer.iteration) == (False, 4)
    assert latest_weights(trainer) == tmp_path / "experiments/study/stage/one/models/net_g_latest.pth"
    contents = [torch.load(latest_weights(t), weights_only=True)["params"] for t in (trainer, whole)]
    assert all(torch.equal(contents[0][k], contents[1][k]) for k in contents[0])


class Loop(Stage):
    """Two pieces of work; a signal comes to rank 1 alone, in the middle of the first."""

    def work(self) -> None:
        self.done = []
        for piece in range(2):
            self.stop_if_asked()
            self.done.append(piece)
            self.context.stop_requested |= self.context.rank == 1


def test_a_stage_stops_on_all_ranks_at_the_same_point(options):
    def work(context):
        stage = Loop(options=options, context=context)
        with pytest.raises(Stopped):
            stage.work()
        return stage.done

    assert in_threads(3, work) == [[0]] * 3


@dataclass(frozen=True)
class Trainings:
    options: Options

    def open(self, context: Context) -> Callable[[str], dict]:
        def measure(key: str) -> dict:
            trainer = train(sub_options(self.options, key, fixed_batch=True), context)
            weights = latest_weights(trainer)
            return {"ranks": context.world_size, "weights": str(weights), "digest": file_digest(weights)}

        return measure


def _train_all(context, options, folder, keys):
    journal = Journal(folder / "trained.jsonl", schema="tgsr.trained", protocol={})
    batch = global_batch(options)
    assert run_all(Trainings(options), keys, journal, context, processes=1, label="t", trains=True, batch_size=batch)
    return journal.shared(context)


def test_shares_of_the_ranks_train_what_one_rank_trains(options, tmp_path):
    """Three trainings on two ranks: two queue, the third is data parallel; all of them the same as on one rank."""
    one = _train_all(alone(), options, tmp_path / "one", ["a"])
    reference = torch.load(one["a"]["weights"], weights_only=True)["params"]
    found = in_processes(2, _train_all, options, tmp_path / "two", ["b", "c", "d"])
    assert found[0] == found[1]
    assert {k: r["ranks"] for k, r in found[0].items()} == {"b": 1, "c": 1, "d": 2}
    assert found[0]["b"]["digest"] == found[0]["c"]["digest"] == one["a"]["digest"]
    shared = torch.load(Path(found[0]["d"]["weights"]), weights_only=True)["params"]
    assert all(torch.allclose(shared[k], reference[k], atol=1e-5) for k in reference)
