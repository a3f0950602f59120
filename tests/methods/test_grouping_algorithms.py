"""The pure algorithms of TGSR on hand-made tables."""

import numpy as np
import pytest
from scipy import stats

from tgsr.methods.tgsr.grouping import (
    group_tasks,
    performance_improvement_score,
    pis_table,
    random_groups,
    require_groups,
)
from tgsr.methods.tgsr.indicator import (
    average_indicator,
    paired_indicator,
    paper_indicator,
    performance_indicator,
    ranks,
    reliability,
    spearman,
    spearman_interval,
    stable_iteration,
)
from tgsr.methods.tgsr.selection import select_unsatisfactory
from tgsr.utils.errors import ConfigError, DataError


def test_indicator_of_equations_3_and_4():
    z = performance_indicator(np.array([0.9, 0.8, 0.6, 0.4]), 0.5)
    assert z == pytest.approx([1.8, 1.6, 1.2, 0.8])
    assert average_indicator(z, 2) == pytest.approx(1.0)
    with pytest.raises(ConfigError, match="window is 5"):
        average_indicator(z, 5)


def test_paired_indicator_cancels_the_difficulty_of_patches():
    before = np.array([0.01, 0.1, 1.0])
    z, se = paired_indicator(0.9 * before, before)
    assert z == pytest.approx(0.9)
    assert se == pytest.approx(0.0, abs=1e-12)
    assert paired_indicator(np.stack([0.8 * before, 1.0 * before]), before).z == pytest.approx(0.9)


def test_paired_standard_error_predicts_the_spread():
    rng = np.random.default_rng(0)
    found, claimed = [], []
    for _ in range(400):
        before = rng.gamma(4.0, size=64)
        result = paired_indicator(before * (0.95 + 0.1 * rng.standard_normal(64)), before)
        found.append(result.z)
        claimed.append(result.se)
    assert np.mean(claimed) == pytest.approx(np.std(found), rel=0.15)


def test_paper_indicator_and_its_three_denominators():
    training = np.array([1.0, 1.0, 0.5, 0.7])
    assert paper_indicator(training, np.array([0.8, 1.2]), window=2).z == pytest.approx(0.6)
    assert paper_indicator(training, training[:1], window=2, denominator="first").z == pytest.approx(0.6)
    same = paper_indicator(training, np.array([1.0, 1.4]), window=2, denominator="same")
    assert same.z == pytest.approx(0.5)
    assert same.se == pytest.approx(0.0, abs=1e-12)


def test_a_diverged_task_has_no_indicator():
    assert np.isnan(paired_indicator(np.array([np.inf, 1.0]), np.ones(2)).z)
    assert np.isnan(paper_indicator(np.array([1.0, np.nan]), np.ones(2), window=2).z)


def test_ranks_and_spearman_agree_with_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 10, 40).astype(float), rng.integers(0, 10, 40).astype(float)
    assert ranks(a) == pytest.approx(stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.append(a, np.nan), np.append(b, 1.0)) == pytest.approx(spearman(a, b))
    assert np.isnan(spearman(np.ones(5), a[:5]))
    low, high = spearman_interval(a, a + 0.1 * b, rng=rng)
    assert -1 <= low < spearman(a, a + 0.1 * b) <= high <= 1


def test_reliability_is_the_share_of_true_variance():
    rng = np.random.default_rng(2)
    truth = rng.normal(0.95, 0.02, 5000)
    z = truth + rng.normal(0, 0.01, 5000)
    assert reliability(z, np.full(5000, 0.01)) == pytest.approx(0.8, abs=0.02)
    assert reliability(z, np.full(5000, 1.0)) == 0.0


def test_stopping_rule_takes_the_first_ranking_that_stays():
    final = np.linspace(0.8, 1.0, 20)
    early = final[::-1]
    curves = np.stack([early, final + 0.05, final], axis=1)
    assert stable_iteration(curves, [5, 10, 20]) == 10
    assert stable_iteration(curves[:, ::2], [5, 20]) == 20
    with_divergence = np.vstack([curves, [np.nan] * 3])
    assert stable_iteration(with_divergence, [5, 10, 20]) == 10
    with pytest.raises(ValueError, match="do not fit"):
        stable_iteration(curves, [10, 5, 20])


def test_selection_takes_low_z_unless_flipped():
    z = {"a": 0.99, "b": 0.90, "c": float("nan"), "d": 0.95, "e": 1.01, "f": 0.97}
    assert select_unsatisfactory(z) == ["b", "d"]
    assert select_unsatisfactory(z, direction="high") == ["e", "a"]
    assert select_unsatisfactory(z, share=None, threshold=0.98) == ["b", "d", "f"]
    assert select_unsatisfactory(z, share=None, threshold=0.98, direction="high") == ["e", "a"]
    assert select_unsatisfactory(z, share=0.01) == ["b"]


