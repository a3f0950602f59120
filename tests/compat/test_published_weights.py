"""Published weights: networks, features, losses and training steps beside basicsr, spandrel and the lpips package.

They lie in the folder that TGSR_WEIGHTS names, by default `weights/`, with `hub/checkpoints/` for ImageNet features as
in TORCH_HOME. Without them the tests are skipped. `pytest -rP` shows the differences of docs/results/published.md.
"""

from __future__ import annotations

import copy
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from tests.basicsr_oracle import load_basicsr
from tests.losses.test_pixel_gan_losses import context_of
from tests.models.test_against_basicsr import NET_D, basicsr_options, lr_at, parts, theirs
from tgsr.archs import ARCHS
from tgsr.data.batch import Batch
from tgsr.degradations.usm import sharpen
from tgsr.engine.network_files import load_network
from tgsr.engine.tiling import Tiling, restore_tiled
from tgsr.losses.base import LOSSES
from tgsr.losses.gan import GANLoss
from tgsr.losses.perceptual import PerceptualLoss
from tgsr.metrics.lpips import BACKBONES, LPIPS
from tgsr.models.adversarial import AdversarialModel
from tgsr.utils.resize import imresize

show = logging.getLogger("published").warning
FOLDER = Path(os.environ.get("TGSR_WEIGHTS", "weights"))
RRDB = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_grow_ch": 32, "scale": 4}
SRVGG = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_conv": 16, "upscale": 4, "act_type": "prelu"}
THEIRS = {
    "RealESRGAN_x4plus": ("rrdbnet_arch", "RRDBNet", {**RRDB, "num_block": 23}),
    "RealESRGAN_x4plus_anime_6B": ("rrdbnet_arch", "RRDBNet", {**RRDB, "num_block": 6}),
    "RealSR_DF2K": ("rrdbnet_arch", "RRDBNet", {**RRDB, "num_block": 23}),
    "realesr-animevideov3": ("srvgg_arch", "SRVGGNetCompact", SRVGG),
}
FEATURES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
if not all((FOLDER / f"{name}.pth").is_file() for name in THEIRS):
    missing = f"the published weights are not in {FOLDER}/ (TGSR_WEIGHTS names another folder)"
    pytest.skip(missing, allow_module_level=True)


def weights(name: str) -> Path:
    return FOLDER / f"{name}.pth"


def network(name: str) -> nn.Module:
    return load_network(weights(name), torch.device("cpu"))[0].eval()


def features(net: str) -> Path:
    file = FOLDER / "hub/checkpoints" / FEATURES[net]
    if not file.is_file():
        pytest.skip(f"no ImageNet features: {file}")
    return file


def photograph(side: int) -> torch.Tensor:
    """`(1, 3, side, side)`: the middle of a photograph, in 8-bit steps."""
    data = pytest.importorskip("skimage.data")
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255
    top = (512 - side) // 2
    return image[None, :, top : top + side, top : top + side]


def low_quality(side: int) -> torch.Tensor:
    return (imresize(photograph(4 * side), 0.25) * 255).round().clamp(0, 255) / 255


