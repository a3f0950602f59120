"""Networks, one per file, and adapters to libraries that already have them."""

from tgsr.utils.registry import Registry

ARCHS = Registry("network", package="tgsr.archs")
