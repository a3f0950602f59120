"""Criteria comparative losses: hand values, numerical gradients, and the hazards of the equations as printed."""

import logging
import math

import pytest
import torch
from torch import nn

import tgsr.methods  # noqa: F401 - registers the losses
from tgsr.archs import ARCHS
from tgsr.config.spec import Kind, Spec
from tgsr.losses.base import LOSSES, LossContext
from tgsr.losses.structure import ssim_map
from tgsr.methods.cria_cl.criteria import CRITERIA, as_map, criterion
from tgsr.methods.cria_cl.losses import (
    AlignmentLoss,
    CriterionLoss,
    UniformityLoss,
    alignment,
    contrastive_ratio,
    mask_state,
    normalised,
    uniformity,
)
from tgsr.methods.cria_cl.masks import anchor_pull
from tgsr.utils.errors import ConfigError, UserError

RANDOM_VGG = {"vgg_type": "vgg11", "pretrained": False}


def maps(num, *, seed=0, size=4, low=0.05, grad=True):
    torch.manual_seed(seed)
    return [(low + torch.rand(2, 1, size, size, dtype=torch.float64)).requires_grad_(grad) for _ in range(num)]


def full(value, *, grad=False):
    return torch.full((1, 1, 2, 2), value).requires_grad_(grad)


