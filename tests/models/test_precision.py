"""Loss scaling, skipped steps and frozen parts: what must not reach weights, averages or the other network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.models.test_against_basicsr import CPU, NET_D, NET_G, adam, batches, lr_at, make, parts
from tgsr.losses.base import LOSSES
from tgsr.losses.gan import GANLoss
from tgsr.models.adversarial import AdversarialModel
from tgsr.models.optimizers import OPTIMIZERS
from tgsr.models.precision import Precision
from tgsr.utils.errors import ConfigError


def adversarial(precision: str = "fp32", net_d: nn.Module | None = None) -> AdversarialModel:
    changed = parts()
    changed.precision = Precision(precision, CPU)
    losses = {"pixel": LOSSES.get("L1Loss")()}
    return AdversarialModel(
        make(NET_G), losses, adam, lr_at, changed, net_d=net_d or make(NET_D[False]),
        gan=GANLoss(gan_type="vanilla", loss_weight=0.1), make_optimizer_d=adam,
    )  # fmt: skip


def test_fp16_adapts_its_scale_once_an_iteration():
    model = adversarial("fp16")
    scaler = model.precision.scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 256.0})
    before = {n: [p.clone() for p in part.net.parameters()] for n, part in model.trained().items()}
    for k in range(3):
        model.step(batches(1), k)
    assert model.precision.state_dict()["_growth_tracker"] == 3
    for name, part in model.trained().items():
        assert any(not torch.equal(p, b) for p, b in zip(part.net.parameters(), before[name], strict=True)), name


def test_fp16_overflow_of_one_network_skips_that_one_only():
    model = adversarial("fp16")
    scaler = model.precision.scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 256.0})
    model.d.net.conv9.weight.register_hook(lambda grad: grad * float("inf"))
    before = {n: [p.clone() for p in part.net.parameters()] for n, part in model.trained().items()}
    model.step(batches(1), 0)
    assert scaler.get_scale() == 128.0
    assert all(torch.equal(p, b) for p, b in zip(model.net_d.parameters(), before["d"], strict=True))
    assert any(not torch.equal(p, b) for p, b in zip(model.net_g.parameters(), before["g"], strict=True))


@pytest.mark.parametrize(("name", "kwargs"), [("Adam", {}), ("AdamW", {}), ("SGD", {}), ("SGD", {"momentum": 0.9})])
def test_a_skipped_step_leaves_no_trace(name, kwargs):
    precision = Precision("fp32", CPU)
    skipping, plain = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    optimizers = [OPTIMIZERS.get(name)([p], lr=0.1, **kwargs) for p in (skipping, plain)]
    for bad in (1.0, 0.0, 1.0, 0.0):
        for p, optimizer in zip((skipping, plain), optimizers, strict=True):
            if bad and p is plain:
                continue
            p.grad = torch.full_like(p, float("nan")) if bad else p.detach().cos()
            precision.step(optimizer, torch.tensor(bad))
    assert torch.equal(skipping, plain)


def test_frozen_networks_of_losses_are_rounded_once_with_equal_losses_and_gradients():
    weights = {"conv1_2": 0.5, "conv2_2": 1.0}

    def gradient(*, is_held: bool) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        precision = Precision("bf16", CPU)
        loss = LOSSES.get("PerceptualLoss")(layer_weights=weights, pretrained=False)
        if is_held:
            precision.hold_frozen(loss)
            assert {p.dtype for p in loss.vgg.body.parameters()} == {torch.bfloat16}
            assert loss.vgg.mean.dtype == torch.float32
        restored = torch.rand(2, 3, 32, 32).requires_grad_()
        with precision.autocast():
            value = loss.compare(restored, torch.rand(2, 3, 32, 32))
        value.sum().backward()
        return value.detach(), restored.grad

    for a, b in zip(gradient(is_held=True), gradient(is_held=False), strict=True):
        assert torch.equal(a, b)
    for mode, learns, says_so in (("bf16", True, True), ("bf16", False, False), ("fp32", False, True)):
        net = nn.Conv2d(3, 3, 1).requires_grad_(learns)
        net.called_under_autocast = says_so
        assert Precision(mode, CPU).hold_frozen(net).weight.dtype == torch.float32


def test_fused_momentum_is_refused():
    with pytest.raises(ConfigError, match="fused: auto"):
        OPTIMIZERS.get("SGD")([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9, fused=True)


def test_frozen_parts_of_a_discriminator_stay_frozen():
    net_d = make(NET_D[False])
    net_d.conv0.requires_grad_(False)
    model = adversarial(net_d=net_d)
    before = net_d.conv0.weight.clone()
    for k in range(2):
        model.step(batches(1), k)
    assert not net_d.conv0.weight.requires_grad
    assert net_d.conv0.weight.grad is None
    assert torch.equal(net_d.conv0.weight, before)
    assert net_d.conv9.weight.requires_grad
