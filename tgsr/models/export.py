"""Trained networks for other programs: safetensors to rebuild them from, ONNX with a numerical check, a model card."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.describe import describe
from tgsr.utils.errors import CheckpointError, UserError
from tgsr.utils.files import to_json, write_atomic

logger = logging.getLogger("tgsr")
T = TypeVar("T")

_FORMAT = "tgsr-network-1"
_GET_ONNX = "pip install -e '.[onnx]'"


@dataclass(frozen=True)
class NetworkInfo:
    """What a file of weights must say so that somebody else can use it.

    Attributes:
        network: registered name.
        arguments: its constructor arguments.
        scale: output size divided by input size.
        name: the experiment.
        options_hash: of the options it was trained with.
        metrics: `set/metric` -> value.
        notes: anything else, e.g. the tasks it was trained on.
    """

    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scale: int = 1
    name: str = ""
    options_hash: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network, with fresh weights."""
        return ARCHS.get(self.network)(**self.arguments)


def export_safetensors(path: Path | str, state: Mapping[str, Tensor], info: NetworkInfo) -> None:
    """Write weights and `info` to one `.safetensors` file, whole or not at all.

    Args:
        path: the file.
        state: state dict; its names are kept.
        info: stored in the file's header.
    """
    save = _safetensors(path).torch.save
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    content = save(tensors, metadata={"format": "pt", "tgsr": _FORMAT, "info": to_json(asdict(info))})
    write_atomic(path, lambda file: file.write(content))


def read_safetensors(path: Path | str) -> tuple[dict[str, Tensor], NetworkInfo]:
    """Weights and info of a file that `export_safetensors` wrote.

    Raises:
        CheckpointError: absent, damaged, or without our header.
    """

    def read(file: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        names = file.keys()  # safe_open is no mapping
        return {key: file.get_tensor(key) for key in names}, file.metadata() or {}

    state, metadata = _open_safetensors(path, read)
    if metadata.get("tgsr") != _FORMAT:
        raise CheckpointError(
            "has weights but does not say which network they are for",
            place=str(path),
            remedy="name the network in an option file and give this file as path.pretrain_network_g",
        )
    return state, _info(metadata, path)


def read_info(path: Path | str) -> NetworkInfo | None:
    """What `export_safetensors` wrote into the header of a file; None for a file from elsewhere.

    Raises:
        CheckpointError: absent or damaged.
    """
    metadata = _open_safetensors(path, lambda file: file.metadata() or {})
    return _info(metadata, path) if metadata.get("tgsr") == _FORMAT else None


def _info(metadata: Mapping[str, str], path: Path | str) -> NetworkInfo:
    """The header's entry, whatever is in it."""
    try:
        info = NetworkInfo(**json.loads(metadata["info"]))
        if not isinstance(info.network, str) or not isinstance(info.scale, int) or info.scale < 1:
            raise ValueError("network or scale")
        dict(info.arguments), dict(info.metrics), dict(info.notes)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"its header does not describe a network ({error})", place=str(path)) from None
    return info


def network_from_file(path: Path | str) -> tuple[nn.Module, NetworkInfo]:
    """The trained network of a file that `export_safetensors` wrote, in eval mode."""
    state, info = read_safetensors(path)
    net = info.build()
    net.load_state_dict(state)
    return net.eval(), info


@dataclass(frozen=True)
class OnnxReport:
    """What an exported ONNX file can do.

    Attributes:
        is_dynamic: any height and width (multiples of `size_multiple`), or only `size`.
        size: height and width it was traced with.
        size_multiple: of height and width.
        max_difference: to PyTorch on random images, all checked sizes; None: not checked.
    """

    is_dynamic: bool
    size: tuple[int, int]
    size_multiple: int
    max_difference: float | None