def differ(label: str, ours: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference, shown with `-rP`."""
    worst = (ours - other).abs().max().item()
    show(f"{label}: largest difference {worst:.2e}, range of the values {other.min():.3f} to {other.max():.3f}")
    return worst


@pytest.mark.parametrize("name", THEIRS)
@torch.no_grad()
def test_outputs_as_basicsr_and_spandrel(name):
    module, class_name, settings = THEIRS[name]
    ours = network(name)
    lq = low_quality(24)
    out = ours(lq)
    basic = getattr(load_basicsr(f"basicsr.archs.{module}"), class_name)(**settings).eval()
    state = torch.load(weights(name), weights_only=True)
    basic.load_state_dict(state.get("params_ema", state.get("params")), strict=True)
    assert differ(f"{name} against basicsr", out, basic(lq)) < 1e-5
    spandrel = pytest.importorskip("spandrel")
    loaded = spandrel.ModelLoader(device="cpu").load_from_file(weights(name)).model.eval()
    assert differ(f"{name} against spandrel", out, loaded(lq)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        rough = ours(lq).float()
    differ(f"{name} in bf16 against fp32, mean difference {(rough - out).abs().mean():.1e}", rough, out)


@pytest.mark.parametrize("net", FEATURES)
@torch.no_grad()
def test_lpips_as_the_package(net, tmp_path, monkeypatch):
    """The package's example: its own reader, its own class with its own slices of torchvision's features."""
    import lpips

    kind = {"alex": "alexnet", "vgg": "vgg16"}[net]
    body = getattr(torchvision.models, kind)(weights=None).features
    state = torch.load(features(net), weights_only=True)
    body.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    monkeypatch.setattr(lpips.pretrained_networks.tv, kind, lambda pretrained=True: SimpleNamespace(features=body))
    package = lpips.LPIPS(net=net, verbose=False).eval()
    gt = photograph(96)
    restored = imresize(low_quality(24), 4).clamp(0, 1)
    for name, image in (("gt", gt), ("restored", restored)):
        torchvision.utils.save_image(image, tmp_path / f"{name}.png")
    read = [lpips.im2tensor(lpips.load_image(str(tmp_path / f"{n}.png"))) for n in ("restored", "gt")]
    expected = package(*read).item()
    ours = LPIPS(net=net, weights=features(net))(restored[0], gt[0])
    show(f"LPIPS {net} ({BACKBONES[net]}): ours {ours:.6f}, package {expected:.6f}")
    assert 0.05 < expected < 0.9
    assert ours == pytest.approx(expected, abs=1e-5)


def basicsr_vgg16(monkeypatch) -> None:
    """basicsr builds its VGG-16 from torchvision's; this one has the published features and no classifier."""
    body = torchvision.models.vgg16(weights=None).features
    state = torch.load(features("vgg"), weights_only=True)
    body.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    arch = load_basicsr("basicsr.archs.vgg_arch")
    make = lambda pretrained: SimpleNamespace(features=copy.deepcopy(body))  # noqa: E731
    monkeypatch.setattr(arch, "vgg", SimpleNamespace(vgg16=make))


VGG_LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_3": 1.0, "conv4_3": 1.0, "conv5_3": 1.0}


def test_perceptual_loss_as_basicsr(monkeypatch):
    basicsr_vgg16(monkeypatch)
    settings = {"layer_weights": VGG_LAYERS, "vgg_type": "vgg16", "style_weight": 0.5}
    ours = PerceptualLoss(weights=features("vgg"), **settings)
    basic = load_basicsr("basicsr.losses.basic_loss").PerceptualLoss(**settings)
    gt = photograph(96)
    values, gradients = [], []
    for loss in (lambda x: ours(context_of(x, gt=gt)).mean(), lambda x: sum(basic(x, gt))):
        image = imresize(low_quality(24), 4).clamp(0, 1).requires_grad_()
        value = loss(image)
        values.append(value.item())
        gradients.append(torch.autograd.grad(value, image)[0])
    show(f"perceptual + style, VGG-16: ours {values[0]:.6f}, basicsr {values[1]:.6f}")
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    far = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
    show(f"its gradient: difference {far:.1e} of its norm")  # absolute values turn where features are equal
    assert far < 0.02


def test_three_adversarial_steps_as_basicsr(monkeypatch):
    """Real-ESRGAN's training from its published generator: L1, VGG-16 and a U-Net discriminator."""
    basicsr_vgg16(monkeypatch)
    monkeypatch.setattr(nn.Module, "cuda", lambda self, device=None: self)  # basicsr wants a GPU
    torch.manual_seed(0)
    net_g = network("RealESRGAN_x4plus").train()
    d_options = {**NET_D[False], "num_feat": 16}
    net_d = ARCHS.get("UNetDiscriminatorSN")(**{k: v for k, v in d_options.items() if k != "type"})
    perceptual = {"layer_weights": VGG_LAYERS, "vgg_type": "vgg16", "use_input_norm": True, "range_norm": False}
    options = basicsr_options(
        "RealESRGANModel",
        {
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
            "perceptual_opt": {"type": "PerceptualLoss", **perceptual, "perceptual_weight": 1.0, "style_weight": 0,
                               "criterion": "l1"},
            "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0,
                        "loss_weight": 0.1},
            "net_d_iters": 1, "net_d_init_iters": 0,
        },
        network_g={"type": "RRDBNet", **THEIRS["RealESRGAN_x4plus"][2]}, network_d=d_options,
        l1_gt_usm=True, percep_gt_usm=True, gan_gt_usm=False, high_order_degradation=False,
    )  # fmt: skip
    for kind in ("optim_g", "optim_d"):
        options["train"][kind]["lr"] = 1e-4
    other = theirs(options, net_g, net_d)
    usm = {"target": "gt_usm"}
    optimiser = lambda p: torch.optim.Adam(p, lr=1e-4, betas=(0.9, 0.99))  # noqa: E731
    ours = AdversarialModel(
        copy.deepcopy(net_g),
        {
            "pixel": LOSSES.get("L1Loss")(**usm),
            "perceptual": PerceptualLoss(weights=features("vgg"), **perceptual, **usm),
        },
        optimiser, lr_at, parts(), net_d=copy.deepcopy(net_d),
        gan=GANLoss(gan_type="vanilla", loss_weight=0.1), make_optimizer_d=optimiser,
    )  # fmt: skip
    lq, gt = low_quality(16), photograph(64)
    data = []
    for k in range(3):
        turned = [x.rot90(k, (2, 3)).contiguous() for x in (lq, gt)]
        data.append(Batch(lq=turned[0], gt=turned[1], gt_usm=sharpen(turned[1])))
    for k, batch in enumerate(data):
        result = ours.step([batch], k)
        train_theirs_step(other, batch, k + 1)
        log = {name: value.mean().item() for name, value in result.losses.items()}
        names = {"pixel": "l_g_pix", "perceptual": "l_g_percep", "gan": "l_g_gan"}
        both = {n: (round(log[n], 6), round(other.log_dict[t], 6)) for n, t in names.items()}
        show(f"step {k + 1}: {both}")
        for name, their_name in names.items():
            assert log[name] == pytest.approx(other.log_dict[their_name], rel=[1e-4, 1e-2, 2e-2][k]), (k, name)
    for label, net, reference in (("generator", ours.net_g, other.net_g), ("discriminator", ours.net_d, other.net_d)):
        pairs = list(zip(net.parameters(), reference.parameters(), strict=True))
        far = sum(((a - b).abs() > 1e-5).sum().item() for a, b in pairs) / sum(a.numel() for a, _ in pairs)
        show(f"{label}: {far:.2%} of the weights differ by more than 1e-5 (three steps of 1e-4)")
        assert far < 0.05  # Adam's first steps follow the sign of a gradient, however small


def train_theirs_step(model, batch: Batch, iteration: int) -> None:
    model.update_learning_rate(iteration, warmup_iter=-1)
    model.feed_data({"lq": batch.lq.clone(), "gt": batch.gt.clone()})
    model.optimize_parameters(iteration)


@pytest.mark.parametrize("name", ["RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B", "realesr-animevideov3"])
@torch.no_grad()
def test_tiled_nears_untiled_as_the_overlap_grows(name):
    """Exact where the overlap covers the receptive field; a deep network needs less, but not little."""
    net = network(name)
    lq = low_quality(128)
    whole = net(lq)
    found = []
    for overlap in (8, 16, 32, 48):
        tiling = Tiling.of(net, 32, overlap)
        tiled = restore_tiled(net, lq, tiling, scale=4)
        psnr = -10 * (tiled - whole).square().mean().log10().item()
        worst = differ(f"{name}, tiles of 32 + {overlap}, PSNR {psnr:.1f} dB", tiled, whole)
        assert worst < 1e-5 or not tiling.is_exact
        found.append(psnr)
    assert min(found[2:]) > 50
    assert found[0] < found[1] < found[2] or found[1] > 90
