"""Equations 3, 4, 12 and the hybrid, by hand values and invariants."""

import math

import numpy as np
import pytest

from tgsr.methods.rebalancing.sampling import spread_tasks
from tgsr.methods.rebalancing.variance import (
    conclusion_two,
    paper_hybrid_difference,
    scheme_probabilities,
    second_moment,
)
from tgsr.methods.rebalancing.weights import difficulty_weights, hybrid_split, performance_distance, sample_counts
from tgsr.utils.errors import ConfigError, DataError


def test_weights_by_hand():
    assert performance_distance({"a": 24.0, "b": 22.5}, {"a": 23.0, "b": 22.75}) == {"a": 1.0, "b": -0.25}
    w = difficulty_weights([math.log(3), math.log(1)])
    assert np.allclose(w, [0.75, 0.25])
    assert np.allclose(difficulty_weights([0.2, 0.1], temperature=0.1), [math.e / (1 + math.e), 1 / (1 + math.e)])


def test_weights_do_not_overflow():
    w = difficulty_weights([2000.0, 0.0, -2000.0])
    assert np.array_equal(w, [1, 0, 0])
    assert np.allclose(difficulty_weights([5e5 + 1, 5e5]), difficulty_weights([1.0, 0.0]))
    with pytest.raises(DataError, match="overflow"):
        difficulty_weights([1e10, 0.0], temperature=1e-300)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="temperature"):
            difficulty_weights([0.0], temperature=wrong)
    with pytest.raises(DataError, match="task 'a' is inf"):
        performance_distance({"a": math.inf}, {"a": 20.0})
    with pytest.raises(DataError, match="task 'b'"):
        performance_distance({"a": 1.0, "b": 2.0}, {"a": 1.0})


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_exact(seed):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(7))
    num = int(rng.integers(1, 5000))
    counts = sample_counts(weights, num)
    assert counts.sum() == num
    assert (np.abs(counts - num * weights) < 1).all()


def test_counts_by_hand():
    assert sample_counts([0.5, 0.3, 0.2], 10).tolist() == [5, 3, 2]
    assert sample_counts([1 / 3, 1 / 3, 1 / 3], 10).tolist() == [4, 3, 3]
    assert sample_counts([0.26, 0.37, 0.37], 4).tolist() == [1, 2, 1]


def test_spread_sequence_keeps_shares_in_every_stretch():
    counts = np.array([500, 300, 199, 1, 0])
    sequence = spread_tasks(counts, np.random.default_rng(0))
    assert np.bincount(sequence, minlength=5).tolist() == counts.tolist()
    totals = np.cumsum(sequence[:, None] == np.arange(5), axis=0)
    expected = np.arange(1, 1001)[:, None] * counts / 1000
    assert np.abs(totals - expected).max() < 2.5


def test_hybrid_is_a_distribution_and_unbiased():
    w = np.array([0.4, 0.3, 0.2, 0.1])
    p, factors = hybrid_split(w)
    assert np.allclose(p, [0.4, 0.3, 0.15, 0.15])
    assert np.allclose(p * factors, w)
    assert np.allclose(factors[:2], 1)
    for equal in (hybrid_split(np.full(4, 0.25)), hybrid_split(np.array([1.0]))):
        assert np.allclose(equal[1], 1)
    p, factors = hybrid_split(np.array([1.0, 0.0, 0.0]))
    assert p.tolist() == [1, 0, 0]


def test_conclusion_two_is_the_difference_of_second_moments():
    rng = np.random.default_rng(0)
    for _ in range(10):
        w, e = rng.dirichlet(np.ones(5)), rng.random(5) * 10
        moments = {
            s: second_moment(w, scheme_probabilities(w, s), e) for s in ("re-weighting", "re-sampling", "hybrid")
        }
        assert moments["re-weighting"] - moments["re-sampling"] == pytest.approx(conclusion_two(w, e).sum())
        low = w < 1 / 5
        excess = (w[low] ** 2 * (low.sum() / w[low].sum() - 5) * e[low]).sum()
        exact = moments["re-weighting"] - moments["hybrid"]
        assert exact == pytest.approx(paper_hybrid_difference(w, e) - excess)
        assert excess >= 0


def test_paper_hybrid_probabilities_are_no_distribution():
    w = np.array([0.4, 0.3, 0.2, 0.1])
    as_printed = np.where(w > 1 / 4, w, 1 / 4)
    assert as_printed.sum() == pytest.approx(1.2)
