"""Feature extractors that describe a degradation (GRIDS, 4.1): a layer of any network, VGG, SIFT, raw pixels."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tgsr.config.spec import Kind, Spec
from tgsr.engine.network_files import load_network
from tgsr.losses.perceptual import VGG, VGGFeatures, vgg_layer_names
from tgsr.models.precision import Mode, Precision, resolve_precision
from tgsr.models.weights import load_into
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import Registry, did_you_mean
from tgsr.utils.rng import seed63

DESCRIPTORS = Registry("descriptor")
NetworkSpec = Annotated[Spec, Kind("tgsr.archs:ARCHS")]


class _LayerReached(Exception):  # noqa: N818 - a jump, not an error
    """Stops a forward pass behind the wanted layer."""


class Descriptor(ABC):
    """Images to feature maps.

    Attributes:
        stride: image pixels per feature pixel; below 1 behind an upsampling layer.
    """

    stride: float = 1

    @abstractmethod
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """`(B, C, H / stride, W / stride)` float32 features of `(B, 3, H, W)` RGB in [0, 1]."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """`{"type": registered name, **arguments}`."""

    def to(self, device: torch.device) -> Descriptor:
        """Move to a device."""
        return self


class LayerDescriptor(Descriptor):
    """The output of one named module of a network; the layers behind it are not computed.

    Args:
        net: the network, in eval mode from now on.
        layer: name of a module as `named_modules` lists it.
        precision: autocast type on a forward pass.
    """

    def __init__(self, net: nn.Module, layer: str, *, precision: Mode = "fp32") -> None:
        modules = dict(net.named_modules())
        if layer not in modules:
            raise ConfigError(
                f"{type(net).__name__} has no layer '{layer}'", remedy=did_you_mean(layer, [m for m in modules if m])
            )
        self.net, self.layer = net.eval().requires_grad_(False), layer
        self.precision = precision
        self._module = modules[layer]
        self._caught: torch.Tensor | None = None

    def _catch(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._caught = output
        raise _LayerReached

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        autocast = Precision(resolve_precision(self.precision, images.device), images.device).autocast()
        hook = self._module.register_forward_hook(self._catch)
        try:
            with autocast, contextlib.suppress(_LayerReached):
                self.net(images.contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        caught, self._caught = self._caught, None
        if caught is None or caught.ndim != 4:
            raise ConfigError(f"layer '{self.layer}' gives no (B, C, H, W) features", remedy="name another layer")
        ratio = images.shape[-1] / caught.shape[-1]
        self.stride = round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
        return caught.float().contiguous()

    def to_json(self) -> dict[str, Any]:
        return {"type": "layer", "layer": self.layer}

    def to(self, device: torch.device) -> LayerDescriptor:
        self.net.to(device)
        return self


@DESCRIPTORS.register("network")
class NetworkDescriptor(LayerDescriptor):
    """Deep degradation representation of a super-resolution network (section 4.1).

    Args:
        network: the network, e.g. `{type: MSRResNet, upscale: 4}`; None: as the weights show.
        layer: its layer; `body` is the output of the last residual block.
        weights: file of trained weights; None: untrained, drawn from `seed` (a baseline).
        param_key: see `path.param_key_g`.
        precision: `fp32`, `bf16`, `fp16` or `auto`: bf16 where the device is fast at it.
        seed: of untrained weights.
    """

    def __init__(
        self,
        *,
        network: NetworkSpec | None = None,
        layer: str = "body",
        weights: Path | None = None,
        param_key: str = "auto",
        precision: Mode = "fp32",
        seed: int = 0,
    ) -> None:
        if network is None and weights is None:
            problem = "a descriptor needs a network, weights that show one, or both"
            raise ConfigError(problem, remedy="give network: {type: ...} or weights: FILE")
        torch.manual_seed(seed63(seed, "descriptor-init"))
        if network is None:
            net, _ = load_network(Path(weights), torch.device("cpu"), key=None if param_key == "auto" else param_key)
        else:
            net = network.build()
            if weights is not None:
                load_into(net, weights, strict=True, key=param_key)
        super().__init__(net, layer, precision=precision)
        self._json = {
            "type": "network",
            "network": None if network is None else network.to_json(),
            "layer": layer,
            "weights": None if weights is None else str(weights),
            "param_key": param_key,
            "precision": precision,
            "seed": seed,
        }

    def to_json(self) -> dict[str, Any]:
        return dict(self._json)


@DESCRIPTORS.register("vgg")
class VGGDescriptor(LayerDescriptor):
    """Features of a VGG for ImageNet, an alternative that the paper finds wanting (Table 2b).

    Args:
        layer: index of the layer in torchvision's `features`; of VGG-19 35 is ReLU5_4, 17 the last of stage 3.
        vgg_type: which VGG; the paper's is VGG-19.
        pretrained: ImageNet weights from the torch.hub cache; False: random weights, for tests.
    """

    def __init__(self, *, layer: int = 17, vgg_type: VGG = "vgg19", pretrained: bool = True) -> None:
        names = vgg_layer_names(vgg_type)
        if not 0 <= layer < len(names):
            raise ConfigError(f"{vgg_type} has no layer {layer}", remedy=f"use 0 to {len(names) - 1}")
        torch.manual_seed(seed63(0, "descriptor-init"))
        super().__init__(VGGFeatures([names[layer]], vgg_type=vgg_type, pretrained=pretrained), f"body.{layer}")
        self._json = {"type": "vgg", "layer": layer, "vgg_type": vgg_type, "pretrained": pretrained}

    def to_json(self) -> dict[str, Any]:
        return dict(self._json)


@DESCRIPTORS.register("sift")
class SIFTDescriptor(Descriptor):
    """Dense SIFT on a regular grid, the hand-made alternative of Table 2b.

    Args:
        step_px: distance of key points; also their diameter.
    """

    def __init__(self, *, step_px: int = 8) -> None:
        self.stride = self.step_px = step_px
        self._sift = cv2.SIFT_create()

    def features(self, images: torch.Tensor) -> torch.Tensor:
        grey = (F.conv2d(images.cpu(), torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)) * 255).round()
        planes = grey.clamp(0, 255).byte()[:, 0].numpy()
        return torch.from_numpy(np.stack([self._dense(p) for p in planes])).to(images.device)

    def _dense(self, plane: np.ndarray) -> np.ndarray:
        rows, columns = (range(self.step_px // 2, n, self.step_px) for n in plane.shape)
        points = [cv2.KeyPoint(float(x), float(y), float(self.step_px)) for y in rows for x in columns]
        kept, values = self._sift.compute(plane, points)
        if len(kept) != len(points):
            raise ConfigError("SIFT dropped key points", remedy="use a larger step_px or larger images")
        return np.asarray(values, dtype=np.float32).reshape(len(rows), len(columns), -1).transpose(2, 0, 1) / 255

    def to_json(self) -> dict[str, Any]:
        return {"type": "sift", "step_px": self.step_px}


@DESCRIPTORS.register("pixels")
class PixelDescriptor(Descriptor):
    """The image itself: the baseline that says how much of a similarity needs no network at all."""

    def __init__(self) -> None:
        pass

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def to_json(self) -> dict[str, Any]:
        return {"type": "pixels"}


_KIND = Kind("tgsr.methods.grids.descriptor:DESCRIPTORS")
_ARCH_KIND = Kind("tgsr.archs:ARCHS")
DescriptorSpec = Annotated[Spec, _KIND]


def descriptor_from_json(data: dict[str, Any], *, base: Path | None = None) -> Descriptor:
    """Inverse of `Descriptor.to_json`.

    Args:
        data: from an artefact.
        base: folder that a relative weights path is relative to; taken as it stands where there is no such file.
    """
    arguments = dict(data)
    kind = arguments.pop("type")
    if arguments.get("weights"):
        path = Path(arguments["weights"])
        arguments["weights"] = base / path if base is not None and (base / path).exists() else path
    if arguments.get("network"):
        network = dict(arguments["network"])
        arguments["network"] = Spec(_ARCH_KIND, network.pop("type"), network)
    return DESCRIPTORS.get(kind)(**arguments)
