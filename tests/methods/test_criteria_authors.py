"""The authors' form of Cria-CL: the losses of the option file against a computation by hand; its discriminator."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tgsr.archs import ARCHS
from tgsr.archs.patch_discriminator import PatchDiscriminator
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.engine.smallest import tiny
from tgsr.losses.base import LossContext
from tgsr.losses.gan import GANLoss
from tgsr.methods.cria_cl.criteria import criterion

FILE = Path(__file__).resolve().parents[2] / "options/cria_cl/authors.yml"


@pytest.fixture(scope="module")
def recipe():
    study = make_runner(load_options(FILE), Context.create(device="cpu", launcher="none"))
    return next(o for o in study.stages if o.name == "cria_cl/authors")


def test_recipe(recipe):
    assert recipe.network_d.type == "PatchDiscriminator"
    assert recipe.network_g.kwargs["num_block"] == 23
    assert recipe.train.gan.kwargs["relativistic"]
    assert recipe.train.gan.kwargs["loss_weight"] == 0
    lr_at = recipe.train.scheduler.build().lr_at
    assert [lr_at(i, 1e-4) for i in (9_999, 10_000, 149_999)] == pytest.approx([1e-4, 5e-5, 1e-4 / 32])


def test_losses_are_the_formula_by_hand(recipe):
    """0.01 L1(out2) + VGG(out) + 5e-3 RaGAN(out1) + 0.01 (0.01 L1(out2) - VGG(out))^2 + 1e-3 lunif."""
    torch.manual_seed(0)
    out1, out2, gt = (torch.rand(2, 3, 32, 32) for _ in range(3))
    outputs = {"sr": out1 + out2, "out1": out1.requires_grad_(), "out2": out2.requires_grad_()}
    net_d = nn.Conv2d(3, 1, 4, stride=4)
    context = LossContext(outputs, {"gt": gt}, gt[..., ::4, ::4], torch.zeros(2, dtype=torch.int64), net_d, 1)
    built = {name: spec.build() for name, spec in tiny(recipe).train.losses.items()}
    found = {name: loss(context).mean() for name, loss in built.items()}

    def gan(image):
        fake, real = net_d(image), net_d(gt).detach()
        return (F.softplus(real - fake.mean()).mean() + F.softplus(-(fake - real.mean())).mean()) / 2

    pixel, features = (out2 - gt).abs().mean(), found["perceptual"]
    assert found["pixel"].item() == pytest.approx(0.01 * pixel.item())
    assert found["adversarial"].item() == pytest.approx(5e-3 * gan(out1).item(), rel=1e-5)
    assert found["align"].item() == pytest.approx(0.01 * (0.01 * pixel - features).item() ** 2, rel=1e-3)
    anchor = 0.01 * (outputs["sr"] - gt).abs().mean().item()
    terms = [math.exp(-2 * (anchor + 5e-3 * gan(outputs[k]).item()) ** 2) for k in ("sr", "out1", "out2")]
    assert found["unif"].item() == pytest.approx(-1e-3 * math.log(sum(terms)), rel=1e-5)


def test_the_anchor_is_attached(recipe):
    """d align / d out2 = 0.01 * 2 (0.01 L1 - features) * 0.01 sign / n; a detached anchor has none."""
    torch.manual_seed(0)
    gt = torch.rand(1, 3, 32, 32)
    out2 = (gt + 0.1).requires_grad_()
    outputs = {"sr": torch.rand(1, 3, 32, 32), "out2": out2}
    context = LossContext(outputs, {"gt": gt}, gt[..., ::4, ::4], torch.zeros(1, dtype=torch.int64), None, 1)
    loss = tiny(recipe).train.losses["align"].build()
    anchor, (features,) = loss.criteria(context)
    loss(context).sum().backward()
    want = 0.01 * 2 * (anchor - features).item() * 0.01 / gt.numel()
    assert out2.grad[0, 0, 0, 0].item() == pytest.approx(want, rel=1e-4)
    assert want != 0


def test_relativistic_criterion_is_the_engines_game():
    torch.manual_seed(0)
    image, gt, net_d = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8), nn.Conv2d(3, 1, 4)
    context = LossContext({"sr": image}, {"gt": gt}, image, torch.zeros(2, dtype=torch.int64), net_d, 1)
    value = criterion("ragan").build()(image, gt, context)
    assert torch.allclose(value, GANLoss(relativistic=True).generator(net_d(image), net_d(gt)))


def test_a_logit_of_the_patch_discriminator_sees_70_pixels():
    net = PatchDiscriminator().eval()
    assert sum(p.numel() for p in net.parameters()) == 2_765_633
    x = torch.rand(1, 3, 128, 128, requires_grad=True)
    logits = net(x)
    assert logits.shape == (1, 1, 14, 14)
    logits[0, 0, 7, 7].backward()
    seen = x.grad[0].abs().sum(0) > 0
    assert [int(seen.any(i).sum()) for i in (0, 1)] == [70, 70]
    assert ARCHS.get("NLayerDiscriminator") is PatchDiscriminator
