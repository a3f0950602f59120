"""The pool: keys over ranks and processes, errors, stops, kills, shares."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.ranks import in_processes, in_threads, thread_contexts
from tgsr.engine.context import Context
from tgsr.study import pool as module
from tgsr.study.journal import Journal
from tgsr.study.pool import Pool, run_all, shares
from tgsr.study.subrun import Stopped
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.files import read_jsonl

KEYS = [f"k{i}" for i in range(7)]


@dataclass(frozen=True)
class Toy:
    """Notes who did what; some keys are slow, wrong or deadly."""

    folder: Path
    slow: tuple[str, ...] = ()
    wrong: str = ""
    deadly: str = ""
    stops: str = ""
    seconds: float = 0.3

    def open(self, context: Context) -> Callable[[str], dict]:
        (self.folder / f"open.{os.getpid()}.{context.rank}.{time.monotonic_ns()}").touch()

        def measure(key: str) -> dict:
            if key == self.wrong:
                raise DataError("no such image", place=f"set/{key}.png", remedy="put it there")
            if key == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if key == self.stops:
                context.stop_requested = True
                raise Stopped
            for _ in range(30 if key in self.slow else 0):
                time.sleep(self.seconds / 30)
                if context.stop_requested:
                    raise Stopped
            return {"status": "ok", "seconds": 0.0, "by": os.getpid(), "world": context.world_size}

        return measure


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.02)


def journal(folder):
    return Journal(folder / "toy.jsonl", schema="tgsr.toy", protocol={"a": 1})


def alone():
    return Context(torch.device("cpu"))


def writers(folder):
    """Rank -> keys in its part."""
    return {int(p.name.split(".")[1]): [r["key"] for r in list(read_jsonl(p))[1:]] for p in folder.glob("toy.*.jsonl")}


def test_one_process_does_what_the_journal_lacks(tmp_path, caplog):
    caplog.set_level(logging.INFO, "tgsr")
    assert run_all(Toy(tmp_path), KEYS[:2], journal(tmp_path), alone(), processes=1, label="toy")
    assert run_all(Toy(tmp_path), KEYS, journal(tmp_path), alone(), processes=1, label="toy")
    assert list(journal(tmp_path).read()) == KEYS
    assert "toy: 2 of 7 are there already" in caplog.text
    assert len(list(tmp_path.glob("open.*"))) == 2  # once a run, not once a key


def test_processes_share_keys_and_stay_open(tmp_path):
    with Pool(Toy(tmp_path), journal(tmp_path), alone(), processes=2, label="toy") as pool:
        assert pool.num_parallel == 2
        assert pool.run(KEYS[:4])
        assert pool.run(KEYS)
        assert pool.run(KEYS, again=[KEYS[1]])
        workers = [w.process for w in pool._workers]
    found = journal(tmp_path).read()
    assert list(found) == [*KEYS[:1], *KEYS[1:]] or set(found) == set(KEYS)
    assert {r["by"] for r in found.values()} <= {w.pid for w in workers} | {os.getpid()}
    assert [r.get("attempt", 1) for r in map(found.get, KEYS)] == [1, 2, 1, 1, 1, 1, 1]
    assert [w.exitcode for w in workers] == [0, 0]
    assert len(list(tmp_path.glob("open.*"))) <= 3


def test_a_slow_key_does_not_hold_up_the_others(tmp_path):
    """Rank 0 has the slow key; the others do all the rest and wait without a collective."""
    toy = Toy(tmp_path, slow=("k0",), seconds=0.5)
    assert all(in_threads(3, lambda c: run_all(toy, KEYS, journal(tmp_path), c, processes=1, label="toy")))
    parts = writers(tmp_path)
    assert sorted(key for keys in parts.values() for key in keys) == KEYS
    assert ["k0"] in parts.values()
    assert set(journal(tmp_path).read()) == set(KEYS)


def test_more_ranks_than_keys(tmp_path):
    assert (
        in_threads(4, lambda c: run_all(Toy(tmp_path), KEYS[:2], journal(tmp_path), c, processes=1, label="toy"))
        == [True] * 4
    )
    assert run_all(Toy(tmp_path), [], journal(tmp_path), alone(), label="toy")


def test_ranks_that_see_other_files_do_the_same_keys(tmp_path):
    """What is to be done is what rank 0 reads, even if another rank sees more."""
    journal(tmp_path).append({"key": "k0"}, writer=0)
    other = tmp_path / "other"

    def work(context):
        found = journal(tmp_path if context.is_main else other)
        found.path = journal(tmp_path).path if context.is_main else found.path
        return run_all(Toy(tmp_path), KEYS[:1], found, context, processes=1, label="toy")

    assert in_threads(2, work) == [True, True]
    assert not other.exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_told_once_with_place_and_remedy(tmp_path, processes):
    toy = Toy(tmp_path, wrong="k1")
    with pytest.raises(DataError) as raised:
        run_all(toy, KEYS, journal(tmp_path), alone(), processes=processes, label="toy")
    assert str(raised.value) == "set/k1.png: no such image; put it there"
    assert "k0" in journal(tmp_path).read()
    assert run_all(Toy(tmp_path), KEYS, journal(tmp_path), alone(), processes=1, label="toy")
    assert set(journal(tmp_path).read()) == set(KEYS)


def test_an_error_on_one_rank_ends_the_others(tmp_path):
    def work(context):
        toy = Toy(tmp_path, wrong="k1", slow=("k0",), seconds=0.2)
        try:
            return run_all(toy, KEYS[:2], journal(tmp_path), context, processes=1, label="toy")
        except UserError as error:
            context.fail()
            return str(error)

    messages = in_threads(2, work)
    assert sorted("no such image" in m for m in messages) == [False, True]
    assert any("has ended with an error" in m for m in messages)
    assert "k0" in journal(tmp_path).read()


def test_a_killed_worker_is_an_error_and_what_is_finished_is_kept(tmp_path):
    with pytest.raises(UserError, match=r"toy: a process ended with exit code -9; finished work is kept; .*fewer proc"):
        run_all(Toy(tmp_path, deadly="k2"), KEYS, journal(tmp_path), alone(), processes=2, label="toy")
    done = journal(tmp_path).read()
    assert {"k0", "k1"} <= set(done)
    assert "k2" not in done


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_in_the_middle_keeps_what_is_finished(tmp_path, processes):
    context = alone()
    toy = Toy(tmp_path, stops="k2")
    assert not run_all(toy, KEYS, journal(tmp_path), context, processes=processes, label="toy")
    assert context.stop_requested
    done = set(journal(tmp_path).read())
    assert {"k0", "k1"} <= done
    assert "k2" not in done
    assert run_all(Toy(tmp_path), KEYS, journal(tmp_path), alone(), processes=1, label="toy")


def test_a_stop_of_one_rank_reaches_the_others_in_the_middle_of_a_key(tmp_path):
    toy = Toy(tmp_path, slow=("k0", "k1"), stops="k2", seconds=20)
    start = time.monotonic()
    found = in_threads(3, lambda c: (run_all(toy, KEYS, journal(tmp_path), c, label="toy", processes=1),
                                     c.stop_requested))  # fmt: skip
    assert found == [(False, True)] * 3
    assert time.monotonic() - start < 10
    assert journal(tmp_path).read() == {}


def test_a_signal_stops_processes_in_the_middle_of_a_key(tmp_path):
    """The parent hears SIGTERM; its workers, busy for thirty seconds, leave."""
    from threading import Timer

    toy = Toy(tmp_path, slow=tuple(KEYS[:2]), seconds=30)
    signalled = []

    def kill():
        while len(list(tmp_path.glob("open.*"))) < 2:
            time.sleep(0.02)
        signalled.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    Timer(0, kill).start()
    assert not run_all(toy, KEYS, journal(tmp_path), alone(), processes=2, label="toy")
    assert time.monotonic() - signalled[0] < 25
    assert journal(tmp_path).read() == {}


@pytest.mark.parametrize(
    ("ranks", "keys", "batch", "expected"),
    [
        (8, 3, None, [3, 3, 2]),
        (8, 3, 8, [4, 2, 2]),
        (8, 4, 16, [2, 2, 2, 2]),
        (8, 1, 12, [6]),
        (3, 2, 4, [2, 1]),
        (5, 2, 3, [3, 1]),
        (6, 5, 1, [1] * 5),
    ],
)
def test_shares_divide_the_batch(ranks, keys, batch, expected):
    assert shares(ranks, keys, batch) == expected


def _train_keys(context, folder, num, batch):
    toy = Toy(folder)
    done = run_all(toy, KEYS[:num], journal(folder), context, processes=1, label="toy", trains=True, batch_size=batch)
    return done, context.rank, sorted((k, r["world"]) for k, r in journal(folder).shared(context).items())


def test_fewer_trainings_than_ranks_share_them(tmp_path):
    found = in_processes(3, _train_keys, tmp_path, 2, 4)
    assert found == [(True, rank, [("k0", 2), ("k1", 1)]) for rank in range(3)]
    assert sorted(writers(tmp_path)) == [0, 2]  # the first rank of each share writes


def test_more_trainings_than_ranks_queue_and_the_rest_is_shared(tmp_path):
    found = in_processes(2, _train_keys, tmp_path, 5, 4)
    expected = [(k, 1) for k in KEYS[:4]] + [("k4", 2)]
    assert found == [(True, rank, expected) for rank in range(2)]


def test_ranks_that_no_batch_can_use_stay_idle(tmp_path):
    def work(context):
        toy = Toy(tmp_path)
        return run_all(toy, KEYS[:1], journal(tmp_path), context, processes=1, label="t", trains=True, batch_size=1)

    assert in_threads(3, work) == [True] * 3
    assert journal(tmp_path).read()["k0"]["world"] == 1


def test_a_stopped_share_stops_all(tmp_path):
    def work(context):
        toy = Toy(tmp_path, stops="k0", slow=("k1",), seconds=20)
        keys = KEYS[:2]
        return run_all(toy, keys, journal(tmp_path), context, processes=1, label="t", trains=True, batch_size=1)

    assert in_threads(3, work) == [False] * 3


def test_records_that_do_not_arrive_are_said(tmp_path):
    """Two nodes without a shared disk: rank 0 never sees what the other wrote."""
    pool = Pool(Toy(tmp_path), journal(tmp_path), thread_contexts(1)[0], label="toy")
    with pytest.raises(UserError, match="1 records are not there, first 'k0'; put path.experiments_root on a disk"):
        pool._see({"k0": 1}, patience=0)
