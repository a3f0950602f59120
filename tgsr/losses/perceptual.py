"""Perceptual and style loss on VGG features before their ReLUs, as in ESRGAN and Real-ESRGAN, per sample."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from tgsr.losses.base import LOSSES, PairLoss
from tgsr.losses.pixel import l1_loss, mse_loss
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.pretrained import load_pretrained
from tgsr.utils.registry import did_you_mean

REAL_ESRGAN_LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}

VGG = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
CONVS_PER_STAGE = {"11": (1, 1, 2, 2, 2), "13": (2, 2, 2, 2, 2), "16": (2, 2, 3, 3, 3), "19": (2, 2, 4, 4, 4)}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@lru_cache(maxsize=8)
def vgg_layer_names(vgg_type: str) -> tuple[str, ...]:
    """Names of torchvision's `features` in order: `conv1_1, relu1_1, conv1_2, relu1_2, pool1, conv2_1, ...`."""
    names: list[str] = []
    kinds = ("conv", "bn", "relu") if vgg_type.endswith("_bn") else ("conv", "relu")
    for stage, count in enumerate(CONVS_PER_STAGE[vgg_type[3:5]], 1):
        names += [f"{kind}{stage}_{index}" for index in range(1, count + 1) for kind in kinds]
        names.append(f"pool{stage}")
    return tuple(names)


class VGGFeatures(nn.Module):
    """Frozen first part of a VGG network, up to the last layer that is asked for; always in eval mode.

    Args:
        layers: names as in `vgg_layer_names`.
        vgg_type: which network.
        use_input_norm: take ImageNet's mean and deviation off the input first.
        range_norm: the input lies in [-1, 1] instead of [0, 1].
        pretrained: ImageNet weights; False: random ones, for tests.
        weights: file with torchvision's weights; None: the torch.hub cache or the network.
    """

    called_under_autocast = True

    def __init__(
        self,
        layers: Mapping[str, float] | list[str],
        *,
        vgg_type: VGG = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        pretrained: bool = True,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        names = vgg_layer_names(vgg_type)
        for layer in layers:
            if layer not in names:
                raise ConfigError(f"{vgg_type} has no layer '{layer}'", remedy=did_you_mean(layer, names))
        if not layers:
            raise ConfigError("layer_weights is empty", remedy="name at least one layer, e.g. conv5_4")
        self.layers, self.use_input_norm, self.range_norm = list(layers), use_input_norm, range_norm
        self.body = nn.Sequential(*_build(names[: max(names.index(layer) for layer in layers) + 1]))
        self._names = names[: len(self.body)]
        if pretrained:
            _load_features(self.body, load_pretrained(vgg_type, path=weights), vgg_type, weights)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> VGGFeatures:
        return super().train(False)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features `(B, C, h, w)` by layer name of `image (B, 3, H, W)`, RGB in [0, 1]."""
        if self.range_norm:
            image = (image + 1) / 2
        if self.use_input_norm:
            image = (image - self.mean) / self.std
        image = image.contiguous(memory_format=torch.channels_last)
        features = {}
        for name, layer in zip(self._names, self.body, strict=True):
            image = layer(image)
            if name in self.layers:
                features[name] = image
        return features


def _build(names: tuple[str, ...]) -> list[nn.Module]:
    """The layers called `names`; ReLUs leave their input as it is, since that is the feature."""
    layers: list[nn.Module] = []
    channels = 3
    for name in names:
        stage = int(name.partition("_")[0][-1])
        width = min(64 * 2 ** (stage - 1), 512)
        if name.startswith("conv"):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            channels = width
        elif name.startswith("bn"):
            layers.append(nn.BatchNorm2d(channels))
        elif name.startswith("relu"):
            layers.append(nn.ReLU())
        else:
            layers.append(nn.MaxPool2d(2))
    return layers


def _load_features(body: nn.Sequential, state: Mapping[str, torch.Tensor], name: str, path: Path | None) -> None:
    """Fill the layers from torchvision's state dict (`features.<index>.weight`); what comes after them is left out."""
    own = body.state_dict()
    try:
        body.load_state_dict({key: state[f"features.{key}"] for key in own})
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"the weights do not fit {name}: {error}", place=str(path or ""), remedy="get torchvision's"
        ) from None


@LOSSES.register()
class PerceptualLoss(PairLoss):
    """Distance of VGG features, and of their Gram matrices where `style_weight` is given.

    The sum of both is returned. Features of the target are computed without a graph. For `fro` the norm is taken over
    each sample (BasicSR takes it over the batch).

    Args:
        layer_weights: weight of each layer, before its ReLU for `conv*`; None: those of Real-ESRGAN (conv1_2 0.1,
            conv2_2 0.1, conv3_4 1, conv4_4 1, conv5_4 1).
        vgg_type: which network.
        use_input_norm: take ImageNet's mean and deviation off the images first.
        range_norm: images lie in [-1, 1] instead of [0, 1].
        perceptual_weight: factor of the feature distance; 0: none.
        style_weight: factor of the Gram matrix distance; 0: none.
        criterion: `l1` mean absolute, `l2` mean squared, `fro` Frobenius norm of the difference.
        pretrained: ImageNet weights; False: random ones, for tests only.
        weights: file with torchvision's weights; None: the torch.hub cache or the network.
        loss_weight: factor of the whole loss.
        target: image to compare with.
    """

    num_channels = 3

    def __init__(
        self,
        *,
        layer_weights: dict[str, float] | None = None,
        vgg_type: VGG = "vgg19",
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: float = 1.0,
        style_weight: float = 0.0,
        criterion: Literal["l1", "l2", "fro"] = "l1",
        pretrained: bool = True,
        weights: Path | None = None,
        loss_weight: float = 1.0,
        target: Literal["gt", "gt_usm"] = "gt",
    ) -> None:
        super().__init__(loss_weight=loss_weight, target=target)
        self.layer_weights = dict(REAL_ESRGAN_LAYERS if layer_weights is None else layer_weights)
        self.perceptual_weight, self.style_weight, self.criterion = perceptual_weight, style_weight, criterion
        self.vgg = VGGFeatures(
            self.layer_weights,
            vgg_type=vgg_type,
            use_input_norm=use_input_norm,
            range_norm=range_norm,
            pretrained=pretrained,
            weights=weights,
        )

    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total = restored.new_zeros(restored.shape[0], dtype=torch.float32)
        if self.perceptual_weight == 0 and self.style_weight == 0:
            return total
        with torch.no_grad():
            target_features = self.vgg(target)
        for name, feature in self.vgg(restored).items():
            weight = self.layer_weights[name]
            if self.perceptual_weight:
                total = total + self.perceptual_weight * weight * self._distance(feature, target_features[name])
            if self.style_weight:
                grams = gram_matrix(feature), gram_matrix(target_features[name])
                total = total + self.style_weight * weight * self._distance(*grams)
        return total

    def _distance(self, feature: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.criterion == "l1":
            return l1_loss(feature, target)
        if self.criterion == "l2":
            return mse_loss(feature, target)
        return torch.linalg.vector_norm((feature.float() - target.float()).flatten(1), dim=1)


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """Channel correlations `(B, C, C)` of `(B, C, H, W)`, divided by C * H * W; in fp32 at any precision."""
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().flatten(2)
        return torch.bmm(flat, flat.transpose(1, 2)) / (flat.shape[1] * flat.shape[2])