def context(*, size=32, num=2, mask=None, discriminator=None, iteration=0, seed=0):
    torch.manual_seed(seed)
    outputs = {k: torch.rand(num, 3, size, size).requires_grad_() for k in ("sr", "align", "unif")}
    if mask is not None:
        outputs["mask"] = torch.full((num, 1, size, size), mask).requires_grad_()
    gt, lq = torch.rand(num, 3, size, size), torch.rand(num, 3, size // 4, size // 4)
    return LossContext(outputs, {"gt": gt}, lq, torch.zeros(num, dtype=torch.int64), discriminator, iteration)


class PixelLogits(nn.Module):
    """Discriminator of one convolution."""

    def __init__(self, out=1):
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, out, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


def as_double(function):
    """`gradcheck` needs fp64, the losses compute in fp32: run them with `float()` switched off."""

    def run(*args):
        original = torch.Tensor.float
        torch.Tensor.float = lambda self: self
        try:
            return function(*args)
        finally:
            torch.Tensor.float = original

    return run


def test_alignment_by_hand():
    # (0.1 - 0.3)^2 + (0.1 - 0.5)^2 = 0.2
    value = alignment(full(0.1), [full(0.3), full(0.5)])
    assert value.shape == (1,)
    assert value.item() == pytest.approx(0.2)
    assert alignment(full(0.1), [full(0.3), full(0.5)], eta=1).item() == pytest.approx(0.6)  # absolute for odd eta
    assert alignment(full(0.1), [full(0.3)], eta=3).item() == pytest.approx(0.008)
    assert alignment(full(0.1), [full(0.3)], mask=full(0.25)).item() == pytest.approx(0.01)


def test_uniformity_by_hand():
    # one negative: t s^2; two: -log(exp(-2 * .25) + exp(-2))
    assert uniformity(full(0.1), [full(0.4)]).item() == pytest.approx(0.5)
    value = uniformity(full(0.1), [full(0.4), full(0.9)])
    assert value.item() == pytest.approx(-math.log(math.exp(-0.5) + math.exp(-2.0)))
    with_mean = uniformity(full(0.1), [full(0.4), full(0.9)], mean_exp=True)
    assert with_mean.item() == pytest.approx(value.item() + math.log(2))
    assert uniformity(full(0.1), [full(0.4)], mask=full(0.5)).item() == pytest.approx(0.25)


def test_scalars_broadcast_over_maps():
    anchor, negatives = full(0.1), [full(0.4), torch.tensor([0.9])]
    assert uniformity(anchor, negatives).item() == pytest.approx(uniformity(anchor, [full(0.4), full(0.9)]).item())
    scalars = [torch.tensor([0.4, 0.2]), torch.tensor([0.9, 0.3])]
    assert uniformity(torch.tensor([0.1, 0.1]), scalars).shape == (2,)


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("eta", [1.0, 2.0, 3.0])
def test_alignment_gradient_is_numerically_right(eta, detach):
    anchor, first, second, mask = maps(4, size=3)
    if not detach:
        run = as_double(lambda a, b, c, m: alignment(a, [b, c], eta=eta, mask=m, detach_anchor=False))
        assert torch.autograd.gradcheck(run, (anchor, first, second, mask))
        return
    run = as_double(lambda b, c, m: alignment(anchor, [b, c], eta=eta, mask=m))
    assert torch.autograd.gradcheck(run, (first, second, mask))
    run(first, second, mask).sum().backward()
    assert anchor.grad is None


@pytest.mark.parametrize("mean_exp", [True, False])
def test_uniformity_gradient_is_numerically_right(mean_exp):
    anchor, first, second, mask = maps(4, size=3)
    run = as_double(lambda a, b, c, m: uniformity(a, [b, c], mask=m, mean_exp=mean_exp))
    assert torch.autograd.gradcheck(run, (anchor, first, second, mask))


@pytest.mark.parametrize("how", ["none", "l2"])
def test_normalised_gradient_is_numerically_right(how):
    run = as_double(lambda x: normalised(x, how))
    assert torch.autograd.gradcheck(run, maps(1, size=3))


def test_literal_alignment_raises_the_anchor():
    """dL/dC_a = -2 sum (C_i - C_a) < 0 where the positives are larger; the default has no such gradient."""
    anchor = full(0.02, grad=True)
    alignment(anchor, [full(0.3), full(1.2)], detach_anchor=False).sum().backward()
    assert anchor.grad.sum().item() == pytest.approx(-2 * (0.28 + 1.18))
    # with the paper's weights the pixel loss is outweighed: 0.01 * 1 + 0.01 * -2.92 < 0
    pull = anchor_pull(full(0.02), [full(0.3), full(1.2)], pixel_weight=0.01, align_weight=0.01)
    assert pull[0, 0, 0, 0].item() == pytest.approx(0.01 - 0.0292)
    anchor, positive = full(0.02, grad=True), full(0.3, grad=True)
    alignment(anchor, [positive]).sum().backward()
    assert anchor.grad is None
    assert positive.grad.sum().item() == pytest.approx(2 * 0.28)


def test_uniformity_is_a_soft_minimum():
    large, small = full(5.0, grad=True), full(0.7, grad=True)
    uniformity(full(0.02), [large, small]).sum().backward()
    assert large.grad.abs().max() < 1e-8
    assert small.grad.sum().item() == pytest.approx(2.88, abs=1e-4)


def test_uniformity_survives_large_criteria():
    """exp(-2 s^2) underflows from s = 7 on; and the value stays bounded below while the printed sign does not."""
    large = full(30.0, grad=True)
    value = uniformity(full(1.0), [large, full(40.0)])
    value.sum().backward()
    assert value.item() == pytest.approx(2 * 31.0**2)
    assert torch.isfinite(large.grad).all()
    assert large.grad.sum() > 0
    anchors = (full(0.0), [full(0.0)], full(0.0))
    ratios = [contrastive_ratio(*anchors, [full(c)]).item() for c in (1.0, 10.0, 100.0)]
    assert ratios == pytest.approx([-2.0, -200.0, -20000.0])
    assert uniformity(full(0.0), [full(0.0)] * 3).item() == pytest.approx(-math.log(3))


def test_uniformity_rewards_its_mask_only_without_mean_exp():
    mask = full(0.5, grad=True)
    uniformity(full(0.0), [full(0.1), full(0.1)], mask=mask).sum().backward()
    assert mask.grad.sum() < 0  # descent enlarges 1 - S
    mask.grad = None
    uniformity(full(0.0), [full(0.1), full(0.1)], mask=mask, mean_exp=True).sum().backward()
    assert mask.grad.sum() > 0


def test_half_precision_inputs_are_computed_in_fp32():
    anchor, negative = full(0.1).bfloat16(), full(0.4).bfloat16()
    assert uniformity(anchor, [negative]).dtype == torch.float32
    assert alignment(anchor, [negative]).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = uniformity(full(0.1), [full(0.4), full(0.9)])
    assert value.item() == pytest.approx(-math.log(math.exp(-0.5) + math.exp(-2.0)))


def test_normalised_maps():
    (value,) = maps(1, grad=False)
    assert normalised(value, "mean").mean((1, 2, 3)).tolist() == pytest.approx([1, 1])
    unit = normalised(value, "l2")
    assert unit.mean((1, 2, 3)).abs().max() < 1e-6
    assert unit.square().mean((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)
    # with opposite maps the uniformity is at its minimum, -log K
    assert uniformity(unit, [-unit]).tolist() == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(ConfigError, match="leaves nothing"):
        normalised(torch.rand(3), "mean")


def test_criteria_are_zero_for_equal_images_and_maps_elsewhere():
    ctx = context(discriminator=PixelLogits())
    image, target = ctx.outputs["align"], ctx.targets["gt"]
    for name in ("pixel", "ssim"):
        made = criterion(name).build()
        assert made(image, target, ctx).shape == (2, 1, 32, 32)
        assert made(target, target, ctx).abs().max() < 1e-5
    bottom = criterion("perceptual_bottom", layer="conv1_1", **RANDOM_VGG).build()
    assert bottom(target, target, ctx).abs().max() == 0
    assert bottom(image, target, ctx).shape == (2, 1, 32, 32)
    assert criterion("adversarial").build()(image, target, ctx).shape == (2, 1, 32, 32)


def test_criteria_by_hand():
    ctx = context()
    image, target = ctx.outputs["align"], ctx.targets["gt"]
    difference = image - target
    l1, l2 = (criterion("pixel", norm=n).build()(image, target, ctx) for n in ("l1", "l2"))
    assert torch.equal(l1[:, 0], difference.abs().mean(1))
    assert torch.equal(l2[:, 0], difference.square().mean(1))
    assert torch.equal(criterion("pixel", weight=3.0).build()(image, target, ctx), 3 * l1)
    ssim = criterion("ssim").build()(image, target, ctx)
    inner = 1 - ssim_map(image, target).mean(1)
    assert torch.allclose(ssim[:, 0, 5:-5, 5:-5], inner, atol=1e-6)


def test_perceptual_criterion_equals_its_layer():
    ctx = context()
    image, target = ctx.outputs["unif"], ctx.targets["gt"]
    top = criterion("perceptual_top", layer="conv2_1", **RANDOM_VGG).build()
    difference = (top.vgg(image)["conv2_1"] - top.vgg(target)["conv2_1"]).abs().mean(1, keepdim=True)
    wanted = nn.functional.interpolate(difference, size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(top(image, target, ctx), wanted)


def test_adversarial_criterion_takes_maps_and_scalars():
    logits = torch.tensor([[1.0], [-2.0]])
    assert as_map(logits, num=2).tolist() == [1, -2]
    assert as_map(torch.zeros(2, 1, 4, 4), num=2).shape == (2, 1, 4, 4)

    class Scalar(nn.Module):
        def forward(self, x):
            return logits

    ctx = context(discriminator=Scalar())
    value = criterion("adversarial").build()(ctx.outputs["unif"], ctx.targets["gt"], ctx)
    assert value.tolist() == pytest.approx([math.log1p(math.exp(-1)), math.log1p(math.exp(2))])


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(2, 7), [torch.zeros(2, 1)]], ids=str
)
def test_discriminator_with_wrong_output_is_refused(wrong):
    with pytest.raises(ConfigError, match="the discriminator returns"):
        as_map(wrong, num=2)


def test_features_of_own_and_of_frozen_network():
    ctx = context(discriminator=PixelLogits())
    image, target = ctx.outputs["unif"], ctx.targets["gt"]
    own = criterion("features", layer="conv", relative=False).build()
    value = own(image, target, ctx)
    d = ctx.discriminator
    relative = criterion("features", layer="conv").build()
    scale = d.conv(target).abs().mean((1, 2, 3), keepdim=True)
    assert torch.allclose(relative(image, target, ctx), value / scale)
    d_scaled = context(discriminator=PixelLogits())
    with torch.no_grad():
        for p in d_scaled.discriminator.parameters():
            p.mul_(100)
    assert torch.allclose(relative(image, target, d_scaled), value / scale, rtol=1e-4)
    small = (d.conv(image) - d.conv(target)).abs().mean(1, keepdim=True)
    assert torch.allclose(value, nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False))
    network = Spec(Kind("tgsr.archs:ARCHS"), "UNetDiscriminatorSN", {"num_feat": 4})
    frozen = criterion("features", layer="conv3", network=network).build()
    frozen.train()
    assert not frozen.network.training
    frozen(image, target, ctx).sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(p.grad is None for p in frozen.parameters())
    with pytest.raises(ConfigError, match="has no layer 'conv99'"):
        criterion("features", layer="conv99", network=network).build()


