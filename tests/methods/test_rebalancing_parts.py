"""The sampler and the loss weightings, fed with made-up references."""

import math

import numpy as np
import pytest
import torch

from tests.methods.rebalancing_toys import TASKS, fake_references, four_tasks, make_options, two_tasks
from tgsr.methods.rebalancing.discrimination import kept_checkpoints
from tgsr.methods.rebalancing.sampling import RebalancingTaskSampler
from tgsr.methods.rebalancing.weighting import (
    DifficultyLossWeighting,
    DynamicWeightAverage,
    GeometricLossStrategy,
    HybridLossWeighting,
    RandomLossWeighting,
    StaticLossWeighting,
)
from tgsr.tasks.samplers import TASK_SAMPLERS, Feedback
from tgsr.tasks.weighting import LOSS_WEIGHTINGS
from tgsr.utils.errors import ConfigError, DataError

CURVES = {
    "mild": {0: 24.0, 2: 25.0, 4: 25.0},
    "blur": {0: 24.0, 2: 24.5, 4: 25.0},
    "noise": {0: 23.0, 2: 23.0, 4: 23.5},
    "severe": {0: 22.0, 2: 22.0, 4: 22.0},
}


@pytest.fixture
def tasks():
    return four_tasks()


@pytest.fixture
def references(tasks, tmp_path):
    return fake_references(tmp_path / "references.json", tasks, CURVES)


def feedback(iteration, losses=None, **psnr):
    return Feedback(iteration, losses=losses or {}, metrics={k: {"psnr": v} for k, v in psnr.items()})


def first_feedback():
    """Distances ln 2, 0, 0, -ln 2."""
    return feedback(2, mild=25.0 - math.log(2), blur=24.5, noise=23.0, severe=22.0 + math.log(2))


EXPECTED = np.array([2, 1, 1, 0.5]) / 4.5


def counts(sampler, start, stop, num=9):
    drawn = np.concatenate([sampler.draw(i, num) for i in range(start, stop)])
    return np.bincount(drawn, minlength=4)


def test_counts_of_an_interval(tasks, references):
    sampler = RebalancingTaskSampler(tasks, seed=3, references=references, interval=2)
    assert sampler.needs_metrics
    assert counts(sampler, 0, 2).tolist() == [5, 5, 4, 4]
    sampler.update(first_feedback())
    assert np.allclose(sampler.weights, EXPECTED)
    assert counts(sampler, 2, 4).tolist() == [8, 4, 4, 2]
    # every batch is near its share, not only the interval
    assert (np.abs(np.bincount(sampler.draw(2, 9), minlength=4) - 9 * EXPECTED) < 2).all()


def test_state_in_mid_interval_and_purity(tasks, references):
    sampler = RebalancingTaskSampler(tasks, seed=3, references=references, interval=2)
    sampler.update(first_feedback())
    first, second = sampler.draw(2, 8), sampler.draw(3, 8)
    other = RebalancingTaskSampler(tasks, seed=3, references=references, interval=2)
    other.load_state_dict(sampler.state_dict())
    assert np.array_equal(other.draw(3, 8), second)
    assert np.array_equal(other.draw(2, 8), first)
    reseeded = RebalancingTaskSampler(tasks, seed=4, references=references, interval=2)
    reseeded.load_state_dict(sampler.state_dict())
    assert not np.array_equal(np.r_[reseeded.draw(2, 8), reseeded.draw(3, 8)], np.r_[first, second])


def test_iid_draws(tasks, references):
    sampler = RebalancingTaskSampler(tasks, seed=0, references=references, interval=2, draws="iid")
    sampler.update(first_feedback())
    found = counts(sampler, 2, 4, num=20000) / 40000
    assert np.abs(found - EXPECTED).max() < 0.012


