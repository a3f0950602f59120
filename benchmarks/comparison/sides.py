"""The two sides of a training step: basicsr's own models, and ours built from an option file; equal weights in both."""

from __future__ import annotations

import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tgsr.config.options import load_options  # noqa: E402
from tgsr.config.schema import Options  # noqa: E402
from tgsr.degradations.presets import X4PLUS  # noqa: E402
from tgsr.engine import build  # noqa: E402
from tgsr.engine.context import Context  # noqa: E402
from tgsr.models.base import RestorationModel  # noqa: E402

ADAM = {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
UNET = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 64, "skip_connection": True}
# for models that are given their batches: the option checker wants to know a training set
NO_DATA = {
    "datasets": {
        "train": {
            "dataset": {"type": "PairedDataset", "dataroot_gt": "unused", "dataroot_lq": "unused"},
            "batch_size_per_gpu": 1,
        }
    }
}
VGG_LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


def network_options(network: str, num_block: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """`network_g` of basicsr and of ours: `msrresnet`, `rrdbnet`, `swinir` or `hat` (which basicsr does not have)."""
    if network in ("swinir", "hat"):
        depth = max(1, min(6, num_block))
        both = {
            "type": {"swinir": "SwinIR", "hat": "HAT"}[network], "upscale": 4, "in_chans": 3, "img_size": 64,
            "window_size": {"swinir": 8, "hat": 16}[network], "img_range": 1.0, "depths": [6] * depth,
            "embed_dim": 180, "num_heads": [6] * depth, "mlp_ratio": 2, "upsampler": "pixelshuffle",
            "resi_connection": "1conv",
        }  # fmt: skip
        if network == "hat":
            both |= {"compress_ratio": 3, "squeeze_factor": 30, "conv_scale": 0.01, "overlap_ratio": 0.5}
        return both, dict(both)
    common = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_block": num_block}
    if network == "msrresnet":
        both = {"type": "MSRResNet", **common, "upscale": 4}
        return both, dict(both)
    both = {"type": "RRDBNet", **common, "scale": 4, "num_grow_ch": 32}
    return both, dict(both)


def load_basicsr() -> None:
    """Make basicsr 1.4.2 run without a GPU, with current libraries and without downloading VGG's weights."""
    import torchvision
    import torchvision.transforms.functional as functional

    sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
    from basicsr.archs import vgg_arch
    from basicsr.models import realesrgan_model, realesrnet_model
    from basicsr.utils import get_root_logger
    from basicsr.utils.img_process_util import filter2D

    get_root_logger(log_level=logging.WARNING)
    random_vgg = torchvision.models.vgg19
    vgg_arch.vgg.vgg19 = lambda pretrained=False, **k: random_vgg(weights=None)
    for module in (realesrgan_model, realesrnet_model):
        module.filter2D = lambda image, kernel: filter2D(image.contiguous(), kernel)


@contextmanager
def cuda_means(device: str) -> Iterator[None]:
    """Inside, `.cuda()`, which basicsr's constructors call, leaves things on the CPU if that is the device."""
    if device != "cpu":
        yield
        return
    kept = torch.nn.Module.cuda
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.nn.Module.cuda = kept  # type: ignore[method-assign]


def tuned(step: Callable[..., Any]) -> Callable[..., Any]:
    """basicsr's step with cuDNN's search for the fastest convolutions, which its `train.py` switches on."""

    def run(*arguments: Any) -> Any:
        torch.backends.cudnn.benchmark = True
        try:
            return step(*arguments)
        finally:
            torch.backends.cudnn.benchmark = False

    return run


def free_gpu() -> None:
    """Give back what deleted models held, before another process wants it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def basicsr_model(network: str, num_block: int, *, is_adversarial: bool = False, device: str = "cpu") -> Any:
    """`RealESRNetModel`, or `RealESRGANModel` with the published losses; without the pair pool."""
    load_basicsr()
    from basicsr.models.realesrgan_model import RealESRGANModel
    from basicsr.models.realesrnet_model import RealESRNetModel

    train: dict[str, Any] = {
        "ema_decay": 0.999,
        "optim_g": {**ADAM, "weight_decay": 0},
        "scheduler": {"type": "MultiStepLR", "milestones": [10**6], "gamma": 0.5},
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
    }
    options: dict[str, Any] = {
        **X4PLUS, "scale": 4, "gt_size": 256, "gt_usm": True, "queue_size": 180, "num_gpu": int(device == "cuda"),
        "dist": False, "is_train": True, "path": {}, "train": train,
        "network_g": network_options(network, num_block)[0],
    }  # fmt: skip
    if is_adversarial:
        train["optim_d"] = dict(train["optim_g"])
        train["perceptual_opt"] = {
            "type": "PerceptualLoss", "layer_weights": VGG_LAYERS, "vgg_type": "vgg19", "use_input_norm": True,
            "perceptual_weight": 1.0, "style_weight": 0, "range_norm": False, "criterion": "l1",
        }  # fmt: skip
        train["gan_opt"] = {
            "type": "GANLoss", "gan_type": "vanilla", "real_label_val": 1.0, "fake_label_val": 0.0, "loss_weight": 0.1
        }  # fmt: skip
        train |= {"net_d_iters": 1, "net_d_init_iters": 0}
        options |= {"network_d": dict(UNET), "l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False}
    with cuda_means(device):
        model = (RealESRGANModel if is_adversarial else RealESRNetModel)(options)
    model._dequeue_and_enqueue = lambda: None
    return model


def our_options(
    folder: Path,
    network: str,
    num_block: int,
    *,
    precision: str,
    is_adversarial: bool = False,
    training: dict[str, Any] | None = None,
    **sections: Any,
) -> Options:
    """An option file that says what `basicsr_model` says, loaded; `training` are more keys of its section `train`."""
    train: dict[str, Any] = {
        "total_iter": 10**6,
        "ema_decay": 0.999,
        "optim_g": dict(ADAM),
        "losses": {"pixel": {"type": "L1Loss", "target": "gt_usm"}},
        **(training or {}),
    }
    content: dict[str, Any] = {
        "name": "vs_basicsr", "scale": 4, "precision": precision, "train": train,
        "network_g": network_options(network, num_block)[1], **(sections or NO_DATA),
    }  # fmt: skip
    if is_adversarial:
        content |= {"model": "AdversarialModel", "network_d": dict(UNET)}
        train["optim_d"] = dict(ADAM)
        train["gan"] = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1, "target": "gt"}
        train["losses"]["perceptual"] = {"type": "PerceptualLoss", "pretrained": False, "target": "gt_usm"}
    path = folder / "vs_basicsr.yml"
    path.write_text(json.dumps(content))
    return load_options(path)


def our_model(options: Options, device: str = "cpu") -> RestorationModel:
    """The model that a training run would build."""
    context = Context(torch.device(device))
    return build.build_model(options, context, build.build_loss_weighting(options, build.build_tasks(options)))


def copy_weights(theirs: Any, ours: RestorationModel) -> None:
    """Give ours the weights of theirs, of all networks."""
    ours.net_g.load_state_dict(theirs.net_g.state_dict())
    assert ours.ema_g is not None
    ours.ema_g.load_state_dict(theirs.net_g_ema.state_dict())
    if hasattr(theirs, "net_d"):
        ours.net_d.load_state_dict(theirs.net_d.state_dict())  # type: ignore[operator]
        source, target = theirs.cri_perceptual.vgg.vgg_net, ours.losses["perceptual"].vgg.body  # type: ignore[index]
        for a, b in zip(target.parameters(), source.parameters(), strict=True):
            a.data.copy_(b.data)
