"""Figures and tables of GRIDS as report pages: Fig. 3, Table 2's order, the grouping, Table 1, Fig. 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tgsr.methods.grids.paper_values import (
    PAPER_DELTA_DB,
    PAPER_GROUPS,
    TABLE1,
    TABLE2,
    TABLE2_DISTANCES,
    paper_drop,
)
from tgsr.methods.grids.similarity import Similarity
from tgsr.report.builder import Report
from tgsr.report.plots import grouped_bars, heat_map, scatter, spearman
from tgsr.report.tables import Column, Number, Row, Table, aggregate
from tgsr.study.printed import find_table
from tgsr.utils.errors import DataError

SHORT = {
    "gaussian_blur": "GBlur", "motion_blur": "Motion", "rl": "R-L", "sr": "SR", "ringing": "Ringing",
    "defocus": "Defocus", "jpeg": "JPEG", "poisson": "Poisson", "inpainting": "Inpaint",
    "gaussian_noise": "GNoise", "salt_pepper": "S&P",
}  # fmt: skip
ARM_LABELS = {
    "single": "single-task (upper bound)",
    "mixed": "mixed, all in one",
    "mixed_long": "mixed, iterations of all groups together",
    "grouped": "grouped by similarity",
    "random": "random groups of the same sizes",
    "random_passed": "random groups that pass the same delta",
}


def short(name: str) -> str:
    """Label of a degradation in figures."""
    return SHORT.get(name, name)


def joined(names: Sequence[str]) -> str:
    """`{GBlur, Motion}`."""
    return "{" + ", ".join(short(n) for n in names) + "}"


def members_of(label: str) -> tuple[str, ...]:
    """Degradations of a row of the printed Table 2, `2 near: ringing, rl, defocus`."""
    return tuple(name.strip() for name in label.split(":")[1].split(","))


def order_table(measured: Mapping[str, Similarity]) -> Table:
    """Mean distances of the ten groups of Table 2 by several descriptors beside the paper's."""
    columns = [Column("drop", "paper, max. drop, dB", digits=2), Column("paper", "paper", digits=2)]
    columns += [Column(k, k, digits=2) for k in measured]
    rows, values = [], {k: [] for k in measured}
    for group, paper in TABLE2_DISTANCES:
        cells: dict[str, Any] = {"paper": Number(paper), "drop": Number(paper_drop(group) or 0.0)}
        for name, similarity in measured.items():
            try:
                distance = similarity.mean_distance(group)
            except DataError:
                continue
            values[name].append((paper, distance))
            cells[name] = Number(distance)
        rows.append(Row(joined(group), cells, is_ranked=False))
    summary: dict[str, dict[str, Any]] = {"first four lowest": {}, "Spearman with the paper": {}}
    for name, pairs in values.items():
        if len(pairs) == len(TABLE2_DISTANCES):
            found = [d for _, d in pairs]
            summary["first four lowest"][name] = "yes" if max(found[:4]) < min(found[4:]) else "no"
            summary["Spearman with the paper"][name] = Number(spearman([p for p, _ in pairs], found))
    rows += [Row(label, cells, is_ranked=False) for label, cells in summary.items()]
    return Table(columns, rows, caption="Mean pair distance of the groups of Table 2, log scale.", row_head="Group")


def similarity_report(found: Similarity, baselines: Mapping[str, Similarity]) -> Report:
    """Fig. 3, the parameters of every degradation, Table 2's order."""
    about = found.about
    report = Report("Degradation similarity", subtitle="GRIDS, section 4.2")
    report.section("Matrix")
    labels = [short(n) for n in found.names]
    caption = (
        f"S, small = similar. {about.get('num_patches')} patches of {about.get('patch_px')} px, "
        f"seed {about.get('seed')}; {about.get('seconds')} s."
    )
    figure = heat_map(found.matrix, row_labels=labels, title="S", value_label="log distance")
    report.add_plot("similarity", figure, caption=caption)
    columns = [Column("alpha", "shape α", digits=3), Column("sigma", "σ", digits=3)]
    rows = [
        Row(short(n), {"alpha": Number(g.alpha), "sigma": Number(g.sigma)}, is_ranked=False)
        for n, g in zip(found.names, found.ggds, strict=True)
    ]
    report.add_table("ggd", Table(columns, rows, row_head="Degradation"), title="Generalised Gaussians")
    report.section("Order of the paper's groups")
    report.add_text(
        "A reproduced order is a regression test of operators and estimator, no proof of the descriptor: an untrained "
        "network and raw pixels reproduce it too."
    )
    report.add_table("order", order_table({"descriptor": found, **baselines}))
    for name, similarity in baselines.items():
        figure = heat_map(similarity.matrix, row_labels=labels, title=name, value_label="log distance")
        report.add_plot(f"similarity_{name}", figure, caption=f"The same by {name}.")
    return report


