"""Table VII: seconds per frame, parameters and multiply-adds of networks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from tgsr.archs.describe import describe
from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.cria_cl.criteria import NetworkSpec
from tgsr.models.precision import Precision, resolve_precision
from tgsr.report.builder import Report
from tgsr.report.tables import Number
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.printed import find_table
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError


@torch.inference_mode()
def seconds_per_frame(
    net: nn.Module, height: int, width: int, *, precision: Precision, num_warmup: int = 3, num_frames: int = 10
) -> list[float]:
    """Time of each of `num_frames` single images.

    Args:
        net: in eval mode on the device of `precision`.
        height, width: of the input.
        num_warmup: images before the first one that counts.
    """
    device = precision.device
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    times = []
    for _ in range(num_warmup + num_frames):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        with precision.autocast():
            net(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return times[num_warmup:]


@dataclass(frozen=True, kw_only=True)
class Efficiency(Artefact):
    """An `efficiency.json`.

    Attributes:
        device: what it was timed on.
        precision: of the networks.
        input_size: height and width, px.
        networks: label -> `seconds` (median), `times`, `parameters`, `macs` (multiply-adds; older files: none).
    """

    schema: ClassVar[str] = "tgsr.cria_efficiency"
    made_by: ClassVar[str] = "CriaEfficiency"

    device: str
    precision: str
    input_size: list[int]
    networks: Mapping[str, Mapping[str, Any]]


@RUNNERS.register()
class CriaEfficiency(Stage):
    """Seconds per frame (median), parameters and multiply-adds -> `efficiency.json` and a report.

    Weights do not matter, so the networks keep their random ones.

    Args:
        networks: label -> network; labels of the paper's table get its values beside them.
        input_size: height and width of the input; the paper's 300x200 pictures.
        num_warmup: images before the first one that counts.
        num_frames: images that count.
    """

    product = "efficiency.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_warmup": 0, "num_frames": 1, "input_size": (8, 12)}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        networks: dict[str, NetworkSpec],
        input_size: tuple[PositiveInt, PositiveInt] = (200, 300),
        num_warmup: NonNegativeInt = 3,
        num_frames: PositiveInt = 10,
    ) -> None:
        super().__init__(options=options, context=context)
        if not networks:
            raise ConfigError("there is no network to time", place=f"{options.name}: run.networks")
        self.networks, self.input_size = networks, input_size
        self.num_warmup, self.num_frames = num_warmup, num_frames

    def units(self) -> tuple[float, str]:
        return len(self.networks) * (self.num_warmup + self.num_frames), "frames"

    def work(self) -> None:
        if not self.context.is_main:  # two that time side by side would time each other
            return
        device = self.context.device
        precision = Precision(resolve_precision(self.options.precision, device), device)
        found = {
            label: self._measure(spec.build().to(device).eval(), precision) for label, spec in self.networks.items()
        }
        where = (
            torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        Efficiency(
            device=where, precision=precision.mode, input_size=list(self.input_size), networks=found,
            **stamp(self.options),
        ).save(self.folder / self.product)  # fmt: skip

    def _measure(self, net: nn.Module, precision: Precision) -> dict[str, Any]:
        times = seconds_per_frame(
            net, *self.input_size, precision=precision, num_warmup=self.num_warmup, num_frames=self.num_frames
        )
        about = describe(net, (3, *self.input_size))
        return {"seconds": statistics.median(times), "times": times, "parameters": about.parameters, "macs": about.macs}

    def page(self) -> Report:
        content = Efficiency.load(self.folder / self.product)
        height, width = content.input_size
        printed = find_table("cria_cl/7")
        caption = f"Input {width}x{height}, batch 1, {content.precision}, {content.device}; median of the frames."
        found = {}
        for label, entry in content.networks.items():
            found[label] = {"seconds": Number(entry["seconds"]), "parameters": Number(entry["parameters"] / 1e6)}
            if entry.get("macs") is not None:
                found[label]["multiply-adds, G"] = Number(entry["macs"] / 1e9)
        report = Report(self.options.name, subtitle="Speed and size of networks")
        report.section(printed.title).add_table("table_7", printed.beside(found, caption=caption))
        report.add_text("\n".join(f"- {note}" for note in printed.notes))
        return report
