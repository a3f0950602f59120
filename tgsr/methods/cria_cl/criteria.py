"""Criteria as tensors (equation 5): how far an image is from its target, pixel by pixel, each under a name.

A criterion returns a map `(B, 1, H, W)` on the output's grid or `(B,)`; which of them is the anchor, a positive or a
negative is the option file's business: `{type: pixel, norm: l2}`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.config.spec import Kind, Range, Spec
from tgsr.losses.base import LossContext
from tgsr.losses.gan import GANLoss
from tgsr.losses.perceptual import VGG, VGGFeatures
from tgsr.losses.structure import ssim_map
from tgsr.models.weights import load_into
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.registry import Registry

CRITERIA = Registry("criterion")
CRITERION = Kind("tgsr.methods.cria_cl.criteria:CRITERIA")
CriterionSpec = Annotated[Spec, CRITERION]
NetworkSpec = Annotated[Spec, Kind("tgsr.archs:ARCHS")]
Scale = Annotated[float, Range(0)]
ImageName = Literal["sr", "align", "unif", "out1", "out2"]
"""What the networks return; `out1` and `out2` only the released form."""


class Criterion(nn.Module, ABC):
    """One criterion.

    Args:
        weight: factor that brings it to the scale of the others.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    @abstractmethod
    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        """`(B, 1, h, w)` or `(B,)`, 0 where the image is as it should be; unweighted."""

    def forward(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        """`(B, 1, H, W)` or `(B,)` in fp32, with gradient to `image`.

        Args:
            image: `(B, 3, H, W)`, RGB.
            target: the same size.
            context: of the training step.
        """
        value = self.weight * self.measure(image, target, context).float()
        if value.dim() == 4 and value.shape[-2:] != image.shape[-2:]:
            value = F.interpolate(value, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return value


@CRITERIA.register("pixel")
class PixelCriterion(Criterion):
    """C_pix: mean over channels of the absolute or squared difference.

    Args:
        norm: `l1` (the paper's model details) or `l2` (its equation 8 and text).
        weight: factor.
    """

    def __init__(self, *, norm: Literal["l1", "l2"] = "l1", weight: Scale = 1.0) -> None:
        super().__init__(weight=weight)
        self.norm = norm

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        difference = image.float() - target.float()
        difference = difference.abs() if self.norm == "l1" else difference.square()
        return difference.mean(1, keepdim=True)


@CRITERIA.register("ssim")
class SSIMCriterion(Criterion):
    """C_ssim: 1 - SSIM in every pixel, mean over channels; the image is mirrored at its border.

    Args:
        weight: factor.
    """

    def __init__(self, *, weight: Scale = 1.0) -> None:
        super().__init__(weight=weight)

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        return 1 - ssim_map(image, target, padding="reflect").mean(1, keepdim=True)


class _PerceptualCriterion(Criterion):
    """Mean over channels of the absolute difference of one VGG layer.

    Args:
        layer: name as in `vgg_layer_names`.
        vgg_type: which network.
        pretrained: ImageNet weights; False: random ones, for tests only.
        weights: file with torchvision's weights; None: the torch.hub cache or the network.
        weight: factor.
    """

    def __init__(self, *, layer: str, vgg_type: VGG, pretrained: bool, weights: Path | None, weight: float) -> None:
        super().__init__(weight=weight)
        self.layer = layer
        try:
            self.vgg = VGGFeatures([layer], vgg_type=vgg_type, pretrained=pretrained, weights=weights)
        except ConfigError:
            raise
        except UserError as error:
            raise UserError(
                f"the perceptual criterion ({vgg_type} {layer}) has no weights: {error}",
                remedy="or take other criteria: {type: features} needs no downloaded weights",
            ) from None

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        with torch.no_grad():
            wanted = self.vgg(target)[self.layer].float()
        return (self.vgg(image)[self.layer].float() - wanted).abs().mean(1, keepdim=True)


@CRITERIA.register("perceptual_bottom")
class PerceptualBottomCriterion(_PerceptualCriterion):
    """C_perc^B: features of a bottom layer of VGG, close to pixel similarity.

    Args:
        layer: name as in `vgg_layer_names`; the paper names none.
        vgg_type: which network.
        pretrained: ImageNet weights; False: random ones, for tests only.
        weights: file with torchvision's weights; None: the torch.hub cache or the network.
        weight: factor.
    """

    def __init__(
        self,
        *,
        layer: str = "conv2_2",
        vgg_type: VGG = "vgg19",
        pretrained: bool = True,
        weights: Path | None = None,
        weight: Scale = 1.0,
    ) -> None:
        super().__init__(layer=layer, vgg_type=vgg_type, pretrained=pretrained, weights=weights, weight=weight)


@CRITERIA.register("perceptual_top")
class PerceptualTopCriterion(_PerceptualCriterion):
    """C_perc^T: features of a top layer of VGG, before its ReLU as in ESRGAN.

    Args:
        layer: name as in `vgg_layer_names`; the paper names none.
        vgg_type: which network.
        pretrained: ImageNet weights; False: random ones, for tests only.
        weights: file with torchvision's weights; None: the torch.hub cache or the network.
        weight: factor.
    """

    def __init__(
        self,
        *,
        layer: str = "conv5_4",
        vgg_type: VGG = "vgg19",
        pretrained: bool = True,
        weights: Path | None = None,
        weight: Scale = 1.0,
    ) -> None:
        super().__init__(layer=layer, vgg_type=vgg_type, pretrained=pretrained, weights=weights, weight=weight)


@CRITERIA.register("features")
class FeatureCriterion(Criterion):
    """Mean over channels of the absolute difference of one layer of any network, frozen as it is.

    A perceptual criterion without downloaded weights: the network is one that was trained here, for example an
    earlier run's discriminator.

    Args:
        network: which one; None: the run's own discriminator as it is at this step (feature matching).
        layer: dotted name of the module whose output is compared.
        weights: its weights; None: random ones of a fixed seed, for tests only.
        relative: divided by the mean absolute feature of the target, sample by sample: a scale that does not depend
            on the network, near that of the other criteria.
        weight: factor.
    """

    def __init__(
        self,
        *,
        layer: str,
        network: NetworkSpec | None = None,
        weights: Path | None = None,
        relative: bool = True,
        weight: Scale = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.layer, self.relative, self.network = layer, relative, None
        if network is None and weights is not None:
            raise ConfigError("weights without a network", place="criterion features", remedy="name the network")
        if network is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net = network.build()
            if weights is not None:
                load_into(net, weights)
            self.network = net.requires_grad_(False).eval()
            _module(self.network, layer)

    def train(self, mode: bool = True) -> FeatureCriterion:
        return super().train(False)

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        network = self.network if self.network is not None else _discriminator(context, "features")
        with torch.no_grad():
            wanted = _output_of(network, self.layer, target).float()
        distance = (_output_of(network, self.layer, image).float() - wanted).abs().mean(1, keepdim=True)
        return distance / wanted.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-8) if self.relative else distance


def _module(network: nn.Module, layer: str) -> nn.Module:
    modules = dict(network.named_modules())
    if layer not in modules or not layer:
        known = [name for name in modules if name and not list(modules[name].children())]
        listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        raise ConfigError(f"{type(network).__name__} has no layer '{layer}'", remedy=f"its layers: {listed}")
    return modules[layer]


class _ReachedError(Exception):
    """Carries a layer's output out of the network, so that what comes after the layer is not computed."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _output_of(network: nn.Module, layer: str, image: Tensor) -> Tensor:
    """What the module called `layer` returns first while `network` runs on `image`."""

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        raise _ReachedError(output)

    handle = _module(network, layer).register_forward_hook(leave)
    found = None
    try:
        network(image)
    except _ReachedError as reached:
        found = reached.output
    finally:
        handle.remove()
    if not isinstance(found, Tensor) or found.dim() != 4:
        raise ConfigError(f"layer '{layer}' of {type(network).__name__} gives no map (B, C, h, w)")
    return found


@CRITERIA.register("adversarial")
class AdversarialCriterion(Criterion):
    """C_adv: softplus(-D(image)), how sure the discriminator is that the image is none; `(B,)` where D has one logit.

    Args:
        weight: factor.
    """

    def __init__(self, *, weight: Scale = 1.0) -> None:
        super().__init__(weight=weight)

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        logits = _discriminator(context, "adversarial")(image)
        return F.softplus(-as_map(logits, num=len(image)).float())


@CRITERIA.register("ragan")
class RelativisticCriterion(Criterion):
    """ESRGAN's relativistic average criterion of the generator, `(B,)`: how far real images seem more real than these.

    Args:
        weight: factor.
    """

    def __init__(self, *, weight: Scale = 1.0) -> None:
        super().__init__(weight=weight)
        self.game = GANLoss(relativistic=True)

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        discriminator = _discriminator(context, "ragan")
        with torch.no_grad():
            real = discriminator(target)
        return self.game.generator(discriminator(image), real)


@CRITERIA.register("on_image")
class OnImageCriterion(Criterion):
    """A criterion of one certain image of the network, whichever the loss looks at.

    Args:
        image: output of the network.
        criterion: which.
    """

    def __init__(self, *, image: ImageName, criterion: CriterionSpec) -> None:
        super().__init__()
        self.image, self.criterion = image, criterion.build()

    def measure(self, image: Tensor, target: Tensor, context: LossContext) -> Tensor:
        return self.criterion(output_of(context, self.image), target, context)


def output_of(context: LossContext, name: str) -> Tensor:
    """One image of the network; ConfigError when it makes none of that name."""
    if name not in context.outputs:
        raise ConfigError(
            f"the network returns no '{name}' image, only {', '.join(sorted(context.outputs))}",
            place="network_g", remedy="choose CriaCLPaper or CriaCLReleased, or set image: sr",
        )  # fmt: skip
    return context.outputs[name]


def _discriminator(context: LossContext, name: str) -> nn.Module:
    if context.discriminator is None:
        raise ConfigError(
            f"the criterion '{name}' needs a discriminator", place="train.losses",
            remedy="set model: AdversarialModel with network_d, train.gan and train.optim_d",
        )  # fmt: skip
    return context.discriminator


def as_map(logits: Any, *, num: int) -> Tensor:
    """A discriminator's output as `(B, 1, h, w)` or `(B,)`.

    Raises:
        ConfigError: it is neither `(B, 1, h, w)`, `(B, 1)` nor `(B,)`.
    """
    if isinstance(logits, Tensor) and logits.dim() and len(logits) == num:
        if logits.dim() == 4 and logits.shape[1] == 1:
            return logits
        if logits.numel() == num:
            return logits.reshape(num)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise ConfigError(
        f"the discriminator returns {shape} for {num} images; the adversarial criterion takes (B, 1, h, w), (B, 1) "
        "or (B,)",
        place="network_d",
        remedy="choose UNetDiscriminatorSN or VGGStyleDiscriminator, or a discriminator of one scale",
    )


def build_criteria(specs: Sequence[Spec], anchor: Spec, role: str) -> nn.ModuleList:
    """The criteria of one role, after a look at their names.

    Raises:
        ConfigError: none, one twice, or the anchor among them.
    """
    if not specs:
        raise ConfigError(f"there are no {role}", place=anchor.place, remedy=f"name at least one under {role}")
    for i, spec in enumerate(specs):
        if _same(spec, anchor):
            raise ConfigError(
                f"the anchor '{anchor.type}' is also among the {role}", place=spec.place,
                remedy=f"take it off the {role}, or choose another anchor",
            )  # fmt: skip
        if any(_same(spec, other) for other in specs[:i]):
            raise ConfigError(f"'{spec.type}' is twice among the {role}", place=spec.place)
    return nn.ModuleList([spec.build() for spec in specs])


def _same(a: Spec, b: Spec) -> bool:
    """Same criterion up to its weight, defaults filled in."""
    return a.type == b.type and _settings(a) == _settings(b)


def _settings(spec: Spec) -> dict[str, Any]:
    known = inspect.signature(CRITERIA.get(spec.type)).parameters
    return {name: spec.kwargs.get(name, p.default) for name, p in known.items() if name != "weight"}


def criterion(name: str, **kwargs: Any) -> Spec:
    """What an option file's `{type: name, ...}` becomes."""
    return Spec(CRITERION, name, kwargs)
