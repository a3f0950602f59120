"""Single named degradations at equal input and output size (GRIDS, section 5.3), one file each."""

from tgsr.degradations.named.base import NAMED, NamedDegradation, Range
from tgsr.degradations.named.pipeline import (
    GRIDS_DEGRADATIONS,
    NamedMixSpace,
    NamedPipeline,
    NamedSpace,
    named_params_from_json,
    named_params_to_json,
)

__all__ = [
    "GRIDS_DEGRADATIONS",
    "NAMED",
    "NamedDegradation",
    "NamedMixSpace",
    "NamedPipeline",
    "NamedSpace",
    "Range",
    "named_params_from_json",
    "named_params_to_json",
]