def test_frozen_features_leave_the_random_state_alone():
    network = Spec(Kind("tgsr.archs:ARCHS"), "UNetDiscriminatorSN", {"num_feat": 4})
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = criterion("features", layer="conv3", network=network).build()
    assert torch.equal(torch.rand(3), wanted)
    second = criterion("features", layer="conv3", network=network).build()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def small_losses(**kwargs):
    align = AlignmentLoss(positives=[criterion("ssim")], **kwargs)
    unif = UniformityLoss(negatives=[criterion("adversarial"), criterion("features", layer="conv")], **kwargs)
    return align, unif


@pytest.mark.parametrize("reduction", ["map", "scalar"])
def test_losses_are_per_sample_and_weighted(reduction):
    ctx = context(mask=0.25, discriminator=PixelLogits())
    for loss in small_losses(reduction=reduction, loss_weight=0.5):
        value = loss(ctx)
        assert value.shape == (2,)
        for i in range(2):
            one = LossContext(
                {k: v[i : i + 1] for k, v in ctx.outputs.items()}, {"gt": ctx.targets["gt"][i : i + 1]},
                ctx.lq[i : i + 1], ctx.task_ids[i : i + 1], ctx.discriminator, 0,
            )  # fmt: skip
            assert loss(one).item() == pytest.approx(value[i].item(), rel=1e-4)
        heavy = type(loss)(
            **{"positives" if isinstance(loss, AlignmentLoss) else "negatives": [criterion("ssim")]}, loss_weight=2.0
        )
        light = type(loss)(
            **{"positives" if isinstance(loss, AlignmentLoss) else "negatives": [criterion("ssim")]}, loss_weight=1.0
        )
        assert torch.allclose(heavy(ctx), 2 * light(ctx))


