"""Stages that make data: their product in the stage's folder or elsewhere, the choice of group 0, old names."""

import json

import pytest

from tests.engine.toy import make_images, toy_options, write_options
from tests.methods.grouping_toys import toy_space, toy_tasks
from tests.ranks import in_processes
from tgsr.config.options import load_options
from tgsr.data.benchmark import verify_benchmark
from tgsr.data.packed import PackedSource
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner, run_stage
from tgsr.study.measure import Condition
from tgsr.study.rows import with_sets
from tgsr.tasks.artefacts import load_tasks
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.image_io import list_images, read_image

DEGRADATION = {"space": {"type": "ToySpace"}}


@pytest.fixture
def root(tmp_path):
    make_images(tmp_path / "gt", num=5)
    tasks = toy_tasks(6)
    tasks.source["space"] = toy_space().to_json()
    tasks.save(tmp_path / "tasks.json")
    return tmp_path


def stage(root, name, context=None, **run):
    tasks = run.pop("tasks_section", None)
    plain = toy_options(root, name=name, degradation=DEGRADATION, run=run, **({"tasks": tasks} if tasks else {}))
    options = load_options(write_options(root, plain))
    assert run_stage(options, context or Context.create(device="cpu"))
    return root / "experiments" / name


def groups_file(root, groups, **more):
    tasks = load_tasks(root / "tasks.json")
    data = {"schema": "tgsr.groups", "version": 1, "tasks": tasks.digest, "groups": [["whole_space"], *groups]}
    (root / "groups.json").write_text(json.dumps({**data, **more}))
    return tasks.names


def benchmarks(root, name, **run):
    paths = {"gt": str(root / "gt"), "tasks": str(root / "tasks.json"), "groups": str(root / "groups.json")}
    return stage(root, name, type="BuildBenchmarks", **paths, **run)


def used(folder):
    return [json.loads(line)["task"] for line in (folder / "params.jsonl").read_text().splitlines()]


def test_groups_are_the_stages_product(root):
    names = groups_file(root, [["task_0000", "task_0001"], [], ["task_0002"]])
    folder = benchmarks(root, "sets")
    sets = sorted(p.name for p in folder.iterdir() if p.is_dir())
    assert sets == ["Group0", "Group1", "Group3", "random"]  # a group keeps its number when one before it is empty
    assert used(folder / "Group1") == ["task_0000", "task_0001"] * 2 + ["task_0000"]
    assert used(folder / "Group0") == [*names[3:], *names[3:5]]  # all that are in no group
    assert used(folder / "random") == ["whole_space"] * 5
    assert verify_benchmark(folder / "Group3") == []
    bare = load_options(write_options(root, toy_options(root, name="table", degradation=DEGRADATION)))
    _, found = with_sets(bare, folder)
    assert [Condition(name).set for name in found] == sets


@pytest.mark.parametrize(
    ("group0", "wanted"),
    [("unselected", ["task_0004", "task_0005"]), ("whole", ["whole_space"]), ("ungrouped", ["task_0001"])],
)
def test_group_0(root, group0, wanted):
    groups_file(root, [["task_0000"]], selected=["task_0000", "task_0001", "task_0002", "task_0003"])
    folder = benchmarks(root, "sets", group0=group0, random=False, num_images=3)
    assert used(folder / "Group0")[: len(wanted)] == wanted
    assert not (folder / "random").exists()


def test_group_0_of_nothing_left(root):
    names = groups_file(root, [list(load_tasks(root / "tasks.json").names)])
    assert used(benchmarks(root, "sets", num_images=2) / "Group0") == ["whole_space"] * 2
    with pytest.raises(DataError, match="all tasks are in a group, so none are left for group 0; use group0: whole"):
        benchmarks(root, "refused", group0="ungrouped")
    with pytest.raises(DataError, match="does not say which tasks were selected"):
        benchmarks(root, "refused", group0="unselected")
    groups_file(root, [names[:1]], tasks="0" * 12)
    with pytest.raises(DataError, match="belongs to other tasks"):
        benchmarks(root, "other")


def test_a_set_for_each_task_of_the_options(root):
    boxes = {"set": {"type": "File", "path": str(root / "tasks.json"), "names": ["task_0001", "task_0004"]}}
    folder = stage(
        root, "boxes", type="BuildBenchmarks", gt=str(root / "gt"), output=str(root / "elsewhere"), num_images=2,
        tasks_section=boxes,
    )  # fmt: skip
    assert not (folder / "random").exists()
    assert sorted(p.name for p in (root / "elsewhere").iterdir()) == ["random", "task_0001", "task_0004"]
    assert used(root / "elsewhere" / "task_0004") == ["task_0004"] * 2


def _on_a_rank(context, file):
    assert run_stage(load_options(file, ["name=ranks"]), context)


def test_ranks_share_the_sets_and_make_the_same(root):
    groups_file(root, [["task_0000", "task_0001"]])
    alone = benchmarks(root, "alone")
    in_processes(2, _on_a_rank, root / "alone.yml")
    for name in ("Group0", "Group1", "random"):  # three sets: the ranks have different numbers of them
        pairs = [root / "experiments" / "ranks" / name / "params.jsonl", alone / name / "params.jsonl"]
        assert pairs[0].read_text() == pairs[1].read_text()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"groups": "groups.json"}, "run.tasks: there are groups but no tasks"),
        ({"tasks": "tasks.json"}, "run.groups: there are tasks but no groups"),
        ({"group0": "whole"}, "group 0 of no groups"),
    ],
)
def test_wrong_options(root, run, message):
    run = {"type": "BuildBenchmarks", "gt": str(root / "gt"), **run}
    options = load_options(write_options(root, toy_options(root, degradation=DEGRADATION, run=run)))
    with pytest.raises(ConfigError, match=message):
        make_runner(options, Context.create(device="cpu"))


def test_patches_and_packed_images(root):
    own = stage(root, "patches", type="CutPatches", source=str(root / "gt"), size=16, max_images=2)
    assert len(list_images(own)) == 2 * 4  # 40 px images hold four
    assert (read_image(own / "00_p03.png") == read_image(root / "gt" / "00.png")[16:32, 16:32]).all()
    stage(root, "elsewhere", type="CutPatches", source=str(root / "gt"), target=str(root / "cut"), size=20)
    assert len(list_images(root / "cut")) == 5 * 4
    packed = PackedSource(stage(root, "packed", type="PackImages", source=str(root / "gt")))
    assert (packed.read(1) == read_image(root / "gt" / "01.png")).all()
    bare = toy_options(root, name="bare", degradation=None, run={"type": "MakeTasks", "num_tasks": 2})
    options = load_options(write_options(root, bare))
    with pytest.raises(ConfigError, match="tasks are drawn from a space"):
        make_runner(options, Context.create(device="cpu"))
