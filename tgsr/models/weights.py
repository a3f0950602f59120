"""Network weights from anywhere: found in their container, renamed to fit the network, explained on a mismatch.

Files are read as tensors only (`weights_only=True`), so nothing in them can run.
"""

from __future__ import annotations

import logging
import pickle
import re
import textwrap
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tgsr.archs.identify import identify
from tgsr.models.layouts import COMPUTED, basicsr_names, strip_wrappers
from tgsr.models.zoo import command_for
from tgsr.utils.errors import CheckpointError
from tgsr.utils.files import archive_damage, write_atomic

logger = logging.getLogger("tgsr")

State = dict[str, Tensor]
CONTAINERS = ("params_ema", "params", "state_dict", "model", "net", "generator")
_SHOWN = 3
_LAYER = 5
"""Entries of a single layer, at most (batch norm)."""
_DEPTH = 2
"""Containers inside containers that are looked into."""
_AVERAGE = re.compile(r"(^|[._-])(ema|swa|avg|averaged?|shadow)([._-]|\d*$)", re.IGNORECASE)
_JUDGES = re.compile(r"(^|[._-])(d|net_d|disc|discriminator|critic)([._-]|$)", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|^(state|param_groups|hooks?|loss(es)?|meta|config|args)$")


def load_state(path: Path | str, key: str = "auto", *, rename: bool = True) -> State:
    """Read the weights of one network.

    Args:
        path: `.pth`, `.pt`, `.ckpt` or `.safetensors`.
        key: which entry of the container: `params_ema`, `params`, ..., or auto: the EMA weights where there are any.
        rename: give the weights of old layouts BasicSR's names.

    Returns:
        Name -> tensor on the CPU.

    Raises:
        CheckpointError: absent, damaged, not weights, or without that entry.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        problem, remedy = "ONNX holds a network for inference, not weights to load", "give what it was exported from"
        raise CheckpointError(problem, place=str(path), remedy=f"{remedy} (.pth, .safetensors)")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = {strip_wrappers(k): v for k, v in _unwrap(content, key, path).items() if not COMPUTED.search(k)}
    if rename:
        names = basicsr_names(state)
        state = {names[k]: v for k, v in state.items()}
    return state


def load_into(net: nn.Module, path: Path | str, *, strict: bool = True, key: str = "auto") -> None:
    """Load a file into a network, whichever of the known layouts either of them uses.

    Args:
        net: changed in place; untouched when the weights do not fit.
        path: see `load_state`.
        strict: every weight of the network must be in the file and the reverse. False: what fits by name and shape is
            loaded, the rest is named in the log.
        key: see `load_state`.

    Raises:
        CheckpointError: says what is missing, unexpected or of another shape, and the settings that would fit.
    """
    state = _in_names_of(net, load_state(path, key, rename=False))
    own = {k: v for k, v in net.state_dict().items() if not COMPUTED.search(k)}
    missing = [k for k in own if k not in state]
    unexpected = [k for k in state if k not in own]
    reshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    if strict and (missing or unexpected or reshaped):
        raise _mismatch(net, path, state, missing, unexpected, reshaped)
    fitting = {k: v for k, v in state.items() if k in own and k not in reshaped}
    if own and not fitting:
        raise _mismatch(net, path, state, missing, unexpected, reshaped)
    net.load_state_dict(fitting, strict=False)
    if missing or unexpected or reshaped:
        logger.warning(
            "%s: %d of %d weights of %s loaded; %s",
            path, len(fitting), len(own), type(net).__name__, _differences(own, state, missing, unexpected, reshaped),
        )  # fmt: skip


def save_weights(
    path: Path | str, params: Mapping[str, Tensor], params_ema: Mapping[str, Tensor] | None = None
) -> None:
    """Write BasicSR's container `{'params': ..., 'params_ema': ...}`, whole or not at all.

    Args:
        path: `.pth` file.
        params: the trained weights.
        params_ema: their moving average, where there is one.
    """
    content = {"params": _portable(params)}
    if params_ema is not None:
        content["params_ema"] = _portable(params_ema)
    write_atomic(path, lambda file: torch.save(content, file))


def _portable(state: Mapping[str, Tensor]) -> State:
    """Detached CPU tensors without wrappers' prefixes, each with a storage of its own size."""
    return {strip_wrappers(k): v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}


def _read_torch(path: Path) -> object:
    damage = archive_damage(path) if path.is_file() and zipfile.is_zipfile(path) else ""
    if damage:
        raise _not_a_checkpoint(path, damage)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError("no such file", place=str(path), remedy=command_for(path) or "") from None
    except IsADirectoryError:
        raise CheckpointError("a folder, not a file", place=str(path)) from None
    except pickle.UnpicklingError as error:
        if _holds_code(str(error)):
            raise CheckpointError(
                f"holds Python objects other than tensors ({_offender(str(error))}); nothing of it was executed",
                place=str(path),
                remedy="ask its author for a file of tensors only (a state dict or safetensors)",
            ) from None
        raise _not_a_checkpoint(path, str(error)) from None
    except Exception as error:  # arbitrary bytes make the unpickler raise nearly anything
        raise _not_a_checkpoint(path, str(error) or type(error).__name__) from None


def _holds_code(message: str) -> bool:
    """Whether torch refused an object, as opposed to bytes that are no pickle at all."""
    return any(
        text in message for text in ("GLOBAL", "Unsupported class", "Trying to", "not an allowed", "instantiate")
    )


def _offender(message: str) -> str:
    """The refused class in torch's long message."""
    words = message.replace("`", " ").split()
    for marker in ("GLOBAL", "class", "instantiate"):
        if marker in words[:-1]:
            return words[words.index(marker) + 1].strip(",.:'\"")
    return "an unsafe pickle"


def _not_a_checkpoint(path: Path, text: str) -> CheckpointError:
    size = path.stat().st_size if path.exists() else 0
    text = text.partition("WeightsUnpickler error:")[2] or text
    text = next(iter(text.strip().splitlines()), "")
    text = "unreadable" if "weights_only" in text else textwrap.shorten(text, 120, placeholder=" ...")
    return CheckpointError(
        f"truncated or not a checkpoint ({size:,} bytes; {text})",
        place=str(path),
        remedy="download or copy it again and compare its size",
    )


def _read_safetensors(path: Path) -> State:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            "reading safetensors needs its package", place=str(path), remedy="pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError("no such file", place=str(path)) from None
    except Exception as error:  # SafetensorError, and what a wrong header makes torch raise
        raise _not_a_checkpoint(path, str(error)) from None


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _sets(content: Mapping[object, object], path: str = "", depth: int = 0) -> dict[str, Mapping[str, Tensor]]:
    """All sets of weights in a container, by their dotted path; those of optimisers are none."""
    found: dict[str, Mapping[str, Tensor]] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or _NO_WEIGHTS.search(key):
            continue
        here = f"{path}.{key}" if path else key
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if any(v.ndim > 0 for v in tensors.values()):
            found[here] = tensors
        if depth < _DEPTH:
            found.update(_sets(value, here, depth + 1))
    return found


def _unwrap(content: object, key: str, path: Path) -> Mapping[str, Tensor]:
    """The weights inside a container, or the content itself where it is bare."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, no weights by name", place=str(path))
    if _is_state(content):
        return _of_prefix(content, key, path)
    present = _sets(content)
    bare = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not present and len(bare) > 1:  # weights beside numbers of their training
        return _of_prefix(bare, key, path)
    found = _chosen(present) if key == "auto" else next((k for k in (key, "params") if k in present), None)
    if found is None:
        listed = ", ".join(present) or "none; its entries are " + ", ".join(list(map(str, content))[:8])
        wanted = "weights" if key == "auto" else f"'{key}'"
        raise CheckpointError(f"there are no {wanted}; sets of weights in it: {listed}", place=str(path))
    if key not in ("auto", found):
        logger.info("%s: there is no '%s'; its 'params' are loaded", path, key)
    others = [k for k in present if k != found]
    if key == "auto" and others and (found, others) != ("params_ema", ["params"]):
        logger.info("%s: its '%s' is taken (there are %s, too)", path, found, ", ".join(others))
    return _of_prefix(present[found], "auto", path)


def _chosen(present: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """The generator's averaged weights where any are recognised, else the usual names, else the only set; else None."""
    ours = [k for k in present if not _JUDGES.search(k)] or list(present)
    averaged = [k for k in ours if _AVERAGE.search(k)]
    if averaged:
        return next((k for k in CONTAINERS if k in averaged), averaged[0])
    return next((k for k in CONTAINERS if k in ours), ours[0] if len(ours) == 1 else None)


def _of_prefix(state: Mapping[str, Tensor], key: str, path: Path) -> Mapping[str, Tensor]:
    """Of one mapping that holds a network and its average side by side, by their first word: the average."""
    state = {strip_wrappers(k): v for k, v in state.items()}
    parts: dict[str, State] = {}
    for name, value in state.items():
        head, dot, rest = name.partition(".")
        if dot:
            parts.setdefault(head, {})[rest] = value
    shapes = {h: {n: v.shape for n, v in part.items() if not COMPUTED.search(n)} for h, part in parts.items()}
    others = [shapes[h] for h in parts if not _AVERAGE.search(h) and len(shapes[h]) > _LAYER]
    twins = [h for h in parts if _AVERAGE.search(h) and shapes[h] in others]
    found = key if key in parts else next(iter(twins), None)  # a layer may be called ema, too: it has no twin
    if found is None:
        return state
    logger.info("%s: of its weights those of '%s' are taken", path, found)
    return parts[found]


def _in_names_of(net: nn.Module, state: State) -> State:
    """Rename the file's weights to those of the network, by way of BasicSR's names for both."""
    own = list(net.state_dict())
    if set(own) == set(state):
        return state
    state = _without_owner(own, state)
    net_names = {new: old for old, new in basicsr_names(own).items()}
    file_names = basicsr_names(state)
    return {k if k in own else net_names.get(file_names[k], file_names[k]): v for k, v in state.items()}


def _without_owner(own: list[str], state: State) -> State:
    """Weights of one part of a larger module (`generator.conv_first.weight`): that part alone."""
    known = set(basicsr_names(own).values())
    if any(k in known for k in basicsr_names(state).values()):
        return state
    heads = Counter(k.split(".", 1)[0] for k in state if k.split(".", 1)[-1] in known)
    if not heads:
        return state
    head, hits = heads.most_common(1)[0]
    if hits < len(own) // 2:
        return state
    return {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(f"{head}.")}


def _mismatch(
    net: nn.Module, path: Path | str, state: State, missing: list[str], unexpected: list[str], reshaped: list[str]
) -> CheckpointError:
    own = net.state_dict()
    text = _differences(own, state, missing, unexpected, reshaped)
    return CheckpointError(f"does not fit {type(net).__name__}: {text}", place=str(path), remedy=_remedy(own, state))


def _differences(
    own: Mapping[str, Tensor], state: State, missing: list[str], unexpected: list[str], reshaped: list[str]
) -> str:
    """`2 missing (a, b), 1 of another shape (c: file 64x3x3x3, network 64x12x3x3)`."""

    def shape(tensor: Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "scalar"

    def listed(items: list[str]) -> str:
        return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")

    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({listed(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    if reshaped:
        shapes = [f"{k}: file {shape(state[k])}, network {shape(own[k])}" for k in reshaped]
        parts.append(f"{len(reshaped)} of another shape ({listed(shapes)})")
    return ", ".join(parts)


def _remedy(own: Mapping[str, Tensor], state: State) -> str:
    """The settings that would fit, where the file's shapes tell them."""
    names = basicsr_names(state)
    theirs = identify({names[k]: v.shape for k, v in state.items()})
    if theirs is None:
        return "it belongs to another network"
    ours = identify({k: v.shape for k, v in own.items()})
    network, settings = theirs
    if ours is None or ours[0] != network:
        listed = ", ".join(f"{k}: {v}" for k, v in settings.items())
        return f"the file holds a network like {network} with {listed}"
    changed = [f"{k}: {v} (now {ours[1].get(k)})" for k, v in settings.items() if v != ours[1].get(k)]
    if not changed:
        return f"it looks like another variant of {network}"
    return f"it would fit {network} with " + ", ".join(changed)
