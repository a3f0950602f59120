"""Measurements as values: tidy records, from which tables, differences over seeds and gains are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tgsr.report.artefacts import Metrics
from tgsr.report.tables import Column, Number, Row, Table, aggregate
from tgsr.study.artefact import Artefact
from tgsr.study.printed import column
from tgsr.utils.errors import DataError


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        name: of the row.
        seed: of the run, as the label has it behind `#`; empty for a single one.
        set: name of the data set.
        task: that degraded its images; None: the set's own.
        metric: its name.
        value: mean over the images.
        num_images: how many.
        images: image -> value; empty where only the mean is known.
    """

    name: str
    seed: str
    set: str
    task: str | None
    metric: str
    value: float
    num_images: int
    images: Mapping[str, float] = field(default_factory=dict, compare=False)

    @staticmethod
    def of(label: str, set_name: str, task: str | None, metric: str, images: Mapping[str, float]) -> Measurement:
        """From the values of the images; `label` is `NAME` or `NAME#SEED`."""
        name, _, seed = label.partition("#")
        mean = float(sum(images.values()) / len(images)) if images else float("nan")
        return Measurement(name, seed, set_name, task, metric, mean, len(images), images)

    @property
    def column(self) -> str:
        """`<set>/<metric>`, or `<set>/<task>/<metric>`."""
        return "/".join(p for p in (self.set, self.task, self.metric) if p is not None)


