"""Training steps beside basicsr's own models on the same batches and initial weights, weights compared afterwards."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.basicsr_oracle import load_basicsr
from tgsr.archs import ARCHS
from tgsr.data.batch import Batch
from tgsr.losses.base import LOSSES
from tgsr.losses.gan import GANLoss
from tgsr.models.adversarial import AdversarialModel
from tgsr.models.base import ModelParts
from tgsr.models.pixel import PixelModel
from tgsr.models.precision import Precision
from tgsr.tasks.task import RealPairs, Task, TaskSet
from tgsr.tasks.weighting import EqualWeighting

CPU = torch.device("cpu")
LR = 1e-3
NET_G = {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "upscale": 4}
# basicsr's ESRGANModel calls the discriminator once more per iteration, which would move spectral norm's vectors
NET_D = {
    False: {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4, "skip_connection": True},
    True: {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 4, "input_size": 128},
}


def parts(**changes) -> ModelParts:
    weighting = EqualWeighting(TaskSet([Task("real_pairs", RealPairs())]), seed=0)
    return ModelParts(CPU, Precision("fp32", CPU), weighting, channels_last=False, ema_decay=0.9, **changes)


def make(options: dict) -> torch.nn.Module:
    options = dict(options)
    return ARCHS.get(options.pop("type"))(**options)


def batches(num: int, size: int = 64) -> list[Batch]:
    torch.manual_seed(1)
    return [Batch(gt=torch.rand(2, 3, size, size), lq=torch.rand(2, 3, size // 4, size // 4)) for _ in range(num)]


def basicsr_options(model: str, train: dict, **sections) -> dict:
    adam = {"type": "Adam", "lr": LR, "weight_decay": 0, "betas": [0.9, 0.99]}
    return {
        "name": "parity", "model_type": model, "scale": 4, "num_gpu": 0, "is_train": True, "dist": False, "rank": 0,
        "network_g": dict(NET_G), "path": {"pretrain_network_g": None, "strict_load_g": True},
        "train": {
            "ema_decay": 0.9, "optim_g": dict(adam), "optim_d": dict(adam), "total_iter": 10, "warmup_iter": -1,
            "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5}, **train,
        },
        **sections,
    }  # fmt: skip


def adam(params):
    return torch.optim.Adam(params, lr=LR, betas=(0.9, 0.99))


def lr_at(iteration: int, base_lr: float) -> float:
    return base_lr * (0.5 if iteration >= 2 else 1.0)


def theirs(options: dict, net_g: torch.nn.Module, net_d: torch.nn.Module | None = None):
    load_basicsr()
    model = load_basicsr("basicsr.models").build_model(options)
    model.net_g.load_state_dict(net_g.state_dict())
    model.net_g_ema.load_state_dict(net_g.state_dict())
    if net_d is not None:
        model.net_d.load_state_dict(net_d.state_dict())
    return model


def train_theirs(model, data: list[Batch]) -> None:
    for k, batch in enumerate(data, 1):
        model.update_learning_rate(k, warmup_iter=-1)
        model.feed_data({"lq": batch.lq.clone(), "gt": batch.gt.clone()})
        model.optimize_parameters(k)


def assert_close(ours: torch.nn.Module, other: torch.nn.Module, atol: float) -> None:
    reference = other.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, reference[name], atol=atol), (name, (value - reference[name]).abs().max())


def test_pixel_steps_schedule_and_ema():
    net = make(NET_G)
    other = theirs(
        basicsr_options("SRModel", {"pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}}), net
    )
    ours = PixelModel(copy.deepcopy(net), {"pixel": LOSSES.get("L1Loss")()}, adam, lr_at, parts())
    for k, batch in enumerate(batches(4)):
        ours.step([batch], k)
    train_theirs(other, batches(4))
    assert_close(ours.net_g, other.net_g, 1e-6)
    assert_close(ours.ema_g.module, other.net_g_ema, 1e-6)


@pytest.mark.parametrize(
    ("model", "relativistic"), [("SRGANModel", False), ("ESRGANModel", True)]
)
def test_adversarial_steps(model, relativistic):
    torch.manual_seed(3)
    net_g, net_d = make(NET_G), make(NET_D[relativistic])
    options = basicsr_options(
        model,
        {
            "pixel_opt": {"type": "L1Loss", "loss_weight": 0.5, "reduction": "mean"},
            "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0,
                        "loss_weight": 0.1},
            "net_d_iters": 1, "net_d_init_iters": 0,
        },
        network_d=dict(NET_D[relativistic]),
    )  # fmt: skip
    other = theirs(options, net_g, net_d)
    ours = AdversarialModel(
        copy.deepcopy(net_g),
        {"pixel": LOSSES.get("L1Loss")(loss_weight=0.5)},
        adam,
        lr_at,
        parts(),
        net_d=copy.deepcopy(net_d),
        gan=GANLoss(gan_type="vanilla", loss_weight=0.1, relativistic=relativistic),
        make_optimizer_d=adam,
    )
    data = batches(1, 128)
    ours.step(data, 0)
    train_theirs(other, data)
    # Adam's first step is lr * sign(gradient): where a gradient is near zero its sign may differ
    far = [
        ((a - b).abs() > 1e-4).float().mean().item()
        for net, reference in ((ours.net_g, other.net_g), (ours.net_d, other.net_d))
        for a, b in zip(net.parameters(), reference.parameters(), strict=True)
    ]
    assert max(far) < 0.02, max(far)


def test_generator_waits_for_its_turn():
    net_g, net_d = make(NET_G), make(NET_D[False])
    ours = AdversarialModel(
        net_g, {"pixel": LOSSES.get("L1Loss")()}, adam, lr_at, parts(), net_d=net_d,
        gan=GANLoss(gan_type="vanilla", loss_weight=0.1), make_optimizer_d=adam, net_d_iters=2, net_d_init_iters=2,
    )  # fmt: skip
    moved = []
    for k, batch in enumerate(batches(5)):
        before = [p.clone() for p in ours.net_g.parameters()]
        result = ours.step([batch], k)
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, ours.net_g.parameters(), strict=True)))
        assert set(result.losses) == {"pixel", "gan"}
        assert not result.bad.any()
    assert moved == [False, False, True, False, True]


def test_restore_leaves_the_mode_alone():
    ours = PixelModel(make(NET_G), {"pixel": LOSSES.get("L1Loss")()}, adam, lr_at, parts())
    assert ours.net_g.training
    assert ours.restore(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    assert ours.net_g.training
    assert not ours.restore(torch.rand(1, 3, 8, 8)).requires_grad


def test_bf16_keeps_weights_and_losses_in_fp32():
    changed = parts()
    changed.precision = Precision("bf16", CPU)
    ours = PixelModel(make(NET_G), {"pixel": LOSSES.get("L1Loss")()}, adam, lr_at, changed)
    result = ours.step(batches(1), 0)
    assert result.total.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in ours.net_g.parameters())
    reference = PixelModel(make(NET_G), {"pixel": LOSSES.get("L1Loss")()}, adam, lr_at, parts())
    reference.net_g.load_state_dict(ours.net_g.state_dict())


def test_clipping_limits_the_step():
    ours = PixelModel(
        make(NET_G), {"pixel": LOSSES.get("L1Loss")()}, lambda p: torch.optim.SGD(p, lr=1.0), lambda i, lr: lr,
        parts(clip_grad_norm=1e-3),
    )  # fmt: skip
    before = [p.clone() for p in ours.net_g.parameters()]
    result = ours.step(batches(1), 0)
    moved = torch.stack([(a - b).square().sum() for a, b in zip(before, ours.net_g.parameters(), strict=True)]).sum()
    assert result.scalars["grad_norm"] > 1e-2
    assert moved.sqrt().item() == pytest.approx(1e-3, rel=1e-2)


def test_reset_starts_again():
    net = make(NET_G)
    start = {"g": {k: v.clone() for k, v in net.state_dict().items()}}
    ours = PixelModel(net, {"pixel": LOSSES.get("L1Loss")()}, adam, lr_at, parts())
    data = batches(2)
    for k, batch in enumerate(data):
        ours.step([batch], k)
    first = {k: v.clone() for k, v in ours.net_g.state_dict().items()}
    ours.reset(start)
    for k, batch in enumerate(data):
        ours.step([batch], k)
    assert all(torch.equal(v, first[k]) for k, v in ours.net_g.state_dict().items())
