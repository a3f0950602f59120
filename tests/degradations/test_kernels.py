"""Blur kernels: printed check values, basicsr as an oracle, invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.basicsr_oracle import load_basicsr
from tgsr.degradations.kernels import KERNEL_TYPES, density_kernels, pulse_kernels, sinc_kernels, single_kernel


def _random_columns(num: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "size": 2 * rng.integers(3, 11, num) + 1,
        "kind": rng.integers(0, 6, num),
        "sigma_x": rng.uniform(0.2, 3, num),
        "sigma_y": rng.uniform(0.2, 3, num),
        "theta": rng.uniform(-math.pi, math.pi, num),
        "beta_g": rng.uniform(0.5, 4, num),
        "beta_p": rng.uniform(1, 2, num),
    }


def test_check_values() -> None:
    shape = {"sigma_x": 0.8, "sigma_y": 2.4, "theta": 0.6}
    kernels = [
        single_kernel(13, kind="aniso", **shape),
        single_kernel(13, kind="generalized_aniso", beta=0.7, **shape),
        single_kernel(13, kind="plateau_aniso", beta=1.5, **shape),
    ]
    assert [k[6, 6] for k in kernels] == pytest.approx([0.08299558, 0.05168595, 0.08437865], abs=1e-8)
    assert [k[6, 8] for k in kernels] == pytest.approx([0.00884101, 0.01239151, 0.00805257], abs=1e-8)
    sinc = single_kernel(15, omega=1.2)
    assert sinc[7, 7] == pytest.approx(0.10003384, abs=1e-8)
    assert sinc.min() == pytest.approx(-0.01321924, abs=1e-8)


def test_density_kernels_equal_basicsr() -> None:
    oracle = load_basicsr("basicsr.data.degradations")
    columns = _random_columns(100)
    ours = density_kernels(**columns)
    for i in range(100):
        size, kind, sx, sy, theta, beta_g, beta_p = (columns[k][i] for k in columns)
        isotropic = KERNEL_TYPES[kind].endswith("iso") and "aniso" not in KERNEL_TYPES[kind]
        if kind // 2 == 0:
            theirs = oracle.bivariate_Gaussian(size, sx, sy, theta, isotropic=isotropic)
        elif kind // 2 == 1:
            theirs = oracle.bivariate_generalized_Gaussian(size, sx, sy, theta, beta_g, isotropic=isotropic)
        else:
            theirs = oracle.bivariate_plateau(size, sx, sy, theta, beta_p, isotropic=isotropic)
        pad = (21 - size) // 2
        np.testing.assert_allclose(ours[i], np.pad(theirs, pad), atol=1e-6, rtol=0)


def test_sinc_kernels_equal_basicsr() -> None:
    oracle = load_basicsr("basicsr.data.degradations")
    rng = np.random.default_rng(1)
    size, omega = 2 * rng.integers(3, 11, 100) + 1, rng.uniform(math.pi / 5, math.pi, 100)
    ours = sinc_kernels(size, omega)
    for i in range(100):
        theirs = oracle.circular_lowpass_kernel(omega[i], int(size[i]), pad_to=21)
        np.testing.assert_allclose(ours[i], theirs, atol=1e-6, rtol=0)


def test_batch_equals_single_and_sums_to_one() -> None:
    columns = _random_columns(50, seed=2)
    batch = density_kernels(**columns)
    for i in range(50):
        assert np.array_equal(batch[i], density_kernels(**{k: v[i : i + 1] for k, v in columns.items()})[0])
    np.testing.assert_allclose(batch.sum((1, 2)), 1, atol=1e-12)
    assert np.allclose(batch, batch[:, ::-1, ::-1], atol=1e-15)


def test_outside_of_size_is_zero_and_pulse_is_identity() -> None:
    kernel = density_kernels(**{k: v[:1] for k, v in {**_random_columns(1), "size": np.array([7])}.items()})[0]
    assert not kernel[:7].any()
    assert not kernel[:, 14:].any()
    pulse = pulse_kernels(2)
    assert pulse.sum() == 2
    assert pulse[0, 10, 10] == 1


def test_isotropic_kinds_ignore_sigma_y_and_theta() -> None:
    columns = _random_columns(30, seed=3)
    columns["kind"] = columns["kind"] // 2 * 2
    other = {**columns, "sigma_y": columns["sigma_y"] + 1, "theta": columns["theta"] + 1}
    assert np.array_equal(density_kernels(**columns), density_kernels(**other))
