"""The journal of keyed records: kills, cut lines, many writers, other protocols."""

from __future__ import annotations

import json

import pytest

from tests.ranks import in_threads
from tgsr.study import journal as module
from tgsr.study.journal import Journal
from tgsr.utils.errors import DataError
from tgsr.utils.files import read_jsonl


def make(folder, **protocol):
    return Journal(folder / "things.jsonl", schema="tgsr.things", protocol={"iters": 4, **protocol}, seed=3, tasks="ab")


def record(key, value=1.0, **more):
    return {"key": key, "status": "ok", "value": value, **more}


def test_writers_are_read_together_and_merged_in_order(tmp_path):
    for writer, keys in ((0, "ca"), (7, "b")):
        for key in keys:
            make(tmp_path).append(record(key), writer=writer)
    assert set(make(tmp_path).read()) == {"a", "b", "c"}
    path = make(tmp_path).merge(["a", "b", "c"], finish=lambda r: {**r, "z": 2}, result={"iters": 2})
    header, *records = read_jsonl(path)
    assert (header["schema"], header["version"], header["seed"], header["tasks"]) == ("tgsr.things", 1, 3, "ab")
    assert header["result"] == {"iters": 2}
    assert [(r["key"], r["z"]) for r in records] == [("a", 2), ("b", 2), ("c", 2)]
    assert [p.name for p in tmp_path.iterdir()] == ["things.jsonl"]


def test_records_after_a_merge_are_added(tmp_path):
    journal = make(tmp_path)
    journal.append(record("a"), writer=0)
    journal.merge()
    journal.append(record("b"), writer=0)
    assert list(make(tmp_path).read()) == ["a", "b"]
    assert list(read_jsonl(make(tmp_path).merge()))[1:] == [record("a"), record("b")]


def test_a_cut_line_is_repaired_by_the_next_append(tmp_path, caplog):
    make(tmp_path).append(record("a"), writer=0)
    part = tmp_path / "things.0.jsonl"
    with open(part, "a") as file:
        file.write('{"key": "b", "val')
    assert list(make(tmp_path).read()) == ["a"]
    assert "line 3 was cut by a kill" in caplog.text
    make(tmp_path).append(record("c"), writer=0)
    assert [json.loads(line).get("key") for line in part.read_text().splitlines()] == [None, "a", "c"]


@pytest.mark.parametrize("damage", [b'{"key": "b", "va{"key": "c"}\n', b"\0\0\0\0\n", b"[1, 2]\n", b"\xff\xfe\n"])
def test_a_damaged_line_in_the_middle_costs_its_own_records_only(tmp_path, damage):
    """Older versions appended onto a cut line; a crash of the machine leaves zeros."""
    make(tmp_path).append(record("a"), writer=0)
    with open(tmp_path / "things.0.jsonl", "ab") as file:
        file.write(damage + json.dumps(record("d")).encode() + b"\n")
    assert list(make(tmp_path).read()) == ["a", "d"]
    make(tmp_path).merge(["a", "d"])
    assert list(make(tmp_path).read()) == ["a", "d"]


def test_a_kill_between_append_and_merge_loses_nothing(tmp_path, monkeypatch):
    """Killed after the merged file was written, before the parts are gone: the next start sees each key once."""
    for writer in (0, 1):
        make(tmp_path).append(record("ab"[writer], writer), writer=writer)

    class Killed(BaseException): ...

    def kill(self, missing_ok):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "unlink", kill)
        with pytest.raises(Killed):
            make(tmp_path).merge(["a", "b"], finish=lambda r: {**r, "z": r["value"] + 1})
    found = make(tmp_path).read()
    assert {k: r["z"] for k, r in found.items()} == {"a": 1, "b": 2}  # the finished ones
    make(tmp_path).merge(["a", "b"])
    assert make(tmp_path).read() == found
    assert [p.name for p in tmp_path.iterdir()] == ["things.jsonl"]


def test_a_kill_inside_the_merge_leaves_the_parts(tmp_path, monkeypatch):
    make(tmp_path).append(record("a"), writer=0)
    monkeypatch.setattr(module, "write_atomic", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).merge()
    assert make(tmp_path).read() == {"a": record("a")}


def test_another_protocol_is_refused_and_left_alone(tmp_path):
    make(tmp_path).append(record("a"), writer=0)
    before = (tmp_path / "things.0.jsonl").read_bytes()
    other = make(tmp_path, iters=8)
    for call in (other.read, other.merge, lambda: other.append(record("b"), writer=0)):
        with pytest.raises(DataError, match=r"things.0.jsonl: belongs to another .*\(iters: 4 there, 8 here\); give"):
            call()
    assert (tmp_path / "things.0.jsonl").read_bytes() == before
    with pytest.raises(DataError, match=r"belongs to another .*\(seed differ\)"):
        Journal(tmp_path / "things.jsonl", schema="tgsr.things", protocol={"iters": 4}, seed=4).read()
    with pytest.raises(DataError, match="not a tgsr.others file of version 1"):
        Journal(tmp_path / "things.jsonl", schema="tgsr.others", protocol={}).read()


def test_a_file_without_a_header_is_refused(tmp_path):
    (tmp_path / "things.0.jsonl").write_text('{"ke\n')
    with pytest.raises(DataError, match="not a tgsr.things file"):
        make(tmp_path).append(record("a"), writer=0)
    (tmp_path / "things.0.jsonl").write_bytes(b"")  # a machine that crashed before it wrote anything
    make(tmp_path).append(record("a"), writer=0)
    assert list(make(tmp_path).read()) == ["a"]


def test_missing_keys_are_said(tmp_path):
    make(tmp_path).append(record("a"), writer=0)
    with pytest.raises(DataError, match=r"things.jsonl: 2 of 3 are missing, first 'b'; start it again to go on"):
        make(tmp_path).merge(["a", "b", "c"])
    with pytest.raises(ValueError, match="without a key"):
        make(tmp_path).append({"value": 3}, writer=0)


def test_the_newest_attempt_counts_whoever_wrote_it(tmp_path):
    make(tmp_path).append(record("a", 2.0, attempt=2), writer=0)
    make(tmp_path).append(record("a", 1.0), writer=5)
    assert make(tmp_path).read()["a"]["value"] == 2.0
    make(tmp_path).merge()
    make(tmp_path).append(record("a", 3.0, attempt=3), writer=1)
    assert make(tmp_path).read()["a"]["value"] == 3.0


def test_sweeps_of_older_versions_are_read(tmp_path):
    """Their records have `task`; their writers' numbers went by thousands."""
    header = {"schema": "tgsr.things", "seed": 3, "tasks": "ab", "protocol": {"iters": 4}, "result": {}, "version": 1}
    header["options"] = make(tmp_path).header["options"]
    lines = [header, {"task": "t0", "z": 0.5}]
    (tmp_path / "things.1001.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert make(tmp_path).read() == {"t0": {"task": "t0", "z": 0.5}}
    assert list(make(tmp_path).header) == list(header)


def test_a_neighbours_file_is_no_part(tmp_path):
    (tmp_path / "things.notes.jsonl").write_text("{}\n")
    (tmp_path / "things.curve.1.jsonl").write_text("{}\n")
    assert make(tmp_path).read() == {}


def test_ranks_share_what_rank_0_reads(tmp_path):
    def work(context):
        if context.is_main:
            make(tmp_path).append(record("a"), writer=0)
        found = make(tmp_path).shared(context)
        if context.is_main:
            make(tmp_path).merge()
        return found

    assert in_threads(3, work) == [{"a": record("a")}] * 3
