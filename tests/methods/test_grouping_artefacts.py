"""Artefacts of TGSR: round trips, interruption, and files that do not belong together."""

import json

import numpy as np
import pytest

from tests.methods.grouping_toys import toy_space, toy_tasks
from tgsr.methods.tgsr.artefacts import Groups, load_indicators
from tgsr.methods.tgsr.grouping import group_tasks
from tgsr.study.journal import Journal
from tgsr.tasks.artefacts import difference, json_digest, load_tasks
from tgsr.tasks.samplers import GroupedTaskSampler
from tgsr.tasks.sets import from_file, union, whole_space
from tgsr.tasks.task import Task, TaskSet, draw_point_tasks
from tgsr.utils.errors import ConfigError, DataError


@pytest.fixture
def tasks():
    return toy_tasks(4)


def record(task, z):
    return {"task": task.name, "id": task.id, "z": z, "se": 0.01, "status": "diverged" if z is None else "ok"}


def test_digest_ignores_order_but_not_values():
    assert json_digest({"a": 1, "b": [1, 2]}) == json_digest({"b": (1, 2), "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": 2})


def test_tasks_of_another_space_or_version_are_refused(tasks, tmp_path):
    path = tmp_path / "tasks.json"
    tasks.save(path)
    assert load_tasks(path, space=toy_space()).names == tasks.names
    with pytest.raises(DataError, match=r"another space \(high: 1.0 there, 2.0 here\)"):
        load_tasks(path, space=toy_space(high=2.0))
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "version": 99}))
    with pytest.raises(DataError, match="version 99"):
        load_tasks(path)


def test_difference_names_the_deepest_place():
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c: 2 there, 3 here"


def journal(tasks, folder, seed=1, iters=20):
    about = {"seed": seed, "tasks": tasks.digest}
    return Journal(folder / "indicators.jsonl", schema="tgsr.indicators", protocol={"iters": iters}, **about)


def test_a_sweep_of_an_older_version_is_continued(tasks, tmp_path):
    """A file that `TaskLog` wrote; `task` is the key of its records."""
    header = {
        "schema": "tgsr.indicators", "seed": 1, "tasks": tasks.digest, "protocol": {"iters": 20}, "result": {},
        "version": 1, "options": json_digest({"iters": 20}),
    }  # fmt: skip
    lines = [header, record(tasks[2], 0.9), record(tasks[1], 0.8)]
    (tmp_path / "indicators.0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"task": "cut')
    log = journal(tasks, tmp_path)
    assert sorted(log.read()) == [tasks[1].name, tasks[2].name]
    log.append(record(tasks[0], 0.7), writer=0)
    log.append(record(tasks[3], None), writer=0)
    merged = load_indicators(log.merge(tasks.names, result={"iters": 5}), tasks=tasks)
    assert list(merged.values("z")) == tasks.names
    assert merged.header["result"] == {"iters": 5}
    assert merged.column("z")[:3] == pytest.approx([0.7, 0.8, 0.9])
    assert np.isnan(merged.column("z")[3])
    assert [p.name for p in tmp_path.iterdir()] == ["indicators.jsonl"]
    with pytest.raises(DataError, match="iters: 20 there, 10 here"):
        journal(tasks, tmp_path, iters=10).read()
    with pytest.raises(DataError, match="tasks differ"):
        journal(toy_tasks(5), tmp_path).read()


def test_indicators_of_other_tasks_and_missing_files(tasks, tmp_path):
    log = journal(tasks, tmp_path)
    for task in tasks:
        log.append(record(task, 0.9), writer=0)
    path = log.merge(tasks.names)
    with pytest.raises(DataError, match="other tasks than the run"):
        load_indicators(path, tasks=toy_tasks(3))
    with pytest.raises(DataError, match="finish"):
        load_indicators(tmp_path / "none.jsonl")


def test_groups_round_trip_and_feed_the_sampler(tasks, tmp_path):
    names = tasks.names
    table = [{n: 0.1 * i for i, n in enumerate(names)}, dict.fromkeys(names, 0.15)]
    grouping = group_tasks(names, thresholds=[0.25, 0.12], score=lambda i, r: table[i])
    path = tmp_path / "groups.json"
    Groups.of(grouping, tasks, seed=3, options="x", selected=names, about={"metric": "psnr"}).save(path)
    groups = Groups.load(path, tasks=tasks)
    assert groups.groups == [["whole_space"], [names[3]], names[:3]]
    assert groups.rounds[0].pis[names[2]] == pytest.approx(0.2)
    assert groups.grouped == [names[3], *names[:3]]
    with pytest.raises(DataError, match="other tasks than the run"):
        Groups.load(path, tasks=toy_tasks(5))

    everything = TaskSet([Task("whole_space", toy_space()), *tasks])
    sampler = GroupedTaskSampler(everything, seed=0, groups=path)
    assert sampler.weights == pytest.approx([1 / 3, 1 / 9, 1 / 9, 1 / 9, 1 / 3])
    with_share = GroupedTaskSampler(everything, seed=0, groups=path, group0_share=0.75)
    assert with_share.weights == pytest.approx([0.75, 0.125 / 3, 0.125 / 3, 0.125 / 3, 0.125])
    drawn = np.bincount(with_share.draw(0, 20000), minlength=5) / 20000
    assert drawn == pytest.approx(with_share.weights, abs=0.012)
    with pytest.raises(ConfigError, match="only one"):
        GroupedTaskSampler(everything, seed=0, groups=path, shares=[1, 0, 0], group0_share=0.5)
    with pytest.raises(ConfigError, match="probability"):
        GroupedTaskSampler(everything, seed=0, groups=path, group0_share=1.5)


def test_an_empty_group_keeps_its_number_and_takes_no_samples(tasks, tmp_path):
    path, names = tmp_path / "groups.json", tasks.names
    grouping = group_tasks(names, thresholds=[9, 0.5, 0.2], score=lambda i, r: dict(zip(names, [0.6, 0.3, 0.3, 0.1])))  # noqa: B905
    Groups.of(grouping, tasks).save(path)
    groups = Groups.load(path, tasks=tasks)
    assert groups.members == {"Group2": names[:1], "Group3": names[1:3]}
    everything = TaskSet([Task("whole_space", toy_space()), *tasks])
    sampler = GroupedTaskSampler(everything, seed=0, groups=path)
    assert sampler.weights == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6, 0])
    with_shares = GroupedTaskSampler(everything, seed=0, groups=path, shares=[0.5, 0, 0.25, 0.25])
    assert with_shares.weights == pytest.approx([0.5, 0.25, 0.125, 0.125, 0])
    with pytest.raises(DataError, match="group 1 is empty"):
        GroupedTaskSampler(everything, seed=0, groups=path, shares=[0.5, 0.5, 0, 0])
    with pytest.raises(DataError, match="all groups are empty"):
        GroupedTaskSampler(everything, seed=0, groups=[[], []])


