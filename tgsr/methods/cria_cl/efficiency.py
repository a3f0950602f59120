"""Table VII: seconds per frame and parameters of networks."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.methods.cria_cl.criteria import NetworkSpec
from tgsr.models.precision import Precision, resolve_precision
from tgsr.report.builder import Report
from tgsr.report.tables import Column, Number, Row, Table
from tgsr.study.printed import printed
from tgsr.utils.errors import ConfigError
from tgsr.utils.files import write_json

logger = logging.getLogger("tgsr")


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


@RUNNERS.register()
class CriaEfficiency(Runner):
    """Seconds per frame (median), frames per second and parameters -> `efficiency.json` and a report.

    Weights do not matter, so the networks keep their random ones.

    Args:
        networks: label -> network; labels of the paper's table get its values beside them.
        input_size: height and width of the input; the paper's 300x200 pictures.
        num_warmup: images before the first one that counts.
        num_frames: images that count.
    """

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

    def run(self) -> None:
        if self.context.is_main:
            self._run()
        self.context.barrier()

    def _run(self) -> None:
        device = self.context.device
        precision = Precision(resolve_precision(self.options.precision, device), device)
        found = {}
        for label, spec in self.networks.items():
            net = spec.build().to(device).eval()
            times = seconds_per_frame(
                net, *self.input_size, precision=precision, num_warmup=self.num_warmup, num_frames=self.num_frames
            )
            parameters = sum(p.numel() for p in net.parameters())
            found[label] = {"seconds": statistics.median(times), "times": times, "parameters": parameters}
            logger.info("%s: %.4f s per frame, %.2f M parameters", label, found[label]["seconds"], parameters / 1e6)
            del net
        on_gpu = device.type == "cuda"
        where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
        content = {
            "schema": "tgsr.cria_efficiency",
            "version": 1,
            "seed": self.options.manual_seed,
            "options": options_hash(self.options),
            "device": where,
            "precision": precision.mode,
            "input_size": list(self.input_size),
            "networks": found,
        }
        write_json(self.folder / "efficiency.json", content)
        height, width = self.input_size
        caption = (
            f"Input {width}x{height}, batch 1, {precision.mode}, {where}; median of {self.num_frames}. The paper's "
            "times are of a V100; it heads them frames per second, its text reads them as seconds."
        )
        report = Report(self.options.name, subtitle="Speed and size of networks")
        report.section("Table VII: efficiency").add_table("table_7", _table(found, caption))
        report.write(Path(self.options.path.results_root) / self.options.name / "report")


def _table(found: Mapping[str, Mapping[str, Any]], caption: str) -> Table:
    columns = [
        Column("seconds", "Seconds per frame", higher_is_better=False, digits=4),
        Column("fps", "Frames per second", higher_is_better=True, digits=2),
        Column("parameters", "Parameters, M", higher_is_better=False, digits=2),
    ]
    rows = []
    stated = printed("cria_cl").table(7).rows
    for label, entry in found.items():
        paper = stated.get(label, {})
        rows.append(
            Row(
                label,
                {
                    "seconds": Number(entry["seconds"], paper=paper.get("seconds")),
                    "fps": Number(1 / entry["seconds"]),
                    "parameters": Number(entry["parameters"] / 1e6, paper=paper.get("parameters")),
                },
            )
        )
    return Table(columns, rows, caption=caption)
