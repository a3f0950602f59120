"""The page on published networks shows what its own numbers give."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.published_tables import features, ridge, tables

PAGE = Path(__file__).parents[2] / "docs/results/published.md"


def test_every_table_of_the_page_follows_from_its_numbers():
    page = PAGE.read_text()
    assert [name for name, table in tables().items() if table not in page] == []


def test_left_out_predictions_are_those_of_fits_without_the_task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    z = x @ [1.0, -0.5, 0.0] + 0.3 * rng.normal(size=12)
    _, left_out = ridge(x, z, penalty=1e-9)
    rest = []
    for i in range(12):
        keep = np.arange(12) != i
        line = np.linalg.lstsq(np.c_[x[keep], np.ones(11)], z[keep], rcond=None)[0]
        rest.append(z[i] - np.r_[x[i], 1] @ line)
    assert left_out == pytest.approx(1 - np.sum(np.square(rest)) / np.sum((z - z.mean()) ** 2), abs=1e-6)


def test_poisson_noise_is_told_in_the_unit_of_gaussian():
    point = {
        "noise1_kind": 0, "noise1_sigma_255": 20.0, "noise1_poisson_scale": 9.0, "noise1_is_gray": 1,
        "noise2_kind": 1, "noise2_sigma_255": 20.0, "noise2_poisson_scale": 2.0, "noise2_is_gray": 0,
        "kernel1_sigma_x": 1.0, "kernel1_sigma_y": 3.0, "kernel1_is_sinc": 0, "blur1": 1,
        "kernel2_sigma_x": 1.0, "kernel2_sigma_y": 3.0, "kernel2_is_sinc": 1, "blur2": 1,
        "resize1_scale": 1.0, "resize2_scale": 0.5, "jpeg1_quality": 30.0, "jpeg2_quality": 95.0, "final_sinc": 1,
    }  # fmt: skip
    found = features(point)
    assert (found["noise of stage 1"], found["noise of stage 2"]) == (20.0, pytest.approx(21.4))
    assert (found["blur of stage 1"], found["blur of stage 2"]) == (2.0, 0.0)
    assert found["size after stage 2"] == pytest.approx(np.log(0.5))
