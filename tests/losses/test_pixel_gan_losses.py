"""Pixel and GAN losses: hand values, basicsr as the oracle, what they share."""

import inspect
from dataclasses import replace

import pytest
import torch

from tests.basicsr_oracle import load_basicsr
from tgsr.losses.base import LossContext
from tgsr.losses.gan import GANLoss
from tgsr.losses.ldl import LDLLoss, artifact_map
from tgsr.losses.pixel import CharbonnierLoss, L1Loss, MSELoss, WeightedTVLoss
from tgsr.utils.errors import ConfigError


def context_of(restored, **targets):
    batch = restored.shape[0]
    return LossContext(
        outputs={"sr": restored},
        targets=targets,
        lq=restored[..., ::4, ::4],
        task_ids=torch.zeros(batch, dtype=torch.int64),
        discriminator=None,
        iteration=0,
        averaged=lambda: 0.5 * restored.detach(),
    )


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (L1Loss(loss_weight=2.0), [0.0, 0.5, 2.0]),
        (MSELoss(), [0.0, 0.0625, 1.0]),
        (CharbonnierLoss(eps=0.0625), [0.25, 0.125**0.5, 1.0625**0.5]),
    ],
)
def test_pixel_losses_by_hand(loss, expected):
    gt = torch.zeros(3, 3, 4, 4)
    restored = torch.stack([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.25), torch.ones(3, 4, 4)])
    torch.testing.assert_close(loss(context_of(restored, gt=gt)), torch.tensor(expected))


@pytest.mark.parametrize("name", ["L1Loss", "MSELoss", "CharbonnierLoss"])
def test_pixel_losses_as_basicsr(name):
    theirs = getattr(load_basicsr("basicsr.losses.basic_loss"), name)(loss_weight=0.7)
    ours = {"L1Loss": L1Loss, "MSELoss": MSELoss, "CharbonnierLoss": CharbonnierLoss}[name](loss_weight=0.7)
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(4, 3, 9, 7, generator=generator) for _ in range(2))
    values = ours(context_of(a, gt=b))
    assert values.shape == (4,)
    torch.testing.assert_close(values.mean(), theirs(a, b))


def test_ldl_as_basicsr():
    """Map, value and gradient of equations 3 to 5, on images where the average is better in some places."""
    theirs = load_basicsr("basicsr.losses.loss_util").get_refined_artifact_map
    generator = torch.Generator().manual_seed(4)
    gt, noise, averaged = (torch.rand(2, 3, 24, 20, generator=generator) for _ in range(3))
    ours, other = (noise.clone().requires_grad_() for _ in range(2))
    weight = theirs(gt, other, averaged, 7)
    assert 0.1 < (weight == 0).float().mean() < 0.9
    torch.testing.assert_close(artifact_map(gt, ours, averaged), weight)
    context = replace(context_of(ours, gt=gt), averaged=lambda: averaged)
    loss = LDLLoss(loss_weight=0.7)(context)
    expected = 0.7 * (weight * other - weight * gt).abs().mean()
    torch.testing.assert_close(loss.mean(), expected)
    loss.mean().backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, other.grad)


def test_ldl_without_an_average_says_what_to_set():
    context = replace(context_of(torch.rand(1, 3, 16, 16), gt=torch.rand(1, 3, 16, 16)), averaged=None)
    with pytest.raises(ConfigError, match=r"train\.ema_decay"):
        LDLLoss()(context)


def test_target_is_chosen():
    restored, gt, sharp = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert L1Loss(target="gt_usm")(context_of(restored, gt=gt, gt_usm=sharp)).item() == 1.0


def test_total_variation():
    ramp = torch.arange(4.0).expand(3, 5, 4)[None]
    assert WeightedTVLoss(loss_weight=0.5)(context_of(ramp)).item() == 0.5
    image = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    theirs = load_basicsr("basicsr.losses.basic_loss").WeightedTVLoss()(image)
    torch.testing.assert_close(WeightedTVLoss()(context_of(image)).mean(), theirs)


def test_losses_are_fp32_under_low_precision():
    restored = torch.full((1, 3, 64, 64), 0.5, dtype=torch.bfloat16, requires_grad=True)
    value = L1Loss()(context_of(restored, gt=torch.full((1, 3, 64, 64), 0.4999)))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(1e-4, rel=1e-2)
    value.sum().backward()
    assert restored.grad.isfinite().all()


TYPES = ["vanilla", "lsgan", "hinge", "wgan", "wgan_softplus"]


def logits():
    generator = torch.Generator().manual_seed(5)
    fake, real = (torch.randn(3, 1, 6, 5, generator=generator, dtype=torch.float64).float() * 2 for _ in range(2))
    return fake, real


