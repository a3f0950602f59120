"""How many channels a network takes and gives, as its arguments say in the words of different projects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tgsr.config.bind import signature_of

INPUT_CHANNELS = ("num_in_ch", "in_chans", "inp_channels", "in_channels", "in_nc", "input_nc", "n_colors")
OUTPUT_CHANNELS = ("num_out_ch", "out_chans", "out_channels", "out_nc", "output_nc")


def channels_of(entry: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Input and output channels of a network; 3 where nothing tells, the input's where the output's is not said.

    Args:
        entry: registered class or function.
        arguments: of its constructor, defaults left out.
    """
    known = {name: parameter.default for name, parameter in signature_of(entry).parameters.items()}
    known.update(arguments)

    def first(names: tuple[str, ...]) -> int | None:
        values = (known.get(name) for name in names)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)

    inputs = first(INPUT_CHANNELS) or 3
    return inputs, first(OUTPUT_CHANNELS) or inputs