def test_temperature_and_task_without_samples(tasks, references, caplog):
    sampler = RebalancingTaskSampler(tasks, seed=0, references=references, interval=2, temperature=0.01)
    sampler.update(first_feedback())
    assert sampler.weights[0] > 0.999
    with caplog.at_level("WARNING", logger="tgsr"):
        assert counts(sampler, 2, 4).tolist() == [18, 0, 0, 0]
    assert "task 'severe' gets no sample" in caplog.text


def test_hybrid_pair_is_unbiased(tasks, references):
    sampler = RebalancingTaskSampler(tasks, seed=0, references=references, interval=2, rule="hybrid")
    weighting = HybridLossWeighting(tasks, seed=0, references=references, interval=2)
    for part in (sampler, weighting):
        part.update(first_feedback())
    assert np.allclose(sampler.weights * weighting.factors, EXPECTED)
    assert sampler.weights.sum() == pytest.approx(1)


def test_reweighting_is_equation_9(tasks, references):
    weighting = DifficultyLossWeighting(tasks, seed=0, references=references, interval=2)
    losses, ids = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True), torch.tensor([0, 1, 2, 3])
    assert weighting.reduce(losses, ids, 0).item() == pytest.approx(2.5)
    weighting.update(first_feedback())
    total = weighting.reduce(losses, ids, 2)
    assert total.item() == pytest.approx(float(EXPECTED @ [1, 2, 3, 4]))
    total.backward()
    assert np.allclose(losses.grad.numpy(), EXPECTED)
    other = DifficultyLossWeighting(tasks, seed=0, references=references, interval=2)
    other.load_state_dict(weighting.state_dict())
    assert other.reduce(losses, ids, 2).item() == total.item()


def test_all_weightings_of_one_task_are_the_mean(tmp_path):
    tasks = two_tasks().subset(["low"])
    path = fake_references(tmp_path / "r.json", tasks, {"low": {0: 1.0}})
    losses, ids = torch.tensor([0.5, 1.5, 1.0]), torch.zeros(3, dtype=torch.int64)
    for weighting in (
        DifficultyLossWeighting(tasks, seed=0, references=path), HybridLossWeighting(tasks, seed=0, references=path),
        RandomLossWeighting(tasks, seed=0), DynamicWeightAverage(tasks, seed=0), GeometricLossStrategy(tasks, seed=0),
        StaticLossWeighting(tasks, seed=0, weights={"low": 3.0}),
    ):  # fmt: skip
        assert weighting.reduce(losses, ids, 0).item() == pytest.approx(1.0), type(weighting).__name__


def test_random_weights(tasks):
    weighting = RandomLossWeighting(tasks, seed=1)
    w = np.stack([weighting.weights_at(i) for i in range(2000)])
    assert np.allclose(w.sum(1), 1)
    assert np.abs(w.mean(0) - 0.25).max() < 0.02
    assert not np.allclose(w[0], w[1])
    losses, ids = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2])
    expected = (2.0 * w[5][0] + 5.0 * w[5][2]) / (w[5][0] + w[5][2])  # tasks 1 and 3 are absent
    assert weighting.reduce(losses, ids, 5).item() == pytest.approx(expected)


def test_dynamic_weight_average(tasks, caplog):
    weighting = DynamicWeightAverage(tasks, seed=0, interval=2, temperature=2.0)
    weighting.update(feedback(2, losses=dict.fromkeys(CURVES, 1.0)))
    assert np.allclose(weighting.task_weights, 0.25)
    weighting.update(feedback(4, losses={"mild": 1.0, "blur": 0.5, "noise": 0.5, "severe": 0.5}))
    raised = np.exp(np.array([1, 0.5, 0.5, 0.5]) / 2)
    assert np.allclose(weighting.task_weights, raised / raised.sum())
    other = DynamicWeightAverage(tasks, seed=0, interval=2)
    other.load_state_dict(weighting.state_dict())
    third = feedback(6, losses=dict.fromkeys(CURVES, 0.4))
    weighting.update(third)
    other.update(third)
    assert np.allclose(other.task_weights, weighting.task_weights)
    kept = weighting.state_dict()
    weighting.update(feedback(8, losses={"mild": 1.0}))
    assert weighting.state_dict() == kept
    assert "task 'blur' had no sample" in caplog.text


