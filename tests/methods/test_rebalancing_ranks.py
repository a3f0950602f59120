"""Rebalancing in processes of its own: killed inside an interval, and shared by two ranks."""

from __future__ import annotations

import json

import pytest

from tests.engine.test_kill_and_ranks import finish, kill_at_random, start
from tests.engine.toy import assert_same, weights
from tests.methods.rebalancing_toys import TASKS, fake_references, make_options, two_tasks
from tgsr.methods.rebalancing.references import References, protocol_of
from tgsr.methods.rebalancing.stages import read_weights


def prepare(root, references, *, batch=4, **sections):
    """An option file named `toy`; its references say `low` falls behind in the first interval, `high` in the second."""
    root.mkdir(parents=True)
    train = {"total_iter": 12, "ema_decay": 0.5, "optim_g": {"type": "Adam", "lr": 0.001},
             "losses": {"pixel": {"type": "L1Loss"}}}  # fmt: skip
    data = {"type": "GTDataset", "dataroot_gt": str(references.parent / "gt"), "gt_size": 32}
    options = make_options(
        root,
        run={"type": "Rebalance", "measure": False},
        tasks={**TASKS, "sampler": {"type": "RebalancingTaskSampler", "references": str(references), "interval": 4}},
        datasets={
            "train": {"dataset": data, "batch_size_per_gpu": batch, "num_worker_per_gpu": 1},
            "val": {"toy": {"type": "GTDataset", "dataroot_gt": str(references.parent / "val")}},
        },
        train=train,
        logger={"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False, "keep_last": 3},
        **sections,
    )
    curves = {"low": {0: 20.0, 4: 22.0, 8: 20.0, 12: 20.0}, "high": {0: 20.0, 4: 20.0, 8: 22.0, 12: 20.0}}
    if not references.exists():
        fake_references(references, two_tasks(), curves, interval=4)
        content = json.loads(references.read_text())
        references.write_text(json.dumps({**content, "protocol": protocol_of(options)}))
        assert References.load(references).interval == 4
    return root / "toy.yml"


@pytest.fixture
def references(tmp_path):
    from tests.engine.toy import make_images

    make_images(tmp_path / "gt")
    make_images(tmp_path / "val", num=2, seed=1)
    return tmp_path / "references.json"


@pytest.mark.slow
def test_killed_inside_intervals_is_bitwise(tmp_path, references):
    whole, killed = prepare(tmp_path / "whole", references), prepare(tmp_path / "killed", references)
    finish(start(whole, ranks=2))
    assert kill_at_random(killed, ranks=2, times=2, seed=5) > 0
    finish(start(killed, ranks=2))
    assert_same(weights(whole.parent), weights(killed.parent))
    a, b = (read_weights(f.parent / "experiments" / "toy" / "weights.jsonl") for f in (whole, killed))
    assert a == b
    assert [r["iteration"] for r in a] == [0, 4, 8, 12]
    assert a[1]["sampling"]["low"] > 0.6
    for before, after in zip(a, a[1:], strict=False):
        share, num = before["sampling"]["low"], sum(after["counts"].values())
        assert num == 4 * 8
        assert abs(after["counts"]["low"] - share * num) < 1


@pytest.mark.slow
def test_two_ranks_rebalance_like_one(tmp_path, references):
    one = prepare(tmp_path / "one", references, batch=8)
    finish(start(one))
    two = prepare(tmp_path / "two", references, batch=4)
    finish(start(two, ranks=2))
    a, b = (read_weights(f.parent / "experiments" / "toy" / "weights.jsonl") for f in (one, two))
    for ours, theirs in zip(a, b, strict=True):
        assert ours["sampling"] == pytest.approx(theirs["sampling"], abs=1e-3)
        assert ours.get("counts") == theirs.get("counts")
