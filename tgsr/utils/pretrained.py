"""Weights that have to be downloaded: from a given path, the torch.hub cache, or the network, in that order."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path

import torch

from tgsr.utils.errors import UserError

TORCHVISION = "https://download.pytorch.org/models/"
ADDRESSES = {
    "vgg11": TORCHVISION + "vgg11-8a719046.pth",
    "vgg13": TORCHVISION + "vgg13-19584684.pth",
    "vgg16": TORCHVISION + "vgg16-397923af.pth",
    "vgg19": TORCHVISION + "vgg19-dcbb9e9d.pth",
    "vgg11_bn": TORCHVISION + "vgg11_bn-6002323d.pth",
    "vgg13_bn": TORCHVISION + "vgg13_bn-abd245e5.pth",
    "vgg16_bn": TORCHVISION + "vgg16_bn-6c64b313.pth",
    "vgg19_bn": TORCHVISION + "vgg19_bn-c79401a0.pth",
    "alexnet": TORCHVISION + "alexnet-owt-7be5be79.pth",
    "squeezenet1_1": TORCHVISION + "squeezenet1_1-b8a52dc0.pth",
}
"""Networks by torchvision's names; the end of a file's name begins its SHA-256."""


def find_weights(name_or_address: str, *, path: Path | str | None = None, download: bool = True) -> Path:
    """The file with the weights of a network.

    Args:
        name_or_address: key of `ADDRESSES`, or an https address.
        path: the file, where the user has given one; nothing else is looked at then.
        download: fetch it into the torch.hub cache when it is not there.

    Raises:
        UserError: there is no such file, and it cannot be fetched; says from where and to where to copy it by hand.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UserError("no such file", place=str(path), remedy="correct the path of the weights")
        return Path(path)
    address = ADDRESSES.get(name_or_address, name_or_address)
    file = Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[-1]
    if not file.is_file():
        remedy = f"download {address} elsewhere and put it at {file}, or give its path"
        if not download:
            raise UserError(f"the weights of {name_or_address} are not here", remedy=remedy)
        _download(address, file, remedy=remedy)
    return file


def load_pretrained(name_or_address: str, *, path: Path | str | None = None) -> dict[str, torch.Tensor]:
    """The state dict in the file of `find_weights`, on the CPU.

    Raises:
        UserError: it is absent and cannot be fetched, or is damaged.
    """
    file = find_weights(name_or_address, path=path)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        problem = f"damaged or not a file of weights: {str(error).partition(chr(10))[0] or type(error).__name__}"
        raise UserError(problem, place=str(file), remedy="delete it and get it again") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"not the state dict of {name_or_address}", place=str(file), remedy="get torchvision's file")
    return state


def _download(address: str, file: Path, *, remedy: str) -> None:
    """Fetch a file; torch writes it beside its place and renames it when whole and its hash is right."""
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(file), hash_prefix=match and match[1], progress=False)
    except (OSError, RuntimeError, ValueError) as error:  # no network, a wrong hash, no address at all
        raise UserError(f"{address} cannot be downloaded: {error}", remedy=remedy) from None
