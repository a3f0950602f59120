"""LPIPS (Zhang et al. 2018), with the backbone named, through the authors' `lpips` package."""

from __future__ import annotations

import hashlib
import re
import warnings
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from tgsr.config.spec import NonNegativeInt
from tgsr.metrics.base import METRICS, Metric
from tgsr.metrics.images import check_images, crop, to_8bit, too_small
from tgsr.utils.errors import UserError
from tgsr.utils.pretrained import load_pretrained

BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
SMALLEST = 32


@METRICS.register()
class LPIPS(Metric):
    """Learned perceptual distance of 8-bit RGB images. The papers differ in backbone: TGSR vgg, Cria-CL alex.

    Args:
        net: backbone.
        crop_border: pixels left out on each side (0 in the papers).
        pretrained: False: a random backbone of fixed seed, for tests only.
        weights: file with torchvision's weights of the backbone; None: the torch.hub cache or the network.
    """

    higher_is_better = False
    is_network = True

    def __init__(
        self,
        *,
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        crop_border: NonNegativeInt = 0,
        pretrained: bool = True,
        weights: Path | None = None,
    ) -> None:
        self.crop_border = crop_border
        self.protocol = f"LPIPS 0.1 {net}, RGB, crop {crop_border}, 8-bit"
        if not pretrained:
            self.protocol += ", random backbone: not a quality measure"
        self._net = load_lpips(net, pretrained=pretrained, weights=weights)
        self._device = torch.device("cpu")

    @cached_property
    def identity(self) -> str:
        """Its weights may come from any file."""
        weights = hashlib.blake2b(digest_size=8)
        for tensor in self._net.state_dict().values():
            weights.update(tensor.cpu().contiguous().numpy().tobytes())
        return f"{super().identity} {weights.hexdigest()}"

    def too_small(self, height: int, width: int) -> str:
        return too_small(height, width, self.crop_border, SMALLEST)

    @torch.no_grad()
    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None) -> float:
        assert gt is not None, "LPIPS needs the ground truth"
        check_images(restored, gt)
        if restored.device != self._device:
            self._net, self._device = self._net.to(restored.device), restored.device
        pair = [
            to_8bit(crop(image, self.crop_border, smallest=SMALLEST)).div_(127.5).sub_(1) for image in (restored, gt)
        ]
        with torch.autocast(restored.device.type, enabled=False):
            restored, gt = (image.expand(3, -1, -1)[None] for image in pair)
            return self._net(restored, gt.to(self._device)).item()


def load_lpips(net: str, *, pretrained: bool = True, weights: Path | None = None) -> nn.Module:
    """The `lpips` network, frozen, in eval mode; its backbone's weights come through `tgsr.utils.pretrained`."""
    import lpips

    state = load_pretrained(BACKBONES[net], path=weights) if pretrained else None
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchvision's about the arguments that lpips passes
        torch.manual_seed(0)
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    if state is not None:
        try:
            own = model.net.state_dict()
            model.net.load_state_dict({key: state[re.sub(r"^slice\d+", "features", key)] for key in own})
        except (KeyError, RuntimeError) as error:
            problem = f"the weights do not fit {BACKBONES[net]}: {error}"
            raise UserError(problem, place=str(weights or ""), remedy="get torchvision's") from None
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)
