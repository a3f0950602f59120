"""Loss weightings see the whole batch: two ranks, or two micro batches, make the step that one process makes."""


import numpy as np
import pytest
import torch
from torch import nn

from tests.ranks import in_processes
from tgsr.data.batch import Batch
from tgsr.losses.pixel import L1Loss
from tgsr.methods.rebalancing.weighting import DynamicWeightAverage, GeometricLossStrategy, RandomLossWeighting
from tgsr.models.base import ModelParts
from tgsr.models.pixel import PixelModel
from tgsr.models.precision import Precision
from tgsr.tasks.samplers import Feedback
from tgsr.tasks.task import draw_point_tasks
from tgsr.tasks.weighting import EqualWeighting

CPU = torch.device("cpu")
IDS = [0, 0, 0, 1, 0, 2, 2, 1]  # the halves hold other tasks, in other numbers
KINDS = {"equal": EqualWeighting, "RLW": RandomLossWeighting, "DWA": DynamicWeightAverage, "GLS": GeometricLossStrategy}
CUTS = {1: [slice(0, 8)], 2: [slice(0, 4), slice(4, 8)]}


def make_weighting(kind):
    from tgsr.degradations.second_order import SecondOrderSpace

    weighting = KINDS[kind](draw_point_tasks(SecondOrderSpace(preset="x4plus"), 4, seed=0), seed=3)
    for iteration, values in ((1, (1.0, 1.0, 1.0, 1.0)), (2, (0.9, 0.2, 0.5, 0.1))):  # moves the weights of DWA
        losses = dict(zip(weighting.tasks.names, values, strict=True))
        weighting.update(Feedback(iteration=iteration, losses=losses, counts={}, metrics={}))
    return weighting


def gradient(kind, cuts, *, rank=0, world_size=1):
    """Of a 1x1 convolution after one step on this rank's samples."""
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 1)
    lq, gt = torch.rand(8, 3, 6, 6), torch.rand(8, 3, 6, 6) * torch.arange(1, 9)[:, None, None, None]
    ids = torch.tensor(IDS)
    parts = ModelParts(
        CPU, Precision("fp32", CPU), make_weighting(kind), channels_last=False, rank=rank, world_size=world_size
    )
    model = PixelModel(
        net, {"pixel": L1Loss()}, lambda p: torch.optim.SGD(p, lr=0.1), lambda iteration, lr: lr, parts
    )
    model.step([Batch(lq=lq[c], gt=gt[c], task_ids=ids[c]) for c in cuts], 5)
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def one_rank(context):
    return {kind: gradient(kind, [CUTS[2][context.rank]], rank=context.rank, world_size=2).tolist() for kind in KINDS}


def test_two_ranks_step_like_one_process():
    first, second = (
        {kind: torch.tensor(values) for kind, values in found.items()} for found in in_processes(2, one_rank)
    )
    whole = {kind: gradient(kind, CUTS[1]) for kind in KINDS}
    for kind in KINDS:
        torch.testing.assert_close(first[kind], whole[kind], msg=kind)
        torch.testing.assert_close(second[kind], whole[kind], msg=kind)
    for kind in ("RLW", "DWA", "GLS"):
        assert (whole[kind] - whole["equal"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["equal", "RLW", "DWA"])
def test_two_micro_batches_step_like_one(kind):
    torch.testing.assert_close(gradient(kind, CUTS[2]), gradient(kind, CUTS[1]))


@pytest.mark.parametrize(("kind", "expected"), [
    ("DWA", [1 / 12] * 3 + [1 / 6, 1 / 12] + [1 / 6] * 3),
    ("GLS", None),
])  # fmt: skip
def test_factors_by_hand(kind, expected):
    """Equal weights of three tasks with 4, 2, 2 samples; the geometric mean by its own gradient."""
    weighting = make_weighting(kind)
    if kind == "DWA":
        weighting.task_weights = np.full(4, 0.25)
    losses, ids = torch.arange(1.0, 9.0, requires_grad=True), torch.tensor(IDS)
    weighting.reduce(losses, ids, 0).backward()
    if expected is None:
        other = torch.arange(1.0, 9.0, requires_grad=True)
        torch.stack([other[ids == t].mean() for t in range(3)]).log().mean().exp().backward()
        expected = other.grad.tolist()
    assert losses.grad.tolist() == pytest.approx(expected)