@pytest.mark.parametrize("gan_type", TYPES)
def test_gan_as_basicsr(gan_type):
    theirs = load_basicsr("basicsr.losses.gan_loss").GANLoss(gan_type, 0.9, 0.1, loss_weight=0.3)
    ours = GANLoss(gan_type=gan_type, real_label_val=0.9, fake_label_val=0.1, loss_weight=0.3)
    fake, real = logits()
    generator = ours.generator(fake)
    assert generator.shape == (3,)
    torch.testing.assert_close(generator.mean(), theirs(fake, True, is_disc=False))
    parts = ours.discriminator(fake, real)
    torch.testing.assert_close(parts["d_real"].mean(), theirs(real, True, is_disc=True))
    torch.testing.assert_close(parts["d_fake"].mean(), theirs(fake, False, is_disc=True))


@pytest.mark.parametrize("gan_type", ["vanilla", "lsgan"])
def test_relativistic_as_esrgan(gan_type):
    """The steps of basicsr's ESRGANModel, gradients too."""
    theirs = load_basicsr("basicsr.losses.gan_loss").GANLoss(gan_type, loss_weight=0.3)
    ours = GANLoss(gan_type=gan_type, loss_weight=0.3, relativistic=True)
    fake, real = logits()
    gradients = []
    for kind in ("ours", "theirs"):
        f, r = fake.clone().requires_grad_(), real.clone().requires_grad_()
        if kind == "ours":
            value = ours.generator(f, r).mean()
        else:
            r_detached = r.detach()
            value = (theirs(r_detached - f.mean(), False) + theirs(f - r_detached.mean(), True)) / 2
        value.backward()
        assert r.grad is None
        gradients.append((value.detach(), f.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
    f, r = fake.clone().requires_grad_(), real.clone().requires_grad_()
    parts = ours.discriminator(f, r)
    sum(p.mean() for p in parts.values()).backward()
    f2, r2 = fake.clone().requires_grad_(), real.clone().requires_grad_()
    d_real = theirs(r2 - f2.detach().mean(), True, is_disc=True) * 0.5
    d_fake = theirs(f2 - r2.detach().mean(), False, is_disc=True) * 0.5
    (d_real + d_fake).backward()
    values = (parts["d_real"].mean(), d_real), (parts["d_fake"].mean(), d_fake)
    for a, b in (*values, (f.grad, f2.grad), (r.grad, r2.grad)):
        torch.testing.assert_close(a, b)


def test_relativistic_hinge_by_hand():
    """real - mean(fake) = 2, fake - mean(real) = -2: the generator pays both hinges, the discriminator nothing."""
    ours = GANLoss(gan_type="hinge", relativistic=True)
    fake, real = torch.full((2, 1), -1.0), torch.full((2, 1), 1.0)
    assert ours.generator(fake, real).tolist() == [3.0, 3.0]
    assert sum(v.sum().item() for v in ours.discriminator(fake, real).values()) == 0.0


@pytest.mark.parametrize(
    ("gan_type", "relativistic"),
    [(t, False) for t in TYPES] + [(t, True) for t in TYPES if t != "lsgan"],  # relative lsgan has its target at 0
)
def test_gan_pushes_the_right_way(gan_type, relativistic):
    """The generator wants its logits up; the discriminator wants real up and fake down."""
    loss = GANLoss(gan_type=gan_type, relativistic=relativistic)
    fake, real = torch.tensor([[0.3], [0.1]], requires_grad=True), torch.tensor([[0.4], [0.2]], requires_grad=True)
    loss.generator(fake, real).mean().backward()
    assert (fake.grad < 0).all()
    fake.grad = None
    sum(v.mean() for v in loss.discriminator(fake, real).values()).backward()
    assert (fake.grad > 0).all()
    assert (real.grad < 0).all()


def test_gan_averages_scales():
    loss = GANLoss(gan_type="lsgan")
    scales = [torch.zeros(2, 1, 4, 4), torch.full((2, 1, 2, 2), 3.0)]
    assert loss.generator(scales).tolist() == [2.5, 2.5]


def test_gan_takes_one_logit_per_sample():
    assert GANLoss(gan_type="vanilla").generator(torch.zeros(4)).shape == (4,)


def test_arguments_are_keyword_only_and_typed():
    from tgsr.losses.base import LOSSES
    from tgsr.losses.gan import GAN_LOSSES

    for table in (LOSSES, GAN_LOSSES):
        assert table.names()
        for name in table.names():
            for parameter in inspect.signature(table.get(name)).parameters.values():
                assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
                assert parameter.annotation is not inspect.Parameter.empty, name
