"""The one check of files that stages exchange: what they are, and which tasks, space and weights they belong to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from tests.methods.grouping_toys import toy_space, toy_tasks
from tgsr.study.artefact import Artefact
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import file_digest


@dataclass(frozen=True, kw_only=True)
class Scores(Artefact):
    schema: ClassVar[str] = "test.scores"
    version: ClassVar[int] = 2
    older: ClassVar = (("test.points", 1),)
    made_by: ClassVar[str] = "ScoreSweep"

    tasks: str
    weights: Mapping[str, str]
    values: Mapping[str, float]
    note: str = ""

    @classmethod
    def from_json(cls, data):
        if data["schema"] == "test.points":
            data = {**data, "values": data["points"], "weights": {}}
        return super().from_json(data)


@pytest.fixture
def tasks():
    return toy_tasks(3)


@pytest.fixture
def weights(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.fixture
def file(tasks, weights, tmp_path):
    path = tmp_path / "scores.json"
    Scores(
        tasks=tasks.digest, weights={"digest": file_digest(weights)}, values={"a": 0.1 + 0.2}, seed=3, options="x"
    ).save(path)
    return path


def test_round_trip(file, tasks, weights):
    found = Scores.load(file, tasks=tasks, space=toy_space(), weights=weights)
    assert (found.seed, found.options, found.values) == (3, "x", {"a": 0.1 + 0.2})
    head = list(json.loads(file.read_text()))
    assert head[:4] == ["schema", "version", "seed", "options"]


def change(file, **more):
    data = {**json.loads(file.read_text()), **more}
    file.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def test_old_files_and_later_keys_are_read(file):
    change(file, schema="test.points", version=1, points={"a": 1}, values=None, weights=None)
    assert Scores.load(file).values == {"a": 1}
    change(file, schema="test.scores", version=2, values={}, weights={}, of_a_later_version=1)
    assert Scores.load(file).note == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": 1}, r"not a test.scores file of version 2 \(schema 'test.scores', version 1\); .*ScoreSweep"),
        ({"schema": "test.other"}, "schema 'test.other'"),
        ({"tasks": "0" * 12}, "belongs to other tasks than the run's"),
        ({"weights": {"digest": "0" * 16}}, "belongs to other weights than .*w.pth"),
        ({"ids": {"task_0001": "0"}}, "its task 'task_0001' is of another degradation"),
        ({"values": None}, "lacks 'values'; make it again, run: {type: ScoreSweep}"),
    ],
)
def test_refused_in_one_line(file, tasks, weights, changes, problem):
    change(file, **changes)
    with pytest.raises(DataError, match=rf"scores.json: .*{problem}") as error:
        Scores.load(file, tasks=tasks, weights=weights)
    assert "\n" not in str(error.value)


def test_tasks_of_another_space(file, tasks):
    drawn = TaskSet(list(tasks), source={"space": toy_space(2.0).to_json(), "digest": tasks.digest})
    with pytest.raises(DataError, match="drawn from another space"):
        Scores.load(file, tasks=drawn, space=toy_space(1.0))


def test_absent_list_or_broken(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(DataError, match="no such file; make it first, run: {type: ScoreSweep}"):
        Scores.load(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="not a test.scores file"):
        Scores.load(path)
    path.write_text('{"schema": "test')
    with pytest.raises(DataError, match="damaged JSON"):
        Scores.load(path)
