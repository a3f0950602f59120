"""The report of an ablation over seeds: Table V in small, with its masks and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.cria_cl.masks import LABELS, Masks
from tgsr.report.artefacts import Metrics, measured, metric_columns, results_table
from tgsr.report.builder import Report
from tgsr.report.plots import grouped_bars, spearman
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.report.tables import Column, Row, Table, aggregate
from tgsr.study.artefact import stamp
from tgsr.study.measurements import Measurements
from tgsr.study.printed import printed
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.image_io import read_image, to_tensor
from tgsr.utils.registry import did_you_mean

WEIGHTED_SUM = "L_pixel + L_perc + L_adv"
"""The row of Table V without contrast."""


@RUNNERS.register()
class CriaAblation(Stage):
    """Rows of an ablation over seeds -> `ablation.json` (measurements), and a report: values,
    differences seed by seed, the order against Table V, masks, images.

    Args:
        rows: label -> results folders of its runs (seeds). Labels of Table V are compared with its order.
        reference: the row that differences are taken to.
        masks: label -> `masks.json` of its runs.
        num_images: images shown, each with all rows' first runs.
    """

    in_results = True
    product = "ablation.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_images": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        rows: dict[str, list[Path]],
        reference: str = WEIGHTED_SUM,
        masks: dict[str, list[Path]] | None = None,
        num_images: NonNegativeInt = 3,
    ) -> None:
        super().__init__(options=options, context=context)
        if reference not in rows:
            raise ConfigError(
                f"there is no row '{reference}'", place=f"{options.name}: run.reference",
                remedy=did_you_mean(reference, rows),
            )  # fmt: skip
        self.rows, self.reference, self.masks, self.num_images = rows, reference, masks or {}, num_images

    def work(self) -> None:
        if self.context.is_main:
            self._measurements(self._runs()).save(self.results / self.product)

    def _runs(self) -> dict[str, list[Metrics]]:
        return {label: [Metrics.read(p) for p in paths] for label, paths in self.rows.items()}

    def _measurements(self, runs: Mapping[str, Sequence[Metrics]]) -> Measurements:
        """Of all runs, as `ROW#SEED`; DataError where two runs of a row have the same seed."""
        parts = []
        for label, group in runs.items():
            seeds = [m.stamp.get("seed") for m in group]
            if len(set(seeds)) < len(seeds):
                raise DataError(f"two runs of '{label}' have the same seed", remedy="name each run once")
            parts += [Measurements.from_results(f"{label}#{m.stamp.get('seed')}", m) for m in group]
        return replace(parts[0].joined(*parts[1:]), **stamp(self.options))

    def page(self) -> Report:
        runs, found = self._runs(), Measurements.load(self.results / self.product)
        report = Report(self.options.name, subtitle="Ablation of criteria comparative learning")
        report.section("Rows").add_table("rows", results_table(runs, gain_over=None))
        report.add_table("differences", found.paired(self.reference), title="Differences, seed by seed")
        self._order(report, runs)
        self._masks(report)
        self._images(report, runs)
        return report

    def _order(self, report: Report, runs: Mapping[str, Sequence[Metrics]]) -> None:
        columns = [c for c in metric_columns([m for g in runs.values() for m in g]) if c.label in ("psnr", "ssim")]
        stated = printed("cria_cl").table(5).rows
        labels = [label for label in stated if label in runs]
        for column in columns:
            ours = [measured(runs[label])[column.name] for label in labels]
            paper = [stated[label][f"NTIRE2020/{column.label}"] for label in labels]
            rho = spearman([n.value for n in ours], paper)
            best = sorted(labels, key=lambda label: -measured(runs[label])[column.name].value)
            report.add_text(
                f"**{column.name}**, best first: {', '.join(best)}. Rank correlation with Table V: {rho:.2f}."
            )
            figure = grouped_bars(labels, {"measured": ours}, y_label=column.name, is_zero_based=False)
            report.add_plot(f"rows_{column.label}", figure, caption=f"{column.name} of the rows of Table V.")

    def _masks(self, report: Report) -> None:
        if not self.masks:
            return
        found = {label: [Masks.load(p).means for p in paths] for label, paths in self.masks.items()}
        names = list(dict.fromkeys(k for runs in found.values() for run in runs for k in run))
        columns = [Column(k, LABELS.get(k, k), digits=2 if k.startswith("psnr") else 3) for k in names]
        rows = [
            Row(label, {k: aggregate([r[k] for r in runs if k in r]) for k in names if any(k in r for r in runs)})
            for label, runs in found.items()
        ]
        caption = "S: share of I_align, mean over images; mean ± sample standard deviation over runs."
        report.section("Which regions each branch owns").add_table("masks", Table(columns, rows, caption=caption))

    def _images(self, report: Report, runs: Mapping[str, Sequence[Metrics]]) -> None:
        first = {label: group[0] for label, group in runs.items() if group}
        sets = next(iter(first.values())).datasets
        for dataset in sets:
            for i in range(self.num_images):
                png = _strip({k: m for k, m in first.items() if dataset in m.datasets}, dataset, i, self.reference)
                if png is not None:
                    report.section(f"{dataset}, image {i + 1}") if i == 0 else None
                    report.add_strip(f"{dataset}_{i}", png, caption="Rows in the order of the table.")


def _strip(runs: Mapping[str, Metrics], dataset: str, index: int, reference: str) -> bytes | None:
    """LQ | rows | GT of one image; None where a file is absent."""
    panels: list[Panel] = []
    gt = None
    try:
        for label, run in runs.items():
            images = run.datasets[dataset].get("images", [])
            if index >= len(images):
                return None
            files = images[index].get("files", {})
            if not panels:
                panels.append(Panel("LQ", to_tensor(read_image(run.root / files["lq"]))))
                gt = to_tensor(read_image(run.root / files["gt"]))
            note = f"{images[index]['metrics'].get('psnr', float('nan')):.2f} dB"
            panels.append(Panel(_short(label), to_tensor(read_image(run.root / files["sr"])), note))
    except (DataError, KeyError):
        return None
    if gt is None:
        return None
    baseline = next((p.image for p in panels if p.label == _short(reference)), gt)
    size = min(64, *gt.shape[-2:])
    top, left = choose_crop(panels[-1].image, baseline, size=size, multiple=gt.shape[-1] // panels[0].image.shape[-1])
    return make_strip([*panels, Panel("GT", gt)], crop=(top, left, size), panel_width=192)


def _short(label: str) -> str:
    return "weighted sum" if label == WEIGHTED_SUM else label
