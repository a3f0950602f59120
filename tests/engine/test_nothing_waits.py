"""On a GPU no part of an iteration may wait for the device; seen without one, without backward passes."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from tests.data.data_toys import photo_folder, task_set
from tests.fake_gpu import GPU, fake_gpu, is_usable
from tgsr.data.datasets import GTDataset
from tgsr.data.plan import SamplePlan
from tgsr.engine.context import Context
from tgsr.engine.ledger import TaskLedger
from tgsr.losses.base import LOSSES, LossContext
from tgsr.methods.rebalancing.weighting import GeometricLossStrategy, RandomLossWeighting
from tgsr.models.base import StepResult, not_finite
from tgsr.tasks.weighting import EqualWeighting, WholeBatch

TASKS = task_set()
pytestmark = pytest.mark.skipif(not is_usable(), reason="this torch makes no tensors of an absent GPU")


@pytest.mark.parametrize("sharpen_input", [False, True])
def test_batches_are_made_without_waiting(tmp_path, sharpen_input):
    dataset = GTDataset(dataroot_gt=photo_folder(tmp_path), scale=4, tasks=TASKS, gt_size=32, degrade_size=48)
    dataset.configure(seed=0, degrade="device", sharpen_input=sharpen_input, want_usm=True)
    loaded = dataset.collate([dataset[SamplePlan(i % 3, i % len(TASKS), i)] for i in range(6)])
    assert loaded.gt.dtype == torch.uint8
    with fake_gpu():
        batch = loaded.to(GPU, channels_last=True)
        made = dataset.degrade_on_device(batch, torch.Generator())
    assert (made.lq.shape, made.gt.shape, made.gt_usm.shape) == ((6, 3, 8, 8), (6, 3, 32, 32), (6, 3, 32, 32))
    assert made.lq.device == made.gt_usm.device == GPU


@pytest.mark.parametrize("name", ["L1Loss", "MSELoss", "CharbonnierLoss", "SSIMLoss", "FFTLoss", "WeightedTVLoss"])
def test_losses_do_not_wait(name):
    with fake_gpu(), torch.device(GPU), torch.no_grad():
        loss = LOSSES.get(name)()
        images = [torch.empty(2, 3, 64, 64) for _ in range(2)]
        context = LossContext({"sr": images[0]}, {"gt": images[1]}, images[0], torch.empty(2), None, 0)
        values = loss(context)
        flags = not_finite([values])
    assert (values.shape, values.device, flags.device) == ((2,), GPU, GPU)


@pytest.mark.parametrize("weighting_type", [EqualWeighting, RandomLossWeighting, GeometricLossStrategy])
def test_weightings_and_ledger_do_not_wait(weighting_type):
    with fake_gpu():
        losses, task_ids = torch.empty(6, device=GPU), torch.empty(6, dtype=torch.int64, device=GPU)
        weighting = weighting_type(TASKS, seed=0)
        assert weighting.reduce(losses, task_ids, 3, WholeBatch(task_ids, len(TASKS))).device == GPU
        ledger = TaskLedger(TASKS.names, Context(GPU))
        for _ in range(2):
            ledger.add(StepResult({"pixel": losses}, losses, task_ids, {"grad_norm": losses[0]}))
        with pytest.raises(DataDependentOutputException):
            ledger.read()
