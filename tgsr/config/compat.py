"""The one place that knows legacy names and keys: option files of BasicSR and its descendants -> ours."""

from __future__ import annotations

from tgsr.config.yaml_loader import PlacedDict


def translate(data: PlacedDict) -> list[str]:
    """Rewrite legacy data in place; returns one line for every key that is understood but has no effect here."""
    return []
