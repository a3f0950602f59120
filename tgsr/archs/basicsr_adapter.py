"""Any network of an installed basicsr by its name (EDSR, RCAN, RIDNet, ECBSR, ...), as a fallback of the table.

basicsr 1.4.2 imports a module that torchvision has removed; this file alone supplies an alias for it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from typing import Any

from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import RestorationNetwork
from tgsr.utils.errors import ConfigError

KNOWN = ("EDSR", "RCAN", "RIDNet", "ECBSR", "DFDNet", "HiFaceGAN", "SPADEGenerator", "StyleGAN2Generator",
         "StyleGAN2Discriminator", "EDVR", "DUF", "TOFlow", "BasicVSR", "IconVSR", "BasicVSRPlusPlus", "SpyNet",
         "VGGFeatureExtractor")  # fmt: skip


def import_basicsr() -> None:
    """Import basicsr's networks; ImportError where it is not installed."""
    alias = "torchvision.transforms.functional_tensor"
    try:
        importlib.import_module(alias)
    except ImportError:
        sys.modules[alias] = importlib.import_module("torchvision.transforms.functional")
    importlib.import_module("basicsr.archs")


def lookup(name: str) -> type[nn.Module] | None:
    """basicsr's network called `name` as a RestorationNetwork, or None."""
    try:
        table = _table()
    except ImportError as error:
        if name in KNOWN:
            raise ConfigError(
                f"the network '{name}' is basicsr's, which cannot be imported ({error})",
                remedy="pip install -e '.[basicsr]' in tgsr's folder, or take a network of tgsr",
            ) from None
        return None
    found = next((table[key] for key in (name, f"{name}_basicsr") if key in table), None)
    return None if found is None else _adapted(found)


def names() -> list[str]:
    """What `lookup` finds; nothing where basicsr cannot be imported."""
    try:
        return [key.removesuffix("_basicsr") for key in _table()]
    except ImportError:
        return []


def _table() -> dict[str, type[nn.Module]]:
    import_basicsr()
    return importlib.import_module("basicsr.utils.registry").ARCH_REGISTRY._obj_map


@functools.cache
def _adapted(library: type[nn.Module]) -> type[nn.Module]:
    """The same class, with the facts that can be told from its arguments and its own signature."""
    signature = inspect.signature(library)

    @functools.wraps(library.__init__)
    def __init__(self: nn.Module, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        library.__init__(self, *args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        names = [name for name in ("upscale", "scale") if name in bound.arguments]
        self.scale = int(bound.arguments[names[0]] or 1) if names else None

    def compute(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return library.forward(self, *args, **kwargs)

    members = {"__init__": __init__, "forward": compute, "compute": compute, "__doc__": library.__doc__}
    return type(library.__name__, (RestorationNetwork, library), members)


ARCHS.add_fallback(lookup, names)
