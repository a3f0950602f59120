"""Ranks that meet without a time-out, say things to each other, and are divided."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
import torch

from tests.engine.toy import toy_options, write_options
from tests.ranks import in_processes, in_threads, thread_contexts
from tgsr.config.options import load_options
from tgsr.engine import ranks
from tgsr.engine.context import Context
from tgsr.models.base import ModelParts
from tgsr.utils.errors import UserError


def test_a_barrier_holds_all_ranks_until_the_last(tmp_path):
    """What a rank writes before a barrier the others read after it, at every one of several barriers."""

    def work(context):
        seen = []
        for turn in range(5):
            if turn % 3 == context.rank:
                time.sleep(0.02)
            (tmp_path / f"{turn}.{context.rank}").touch()
            context.barrier()
            seen.append(len(list(tmp_path.glob(f"{turn}.*"))))
        return seen

    assert in_threads(3, work) == [[3] * 5] * 3


def test_what_ranks_tell_each_other_arrives_in_order():
    def work(context):
        mains = [context.from_main((context.rank, turn)) for turn in range(3)]
        return mains, context.gather([context.rank] * context.rank), context.gather([])

    assert in_threads(3, work) == [([(0, 0), (0, 1), (0, 2)], [1, 2, 2], [])] * 3


def test_nothing_that_was_read_stays_in_the_store():
    store = thread_contexts(2)[0].store
    size = store.num_keys()

    def work(context):
        context.from_main(b"x" * 1000)
        context.gather([b"x"])
        return context.store

    store = in_threads(2, work)[0]
    assert store.num_keys() < size + 12
    assert not any(store.check([f"gather/2/{k}"]) or store.check(["first/1"]) for k in (0, 1))


def test_copies_of_a_context_meet_with_the_others():
    """A stage copies its context; its barriers are counted with those of the original."""
    from dataclasses import replace

    passed = []

    def work(context):
        context.barrier()
        copy = replace(context, auto_resume=True)
        if context.rank == 0:
            time.sleep(0.05)
            passed.append("late")
        copy.barrier()
        return list(passed)

    assert in_threads(2, work) == [["late"]] * 2


def test_a_rank_that_fails_ends_those_who_wait_for_it():
    def work(context):
        if context.rank == 1:
            raise UserError("no space left")
        with pytest.raises(UserError, match="rank 1 has ended with an error; see its message"):
            context.barrier()
        with pytest.raises(UserError, match="rank 1"):
            context.split(1).barrier()

    with pytest.raises(UserError, match="no space left"):
        in_threads(2, work)


def test_a_killed_rank_ends_those_who_wait_for_it(monkeypatch):
    """It cannot say so; its signs of life stop. A slow one goes on showing them."""
    monkeypatch.setattr(ranks, "SECONDS_BETWEEN_SIGNS", 0.02)

    def work(context):
        context.ranks.timeout = timedelta(seconds=0.2)
        context.ranks.show_life()
        if context.rank == 1:
            time.sleep(0.8)  # alive, and thrice as long as the patience
        context.barrier()
        if context.rank == 1:
            context.ranks._has_left.set()  # killed
            return ""
        with pytest.raises(UserError) as raised:
            context.barrier()
        context.ranks._has_left.set()
        return str(raised.value)

    said = in_threads(2, work)[0]
    assert said.startswith("rank 1 has given no sign of life for 0 minutes; it was killed, perhaps for want of memory")


@pytest.mark.parametrize(
    ("num", "parts", "expected"),
    [
        (4, 2, [(0, 2), (1, 2), (0, 2), (1, 2)]),
        (3, 3, [(0, 1)] * 3),
        (2, 1, [(0, 2), (1, 2)]),
        (5, 3, [(0, 2), (1, 2), (0, 2), (1, 2), (0, 1)]),
        (4, [1, 3], [(0, 1), (0, 3), (1, 3), (2, 3)]),
    ],
)
def test_split_keeps_neighbours_together(num, parts, expected, monkeypatch):
    monkeypatch.setattr(torch.distributed, "new_group", lambda members, timeout: tuple(members))

    def work(context):
        share = context.split(parts)
        told = share.from_main(context.rank)
        return share.rank, share.world_size, share.gather([context.rank]), told

    found = in_threads(num, work)
    assert [f[:2] for f in found] == expected
    for rank, (own, size, members, told) in enumerate(found):
        assert members == list(range(rank - own, rank - own + size))
        assert told == members[0]


def test_split_of_one_process_is_itself():
    share = Context(torch.device("cpu")).split(1)
    assert (share.rank, share.world_size, share.from_main(3)) == (0, 1, 3)
    with pytest.raises(ValueError, match=r"2 ranks cannot be split into \[1, 1, 0\]"):
        in_threads(2, lambda context: context.split(3))


def _collectives(context):
    """Barrier and from_main outlast the time-out of collectives; sums and models stay within a share."""
    if context.rank == 0:
        time.sleep(1.5)
    context.barrier()
    told = context.from_main("main" if context.is_main else None)
    share = context.split(2)
    total = share.sum(torch.tensor([float(context.rank)])).item()
    share.stop_requested = context.rank == 3
    stop = share.should_stop()
    net = _trained(share, context.rank)
    share.close()
    return told, total, stop, net, context.sum(torch.ones(1)).item()


def _trained(share, rank):
    """A weight after the gradients of a share have been averaged by DistributedDataParallel."""
    from tgsr.models.base import RestorationModel
    from tgsr.models.precision import Precision

    parts = ModelParts(share.device, Precision("fp32", share.device), None, world_size=share.world_size,
                       group=share.group, channels_last=False)  # fmt: skip
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 1 + rank // 2)
    forward = RestorationModel._train_form(type("M", (), {"parts": parts, "device": share.device})(), net)
    forward(torch.tensor([[float(rank)]])).sum().backward()
    return net.weight.item(), net.weight.grad.item()


def test_shares_have_collectives_of_their_own():
    found = in_processes(4, _collectives, timeout_s=1)
    assert [f[0] for f in found] == ["main"] * 4
    assert [f[1] for f in found] == [1, 1, 5, 5]
    assert [f[2] for f in found] == [False, False, True, True]
    assert [f[3] for f in found] == [(1, 0.5), (1, 0.5), (2, 2.5), (2, 2.5)]
    assert [f[4] for f in found] == [4] * 4


def _train(context, file):
    """The last checkpoint takes rank 0 a second in its background thread."""
    from tgsr.engine import checkpoint
    from tgsr.engine.trainer import Trainer

    write = checkpoint.save_torch

    def save(path, content):
        time.sleep(0.5)
        write(path, content)

    checkpoint.save_torch = save
    trainer = Trainer(load_options(file), context)
    folder = trainer.run()
    return sorted(p.name for p in folder.rglob("*") if p.suffix in (".pth", ".state"))


def test_a_training_returns_when_its_weights_are_on_the_disk_on_all_ranks(tmp_path):
    raw = toy_options(tmp_path, datasets={}, logger={"save_checkpoint_freq": 100, "use_tb_logger": False})
    raw["datasets"] = {"train": toy_options(tmp_path)["datasets"]["train"]}
    raw["train"] = {**raw["train"], "total_iter": 1}
    found = in_processes(2, _train, write_options(tmp_path, raw))
    assert found == [["1.state", "net_g_1.pth", "net_g_latest.pth"]] * 2


def _leave(context, folder):
    context.barrier()
    if context.rank == 1:
        time.sleep(0.3)
    (folder / str(context.rank)).touch()


def test_rank_0_keeps_the_store_until_all_have_left(tmp_path):
    in_processes(2, _leave, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"0", "1"}
    assert threading.active_count() < 20
