"""Boxes of the second-order space: tables 6-9 of the paper, overlaps, gaps, empty parts."""

import numpy as np
import pytest

from tests.methods.rebalancing_toys import four_tasks
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.methods.rebalancing.boxes import cut_ranges, partition_tasks
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.rng import generator

LOW_BLUR, HIGH_BLUR = ((1.6, 2.3), (0.8, 1.2)), ((2.3, 3.0), (1.2, 1.6))
LOW_NOISE = ((1, 4.5), (1, 4), (0.1, 0.4), (0.1, 0.35))
HIGH_NOISE = ((4.5, 8), (4, 7), (0.4, 0.7), (0.35, 0.6))


@pytest.mark.parametrize(
    ("name", "blur", "noise"),
    [
        ("mild", LOW_BLUR, LOW_NOISE), ("blur", HIGH_BLUR, LOW_NOISE),
        ("noise", LOW_BLUR, HIGH_NOISE), ("severe", HIGH_BLUR, HIGH_NOISE),
    ],
)  # fmt: skip
def test_cdr4_is_tables_6_to_9(name, blur, noise):
    tasks = four_tasks()
    box = tasks[tasks.index(name)].space.box()
    assert np.allclose([box["blur_sigma"], box["blur_sigma2"]], blur)
    keys = ("noise_range", "noise_range2", "poisson_scale_range", "poisson_scale_range2")
    assert np.allclose([box[k] for k in keys], noise)
    assert tasks[tasks.index(name)].space == SecondOrderSpace(preset=f"cdr_{name}")


def test_draws_of_a_box_are_inside_it_and_in_no_other():
    tasks = four_tasks()
    for task in tasks:
        params = task.space.draw(generator(0, "test", task.name).random((200, task.space.num_uniforms)))
        inside = np.stack([other.space.contains(params) for other in tasks])
        assert inside[tasks.index(task.name)].all()
        # a sample may skip blur 2 and use one kind of noise, so single rows can fit two boxes; most must not
        assert inside.sum(0).mean() < 1.2


@pytest.mark.parametrize(("preset", "num"), [("cdr2", 2), ("cdr3", 3), ("cdr4", 4), ("cdr5", 5)])
def test_presets(preset, num):
    tasks = partition_tasks(space=SecondOrderSpace(preset="cdr"), preset=preset)
    assert len(tasks) == num
    spaces = [t.space for t in tasks]
    assert not any(a.overlaps(b) for i, a in enumerate(spaces) for b in spaces[:i])
    for key, (low, high) in SecondOrderSpace(preset="cdr").box().items():
        assert min(s.box()[key][0] for s in spaces) == low
        assert max(s.box()[key][1] for s in spaces) == high


def test_cdr4_fills_a_sixteenth_of_the_product_of_its_ranges():
    assert four_tasks().source["coverage"] == pytest.approx(4 / 2**6)
    with pytest.raises(ConfigError, match=r"fill 0\.0625 of the space"):
        partition_tasks(space=SecondOrderSpace(preset="cdr"), preset="cdr4", union="volume")


def test_cuts_of_single_ranges_fill_the_space():
    cuts = {"blur_sigma": [0.5], "noise_range": [0.25, 0.5]}
    tasks = partition_tasks(space=SecondOrderSpace(), cuts=cuts, union="volume")
    assert tasks.names[:3] == ["blur_sigma0_noise_range0", "blur_sigma1_noise_range0", "blur_sigma0_noise_range1"]
    assert tasks.source["coverage"] == pytest.approx(1)
    assert tasks[2].space.box()["noise_range"] == pytest.approx((1 + 29 / 4, 1 + 29 / 2))


def test_overlap_gap_and_empty_boxes_are_refused():
    space = SecondOrderSpace(preset="x4plus")
    with pytest.raises(ConfigError, match="boxes 'a' and 'b' overlap"):
        partition_tasks(space=space, boxes={"a": {"noise_range": [1, 16]}, "b": {"noise_range": [15, 30]}})
    with pytest.raises(ConfigError, match="no box covers 10 to 15 of noise_range"):
        partition_tasks(space=space, boxes={"a": {"noise_range": [1, 10]}, "b": {"noise_range": [15, 30]}})
    with pytest.raises(ConfigError, match="no box covers 20 to 30 of noise_range"):
        partition_tasks(space=space, boxes={"a": {"noise_range": [1, 10]}, "b": {"noise_range": [10, 20]}})
    with pytest.raises(ConfigError, match="leave an empty box"):
        partition_tasks(space=space, cuts={"noise": [0.5, 0.5]})
    with pytest.raises(ConfigError, match="box 'a'.*is not inside"):
        partition_tasks(space=space, boxes={"a": {"noise_range": [20, 10]}})
    with pytest.raises(ConfigError, match="did you mean 'noise'"):
        partition_tasks(space=space, cuts={"noize": [0.5]})
    with pytest.raises(ConfigError, match="'blur_sigma' is cut twice"):
        partition_tasks(space=space, cuts={"blur": [0.5], "blur_sigma": [0.5]})
    with pytest.raises(ConfigError, match="is fixed at 5"):
        cut_ranges({"jpeg_range": (5, 5), "jpeg_range2": (1, 2)}, "jpeg", [0.5])
    with pytest.raises(ConfigError, match="exactly one of"):
        partition_tasks(space=space)
    with pytest.raises(ConfigError, match=r"no box covers 0\.2 to 1\.6 of blur_sigma"):
        partition_tasks(space=space, boxes={"cdr": {"blur_sigma": [1.6, 3]}})


def test_it_is_registered_and_saves(tmp_path):
    tasks = TASK_SETS.get("Partition")(space=SecondOrderSpace(preset="cdr"), preset="cdr4")
    tasks.save(tmp_path / "tasks.json")
    assert [t.id for t in TaskSet.load(tmp_path / "tasks.json")] == [t.id for t in tasks]
