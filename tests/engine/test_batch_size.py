"""The global batch: the same samples on any number of ranks and accumulation steps."""

from __future__ import annotations

import logging

import pytest
import torch

from tests.engine.toy import POINTS, toy_options, write_options
from tests.ranks import in_threads, thread_contexts
from tgsr.config.options import load_options, options_hash, to_plain
from tgsr.data.plan import split_batch
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.stages import Train
from tgsr.engine.trainer import Trainer
from tgsr.utils.errors import ConfigError


def options_of(root, *overrides, **sections):
    return load_options(write_options(root, toy_options(root, **sections)), overrides)


@pytest.mark.parametrize(
    ("batch", "ranks", "largest", "expected"),
    [(8, 1, None, (8, 1)), (8, 2, 4, (4, 1)), (8, 1, 3, (2, 4)), (32, 4, 6, (4, 2)), (12, 2, 5, (3, 2)),
     (7, 1, 4, (1, 7)),
     (8, 8, 12, (1, 1))],
)  # fmt: skip
def test_a_batch_is_split_into_as_few_equal_steps_as_can_be(batch, ranks, largest, expected):
    assert split_batch(batch, ranks, largest) == expected


def _samples(options, ranks):
    """Iteration -> what is trained on, over all ranks and micro batches; and how it was cut."""

    def work(context):
        tasks = build.build_training_tasks(options)
        data = build.TrainData(options, context, tasks, build.build_task_sampler(options, tasks))
        try:
            return [
                (sorted((int(b.sample_ids[i]), int(b.task_ids[i]), float(b.gt[i].sum()), float(b.lq[i].sum()))
                        for b in micro for i in range(len(b.gt))), [len(b.gt) for b in micro])
                for micro in data.iterations(0, 2)
            ]  # fmt: skip
        finally:
            data.close()

    found = in_threads(ranks, work) if ranks > 1 else [work(Context(torch.device("cpu")))]
    return [sorted(s for rank in found for s in rank[i][0]) for i in range(2)], found[0][0][1]


@pytest.mark.parametrize(
    ("ranks", "per_gpu", "cut"),
    [(1, None, [8]), (2, None, [4]), (4, None, [2]), (1, 3, [2] * 4), (2, 2, [2, 2]), (4, 1, [1, 1])],
)  # fmt: skip
def test_any_ranks_and_steps_see_the_same_samples(tmp_path, ranks, per_gpu, cut):
    data = toy_options(tmp_path)["datasets"]
    data["train"]["batch_size_per_gpu"] = 8
    expected, _ = _samples(options_of(tmp_path, datasets=data, tasks={"set": POINTS["set"]}), 1)
    assert [len(samples) for samples in expected] == [8, 8]
    data["train"] = {**data["train"], "batch_size": 8, "batch_size_per_gpu": per_gpu}
    if per_gpu is None:
        del data["train"]["batch_size_per_gpu"]
    found, cuts = _samples(options_of(tmp_path, datasets=data, tasks={"set": POINTS["set"]}), ranks)
    assert found == expected
    assert cuts == cut


def test_without_it_the_batch_grows_with_the_ranks_as_before(tmp_path):
    options = options_of(tmp_path)
    assert [build.micro_batches(options, n) for n in (1, 2, 3)] == [(4, 1)] * 3
    assert [build.global_batch(options, n) for n in (1, 2, 3)] == [4, 8, 12]
    steps = options_of(tmp_path, "train:accumulation_steps=3")
    assert (build.micro_batches(steps, 2), build.global_batch(steps, 2)) == ((4, 3), 24)


def test_weights_do_not_depend_on_the_cut(tmp_path):
    """The same training in one step and in four micro batches, to rounding."""

    def weights(*overrides):
        trainer = Trainer(options_of(tmp_path, "train:total_iter=2", *overrides), Context(torch.device("cpu")))
        trainer.run()
        return torch.cat([p.flatten() for p in trainer.model.net_g.parameters()])

    whole = weights("datasets:train:batch_size_per_gpu=8")
    cut = weights("name=cut", "datasets:train:batch_size=8", "datasets:train:batch_size_per_gpu=2")
    assert torch.allclose(whole, cut, atol=1e-5)
    assert not torch.equal(whole, weights("name=other", "datasets:train:batch_size_per_gpu=4"))


def test_the_start_says_what_the_batch_became(tmp_path, caplog):
    caplog.set_level(logging.INFO, "tgsr")
    options = options_of(tmp_path, "datasets:train:batch_size=6", "datasets:train:batch_size_per_gpu=2")
    Train(options=options, context=Context(torch.device("cpu"))).check()
    assert "toy: a batch of 6 = 1 ranks x 2 images x 3 accumulation steps" in caplog.text


def test_ranks_that_do_not_divide_the_batch_are_refused_at_once(tmp_path):
    options = options_of(tmp_path, "datasets:train:batch_size=6")
    with pytest.raises(ConfigError) as raised:
        Train(options=options, context=thread_contexts(4)[0])
    assert str(raised.value) == (
        "command line: datasets.train.batch_size: a batch of 6 cannot be shared by 4 ranks; "
        "start 1, 2, 3 or 6 ranks, or give another batch_size"
    )
    assert not (tmp_path / "experiments").exists()


def test_contradictions_are_refused_with_their_place(tmp_path):
    with pytest.raises(ConfigError, match=r"train.accumulation_steps: it follows from .*batch_size; leave"):
        options_of(tmp_path, "datasets:train:batch_size=8", "train:accumulation_steps=2")
    data = toy_options(tmp_path)["datasets"]
    del data["train"]["batch_size_per_gpu"]
    with pytest.raises(ConfigError, match=r"toy.yml:\d+: datasets.train: there is no batch size; give"):
        options_of(tmp_path, datasets=data)


def test_hashes_of_older_files_stay_and_what_a_gpu_holds_is_no_part_of_them(tmp_path):
    options = options_of(tmp_path, "path:experiments_root=experiments", "path:results_root=results")
    assert "batch_size" not in to_plain(options)["datasets"]["train"]
    hashes = {
        options_hash(options_of(tmp_path, "datasets:train:batch_size=8", f"datasets:train:batch_size_per_gpu={n}"))
        for n in (1, 4)
    }
    assert len(hashes) == 1
    assert options_hash(options_of(tmp_path, "datasets:train:batch_size=4")) not in {*hashes, options_hash(options)}
