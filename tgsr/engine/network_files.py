"""Which network a file of weights holds: found out, loaded, and exported for other programs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tgsr.archs import ARCHS
from tgsr.archs.base import RestorationNetwork
from tgsr.archs.identify import identify
from tgsr.config.channels import channels_of
from tgsr.config.yaml_loader import load_yaml, to_builtin
from tgsr.models.export import (
    NetworkInfo,
    OnnxReport,
    export_onnx,
    export_safetensors,
    model_card,
    read_info,
    read_safetensors,
)
from tgsr.models.weights import load_into, load_state
from tgsr.models.zoo import ZOO, resolve
from tgsr.utils.errors import CheckpointError, ConfigError, UserError
from tgsr.utils.files import file_digest, read_json, write_atomic

logger = logging.getLogger("tgsr")

_FORMATS = (".safetensors", ".onnx")
_MOST_WEIGHTS = 20_000
"""Tensors of one network."""
_SHOWN_SETTINGS = ("num_feat", "num_block", "num_conv", "embed_dim", "dim", "depths", "num_blocks", "window_size")


class _TooLarge(BaseException):
    """Ends the construction of a network whose description cannot be right."""


@dataclass(frozen=True)
class NetworkDescription:
    """Which network a weights file belongs to.

    Attributes:
        type: registered name.
        arguments: of its constructor.
        scale: output size divided by input size; None: as the network says.
        source: where this was found, for messages.
        name: of the run that made the weights, where known.
        param_key: entry of the container to load.
        info: what the weights' own header says, where they have one.
    """

    type: str
    arguments: Mapping[str, Any]
    scale: int | None
    source: str
    name: str = ""
    param_key: str = "auto"
    info: NetworkInfo | None = field(default=None, repr=False)


def describe_weights(weights: Path, option_file: Path | None = None) -> NetworkDescription:
    """Find out which network the weights need.

    Looked up in this order: the option file, the header of a safetensors file that we wrote, the option file of the
    experiment that the weights lie in (`experiments/<name>/models/x.pth`), the shapes of the weights. What shapes do
    not tell comes from the table of published weights, for files that are called like one of them.

    Raises:
        UserError: nothing tells; or the file is not a generator's.
    """
    if option_file is not None:
        from tgsr.config.options import load_options

        options = load_options(option_file)
        if options.network_g is None:
            raise UserError("the option file names no network", place=f"{option_file}: network_g")
        return NetworkDescription(
            options.network_g.type,
            dict(options.network_g.kwargs),
            options.scale,
            str(option_file),
            name=options.name,
            param_key=options.path.param_key_g,
        )
    if weights.suffix == ".safetensors" and (info := read_info(weights)) is not None:
        return NetworkDescription(
            info.network, info.arguments, info.scale, f"header of {weights}", name=info.name, info=info
        )
    plain = _options_beside(weights)
    if plain is not None:
        network = dict(plain["network_g"])
        return NetworkDescription(network.pop("type"), network, plain["scale"], plain["name"], name=plain["name"])
    return _identified(weights)


def _options_beside(weights: Path) -> dict[str, Any] | None:
    """The option file of the experiment, as run: complete and already checked; None where there is none.

    It came with the weights, perhaps from elsewhere, so it is read as data: what it would import is not imported.
    """
    folder = weights.resolve().parent.parent
    file = folder / f"{folder.name}.yml"
    if not file.is_file():
        return None
    try:
        plain = to_builtin(load_yaml(file))
    except ConfigError as error:
        logger.warning("%s; going on without it", error)
        return None
    network = plain.get("network_g")
    wanted = ((plain.get("scale"), int), (plain.get("name"), str), (network, dict))
    if not all(isinstance(value, kind) for value, kind in wanted) or not isinstance(network.get("type"), str):
        logger.warning("%s: no option file as run (name, scale, network_g with its type); going on without it", file)
        return None
    if plain.get("import_modules") and network["type"] not in ARCHS:
        raise UserError(
            f"the network {network['type']} needs modules that {file} names; files beside weights are not trusted, so "
            "nothing was imported",
            place=str(weights),
            remedy=f"if you trust them: -opt {file}",
        )
    return plain


def _identified(weights: Path) -> NetworkDescription:
    state = load_state(weights)
    found = identify({k: tuple(v.shape) for k, v in state.items()})
    if found is None:
        shown = ", ".join(f"{k} {'x'.join(map(str, v.shape))}" for k, v in list(state.items())[:2])
        raise UserError(
            f"nothing says which network these weights belong to ({len(state)} weights: {shown}, ...)",
            place=str(weights),
            remedy="give the option file they were trained with: -opt FILE.yml",
        )
    name, settings = found
    published = ZOO.get(weights.stem)
    if published is not None and published.network == name:
        settings = {**published.settings, **settings}
    if "Discriminator" in name:
        raise UserError(
            f"these are the weights of a discriminator ({name})", place=str(weights), remedy="give the generator's"
        )
    shown = ", ".join(f"{k} {settings[k]}" for k in _SHOWN_SETTINGS if k in settings)
    logger.info("%s: by the shapes of its weights it is %s (%s)", weights.name, name, shown)
    return NetworkDescription(name, settings, None, f"shapes of {weights}")


def load_network(
    weights: Path, device: torch.device, *, option_file: Path | None = None, key: str | None = None
) -> tuple[nn.Module, int]:
    """The network with its weights on the device, in eval mode, and its scale.

    Args:
        weights: any file that `load_into` takes.
        device: for the network.
        option_file: see `describe_weights`.
        key: entry of the file to load; None: as the option file says, else the averaged weights where there are any.
    """
    net, scale, _ = _load(weights, device, option_file, key)
    return net, scale


def _load(
    weights: Path, device: torch.device, option_file: Path | None, key: str | None = None
) -> tuple[nn.Module, int, NetworkDescription]:
    weights = resolve(weights)
    description = describe_weights(weights, option_file)
    net = _build(description, weights)
    net.input_channels, outputs = channels_of(ARCHS.get(description.type), description.arguments)
    if (net.input_channels, outputs) not in ((3, 3), (1, 1)):
        raise UserError(
            f"this {description.type} makes {outputs} channels of {net.input_channels}",
            place=str(weights),
            remedy="images have 3 channels (RGB) or 1 (grey)",
        )
    own = net.scale if isinstance(net, RestorationNetwork) else None
    scale = description.scale if description.scale is not None else own or 1
    if own is not None and own != scale:
        raise UserError(
            f"scale is {scale}, but this {description.type} enlarges by {own}",
            place=description.source,
            remedy="make scale and network_g agree",
        )
    load_into(net, weights, key=key or description.param_key)
    return net.to(device).eval(), scale, description


def _build(description: NetworkDescription, weights: Path) -> nn.Module:
    """The described network, unless it is far larger than the file, or nonsense."""
    kind = ARCHS.get(description.type)
    size = weights.stat().st_size
    problem = ""

    def count(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        nonlocal num, elements
        num, elements = num + 1, elements + (0 if param is None else param.numel())
        if elements > size or num > _MOST_WEIGHTS:  # a file has a byte at least for every element
            raise _TooLarge

    num = elements = 0
    hook = register_module_parameter_registration_hook(count)
    try:
        return kind(**description.arguments)
    except UserError:
        raise
    except _TooLarge:
        problem = f"a network larger than its file of {size:,} bytes"
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        problem = f"no network ({' '.join(str(error).split())[:150]})"
    finally:
        hook.remove()
    raise CheckpointError(f"{description.type} with these arguments is {problem}", place=description.source)


def export_network(
    weights: Path,
    outputs: Sequence[Path],
    *,
    option_file: Path | None = None,
    name: str | None = None,
    metrics_file: Path | None = None,
    onnx_size: tuple[int, int] = (64, 64),
) -> Path:
    """Write trained weights for other programs, checked, with a model card beside them.

    Args:
        weights: any file that inference takes; its EMA weights are exported where there are any.
        outputs: files to write, `.safetensors` or `.onnx`.
        option_file: see `describe_weights`.
        name: on the card; None: of the run, or of the weights.
        metrics_file: `metrics.json` whose numbers go on the card; None: that of the run, where it is of these weights.
        onnx_size: height and width to trace ONNX with.

    Returns:
        The card, `<first output>.md`.
    """
    for path in outputs:
        if path.suffix not in _FORMATS:
            raise UserError(f"cannot export as '{path.suffix}'", place=str(path), remedy="use .safetensors or .onnx")
    net, scale, description = _load(weights, torch.device("cpu"), option_file)
    info = _info(weights, description, scale, name, metrics_file)
    report: OnnxReport | None = None
    files: dict[str, str] = {}
    for path in outputs:
        if path.suffix == ".onnx":
            report = export_onnx(net, path, num_channels=input_channels(net), size=onnx_size)
            files[path.name] = "ONNX, input `lq`, output `sr`"
        else:
            export_safetensors(path, net.state_dict(), info)
            _check_copy(path, net)
            files[path.name] = "weights, with network and settings in the header"
        logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)
    card = outputs[0].with_suffix(".md")
    text = model_card(info, files=files, onnx=report)
    write_atomic(card, lambda file: file.write(text.encode()))
    return card


def _info(
    weights: Path, description: NetworkDescription, scale: int, name: str | None, metrics_file: Path | None
) -> NetworkInfo:
    content = read_json(metrics_file) if metrics_file is not None else _metrics_of(weights)
    known = description.info
    metrics = _flat_metrics(content) or dict(known.metrics if known else {})
    return NetworkInfo(
        description.type,
        dict(description.arguments),
        scale,
        name=name or description.name or weights.stem,
        options_hash=str(content.get("options", "")) or (known.options_hash if known else ""),
        metrics=metrics,
        notes=known.notes if known else {},
    )


def _metrics_of(weights: Path) -> dict[str, Any]:
    """The run's `metrics.json` if its numbers are of these very weights, else nothing."""
    plain = _options_beside(weights)
    if plain is None:
        return {}
    file = Path(plain.get("path", {}).get("results_root", "results")) / plain["name"] / "metrics.json"
    if not file.exists():
        return {}
    content = read_json(file)
    if "weights_digest" in content:
        return content if content["weights_digest"] == file_digest(weights) else {}
    return content if Path(content.get("weights", "")).resolve() == weights.resolve() else {}


def _flat_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """`Set5/psnr (Y, crop 4, 8-bit)` -> value: a number never stands without its protocol."""
    return {
        f"{dataset}/{metric} ({value['protocol']})": value["mean"]
        for dataset, entry in content.get("datasets", {}).items()
        for metric, value in entry["metrics"].items()
    }


def input_channels(net: nn.Module) -> int:
    """Channels that a loaded network takes: 3, or 1 for grey images and luma."""
    return int(getattr(net, "input_channels", 3))


def _check_copy(path: Path, net: nn.Module) -> None:
    copied, _ = read_safetensors(path)
    if any(not torch.equal(copied[k], v) for k, v in net.state_dict().items()):
        raise CheckpointError("the written weights differ from the network's", place=str(path))