def test_masks_weight_each_loss_with_its_own_side():
    ctx = context(mask=0.25, discriminator=PixelLogits())
    align, unif = small_losses()
    plain_align, plain_unif = small_losses(spatial_view=False)
    assert torch.allclose(align(ctx), 0.25 * plain_align(ctx))
    assert torch.allclose(unif(ctx), 0.75 * plain_unif(ctx))
    align(ctx).sum().backward()
    assert ctx.outputs["mask"].grad.abs().sum() > 0
    assert ctx.outputs["unif"].grad is None
    ctx.outputs["mask"].grad = None
    for loss in small_losses(detach_mask=True):
        loss(ctx).sum().backward()
    assert ctx.outputs["mask"].grad is None


def test_losses_work_on_any_network():
    ctx = context(discriminator=PixelLogits())
    del ctx.outputs["align"], ctx.outputs["unif"]
    loss = AlignmentLoss(positives=[criterion("ssim")], image="sr")
    loss(ctx).sum().backward()
    assert ctx.outputs["sr"].grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="no 'align' image.*CriaCLPaper"):
        AlignmentLoss(positives=[criterion("ssim")])(ctx)


def test_any_criterion_can_be_the_anchor():
    ctx = context(mask=0.5, discriminator=PixelLogits())
    names = {"pixel": {}, "ssim": {}, "adversarial": {}, "features": {"layer": "conv"}}
    for anchor in names:
        others = [criterion(k, **v) for k, v in names.items() if k != anchor]
        for loss in (
            AlignmentLoss(anchor=criterion(anchor, **names[anchor]), positives=others),
            UniformityLoss(anchor=criterion(anchor, **names[anchor]), negatives=others),
        ):
            assert torch.isfinite(loss(ctx)).all()