def _drop_row(entry: Mapping[str, Any]) -> Row:
    cells = {"drop": Number(entry["drop"]), "distance": Number(entry["mean_distance"])}
    paper = paper_drop(entry["members"])
    if paper is not None:
        cells["paper"] = Number(paper)
    return Row(joined(entry["members"]), cells, is_ranked=False)


def drops_report(content: Mapping[str, Any]) -> Report:
    """Table 2: distances by every descriptor beside drops, with the paper's."""
    report = Report("Distance and drop of groups", subtitle="GRIDS, Table 2")
    names = list(dict.fromkeys(k for g in content["groups"] for k in g["distances"]))
    columns = [Column(n, n, "mean distance", digits=2) for n in names]
    columns += [Column(n, n, "drop, dB", digits=2) for n in ("max", "mean")]
    columns += [Column(f"paper_{n}", n, "paper", digits=2) for n in ("distance", "max", "mean")]
    rows, points = [], []
    for group in content["groups"]:
        cells = {k: Number(v) for k, v in group["distances"].items()}
        drops = list(group["drops"].values())
        if drops:
            cells |= {"max": Number(max(drops)), "mean": Number(float(np.mean(drops)))}
            points.append((group["distances"], float(np.mean(drops))))
        label = joined(group["members"])
        for row in TABLE2:
            if set(row.group) == set(group["members"]):
                papers = {"distance": row.distance, "max": row.drop, "mean": row.mean_drop}
                cells |= {f"paper_{k}": Number(v) for k, v in papers.items()}
                label = f"{row.experiment} ({'near' if row.is_near else 'far'} by {row.descriptor}) {label}"
        rows.append(Row(label, cells, is_ranked=False))
    note = "Drops against single-task networks, small = good; the paper's networks are Restormers of 600k iterations."
    report.add_table("drops", Table(columns, rows, caption=note, row_head="Experiment"))
    if content.get("paper"):
        table = find_table(content["paper"])
        report.section(table.title).add_table("table", table.beside(beside_printed(content), caption=note))
        report.add_text("\n".join(f"- {note}" for note in table.notes))
    report.section("Members")
    for number, group in enumerate(content["groups"]):
        if group["drops"]:
            labels = [short(n) for n in group["drops"]]
            single = [content["single_psnr"][n] for n in group["drops"]]
            mixed = [group["psnr"].get(n, s - d) for (n, d), s in zip(group["drops"].items(), single, strict=True)]
            figure = grouped_bars(labels, {"single-task": single, "mix-training": mixed}, y_label="PSNR, dB")
            report.add_plot(f"group_{number}", figure, caption=f"{joined(group['members'])} (Fig. 2).")
    for name in names:
        if len(points) > 1:
            figure = scatter(
                [d[name] for d, _ in points], [m for _, m in points],
                x_label="mean distance", y_label="mean drop, dB", title=name,
            )  # fmt: skip
            report.add_plot(f"drop_{name}", figure, caption=f"Does the distance by {name} predict the drop?")
    return report


def beside_printed(content: Mapping[str, Any]) -> dict[str, dict[str, Number]]:
    """Rows of the printed table -> what was measured in its columns: means over the group, as in print."""
    by_group = {frozenset(g["members"]): g for g in content["groups"]}
    found = {}
    for row in TABLE2:
        group = by_group.get(frozenset(row.group))
        if group is None or not group["drops"]:
            continue
        single = float(np.mean([content["single_psnr"][n] for n in group["members"]]))
        drop = float(np.mean(list(group["drops"].values())))
        values = {"single": single, "mixed": single - drop, "difference": -drop}
        if row.descriptor in group["distances"]:
            values["distance"] = group["distances"][row.descriptor]
        label = f"{row.experiment} {'near' if row.is_near else 'far'}: {', '.join(row.group)}"
        found[label] = {k: Number(v) for k, v in values.items()}
    table = find_table(content["paper"])
    return {label: cells for label, cells in found.items() if label in table.rows}