def test_geometric_mean_and_its_implied_weights(tasks):
    weighting = GeometricLossStrategy(tasks, seed=0)
    losses = torch.tensor([1.0, 3.0, 8.0], requires_grad=True)
    total = weighting.reduce(losses, torch.tensor([0, 0, 3]), 0)
    assert total.item() == pytest.approx(4.0)  # sqrt(2 * 8)
    total.backward()
    assert np.allclose(losses.grad.numpy(), [0.5, 0.5, 0.25])  # L / (n L_i), over the samples of the task
    assert math.isnan(weighting.reduce(torch.tensor([-1.0, 2.0]), torch.tensor([0, 1]), 0).item())
    assert torch.isfinite(weighting.reduce(torch.tensor([0.0, 2.0]), torch.tensor([0, 1]), 0))


def test_errors(tasks, references, tmp_path):
    sampler = RebalancingTaskSampler(tasks, seed=0, references=references, interval=2)
    with pytest.raises(DataError, match=r"no value at iteration 6 \(interval 2"):
        sampler.update(feedback(6, **dict.fromkeys(CURVES, 20.0)))
    with pytest.raises(DataError, match="task 'mild' was not validated"):
        sampler.update(feedback(2))
    with pytest.raises(DataError, match="'mild' is -inf"):
        sampler.update(feedback(2, mild=math.inf, blur=1.0, noise=1.0, severe=1.0))
    with pytest.raises(DataError, match="task 'low' has no single-task reference"):
        RebalancingTaskSampler(two_tasks(), seed=0, references=references)
    renamed = dict(zip(["low", "high"], [{0: 1.0}, {0: 1.0}], strict=True))
    path = fake_references(tmp_path / "other.json", two_tasks(), renamed)
    data = path.read_text().replace(two_tasks()[0].id, "0" * 12)
    path.write_text(data)
    with pytest.raises(DataError, match="task 'low' is of another degradation"):
        RebalancingTaskSampler(two_tasks(), seed=0, references=path)
    with pytest.raises(DataError, match="other tasks"):
        sampler.load_state_dict({"weights": [1.0], "tasks": ["x"]})
    with pytest.raises(ConfigError, match="do not fit the tasks"):
        StaticLossWeighting(tasks, seed=0, weights={"mild": 1.0})
    path.write_text('{"schema": "tgsr.tasks", "version": 1}')
    with pytest.raises(DataError, match="not a tgsr.references file"):
        RebalancingTaskSampler(tasks, seed=0, references=path)


def test_registered():
    assert "RebalancingTaskSampler" in TASK_SAMPLERS
    for name in ("RLW", "DWA", "GLS", "DifficultyLossWeighting", "HybridLossWeighting", "StaticLossWeighting"):
        assert name in LOSS_WEIGHTINGS


def test_geometric_mean_refuses_micro_batches(tmp_path):
    whole = make_options(tmp_path, stem="whole", tasks={**TASKS, "weighting": {"type": "GLS"}})
    cut = make_options(
        tmp_path, stem="cut", tasks={**TASKS, "weighting": {"type": "GLS"}}, train={"accumulation_steps": 2}
    )
    weighting = GeometricLossStrategy(two_tasks(), seed=0)
    weighting.check(whole)
    with pytest.raises(ConfigError, match="which micro batches do not know in time"):
        weighting.check(cut)


def test_checkpoints_are_spread_over_the_training_and_the_last_is_among_them(tmp_path):
    with pytest.raises(DataError, match="no checkpoints by iteration"):
        kept_checkpoints(tmp_path, 2)
    for label in (*range(5, 105, 5), "latest"):
        (tmp_path / f"net_g_{label}.pth").touch()
    assert list(kept_checkpoints(tmp_path, 4)) == ["25", "50", "75", "100"]
    assert len(kept_checkpoints(tmp_path, 50)) == 20
