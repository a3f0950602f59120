"""Other projects' names for the same weights: old ESRGAN and SRResNet, KAIR, wrappers' prefixes -> BasicSR's names."""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPUTED = re.compile(r"(^|\.)(attn_mask|relative_position_index\w*|relative_coords_table|n_averaged|num_updates)$")
"""Buffers that a network computes for itself (the first two differ with SwinIR's training size), and counters of
averages: what a file says of them is no weight."""

WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile

_OLD_NAMES = (
    (re.compile(r"^(?:RRDB|recon)_trunk\.(\d+)\."), r"body.\1."),
    (re.compile(r"^(body\.\d+\.)RDB(\d)\."), r"\1rdb\2."),
    (re.compile(r"^trunk_conv\."), "conv_body."),
    (re.compile(r"^HRconv\."), "conv_hr."),
)
_OLD_ESRGAN_UPCONV = re.compile(r"^upconv(\d)\.")
_SEQUENTIAL_RRDB = re.compile(r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(\w+)$")
_SEQUENTIAL_TRUNK_END = re.compile(r"^model\.1\.sub\.(\d+)\.(\w+)$")
_SEQUENTIAL_HEAD = {"0": "conv_first", "3": "conv_up1", "6": "conv_up2", "8": "conv_hr", "10": "conv_last"}


def strip_wrappers(key: str) -> str:
    """The key without what wrapping modules put in front of it."""
    while key.startswith(WRAPPERS):
        key = key.split(".", 1)[1]
    return key


def basicsr_names(keys: Iterable[str]) -> dict[str, str]:
    """Map each key to BasicSR's name for the same weight; keys of unknown layouts map to themselves.

    Understood: the first ESRGAN release (`model.1.sub.0.RDB1.conv1.0`), MMSR, BSRGAN and KAIR RRDB networks
    (`RRDB_trunk`, `trunk_conv`, `upconv1`, `HRconv`), and MMSR and KAIR residual networks (`recon_trunk`).
    """
    keys = list(keys)
    if any(_SEQUENTIAL_RRDB.match(k) for k in keys) and any(k.startswith("model.10.") for k in keys):
        return {k: _sequential_name(k) for k in keys}
    is_rrdb = any(k.startswith("RRDB_trunk.") for k in keys)
    names = {}
    for key in keys:
        new = key
        for pattern, replacement in _OLD_NAMES:
            new = pattern.sub(replacement, new)
        if is_rrdb:  # a residual network keeps `upconv`
            new = _OLD_ESRGAN_UPCONV.sub(r"conv_up\1.", new)
        names[key] = new
    return names


def _sequential_name(key: str) -> str:
    if match := _SEQUENTIAL_RRDB.match(key):
        block, dense, conv, kind = match.groups()
        return f"body.{block}.rdb{dense}.conv{conv}.{kind}"
    if match := _SEQUENTIAL_TRUNK_END.match(key):
        return f"conv_body.{match.group(2)}"
    parts = key.split(".")
    if len(parts) == 3 and parts[0] == "model" and parts[1] in _SEQUENTIAL_HEAD:
        return f"{_SEQUENTIAL_HEAD[parts[1]]}.{parts[2]}"
    return key
