"""Perceptual, style, SSIM and FFT losses: basicsr and our own metrics as oracles. The VGG is random and small-sided."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from tests.basicsr_oracle import load_basicsr
from tests.losses.test_pixel_gan_losses import context_of
from tgsr.losses.base import LOSSES, PairLoss
from tgsr.losses.perceptual import PerceptualLoss, VGGFeatures, gram_matrix, vgg_layer_names
from tgsr.losses.structure import FFTLoss, SSIMLoss, ssim_map
from tgsr.metrics.psnr_ssim import SSIM
from tgsr.utils.errors import ConfigError, UserError


def images(batch=2, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(batch, 3, side, side, generator=generator) for _ in range(2))


def save_features(loss, path):
    torch.save({f"features.{k}": v for k, v in loss.vgg.body.state_dict().items()}, path)


def basicsr_loss(monkeypatch, body, **kwargs):
    """basicsr's PerceptualLoss with the weights of our random VGG-19."""
    arch = load_basicsr("basicsr.archs.vgg_arch")
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])[: len(body)]
    features.load_state_dict(body.state_dict())
    monkeypatch.setattr(arch, "vgg", SimpleNamespace(vgg19=lambda pretrained: SimpleNamespace(features=features)))
    return load_basicsr("basicsr.losses.basic_loss").PerceptualLoss(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"layer_weights": {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0}},
        {"layer_weights": {"conv2_2": 1.0, "relu2_1": 0.5}, "perceptual_weight": 0.3, "style_weight": 20.0},
        {"layer_weights": {"pool2": 1.0}, "use_input_norm": False, "range_norm": True},
    ],
)
def test_perceptual_as_basicsr(monkeypatch, kwargs):
    torch.manual_seed(0)
    ours = PerceptualLoss(pretrained=False, **kwargs)
    theirs = basicsr_loss(monkeypatch, ours.vgg.body, **kwargs)
    a, b = images()
    expected = sum(part for part in theirs(a, b) if part is not None)
    values = ours(context_of(a, gt=b))
    assert values.shape == (2,)
    torch.testing.assert_close(values.mean(), expected, rtol=1e-4, atol=1e-7)


def test_frobenius_as_basicsr_for_one_sample(monkeypatch):
    torch.manual_seed(0)
    kwargs = {"layer_weights": {"conv1_2": 1.0}, "criterion": "fro", "style_weight": 1.0}
    ours = PerceptualLoss(pretrained=False, **kwargs)
    a, b = images(batch=1)
    expected = sum(basicsr_loss(monkeypatch, ours.vgg.body, **kwargs)(a, b))
    torch.testing.assert_close(ours(context_of(a, gt=b))[0], expected, rtol=1e-4, atol=1e-6)


def test_default_layers_are_real_esrgan_before_relu():
    loss = PerceptualLoss(pretrained=False)
    indices = [vgg_layer_names("vgg19").index(layer) for layer in loss.layer_weights]
    assert indices == [2, 7, 16, 25, 34]
    assert list(loss.layer_weights.values()) == [0.1, 0.1, 1.0, 1.0, 1.0]
    assert len(loss.vgg.body) == 35
    assert sum(p.numel() for p in loss.vgg.parameters()) == 20_024_384


@pytest.mark.parametrize("vgg_type", ["vgg11", "vgg16", "vgg13_bn", "vgg19_bn"])
def test_layer_names_as_torchvision(vgg_type):
    names = vgg_layer_names(vgg_type)
    config = {"11": "A", "13": "B", "16": "D", "19": "E"}[vgg_type[3:5]]
    theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs[config], vgg_type.endswith("bn"))
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    assert [name[:2] for name in names] == [kinds[type(layer)][:2] for layer in theirs]
    ours = VGGFeatures([names[-1]], vgg_type=vgg_type, pretrained=False)
    shapes, expected = ({k: v.shape for k, v in net.state_dict().items()} for net in (ours.body, theirs))
    assert shapes == expected


def test_perceptual_of_equal_images_is_zero_and_gradient_reaches_only_the_image():
    loss = PerceptualLoss(pretrained=False, layer_weights={"conv2_2": 1.0}, style_weight=1.0)
    a, b = images()
    assert loss(context_of(a, gt=a)).tolist() == [0.0, 0.0]
    a.requires_grad_()
    b.requires_grad_()
    loss(context_of(a, gt=b)).sum().backward()
    assert a.grad.abs().sum() > 0
    assert b.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())


