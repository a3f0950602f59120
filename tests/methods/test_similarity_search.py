"""Grouping search of GRIDS against brute force and the paper's own numbers; the memo of its oracle."""

import math
from itertools import combinations

import numpy as np
import pytest

from tgsr.degradations.named import GRIDS_DEGRADATIONS
from tgsr.methods.grids.oracle import TrainingOracle
from tgsr.methods.grids.paper_values import (
    PAPER_DELTA_DB,
    PAPER_GROUPS,
    TABLE1,
    TABLE2,
    TABLE2_DISTANCES,
    paper_drop,
)
from tgsr.methods.grids.search import (
    GroupingSearch,
    TableOracle,
    last_true,
    random_partition,
    rank_groups,
)
from tgsr.methods.grids.trainings import Trained, group_key
from tgsr.utils.errors import UserError


def random_distance(num, rng):
    points = rng.random((num, 2))
    return np.linalg.norm(points[:, None] - points[None], axis=-1) * 3


def mean_distance(distance, group):
    pairs = [distance[i, j] for i, j in combinations(group, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def partitions(items):
    """All set partitions."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            left = [x for x in rest if x not in others]
            for tail in partitions(left):
                yield [(first, *others), *tail]


def brute_force(num, drop, delta):
    feasible = (len(p) for p in partitions(list(range(num))) if all(len(g) == 1 or drop(g) <= delta for g in p))
    return min(feasible)


@pytest.mark.parametrize("num", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("seed", range(4))
def test_fewest_groups_when_drop_follows_distance(num, seed):
    """Where the drop rises with the mean distance at every size, and with size, the cut-offs are exact."""
    rng = np.random.default_rng(seed)
    distance = random_distance(num, rng)

    def drop(group):
        return mean_distance(distance, group) + 0.2 * len(group)

    for delta in (0.3, 0.9, 1.4, 9.0):
        result = GroupingSearch(distance, TableOracle(drop), delta=delta, bucket=0).run()
        assert sorted(d for g in result.partition for d in g) == list(range(num))
        assert all(len(g) == 1 or drop(g) <= delta for g in result.partition)
        # by size: a partition of only larger feasible groups may exist where the size below L_max fails
        assert len(result.partition) == brute_force(num, drop, delta)


@pytest.mark.parametrize("seed", range(12))
def test_noisy_oracle_is_always_feasible_and_frugal(seed):
    rng = np.random.default_rng(seed)
    num = 7
    distance = random_distance(num, rng)
    noise = {g: rng.normal(0, 0.3) for s in range(2, num + 1) for g in combinations(range(num), s)}
    oracle = TableOracle(lambda g: mean_distance(distance, g) + 0.1 * len(g) + noise[g])
    result = GroupingSearch(distance, oracle, delta=1.0).run()
    assert sorted(d for g in result.partition for d in g) == list(range(num))
    assert all(len(g) == 1 or oracle(g) <= 1.0 for g in result.partition)
    assert len(oracle.known) < 2**num / 2
    assert set(result.drops) >= {g for g in result.partition if len(g) > 1}


def test_infeasible_everywhere_gives_singles_and_feasible_everywhere_one_group():
    distance = random_distance(6, np.random.default_rng(0))
    singles = GroupingSearch(distance, TableOracle(lambda g: math.inf), delta=1).run()
    assert sorted(singles.partition) == [(i,) for i in range(6)]
    assert singles.max_size == 1
    whole = GroupingSearch(distance, TableOracle(lambda g: -1.0), delta=1)
    assert whole.run().partition == [tuple(range(6))]


def test_top_k_survives_one_unlucky_training():
    distance = random_distance(5, np.random.default_rng(1))
    best = rank_groups(distance)[2][0].group

    def drop(group):
        return 9.0 if group == best or len(group) > 2 else 0.0

    assert GroupingSearch(distance, TableOracle(drop), delta=1).run().max_size == 1
    lucky = GroupingSearch(distance, TableOracle(drop), delta=1, top_k=2).run()
    assert lucky.max_size == 2
    assert len(lucky.partition) == 3
    assert best not in lucky.partition


def test_find_all_lists_each_partition_once():
    distance = random_distance(4, np.random.default_rng(2))
    search = GroupingSearch(distance, TableOracle(lambda g: 9.0 if len(g) > 2 else 0.0), delta=1, find_all=True)
    solutions = search.run().solutions
    assert len(solutions) == 3
    assert len({frozenset(s) for s in solutions}) == 3


def test_ranking_counts_and_uses_variance_within_a_bucket():
    distance = np.array([[0, 1.01, 1.02, 3], [1.01, 0, 1.02, 3], [1.02, 1.02, 0, 3], [3, 3, 3, 0]], float)
    ranked = rank_groups(distance)
    assert [len(ranked[s]) for s in (1, 2, 3, 4)] == [4, 6, 4, 1]
    assert ranked[3][0].group == (0, 1, 2)
    assert [r.group for r in ranked[2][:3]] == [(0, 1), (0, 2), (1, 2)]
    wide = np.array([[0, 1.0, 1.9], [1.0, 0, 1.45], [1.9, 1.45, 0]])
    assert rank_groups(wide, bucket=5)[2][0].mean == 1.0
    assert len([r for s in rank_groups(random_distance(11, np.random.default_rng(0))).values() for r in s]) == 2047


def test_last_true_and_its_preparation():
    for top in range(9):
        asked, prepared = [], []

        def holds(place, top=top, asked=asked):
            asked.append(place)
            return place <= top

        assert last_true(0, 8, holds, prepared.append) == top
        assert len(asked) <= 4
        assert all(a == p[0] for a, p in zip(asked, prepared, strict=True))
        assert all(b in p for b, p in zip(asked[1:], prepared, strict=False))


def test_size_limit_and_coarse_cut_offs():
    distance = random_distance(8, np.random.default_rng(3))

    def drop(group):
        return mean_distance(distance, group) + 0.1 * len(group)

    exact, coarse = TableOracle(drop), TableOracle(drop)
    limited = GroupingSearch(distance, exact, delta=1.2, max_size=3).run()
    assert limited.max_size == 3
    assert max(map(len, exact.known)) == 3
    rough = GroupingSearch(distance, coarse, delta=1.2, max_size=3, resolution=0.2).run()
    assert all(len(g) == 1 or drop(g) <= 1.2 for g in rough.partition)
    assert len(coarse.known) <= len(exact.known)
    assert all(rough.kept[s] <= limited.kept[s] for s in set(rough.kept) & set(limited.kept))


def test_a_coarse_cut_off_keeps_the_groups_that_are_known_to_pass():
    """Few passing groups lie inside the slack of the bisection, which then ends before the first of them."""
    distance = random_distance(11, np.random.default_rng(3))
    best = {r.group for size, groups in rank_groups(distance).items() if size <= 4 for r in groups[:10]}
    search = GroupingSearch(
        distance, TableOracle(lambda g: 0.1 if g in best else 9.0), delta=1.0, max_size=4, top_k=2, resolution=0.1
    )
    found = search.run()
    assert found.max_size == 4
    for size in (2, 3, 4):
        passed = [r.group for r in search.ranked[size] if found.drops.get(r.group, 9.0) <= 1.0]
        assert set(passed) <= set(search.kept[size])
    assert 0 < found.kept[4] <= 10
    assert min(map(len, found.partition)) >= 1
    assert len(found.partition) < 11


def test_random_partition_keeps_sizes():
    groups = random_partition([3, 3, 3, 2], np.random.default_rng(0))
    assert [len(g) for g in groups] == [3, 3, 3, 2]
    assert sorted(x for g in groups for x in g) == list(range(11))


def test_papers_numbers():
    """Tables 1 and 2: averages as printed, the groups within delta, and the search's first steps."""
    averages = {k: round(sum(v.values()) / 11, 2) for k, v in TABLE1.items()}
    assert averages["Restormer single"] == pytest.approx(35.13, abs=0.011)
    assert averages["Restormer mixed"] == pytest.approx(32.98, abs=0.011)
    assert averages["Restormer grouped"] == pytest.approx(35.22, abs=0.011)
    assert averages["SRResNet grouped"] - averages["SRResNet mixed"] == pytest.approx(1.44, abs=0.02)
    for group in PAPER_GROUPS:
        drops = [TABLE1["Restormer single"][d] - TABLE1["Restormer grouped"][d] for d in group]
        assert max(drops) <= PAPER_DELTA_DB
    assert paper_drop(("ringing", "rl", "defocus")) == pytest.approx(0.56)
    assert paper_drop(("ringing", "rl", "defocus", "motion_blur")) == pytest.approx(2.14)
    assert paper_drop(("defocus", "rl", "ringing")) == pytest.approx(0.56)
    assert paper_drop(("gaussian_noise", "salt_pepper")) == pytest.approx(-0.07)
    assert paper_drop(PAPER_GROUPS[0]) == pytest.approx(0.68)
    assert paper_drop(("sr", "haze")) is None
    printed = {(1, True): -0.68, (1, False): -0.26, (2, True): 0.30, (2, False): 0.71, (3, True): 1.40,
               (3, False): 1.88, (4, True): 0.34, (4, False): 0.88, (5, True): 1.06, (5, False): 0.49,
               (6, True): 1.35, (6, False): 0.36, (7, True): -0.05, (7, False): -0.15}  # fmt: skip
    assert {(r.experiment, r.is_near): r.mean_drop for r in TABLE2} == pytest.approx(printed, abs=0.011)
    gaps = {1: 0.79, 2: 2.13, 3: 1.58, 4: 1.12, 7: 0.12}
    for near, far in zip(TABLE2[::2], TABLE2[1::2], strict=True):
        assert near.experiment == far.experiment
        assert far.distance - near.distance == pytest.approx(gaps.get(near.experiment, far.distance - near.distance))


def test_search_with_the_papers_numbers():
    """Distances that rank the paper's groups as Table 2 does; known drops from Tables 1 and 2, others by distance."""
    names = GRIDS_DEGRADATIONS
    drops = {tuple(sorted(map(names.index, r.group))): r.drop for r in TABLE2 if r.descriptor == "descriptor"}
    single, grouped = TABLE1["Restormer single"], TABLE1["Restormer grouped"]
    drops |= {tuple(sorted(map(names.index, g))): max(single[d] - grouped[d] for d in g) for g in PAPER_GROUPS}
    distance = np.full((11, 11), 4.2)
    for group, value in sorted(TABLE2_DISTANCES, key=lambda pair: -pair[1]):
        for i, j in combinations(map(names.index, group), 2):
            distance[i, j] = distance[j, i] = value
    for group in PAPER_GROUPS:
        for i, j in combinations(map(names.index, group), 2):
            distance[i, j] = distance[j, i] = min(distance[i, j], 2.6)
    np.fill_diagonal(distance, 0)

    def drop(group):
        return drops.get(group, 0.1 if any(set(group) <= set(k) and v <= 0.7 for k, v in drops.items()) else 2.0)

    best_four = rank_groups(distance)[4][0].group
    assert {names[i] for i in best_four} == {"ringing", "rl", "defocus", "motion_blur"}
    oracle = TableOracle(drop)
    result = GroupingSearch(distance, oracle, delta=PAPER_DELTA_DB).run()
    assert result.max_size == 3
    assert len(result.partition) >= math.ceil(11 / 3)
    assert all(len(g) == 1 or drop(g) <= PAPER_DELTA_DB for g in result.partition)
    assert len(oracle.known) < 40


class FakeNetworks:
    """Trains instantly; fails on demand; `known` lives on, as the journal does."""

    def __init__(self, known=None, *, fail=(), num_parallel=1):
        self.known, self.fail, self.num_parallel = {} if known is None else known, set(fail), num_parallel
        self.calls, self.batches = [], []

    @property
    def trainings(self):
        return list(self.known.values())

    def get(self, names):
        return self.known.get(group_key(names))

    def __call__(self, groups, *, again=()):
        missing = [g for g in groups if self.get(g) is None or g in again]
        self.batches.extend([missing] if missing else [])
        for names in missing:
            self.calls.append(names)
            ok = Trained(names, {n: 30.0 - 0.2 * len(names) for n in names}, checkpoint="x.pth")
            failed = Trained(names, status="failed", error="NaN at iteration 3")
            self.known[group_key(names)] = failed if names in self.fail else ok


def test_oracle_remembers_and_resumes():
    networks = FakeNetworks()
    oracle = TrainingOracle(["b", "a", "c"], networks)
    assert oracle.train_singles() == {"b": 29.8, "a": 29.8, "c": 29.8}
    assert oracle((0, 1)) == pytest.approx(0.2)
    assert oracle((1, 0)) == pytest.approx(0.2)
    assert oracle((2,)) == 0
    assert networks.calls == [("b",), ("a",), ("c",), ("a", "b")]
    silent = FakeNetworks(networks.known)
    assert TrainingOracle(["b", "a", "c"], silent)((0, 1)) == pytest.approx(0.2)
    assert not silent.calls


def test_failed_training_is_an_infinite_drop_and_can_be_retried():
    networks = FakeNetworks(fail={("a", "b")})
    oracle = TrainingOracle(["a", "b", "c"], networks)
    assert oracle((0, 1)) == math.inf
    result = GroupingSearch(np.array([[0, 1, 2], [1, 0, 2], [2, 2, 0.0]]), oracle, delta=0.7).run()
    assert (0, 1) not in result.partition
    again = FakeNetworks({k: v for k, v in networks.known.items() if len(v.names) > 1})
    assert again.get(("b", "a")).error == "NaN at iteration 3"
    retried = TrainingOracle(["a", "b", "c"], again, retry_failed=True)
    assert retried((0, 1)) == pytest.approx(0.2)
    assert retried((0, 1)) == pytest.approx(0.2)
    assert again.calls.count(("a", "b")) == 1


def test_failed_single_is_an_error():
    with pytest.raises(UserError, match=r"'b' failed: NaN.*retry_failed"):
        TrainingOracle(["a", "b"], FakeNetworks(fail={("b",)})).train_singles()


def test_a_group_with_a_member_below_its_input_is_refused_where_that_counts():
    inputs = {"a": 29.0, "b": 29.6, "c": 10.0}  # a pair ends at 29.6, three at 29.4
    oracle = TrainingOracle(["a", "b", "c"], FakeNetworks(), inputs=inputs)
    assert oracle((0, 1)) == math.inf
    assert oracle.below_input(("a", "b")) == ["b"]
    assert oracle((0, 2)) == pytest.approx(0.2)
    assert TrainingOracle(["a", "b", "c"], FakeNetworks())((0, 1)) == pytest.approx(0.2)  # as in the paper


@pytest.mark.parametrize("seed", range(3))
def test_the_partition_of_least_drop_does_not_depend_on_the_order(seed):
    rng = np.random.default_rng(seed)
    distance = random_distance(6, rng)
    drops = {frozenset(g): rng.uniform(0, 1) for g in combinations(range(6), 2)}

    def solve(order, **kwargs):
        table = TableOracle(lambda g: drops[frozenset(order[i] for i in g)] if len(g) == 2 else 9.0)
        search = GroupingSearch(distance[np.ix_(order, order)], table, delta=1.0, **kwargs)
        return {frozenset(order[i] for i in g) for g in search.run().partition}

    orders = [np.random.default_rng(k).permutation(6).tolist() for k in range(4)]
    best = [solve(order, least_drop=True) for order in orders]
    assert all(found == best[0] for found in best)
    pairs = [p for p in combinations(map(frozenset, combinations(range(6), 2)), 3) if len(frozenset().union(*p)) == 6]
    assert max(drops[g] for g in best[0]) == min(max(drops[g] for g in p) for p in pairs)  # of all fifteen


def test_parallel_oracle_trains_ahead():
    networks = FakeNetworks(num_parallel=3)
    oracle = TrainingOracle(["a", "b", "c", "d"], networks)
    oracle.train_singles()
    GroupingSearch(random_distance(4, np.random.default_rng(0)), oracle, delta=0.5).run()
    assert len(networks.batches[0]) == 4
    assert max(len(b) for b in networks.batches[1:]) == 3