def export_onnx(
    net: nn.Module,
    path: Path | str,
    *,
    num_channels: int = 3,
    size: tuple[int, int] = (64, 64),
    dynamic: bool = True,
    check: bool = True,
    tolerance: float = 1e-4,
    opset: int = 17,
) -> OnnxReport:
    """Write a network as ONNX (input `lq`, output `sr`) and compare it with PyTorch.

    Windowed attention bakes the image's size into the graph. The check notices that at a second size, and the file is
    then written for `size` alone.

    Args:
        net: on the CPU, left in the mode it was in.
        path: the file.
        num_channels: of the input.
        size: height and width to trace with; rounded up to the network's multiple.
        dynamic: leave batch, height and width open.
        check: run the file with onnxruntime.
        tolerance: largest accepted difference, relative to the largest output (at least 1).
        opset: ONNX operator set.

    Raises:
        UserError: onnxruntime is missing, or the file's results differ.
    """
    multiple = int(getattr(net, "size_multiple", 1))
    size = tuple(-(-edge // multiple) * multiple for edge in size)
    runtime = _onnxruntime(path) if check else None
    was_training = net.training
    net.eval()
    try:
        content = _to_onnx(net, num_channels, size, dynamic, opset, path)
        difference = None
        if runtime is not None:
            difference = _difference(runtime, content, net, (1, num_channels, *size))
            if dynamic:
                other = (2, num_channels, size[0] + multiple, size[1] + 2 * multiple)
                elsewhere = _difference(runtime, content, net, other)
                if elsewhere <= max(1e-5, 10 * difference):
                    difference = max(difference, elsewhere)
                else:
                    logger.warning("%s: right at %dx%d only; written for this size alone", path, *size)
                    dynamic = False
                    content = _to_onnx(net, num_channels, size, dynamic, opset, path)
    finally:
        net.train(was_training)
    if difference is not None and not difference <= tolerance:
        raise UserError(
            f"ONNX and PyTorch differ by {difference:.2g} (accepted: {tolerance:.2g})",
            place=str(path),
            remedy="nothing was written; try another opset",
        )
    write_atomic(path, lambda file: file.write(content))
    return OnnxReport(dynamic, size, multiple, difference)


def _to_onnx(
    net: nn.Module, num_channels: int, size: tuple[int, int], dynamic: bool, opset: int, path: Path | str
) -> bytes:
    axes = {"lq": {0: "batch", 2: "height", 3: "width"}, "sr": {0: "batch", 2: "sr_height", 3: "sr_width"}}
    buffer = io.BytesIO()
    try:
        importlib.import_module("onnx")  # torch needs it for most networks, and some versions fail without naming it
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns of every size that becomes a constant; the check decides
            torch.onnx.export(
                net,
                (torch.zeros(1, num_channels, *size),),
                buffer,
                input_names=["lq"],
                output_names=["sr"],
                dynamic_axes=axes if dynamic else None,
                opset_version=opset,
                dynamo=False,  # the other exporter needs one more package
            )
    except ImportError as error:
        raise UserError(f"ONNX export needs a package ({error})", place=str(path), remedy=_GET_ONNX) from None
    except torch.onnx.OnnxExporterError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{type(net).__name__} cannot be written as ONNX: {first}", place=str(path)) from None
    return buffer.getvalue()


def _difference(runtime: Any, content: bytes, net: nn.Module, shape: tuple[int, ...]) -> float:
    """Largest difference to PyTorch relative to the largest output; infinite where the file cannot run this shape."""
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # a refused shape is an answer here, not an error
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(x)
    try:
        (found,) = session.run(None, {"lq": x.numpy()})
    except Exception:  # onnxruntime's errors have no common public class
        return float("inf")
    if found.shape != tuple(expected.shape):
        return float("inf")
    return float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max().clamp_min(1))


def _onnxruntime(path: Path | str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError("checking an ONNX file needs onnxruntime", place=str(path), remedy=_GET_ONNX) from None
    return onnxruntime


def _open_safetensors(path: Path | str, read: Callable[[Any], T]) -> T:
    library = _safetensors(path)
    try:
        with library.safe_open(str(path), framework="pt", device="cpu") as file:
            return read(file)
    except FileNotFoundError:
        raise CheckpointError("no such file", place=str(path)) from None
    except (library.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"truncated or not a safetensors file ({error})", place=str(path)) from None


def _safetensors(path: Path | str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(
            "safetensors files need their package", place=str(path), remedy="pip install safetensors"
        ) from None
    return safetensors


def model_card(info: NetworkInfo, *, files: Mapping[str, str] | None = None, onnx: OnnxReport | None = None) -> str:
    """A page of Markdown to lie beside exported weights: network, scale, settings, metrics, how to use.

    Args:
        info: what the weights are.
        files: file name -> what it is.
        onnx: of the ONNX file, where there is one.
    """
    with torch.device("cpu"):
        parameters = describe(info.build()).parameters
    lines = [f"# {info.name or info.network}", ""]
    facts = {"network": info.network, "scale": f"x{info.scale}", "parameters": f"{parameters:,}"}
    if info.options_hash:
        facts["options"] = f"`{info.options_hash}`"
    lines += _table(("", ""), {**facts, **info.notes})
    if info.arguments:
        lines += ["", "## Settings", "", "```yaml", "network_g:", f"  type: {info.network}"]
        lines += [f"  {key}: {json.dumps(value)}" for key, value in json.loads(to_json(dict(info.arguments))).items()]
        lines += ["```"]
    if info.metrics:
        values = {key: f"{value:.4f}" for key, value in info.metrics.items()}
        lines += ["", "## Metrics", "", *_table(("set/metric", "value"), values)]
    if files:
        lines += ["", "## Files", "", *_table(("file", "content"), {f"`{k}`": v for k, v in files.items()})]
    if onnx is not None:
        sizes = f"multiples of {onnx.size_multiple}" if onnx.is_dynamic else "{}x{} only".format(*onnx.size)
        check = "not checked" if onnx.max_difference is None else f"within {onnx.max_difference:.1e} of PyTorch"
        lines += ["", f"ONNX: input `lq`, output `sr`, (B, 3, H, W), RGB in [0, 1]; sizes: {sizes}; {check}."]
    weights = next((name for name in files or {} if name.endswith(".safetensors")), None)
    if weights is not None:
        lines += ["", f"Restore images with `tgsr infer -w {weights} -i FILE_OR_FOLDER -o FOLDER`."]
    lines += ["", "Input and output are RGB in [0, 1]; clip the output before saving it.", ""]
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