def test_selection_explains_bad_input():
    with pytest.raises(ConfigError, match="either a share or a threshold"):
        select_unsatisfactory({"a": 1.0}, share=0.4, threshold=0.9)
    with pytest.raises(ConfigError, match="share is 0"):
        select_unsatisfactory({"a": 1.0}, share=0.0)
    with pytest.raises(DataError, match="lowest z is 0.9000"):
        select_unsatisfactory({"a": 0.9}, share=None, threshold=0.5)
    with pytest.raises(DataError, match="finite"):
        select_unsatisfactory({"a": float("nan")})


TABLE = [
    {"a": 0.9, "b": 0.5, "c": 0.1, "d": float("nan")},
    {"b": 0.7, "c": 0.65, "d": 0.0},
    {"d": 0.3},
]


def test_algorithm_1_on_a_hand_made_table():
    asked = []

    def score(index, remaining):
        asked.append(remaining)
        return TABLE[index]

    result = group_tasks(["a", "b", "c", "d"], thresholds=[0.8, 0.6, 0.2, 0.1], score=score)
    assert result.groups == [["a"], ["b", "c"], ["d"]]
    assert result.rest == ()
    assert asked == [("a", "b", "c", "d"), ("b", "c", "d"), ("d",)]
    table = pis_table(result.rounds)
    assert [[x is None for x in row] for row in table] == [
        [False] * 4,
        [True, False, False, False],
        [True, True, True, False],
    ]
    assert table[1][2] == 0.65


def test_even_groups_whatever_the_pis():
    pis = {"a": 0.3, "b": float("nan"), "c": 0.1, "d": 0.1, "e": -2.0}
    result = group_tasks([*pis], thresholds=[90, 80, 70], score=lambda i, r: pis, even=True)
    assert result.groups == [["a", "c"], ["d"], ["e"]]
    assert result.rest == ("b",)
    same = group_tasks(["a", "b"], thresholds=[90, 80, 70], score=lambda i, r: {"a": 0.0, "b": 0.0}, even=True)
    assert same.groups == [["a"], ["b"]]


def test_without_retraining_the_first_scores_serve_all_rounds():
    calls = []
    result = group_tasks(
        ["a", "b", "c"],
        thresholds=[0.8, 0.4, 0.2],
        score=lambda i, r: calls.append(i) or TABLE[0],
        retrain=False,
    )
    assert calls == [0]
    assert [list(r.group) for r in result.rounds] == [["a"], ["b"], []]
    assert result.groups == [["a"], ["b"], []], "a group keeps the number of its threshold"
    assert result.rest == ("c",)


def test_an_empty_group_trains_nothing_twice():
    calls = []
    table = [{"a": 0.5, "b": 0.1}, {"b": 0.3}]
    result = group_tasks(
        ["a", "b"], thresholds=[0.8, 0.4, 0.2], score=lambda i, r: calls.append(i) or table[len(calls) - 1]
    )
    assert calls == [0, 2]
    assert [list(r.group) for r in result.rounds] == [[], ["a"], ["b"]]


def test_threshold_is_strict_and_must_descend():
    assert group_tasks(["a"], thresholds=[0.5], score=lambda i, r: {"a": 0.5}).rest == ("a",)
    for bad in ([0.2, 0.4], [0.4, 0.4]):
        with pytest.raises(ConfigError, match="must descend"):
            group_tasks(["a"], thresholds=bad, score=lambda i, r: {"a": 1.0})
    with pytest.raises(ConfigError, match="empty"):
        group_tasks(["a"], thresholds=[], score=lambda i, r: {"a": 1.0})


def test_no_group_at_all_is_explained_with_the_best_scores():
    empty = group_tasks(["a", "b"], thresholds=[0.8, 0.6], score=lambda i, r: {"a": 0.11, "b": -0.2})
    with pytest.raises(DataError, match=r"above 0.6 dB \(the best: 0.11, -0.20\)"):
        require_groups(empty)


def test_pis_is_a_difference():
    assert performance_improvement_score({"a": 25.5}, {"a": 25.0, "b": 1.0}) == {"a": 0.5}


def test_random_groups_are_disjoint_seeded_and_sized():
    names = [str(i) for i in range(50)]
    groups = random_groups(names, [3, 10], seed=1)
    assert [len(g) for g in groups] == [3, 10]
    assert len({n for g in groups for n in g}) == 13
    assert groups == random_groups(names, [3, 10], seed=1)
    assert groups != random_groups(names, [3, 10], seed=2)
    with pytest.raises(ConfigError, match="need 60 tasks"):
        random_groups(names, [60], seed=1)