def test_criterion_loss_is_a_term_of_the_weighted_sum():
    ctx = context()
    loss = CriterionLoss(criterion=criterion("pixel"), loss_weight=0.01)
    wanted = 0.01 * LOSSES.get("L1Loss")()(ctx)
    assert torch.allclose(loss(ctx), wanted)


def test_bad_partitions_are_refused():
    with pytest.raises(ConfigError, match="anchor 'pixel' is also among the positives"):
        AlignmentLoss(positives=[criterion("ssim"), criterion("pixel", norm="l1", weight=2.0)])
    with pytest.raises(ConfigError, match="anchor 'ssim' is also among the negatives"):
        UniformityLoss(anchor=criterion("ssim"), negatives=[criterion("ssim")])
    with pytest.raises(ConfigError, match="'ssim' is twice"):
        AlignmentLoss(positives=[criterion("ssim"), criterion("ssim")])
    with pytest.raises(ConfigError, match="there are no negatives"):
        UniformityLoss(negatives=[])
    AlignmentLoss(positives=[criterion("pixel", norm="l2")])  # another criterion than the anchor's l1
    with pytest.raises(ConfigError, match="there is no criterion 'pixle'.*did you mean 'pixel'"):
        CRITERIA.get("pixle")
    with pytest.raises(ConfigError, match="normalise: mean needs maps"):
        AlignmentLoss(positives=[criterion("ssim")], reduction="scalar", normalise="mean")


def test_perceptual_criterion_without_weights_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="perceptual criterion .vgg19 conv5_4. has no weights.*no such file"):
        criterion("perceptual_top", weights=tmp_path / "vgg19.pth").build()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(UserError, match="download .*vgg19.* elsewhere and put it at"):
        AlignmentLoss()


def test_adversarial_criterion_without_a_discriminator_says_what_to_do():
    ctx = context()
    with pytest.raises(ConfigError, match="needs a discriminator.*AdversarialModel"):
        UniformityLoss(negatives=[criterion("adversarial")])(ctx)


def test_saturated_masks_are_logged(caplog):
    loss = AlignmentLoss(positives=[criterion("ssim")], watch_masks=10)
    with caplog.at_level(logging.WARNING, logger="tgsr"):
        loss(context(mask=0.5, iteration=10))
        loss(context(mask=0.999, iteration=11))
        loss(context(mask=0.999, iteration=0))  # untrained
        assert not caplog.records
        loss(context(mask=0.999, iteration=20))
    assert "masks saturate (mean of S 0.999, 100 % of the pixels" in caplog.text
    assert AlignmentLoss(positives=[criterion("ssim")]).watch_masks < 300  # a short run is looked at, too
    assert mask_state(torch.tensor([0.0, 0.5, 1.0, 0.5])) == pytest.approx((0.5, 0.5))


def test_training_with_the_alignment_lowers_the_positive_and_leaves_the_anchor():
    """Descent on a map of two pixels: the default brings C_i down to C_a, the printed form lifts C_a to C_i."""
    for detach, anchor_rises in ((True, False), (False, True)):
        anchor, positive = full(0.1, grad=True), full(0.9, grad=True)
        optimiser = torch.optim.SGD([anchor, positive], lr=0.8)
        for _ in range(20):
            optimiser.zero_grad()
            alignment(anchor, [positive], detach_anchor=detach).sum().backward()
            optimiser.step()
        assert (anchor.mean().item() > 0.4) == anchor_rises
        assert (anchor - positive).abs().max() < 1e-2


def test_losses_are_registered():
    assert {"AlignmentLoss", "UniformityLoss", "CriterionLoss"} <= set(LOSSES.names())
    assert {"CriaCLPaper", "CriaCLReleased"} <= set(ARCHS.names())
