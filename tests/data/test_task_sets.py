"""The registered ways to make a task set."""

import pytest

from tgsr.degradations.base import SPACES
from tgsr.tasks.sets import TASK_SETS, boxes, build_task_set, from_file, points, spaces, union, whole_space
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError


@pytest.fixture
def space():
    return SPACES.get("SecondOrder")()


def test_whole_space_and_points(space):
    assert build_task_set(None, space).names == ["whole_space"]
    assert build_task_set(None, None) is None
    short, long = points(space=space, num_tasks=2, seed=3), points(space=space, num_tasks=5, seed=3)
    assert [t.id for t in short] == [t.id for t in long][:2]
    assert points(space=space, num_tasks=2, seed=4)[0].id != short[0].id
    assert {"WholeSpace", "Points", "File", "Boxes", "Spaces", "Union"} <= set(TASK_SETS.names())


def test_boxes_draw_inside_and_leave_the_rest(space):
    tasks = boxes(space=space, boxes={"weak": {"blur_sigma": [0.2, 0.5]}, "strong": {"blur_sigma": [2.5, 3.0]}})
    for task, (low, high) in zip(tasks, ((0.2, 0.5), (2.5, 3.0)), strict=True):
        for k in range(20):
            row, whole = task.draw(0, "t", k).row(0), whole_space(space=space)[0].draw(0, "t", k).row(0)
            if row["kernel1_is_sinc"] == 0 and row["blur1"] == 1:
                assert low <= row["kernel1_sigma_x"] <= high
            assert row["resize1_scale"] == whole["resize1_scale"]
    with pytest.raises(ConfigError, match="box 'odd'.*blur_sigm"):
        boxes(space=space, boxes={"odd": {"blur_sigm": [0.2, 0.5]}})


def test_file_and_union(space, tmp_path):
    points(space=space, num_tasks=3).save(tmp_path / "tasks.json")
    whole = union(space=space, sets=[whole_space(space=space), from_file(space=space, path=tmp_path / "tasks.json")])
    assert whole.names == ["whole_space", "task_0000", "task_0001", "task_0002"]
    chosen = from_file(space=None, path=tmp_path / "tasks.json", names=["task_0002"])
    assert chosen[0].id == whole[3].id
    other = SPACES.get("SecondOrder")(scale=2)
    with pytest.raises(DataError, match="task 'task_0000' degrades with"):
        from_file(space=other, path=tmp_path / "tasks.json")
    with pytest.raises(DataError, match="occur twice"):
        union(space=space, sets=[whole_space(space=space), whole_space(space=space)])


class _Name(str):
    """A name that counts how often it is compared."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        _Name.comparisons += 1
        return str.__eq__(self, other)


def test_a_set_looks_at_each_name_a_few_times(space):
    """Not at all pairs of names: sets have up to a hundred thousand tasks."""
    tasks = [Task(_Name(i), space) for i in range(1000)]
    assert TaskSet(tasks).index("999") == 999
    with pytest.raises(DataError, match="occur twice: 3, 7"):
        TaskSet([*tasks, tasks[7], tasks[3], tasks[7]])
    assert _Name.comparisons < 10 * len(tasks)


def test_spaces_and_missing_space(space):
    assert spaces(spaces={"a": space, "b": SPACES.get("Bicubic")(scale=4)}).names == ["a", "b"]
    with pytest.raises(ConfigError, match="task set 'Points' needs a space"):
        points(space=None)
    with pytest.raises(ConfigError, match="num_tasks is 0"):
        points(space=space, num_tasks=0)