def grouping_report(content: Mapping[str, Any]) -> Report:
    """What the search found, every training it spent, drop against distance."""
    report = Report("Grouping search", subtitle="GRIDS, section 5.1")
    report.add_numbers(
        {
            "groups": str(len(content["groups"])),
            "trainings": str(content["num_trainings"]),
            "largest accepted drop": f"{content['delta']:.2f} dB",
            "largest size": str(content["max_size"]),
        }
    )
    report.section("Groups")
    columns = [Column("drop", "max. drop, dB", digits=2), Column("paper", "paper, dB", digits=2)]
    columns.append(Column("distance", "mean distance", digits=2))
    rows = [_drop_row(g) for g in content["groups"]]
    report.add_table("groups", Table(columns, rows, row_head="Group"))
    report.add_text(f"The paper's, with a drop of at most {PAPER_DELTA_DB} dB: " + ", ".join(map(joined, PAPER_GROUPS)))
    report.section("Trainings")
    asked = sorted(content["asked"], key=lambda a: (len(a["members"]), a["mean_distance"]))
    rows = [_drop_row(a) for a in asked if len(a["members"]) > 1]
    report.add_table("asked", Table(columns, rows, row_head="Group"), is_folded=True, title="All groups asked for")
    finite = [a for a in asked if len(a["members"]) > 1 and np.isfinite(a["drop"])]
    if finite:
        figure = scatter(
            [a["mean_distance"] for a in finite], [a["drop"] for a in finite],
            x_label="mean distance", y_label="max. drop, dB", title="Does similarity predict the drop?",
        )  # fmt: skip
        report.add_plot("drop", figure, caption="Every mix model of the search.")
    return report


def _arm_values(content: Mapping[str, Any], arm: str) -> dict[str, list[float]]:
    """Degradation -> PSNR of each seed; `average` among them."""
    runs = [r for r in content["runs"] if r["arm"] == arm]
    names = content["degradations"]
    values = {n: [r["psnr"][n] for r in runs] for n in names}
    values["average"] = [float(np.mean([r["psnr"][n] for n in names])) for r in runs]
    return values


def comparison_table(content: Mapping[str, Any]) -> Table:
    """Table 1: arms by degradations; the paper's SRResNet rows below."""
    names = [*content["degradations"], "average"]
    columns = [Column(n, short(n), higher_is_better=True, digits=2) for n in names]
    inputs = dict(content["input_psnr"])
    inputs["average"] = float(np.mean(list(inputs.values())))
    rows = [Row("input", {n: Number(inputs[n]) for n in names}, is_ranked=False)]
    for arm, label in ARM_LABELS.items():
        values = _arm_values(content, arm)
        if values["average"]:
            cells = {n: aggregate(values[n]) for n in names}
            rows.append(Row(label, cells, is_ranked=arm != "single"))
    for name, values in TABLE1.items():
        if set(values) >= set(content["degradations"]):
            cells = {n: Number(values[n]) for n in content["degradations"]}
            cells["average"] = Number(float(np.mean([values[n] for n in content["degradations"]])))
            rows.append(Row(f"paper, {name}", cells, is_ranked=False))
    seeds = sorted({r["seed"] for r in content["runs"]})
    caption = (
        f"PSNR in dB, {content['test']['protocol']}, {content['test']['num_images']} images, seeds {seeds}; ± is the "
        "sample standard deviation over seeds. The paper's rows: DIV2K-Valid, 600k iterations."
    )
    return Table(columns, rows, caption=caption)


def differences(content: Mapping[str, Any]) -> dict[str, Number]:
    """Average gains in dB, paired by seed."""
    pairs = {
        "grouped − mixed (equal iterations)": ("grouped", "mixed"),
        "grouped − mixed (equal samples per task)": ("grouped", "mixed_long"),
        "random groups − mixed (equal iterations)": ("random", "mixed"),
        "grouped − random groups": ("grouped", "random"),
        "single − grouped": ("single", "grouped"),
    }
    averages = {
        (r["arm"], r["seed"]): float(np.mean([r["psnr"][n] for n in content["degradations"]])) for r in content["runs"]
    }
    found = {}
    for label, (ours, other) in pairs.items():
        seeds = sorted({s for a, s in averages if a == ours} & {s for a, s in averages if a == other})
        if seeds:
            found[label] = aggregate([averages[ours, s] - averages[other, s] for s in seeds])
    return found