def test_no_weight_no_work():
    loss = PerceptualLoss(pretrained=False, layer_weights={"conv1_1": 1.0}, perceptual_weight=0.0)
    loss.vgg = None
    assert loss(context_of(*images()[:1], gt=images()[1])).tolist() == [0.0, 0.0]


def test_vgg_stays_in_eval_mode():
    loss = PerceptualLoss(pretrained=False, vgg_type="vgg11_bn", layer_weights={"bn1_1": 1.0})
    before = {k: v.clone() for k, v in loss.vgg.state_dict().items()}
    loss.train()
    loss(context_of(*images()[:1], gt=images()[1]))
    assert all(torch.equal(v, before[k]) for k, v in loss.vgg.state_dict().items())


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(1)
    first = PerceptualLoss(pretrained=False, layer_weights={"conv2_1": 1.0})
    save_features(first, tmp_path / "vgg.pth")
    second = PerceptualLoss(layer_weights={"conv1_2": 1.0}, weights=tmp_path / "vgg.pth")
    assert torch.equal(second.vgg.body[2].weight, first.vgg.body[2].weight)
    with pytest.raises(UserError, match="do not fit vgg19"):
        PerceptualLoss(layer_weights={"conv2_2": 1.0}, weights=tmp_path / "vgg.pth")


def test_unknown_layer_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'conv5_4'"):
        PerceptualLoss(pretrained=False, layer_weights={"conv5_5": 1.0})
    with pytest.raises(ConfigError, match="empty"):
        PerceptualLoss(pretrained=False, layer_weights={})


def test_gram_matrix_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    assert gram_matrix(features).tolist() == [[[5 / 4, 11 / 4], [11 / 4, 25 / 4]]]


def test_ssim_loss_is_the_metric():
    gt = (images(batch=1, side=40)[0] * 255).round() / 255
    restored = (gt * 0.8 * 255).round() / 255
    metric = SSIM(color="rgb")(restored[0], gt[0])
    assert SSIMLoss()(context_of(restored, gt=gt)).item() == pytest.approx(1 - metric, abs=1e-5)
    assert SSIMLoss()(context_of(gt, gt=gt)).item() == pytest.approx(0, abs=1e-6)
    bright = torch.full((1, 3, 16, 16), 0.9)
    assert ssim_map(bright, bright + 1e-3, padding="reflect").shape == (1, 3, 16, 16)
    expected = (2 * 0.9 * 0.901 + 1e-4) / (0.9**2 + 0.901**2 + 1e-4)
    torch.testing.assert_close(ssim_map(bright, bright + 1e-3), torch.full((1, 3, 6, 6), expected), atol=1e-4, rtol=0)


def test_fft_loss_by_hand():
    """A constant difference d has one coefficient, d * sqrt(H W), of 2 H W real numbers."""
    a = torch.zeros(2, 3, 8, 4)
    b = a + torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)
    torch.testing.assert_close(FFTLoss()(context_of(a, gt=b)), torch.tensor([0.5, 1.0]) * 32**0.5 / 64)


OWN = [name for name in LOSSES.names() if LOSSES.get(name).__module__.startswith("tgsr.losses.")]


@pytest.mark.parametrize("name", OWN)
def test_contract(name):
    """(B,) fp32, weighted, 0 at identity where it compares, finite gradient there and elsewhere, samples apart."""
    extra = (
        {"pretrained": False, "layer_weights": {"conv2_1": 1.0}, "style_weight": 1.0} if "Perceptual" in name else {}
    )
    torch.manual_seed(0)
    loss = LOSSES.get(name)(**extra)
    a, b = images(batch=3)
    for target in (b, a.clone()):
        x = a.clone().requires_grad_()
        values = loss(context_of(x, gt=target))
        assert values.shape == (3,)
        assert values.dtype == torch.float32
        values.sum().backward()
        assert x.grad.isfinite().all()
    if isinstance(loss, PairLoss):
        assert values.abs().max() < 2e-6
    values = loss(context_of(a, gt=b))
    torch.testing.assert_close(loss(context_of(a[1:2], gt=b[1:2])), values[1:2], rtol=1e-4, atol=1e-6)
    loss.loss_weight = 0.0
    assert loss(context_of(a, gt=b)).tolist() == [0.0] * 3
