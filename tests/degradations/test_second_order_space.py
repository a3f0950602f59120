"""The second-order space: draws by inversion, boxes, JSON, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tgsr.degradations.base import SPACES, PointSpace, space_from_json
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import PRESETS
from tgsr.degradations.second_order import DRAWN_COLUMNS, RANGE_KEYS, SecondOrderSpace
from tgsr.tasks.task import Task, TaskSet, draw_point_tasks
from tgsr.utils.errors import ConfigError


def _uniforms(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num, SecondOrderSpace.num_uniforms))


def test_registered_and_every_preset_contains_its_own_draws() -> None:
    assert SPACES.get("SecondOrder") is SecondOrderSpace
    for name in PRESETS:
        space = SecondOrderSpace(preset=name)
        assert space.contains(space.draw(_uniforms(300))).all(), name


def test_batch_draw_equals_single_draws() -> None:
    space, u = SecondOrderSpace(), _uniforms(20)
    batch = space.draw(u)
    for i in range(20):
        assert space.draw(u[i : i + 1]).row(0) == batch.row(i)


def test_columns_are_constant_over_presets_and_all_drawn() -> None:
    expected = {"num_stages", *DRAWN_COLUMNS}
    for name in PRESETS:
        params = SecondOrderSpace(preset=name).draw(_uniforms(5))
        assert set(params) == expected
        assert all(np.isfinite(params[c].astype(float)).all() for c in params)


def test_a_box_changes_its_own_columns_only() -> None:
    space, u = SecondOrderSpace(), _uniforms(500)
    box = space.restrict(blur_sigma=[1.0, 2.0], noise_range2=[5, 6])
    a, b = space.draw(u), box.draw(u)
    changed = {c for c in a if not np.array_equal(a[c], b[c])}
    assert changed == {"kernel1_sigma_x", "kernel1_sigma_y", "noise2_sigma_255"}
    assert b["kernel1_sigma_x"].min() >= 1.0
    assert b["kernel1_sigma_x"].max() <= 2.0


def test_a_range_of_one_value_fixes_it() -> None:
    box = SecondOrderSpace().restrict(jpeg_range=[60, 60])
    assert (box.draw(_uniforms(50))["jpeg1_quality"] == 60).all()


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"blur_sigma": [0.1, 2]}, "not inside"),
        ({"blur_sigma": [2, 1]}, "not inside"),
        ({"blur_sigm": [1, 2]}, "did you mean 'blur_sigma'"),
        ({"resize_prob": [0, 1, 0]}, "not a range"),
        ({"jpeg_range2": [40]}, "not inside"),
    ],
)
def test_restrict_refuses(ranges: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SecondOrderSpace().restrict(**ranges)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "x4pluss"}, "did you mean 'x4plus'"),
        ({"sinc_prob": 1.5}, "sinc_prob: 1.5 is not a probability"),
        ({"kernel_prob": [0.5, 0.5]}, "kernel_prob"),
        ({"kernel_list": ["iso", "anisso"], "kernel_prob": [0.5, 0.5]}, "did you mean .*'aniso'"),
        ({"kernel_list2": [], "kernel_prob2": []}, "kernel_list2: is empty"),
        ({"resize_prob": [0.5, 0.5, 0.5]}, "sum 1"),
        ({"resize_range": [0.2, 0.8]}, "leaves no factor to go up"),
        ({"blur_sigma": [0.0, 3]}, "above 0"),
        ({"noise_range": [30, 1]}, "low <= high"),
        ({"noise_range": [-1, 1]}, "negative"),
        ({"jpeg_range": [30, 100]}, "below 100"),
        ({"blur_kernel_size": 20}, "odd"),
        ({"blur_kernel_size2": 23}, "7 to 21"),
        ({"scale": 0}, "at least 1"),
        ({"resize_modes": ["nearest"]}, "resize_modes"),
        ({"jpeg": "libjpeg"}, "codec"),
    ],
)
def test_bad_settings_are_refused_with_a_remedy(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        SecondOrderSpace(**arguments)
    assert error.value.remedy


def test_json_round_trip_and_equality() -> None:
    space = SecondOrderSpace(preset="cdr", blur_sigma=[1.7, 2.9]).restrict(noise_range=(1.5, 2.5))
    again = space_from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert again.to_json() == space.to_json()
    assert space != SecondOrderSpace(preset="cdr")
    assert Task("a", again).id == Task("b", space).id


def test_integers_and_floats_make_the_same_space() -> None:
    a, b = SecondOrderSpace(noise_range=[1, 30]), SecondOrderSpace(noise_range=(1.0, 30.0))
    assert a == b
    assert json.dumps(a.to_json()) == json.dumps(b.to_json())


def test_to_json_does_not_hand_out_the_space_itself() -> None:
    space = SecondOrderSpace()
    space.to_json()["blur_sigma"][0] = 99.0
    space.restrict(blur_sigma=[1, 2]).settings["kernel_prob"][0] = 99.0
    assert space == SecondOrderSpace()


def test_params_json_is_lossless() -> None:
    params = SecondOrderSpace().draw(_uniforms(30))
    again = DegradationParams.from_json(json.loads(json.dumps(params.to_json())))
    assert set(again) == set(params)
    assert all(np.array_equal(again[c], params[c]) and again[c].dtype == params[c].dtype for c in params)


def test_contains_looks_at_what_a_row_uses() -> None:
    space = SecondOrderSpace()
    box = space.restrict(noise_range=[1, 5], poisson_scale_range=[0.05, 0.5])
    params = space.draw(_uniforms(4000))
    gaussian = params["noise1_kind"] == 0
    used = np.where(gaussian, params["noise1_sigma_255"] <= 5, params["noise1_poisson_scale"] <= 0.5)
    assert np.array_equal(box.contains(params), used)
    assert not SecondOrderSpace(preset="none").contains(params).any()
    assert not SecondOrderSpace(sinc_prob=0.0).contains(params)[(params["kernel1_is_sinc"] == 1)].any()


def test_boxes_overlap_where_their_interiors_meet() -> None:
    space = SecondOrderSpace()
    low, high = space.restrict(blur_sigma=[0.2, 1.5]), space.restrict(blur_sigma=[1.5, 3.0])
    assert not low.overlaps(high)
    assert low.overlaps(space)
    assert low.overlaps(space.restrict(blur_sigma=[1.4, 3.0], jpeg_range=[60, 60]))
    names = ["cdr_mild", "cdr_blur", "cdr_noise", "cdr_severe"]
    boxes = [SecondOrderSpace(preset=n) for n in names]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    whole = SecondOrderSpace(preset="cdr")
    for box in boxes:
        assert whole.restrict(**box.box()) == box


def test_cdr_preset_follows_the_supplement() -> None:
    box = SecondOrderSpace(preset="cdr_noise").settings
    assert box["blur_sigma"] == [1.6, 2.3]
    assert box["noise_range"] == [4.5, 8.0]
    assert box["poisson_scale_range2"] == [0.35, 0.6]
    assert box["resize_prob2"] == [0.2, 0.7, 0.1]
    shares = zip(box["kernel_list"], box["kernel_prob"], strict=True)
    assert sum(p for kind, p in shares if "aniso" not in kind) == pytest.approx(0.69)


def test_first_order_presets_have_one_stage() -> None:
    params = SecondOrderSpace(preset="first_order").draw(_uniforms(50))
    assert (params["num_stages"] == 1).all()
    assert (params["resize1_scale"] == 1).all()


def test_zero_shares_are_never_drawn() -> None:
    u = _uniforms(1000)
    u[0], u[1] = 0.0, np.nextafter(1.0, 0.0)
    space = SecondOrderSpace(
        resize_prob=[0.0, 0.0, 1.0], kernel_prob=[0.0, 0.4, 0.6, 0.0, 0.0, 0.0], gaussian_noise_prob=1.0
    )
    params = space.draw(u)
    assert (params["resize1_kind"] == 2).all()
    assert set(params["kernel1_type"]) == {1, 2}
    assert (params["noise1_kind"] == 0).all()
    assert space.contains(params).all()


def test_range_keys_are_all_settings() -> None:
    assert set(RANGE_KEYS) <= set(SecondOrderSpace().settings)


def test_point_of_the_space_is_a_task() -> None:
    space = SecondOrderSpace(preset="x4plus")
    tasks = draw_point_tasks(space, 6, seed=3)
    again = TaskSet.from_json(json.loads(json.dumps(tasks.to_json())))
    assert [t.id for t in again] == [t.id for t in tasks]
    assert len({t.id for t in tasks}) == 6
    point = again[2].space
    assert isinstance(point, PointSpace)
    params = point.draw(np.array([[0.1], [0.9]]))
    assert point.contains(params).all()
    assert space.contains(params).all()
    assert not point.contains(tasks[3].space.draw(np.array([[0.1]]))).any()
    gt = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lq = point.pipeline.apply(gt, params)
    assert lq.shape == (2, 3, 16, 16)
    assert torch.equal(lq, tasks[2].space.pipeline.apply(gt, tasks[2].space.draw(np.array([[0.1], [0.9]]))))