def test_random_groups_are_written_alike(tasks, tmp_path):
    path = tmp_path / "groups.json"
    Groups(tasks=tasks.digest, groups=[["whole_space"], [tasks[1].name]], seed=3, kind="random").save(path)
    assert Groups.load(path).groups == [["whole_space"], [tasks[1].name]]
    assert Groups.load(path).kind == "random"
    assert Groups.load(path).members == {"Group1": [tasks[1].name]}


def test_groups_of_other_tasks_are_refused(tasks, tmp_path):
    path, file = tmp_path / "groups.json", tmp_path / "tasks.json"
    tasks.save(file)
    names = tasks.names
    Groups(tasks=tasks.digest, groups=[["whole_space"], names[:2]]).save(path)
    space = toy_space()

    def sampler(file, **kwargs):
        sets = [whole_space(space=space), from_file(space=space, path=file, **kwargs)]
        return GroupedTaskSampler(union(space=space, sets=sets), seed=0, groups=path)

    assert sampler(file).weights == pytest.approx([0.5, 0.25, 0.25, 0, 0])
    assert sampler(file, names=names[:2]).weights == pytest.approx([0.5, 0.25, 0.25])  # a part of that very file
    other = tmp_path / "other.json"
    draw_point_tasks(space, 4, seed=8).save(other)  # the same names
    with pytest.raises(DataError, match=r"groups.json: belongs to other tasks than.*; make it again"):
        sampler(other)
    good = json.loads(path.read_text())
    for change, message in (({"schema": "tgsr.tasks"}, "not a tgsr.groups file"), ({"version": 2}, "version 2")):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=message):
            sampler(file)


def test_static_groups_are_known_by_the_ids_of_their_tasks(tasks, tmp_path):
    path = tmp_path / "groups.json"
    static = {"schema": "tgsr.static_groups", "version": 1, "groups": [tasks.names, tasks.names[:1]]}
    path.write_text(json.dumps({**static, "ids": {t.name: t.id for t in tasks}}))
    assert GroupedTaskSampler(tasks, seed=0, groups=path).weights[0] == pytest.approx(0.5 + 0.125)
    with pytest.raises(DataError, match="'task_0000' is of another degradation"):
        GroupedTaskSampler(draw_point_tasks(toy_space(), 4, seed=8), seed=0, groups=path)


def test_a_file_of_tasks_from_another_space_is_refused(tasks, tmp_path):
    path = tmp_path / "tasks.json"
    tasks.save(path)
    assert from_file(space=toy_space(), path=path).digest == tasks.digest
    assert from_file(space=None, path=path).names == tasks.names
    with pytest.raises(DataError, match=r"tasks.json: these tasks were drawn from another space \(high: 1.0 there"):
        from_file(space=toy_space(high=2.0), path=path)
    TaskSet(list(tasks)).save(path)  # where the file does not tell, only the pipeline counts
    assert len(from_file(space=toy_space(high=2.0), path=path)) == 4
