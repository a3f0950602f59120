"""The contact sheet: layout, determinism, text."""

from __future__ import annotations

import numpy as np
import pytest

from tgsr.degradations.base import SPACES
from tgsr.degradations.contact_sheet import contact_sheet, describe
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.tasks.task import Task
from tgsr.utils.errors import DataError


def _images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (90, 70, 3), dtype=np.uint8), rng.random((64, 130)).astype(np.float32)]


def test_sheet_shows_every_tile_and_is_reproducible() -> None:
    tasks = [Task("whole", SecondOrderSpace()), Task("clean", SecondOrderSpace(preset="none"))]
    sheet = contact_sheet(_images(), tasks, num=5, seed=1, tile=64, num_columns=3)
    assert sheet.dtype == np.uint8
    pair = 2 * 64 + 12
    assert sheet.shape[1] == 3 * pair
    assert sheet.shape[0] % 2 == 0
    half = sheet.shape[0] // 2
    assert np.array_equal(sheet[6:70, 6:70], _images()[0][13:77, 3:67])  # the ground truth, and its degraded form
    assert (sheet[6:70, 70:134] != 255).any()
    assert not np.array_equal(sheet[6:70, 6:70], sheet[6:70, 70:134])
    assert (sheet[half:, 2 * pair :] == 255).all()
    assert (sheet[70:half, :pair] < 128).any()
    assert (sheet[70:half, pair - 6 : pair] == 255).all()  # captions are wrapped, not cut
    assert np.array_equal(sheet, contact_sheet(_images(), tasks, num=5, seed=1, tile=64, num_columns=3))
    assert not np.array_equal(sheet, contact_sheet(_images(), tasks, num=5, seed=2, tile=64, num_columns=3))


def test_sixteen_bit_and_eight_bit_images_agree() -> None:
    image = _images()[0]
    task = [Task("bicubic", SPACES.get("Bicubic")(scale=2))]
    deep = image.astype(np.uint16) * 257
    assert np.array_equal(contact_sheet([image], task, num=1, tile=32), contact_sheet([deep], task, num=1, tile=32))


def test_describe_names_what_was_drawn() -> None:
    one_kind = {"kernel_list": ["generalized_aniso"], "kernel_prob": [1.0], "sinc_prob": 0.0}
    space = SecondOrderSpace(**one_kind, gaussian_noise_prob=1.0, final_sinc_prob=0.0)
    row = space.draw(np.full((1, space.num_uniforms), 0.5)).row(0)
    text = "\n".join(describe(row))
    assert f"gen aniso {row['kernel1_size']} s {row['kernel1_sigma_x']:.2f}" in text
    assert f"gauss {row['noise1_sigma_255']:.1f}" in text
    assert "no sinc" in text
    assert describe({"sigma": 2.5, "unused": -1, "noise_seed": 3}) == ["sigma 2.5"]


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(DataError):
        contact_sheet([], [Task("a", SecondOrderSpace())])
