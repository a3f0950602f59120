"""Inference on files and folders: any image in, a restored one out, one bad file never stops the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from torch import nn

from tgsr.archs import ARCHS
from tgsr.engine.logger import progress
from tgsr.engine.tiling import TiledRestorer
from tgsr.models.precision import Precision, resolve_precision
from tgsr.models.weights import load_into
from tgsr.utils.errors import UserError
from tgsr.utils.image_io import is_image_name, list_images, probe_image, read_image_alpha, save_image
from tgsr.utils.resize import imresize

logger = logging.getLogger("tgsr")


@dataclass(frozen=True)
class NetworkDescription:
    """Which network a weights file belongs to.

    Attributes:
        type: registered name.
        arguments: of its constructor.
        scale: output size divided by input size.
        source: where this was found, for messages.
    """

    type: str
    arguments: dict[str, Any]
    scale: int
    source: str


def describe_weights(weights: Path, option_file: Path | None = None) -> NetworkDescription:
    """Find out which network the weights need.

    Looked up in this order: the option file, the metadata of a safetensors file, the option file of the experiment
    that the weights lie in (`experiments/<name>/models/x.pth`).
    """
    if option_file is None and weights.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(weights), framework="pt") as file:
            metadata = file.metadata() or {}
        if "network" in metadata:
            network = json.loads(metadata["network"])
            return NetworkDescription(
                network.pop("type"), network, int(metadata.get("scale", "1")), f"metadata of {weights}"
            )
    beside = weights.parent.parent / f"{weights.parent.parent.name}.yml"
    found = option_file or (beside if beside.exists() else None)
    if found is None:
        raise UserError(
            "nothing says which network these weights belong to",
            place=str(weights),
            remedy="give the option file they were trained with: -opt FILE.yml",
        )
    if option_file is None:
        plain = yaml.safe_load(found.read_text())  # our own file as run: complete and already checked
        network = dict(plain["network_g"])
        return NetworkDescription(network.pop("type"), network, int(plain["scale"]), str(found))
    from tgsr.config.options import load_options

    options = load_options(option_file)
    if options.network_g is None:
        raise UserError("the option file names no network", place=f"{option_file}: network_g")
    return NetworkDescription(options.network_g.type, dict(options.network_g.kwargs), options.scale, str(option_file))


def load_network(weights: Path, device: torch.device, *, option_file: Path | None = None) -> tuple[nn.Module, int]:
    """The network with its weights on the device, in eval mode, and its scale."""
    if not weights.exists():
        raise UserError("no such file", place=str(weights), remedy="check -w")
    description = describe_weights(weights, option_file)
    net = ARCHS.get(description.type)(**description.arguments)
    load_into(net, weights)
    return net.to(device).eval(), description.scale


@dataclass
class Outcome:
    """What happened to a batch of files."""

    written: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


class ImageRestorer:
    """Restores image arrays of any kind with one network.

    Args:
        net: the network, in eval mode on its device.
        scale: output size divided by input size.
        device: where it is.
        precision: of the forward pass.
        tile: see `TiledRestorer`.
        outscale: wished output size divided by input size; the network's result is resized bicubically.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        scale: int,
        device: torch.device,
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32",
        tile: int | None = None,
        outscale: float | None = None,
    ) -> None:
        self.scale, self.outscale = scale, outscale
        mode = Precision(resolve_precision(precision, device), device)

        @torch.inference_mode()
        def forward(lq: torch.Tensor) -> torch.Tensor:
            with mode.autocast():
                output = net(lq.to(device))
            return (output if isinstance(output, torch.Tensor) else output["sr"]).float()

        self.tiled = TiledRestorer(forward, net, scale=scale, tile=tile)

    def __call__(self, image: np.ndarray, alpha: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Restore one image.

        Args:
            image: `(H, W, 3)` RGB, uint8 or float in [0, 1].
            alpha: `(H, W)` of the same type; enlarged bicubically, which keeps its edges clean.

        Returns:
            `(H', W', 3)` float32 in [0, 1], and the alpha in the same size.
        """
        restored = self.tiled(_tensor(image))
        height, width = image.shape[:2]
        if self.outscale is not None and self.outscale != self.scale:
            size = (round(height * self.outscale), round(width * self.outscale))
            restored = imresize(restored, size=size)
        restored = restored.clamp(0, 1)
        if alpha is not None:
            alpha_out = imresize(_tensor(alpha[..., None]), size=(restored.shape[-2], restored.shape[-1])).clamp(0, 1)
            return _array(restored), _array(alpha_out)[..., 0]
        return _array(restored), None


def _tensor(image: np.ndarray) -> torch.Tensor:
    values = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))[None]


def _array(image: torch.Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def input_files(source: Path) -> list[Path]:
    """The file itself, or all images of a folder."""
    if source.is_dir():
        return list_images(source)
    if not source.exists():
        raise UserError("no such file or folder", place=str(source), remedy="check -i")
    return [source]


def infer_files(
    source: Path,
    output: Path,
    choose: Callable[[np.ndarray], tuple[ImageRestorer, dict[str, Any]]],
    *,
    suffix: str = "",
    extension: str = "auto",
) -> Outcome:
    """Restore a file or a folder; every file that fails is named and the rest goes on.

    Args:
        source: image or folder.
        output: folder to write to; made if absent.
        choose: image -> the restorer for it and what a router says about the choice (empty without one).
        suffix: added to the stem of output names.
        extension: `png`, `jpg`, ...; auto: the input's, PNG for inputs with alpha or 16 bits.

    Returns:
        What was written and what failed. `choices.jsonl` in the output folder holds the router's words.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder cannot be made: {error}", place=str(output)) from error
    outcome = Outcome()
    choices = []
    files = input_files(source)
    root = source if source.is_dir() else source.parent
    for path in progress(files, "inference", is_shown=True):
        try:
            if not is_image_name(path.name):
                raise UserError("not an image file name", place=str(path))
            info = probe_image(path)
            image, alpha = read_image_alpha(path)
            restorer, words = choose(image)
            restored, restored_alpha = restorer(image, alpha)
            kind = _extension(path, extension, deep=image.dtype != np.uint8, alpha=alpha is not None)
            target = (output / path.relative_to(root)).with_name(f"{path.stem}{suffix}{kind}")
            deep = image.dtype != np.uint8 and kind in (".png", ".tif", ".tiff")
            if info.channels == 1:
                restored = restored.mean(2)
            save_image(target, restored, alpha=restored_alpha, bit_depth=16 if deep else 8)
        except (UserError, torch.OutOfMemoryError, MemoryError) as error:
            outcome.failed[path] = str(error).splitlines()[0]
            logger.error("%s", error)
            continue
        outcome.written.append(target)
        if words:
            choices.append({"file": str(path.relative_to(root)), **words})
            logger.info("%s: %s", path.name, words)
    if choices:
        (output / "choices.jsonl").write_text("".join(json.dumps(c) + "\n" for c in choices))
    return outcome


def _extension(path: Path, wished: str, *, deep: bool, alpha: bool) -> str:
    if wished != "auto":
        return f".{wished.lstrip('.')}"
    keeps_alpha = path.suffix.lower() in (".png", ".webp", ".tif", ".tiff")
    keeps_depth = path.suffix.lower() in (".png", ".tif", ".tiff")
    return path.suffix if (keeps_alpha or not alpha) and (keeps_depth or not deep) else ".png"