def comparison_report(content: Mapping[str, Any]) -> Report:
    """Table 1 and Fig. 2."""
    report = Report("Does grouping help?", subtitle="GRIDS, Table 1")
    report.section("Average gains")
    columns = [Column("gain", "dB", digits=2), Column("runs", "seeds", digits=0)]
    rows = [
        Row(label, {"gain": value, "runs": Number(value.num_runs)}, is_ranked=False, is_signed=True)
        for label, value in differences(content).items()
    ]
    report.add_table("gains", Table(columns, rows, row_head="Difference"))
    report.add_text("Groups: " + ", ".join(joined(g) for g in content["groups"]))
    report.section("PSNR per degradation")
    report.add_table("psnr", comparison_table(content))
    upper = _arm_values(content, "single")
    if upper["average"]:
        series = {}
        for arm in ("mixed", "grouped", "random"):
            values = _arm_values(content, arm)
            if values["average"]:
                means = [float(np.mean(values[n])) - float(np.mean(upper[n])) for n in content["degradations"]]
                series[ARM_LABELS[arm]] = means
        if series:
            figure = grouped_bars([short(n) for n in content["degradations"]], series, y_label="dB against single-task")
            report.add_plot("drop", figure, caption="Drop against the single-task networks (Fig. 2).")
    return report


def routing_report(content: Mapping[str, Any], strips: Mapping[str, bytes]) -> Report:
    """Fig. 5: which group the router finds, how well the divergence predicts the drop, photographs."""
    report = Report("Adaptive selection", subtitle="GRIDS, section 5.2")
    report.section("Accuracy on images never seen")
    columns = [Column("degradation", "of 11 degradations, %", digits=1), Column("group", "of groups, %", digits=1)]
    columns.append(Column("ood", "flagged as unknown, %", digits=1))
    rows = []
    for rule, entry in content["rules"].items():
        cells = {k: Number(100 * entry["accuracy"][k]) for k in ("degradation", "group")}
        rows.append(Row(rule, {**cells, "ood": Number(100 * entry["known_flagged"])}, is_ranked=False))
    note = f"{content['test']['num_images']} images x {len(content['degradations'])} degradations; {content['about']}"
    report.add_table("accuracy", Table(columns, rows, caption=note, row_head="Rule"))
    labels = [short(n) for n in content["degradations"]]
    for rule, entry in content["rules"].items():
        groups = [joined(g) for g in content["groups"]]
        clean = ["clean"] * (len(entry["confusion"][0]) - len(groups))
        figure = heat_map(
            np.array(entry["confusion"]), row_labels=labels, column_labels=[*groups, *clean],
            title=rule, value_label="share", row_axis="true degradation", column_axis="chosen group",
        )  # fmt: skip
        report.add_plot(f"confusion_{rule}", figure, caption=f"Chosen groups, rule {rule}.")
    _add_unknown(report, content)
    _add_prediction(report, content)
    if strips:
        report.section("Real photographs")
        for name, png in strips.items():
            report.add_strip(f"photo_{name}", png, caption=name)
    return report


def _add_unknown(report: Report, content: Mapping[str, Any]) -> None:
    """Flags and AUROC of unknown degradations, and what becomes of clean images."""
    rules = content["rules"]
    unknown = sorted({d for entry in rules.values() for d in entry["unknown_flagged"]})
    for name, key, scale, caption in (
        ("unknown", "unknown_flagged", 100, "Share flagged as unknown, %."),
        ("auroc", "auroc", 1, "Known against unknown images: area under the ROC curve; 0.5 is chance."),
    ):
        columns = [Column(d, d, digits=0 if scale > 1 else 2) for d in unknown]
        rows = [
            Row(rule, {d: Number(scale * v) for d, v in entry.get(key, {}).items()}, is_ranked=False)
            for rule, entry in rules.items()
        ]
        if unknown and any(row.cells for row in rows):
            report.add_table(name, Table(columns, rows, caption=caption, row_head="Rule"))
    for rule, entry in rules.items():
        if entry.get("clean_kept") is not None:
            kept = 100 * entry["clean_kept"], 100 * entry["known_kept"]
            report.add_text(f"{rule}: left alone are {kept[0]:.0f} % of clean and {kept[1]:.1f} % of degraded images.")


def _add_prediction(report: Report, content: Mapping[str, Any]) -> None:
    points = content.get("prediction") or []
    if not points:
        return
    report.section("Predicting performance without inference")
    figure = scatter(
        [p["divergence"] for p in points], [p["drop"] for p in points],
        x_label="log divergence of degradation and group", y_label="drop against single-task, dB",
    )  # fmt: skip
    report.add_plot("prediction", figure, caption="Every group's network on every degradation.")