@dataclass(frozen=True, kw_only=True)
class Measurements(Artefact):
    """Tidy measurements of rows, each of one or several runs (seeds).

    Attributes:
        records: the numbers.
        metrics: metric -> `protocol`, `higher_is_better`.
    """

    schema: ClassVar[str] = "tgsr.measurements"

    records: Sequence[Measurement]
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self, *, with_images: bool = False) -> dict[str, Any]:
        """The content of the file; the values of single images stay in the journal unless they are asked for."""
        left_out = () if with_images else ("images",)
        records = [{k: v for k, v in vars(r).items() if k not in left_out} for r in self.records]
        return {**super().to_json(), "records": records}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurements:
        return super().from_json({**data, "records": [Measurement(**r) for r in data["records"]]})

    @staticmethod
    def from_results(label: str, results: Metrics) -> Measurements:
        """The numbers of a results folder (`metrics.json`) as those of a run called `label`."""
        records, about = [], {}
        for name, content in results.datasets.items():
            for metric, entry in content.get("metrics", {}).items():
                images = {i["name"]: i["metrics"][metric] for i in content.get("images", []) if metric in i["metrics"]}
                number = Measurement.of(label, name, None, metric, images)
                row, _, seed = label.partition("#")
                count = int(entry.get("num_images", number.num_images))
                records.append(Measurement(row, seed, name, None, metric, float(entry["mean"]), count, images))
                about[metric] = {k: entry.get(k) for k in ("protocol", "higher_is_better")}
        return Measurements(records=records, metrics=about)

    def joined(self, *others: Measurements) -> Measurements:
        """These and others; DataError where a metric was taken by another protocol."""
        metrics = dict(self.metrics)
        for other in others:
            for name, about in other.metrics.items():
                first = metrics.setdefault(name, about)
                if first.get("protocol") != about.get("protocol"):
                    raise DataError(
                        f"{name} was measured as '{first.get('protocol')}' and as '{about.get('protocol')}'",
                        remedy="numbers of two protocols do not compare; measure again with one",
                    )
        records = [r for part in (self, *others) for r in part.records]
        return Measurements(records=records, metrics=metrics, seed=self.seed, options=self.options)

    @property
    def names(self) -> list[str]:
        """Rows in order."""
        return list(dict.fromkeys(r.name for r in self.records))

    @property
    def columns(self) -> list[Column]:
        """In order of the records, with the metric's direction."""
        found = {}
        for record in self.records:
            base = column(record.column)
            is_high = self.metrics.get(record.metric, {}).get("higher_is_better", base.higher_is_better)
            found[record.column] = Column(base.name, base.label, base.group, is_high)
        return list(found.values())

    def runs(self, name: str) -> dict[str, dict[str, Measurement]]:
        """Seed -> column -> number, of a row."""
        found: dict[str, dict[str, Measurement]] = {}
        for record in self.records:
            if record.name == name:
                found.setdefault(record.seed, {})[record.column] = record
        return found

    def values(self, name: str, metric: str) -> dict[str, dict[str, float]]:
        """Seed -> task (or set, where there is none) -> value of one metric, of a row."""
        return {
            seed: {r.task or r.set: r.value for r in numbers.values() if r.metric == metric}
            for seed, numbers in self.runs(name).items()
        }

    def numbers(self, name: str) -> dict[str, Number]:
        """Column -> mean and sample standard deviation over the runs of a row."""
        values: dict[str, list[float]] = {}
        for numbers in self.runs(name).values():
            for key, record in numbers.items():
                values.setdefault(key, []).append(record.value)
        return {key: aggregate(v) for key, v in values.items()}

    def table(self, *, names: Sequence[str] | None = None, caption: str | None = None) -> Table:
        """Rows by columns, mean ± sample standard deviation over each row's runs.

        Args:
            names: rows; None: all.
            caption: None: protocols and numbers of images.
        """
        rows = [Row(name, dict(self.numbers(name))) for name in (self.names if names is None else names)]
        return Table(self.columns, rows, caption=self.caption() if caption is None else caption)

    def differences(self, baseline: str) -> dict[str, dict[str, list[float]]]:
        """Row -> column -> its value minus the baseline's, of each seed that both have.

        A baseline of a single run without a seed (a published network) is subtracted from every run.

        Raises:
            DataError: there is no such row, or no seed is common.
        """
        if baseline not in self.names:
            raise DataError(f"there is no measured row '{baseline}'", remedy=f"there are {', '.join(self.names)}")
        base, found = self.runs(baseline), {}
        for name in self.names:
            if name == baseline:
                continue
            pairs = [(run, base[""] if set(base) == {""} else base.get(seed)) for seed, run in self.runs(name).items()]
            values: dict[str, list[float]] = {}
            for ours, theirs in pairs:
                for key in ours.keys() & (theirs or {}).keys():
                    values.setdefault(key, []).append(ours[key].value - theirs[key].value)  # type: ignore[index]
            if values:
                found[name] = values
        return found

    def paired(self, baseline: str, *, caption: str | None = None) -> Table:
        """Each row minus the baseline, seed by seed: mean ± sample standard deviation of the differences."""
        rows = self.gain(baseline, label="{name}")
        text = f"Minus '{baseline}' of the same seed; mean ± sample standard deviation of the differences."
        return Table(self.columns, rows, caption=text if caption is None else caption)

    def gain(self, over: str, *, label: str = "{name} over {over}") -> list[Row]:
        """The differences as rows for the foot of a table."""
        return [
            Row(label.format(name=name, over=over), {k: aggregate(v) for k, v in values.items()},
                is_ranked=False, is_signed=True)
            for name, values in self.differences(over).items()
        ]  # fmt: skip

    def image_differences(self, name: str, baseline: str, key: str) -> dict[str, float]:
        """Image -> value of a row minus that of the baseline in a column, mean over the runs of each.

        The images are the pairs: mean and standard error over them say how sure a difference is for other images.
        """
        ours, theirs = (self._image_means(n, key) for n in (name, baseline))
        return {image: ours[image] - theirs[image] for image in ours if image in theirs}

    def _image_means(self, name: str, key: str) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for numbers in self.runs(name).values():
            for image, value in (numbers[key].images if key in numbers else {}).items():
                values.setdefault(image, []).append(value)
        return {image: float(np.mean(v)) for image, v in values.items()}

    def caption(self) -> str:
        """`psnr: Y, crop 4, 8-bit. Set5: 5 images. ...`, and over how many runs."""
        used = dict.fromkeys(r.metric for r in self.records)
        protocols = "; ".join(f"{m}: {self.metrics[m]['protocol']}" for m in used if self.metrics.get(m))
        counts = {r.set: r.num_images for r in self.records}
        images = ", ".join(f"{name}: {n} image{'s' if n != 1 else ''}" for name, n in counts.items())
        sizes = sorted({len(self.runs(name)) for name in self.names})
        how_many = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else ""
        spread = f"Mean ± sample standard deviation over {how_many} runs." if sizes and sizes[-1] > 1 else ""
        text = ". ".join(part for part in (protocols, images) if part)
        return f"{text}. {spread}".strip() if text else spread
