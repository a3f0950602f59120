"""The tables of docs/results/published.md: numbers out of the studies' folders, tables out of the numbers.

python benchmarks/published_tables.py            # the tables, from docs/results/published/*.json
python benchmarks/published_tables.py --collect  # first those files anew, from experiments/ and results/
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.methods.tgsr.indicator import ranks, reliability, spearman, spearman_interval
from tgsr.utils.files import read_json, read_jsonl

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "docs/results/published"
SETS = {"whole": "whole space, 100 crops", "light": "light, 50 crops", "set14": "Set14, bicubic"}
NETS = ("RealESRGAN_x4plus", "RealSR_DF2K", "RealESRGAN_x4plus_anime_6B")
METRICS = {"psnr": ("PSNR-Y ↑", 2), "ssim": ("SSIM ↑", 4), "lpips_vgg": ("LPIPS-VGG ↓", 4),
           "lpips_alex": ("LPIPS-Alex ↓", 4), "niqe": ("NIQE ↓", 2)}  # fmt: skip
POISSON_SIGMA = 10.7
"""Deviation (of 255) that Poisson noise of scale 1 has at mid grey, quantised to 256 levels."""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    line = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(head) + " |", line, *("| " + " | ".join(row) + " |" for row in rows)])


def rows_table(rows: dict[str, Any], name: str) -> str:
    """Mean ± standard error over the images of one set; the best of each column in bold."""
    found = {m: {k: np.array(v) for k, v in values.items()} for m, values in rows[name].items()}
    best = {k: (max if k in ("psnr", "ssim") else min)(v[k].mean() for v in found.values()) for k in METRICS}

    def cell(metric: str, values: np.ndarray) -> str:
        mean, digits = values.mean(), METRICS[metric][1]
        text = f"{mean:.{digits}f} ± {values.std(ddof=1) / len(values) ** 0.5:.{digits}f}"
        return f"**{text}**" if mean == best[metric] else text

    body = [[method, *(cell(k, v[k]) for k in METRICS)] for method, v in found.items()]
    return markdown([SETS[name], *(label for label, _ in METRICS.values())], body)


def paired_table(rows: dict[str, Any], name: str) -> str:
    """Each network less bicubic on the same images, mean ± standard error; and on how many images it is better."""
    base = rows[name]["bicubic"]
    body = []
    for method, values in rows[name].items():
        if method != "bicubic":
            differences = {k: np.array(values[k]) - np.array(base[k]) for k in METRICS}
            sign = {k: 1 if k in ("psnr", "ssim") else -1 for k in METRICS}
            cells = [
                f"{d.mean():+.{METRICS[k][1]}f} ± {d.std(ddof=1) / len(d) ** 0.5:.{METRICS[k][1]}f} "
                f"({np.mean(sign[k] * d > 0):.0%})"
                for k, d in differences.items()
            ]
            body.append([method, *cells])
    return markdown([f"less bicubic, {SETS[name]}", *(label[:-2] for label, _ in METRICS.values())], body)


def features(params: dict[str, Any]) -> dict[str, float]:
    """What one point of the space is like, in numbers that grow with the severity where there is one."""
    p = params

    def noise(stage: int) -> float:
        if p[f"noise{stage}_kind"] == 0:
            return p[f"noise{stage}_sigma_255"]
        return POISSON_SIGMA * p[f"noise{stage}_poisson_scale"] if p[f"noise{stage}_kind"] == 1 else 0.0

    def blur(stage: int) -> float:
        width = (p[f"kernel{stage}_sigma_x"] + p[f"kernel{stage}_sigma_y"]) / 2
        return width if p[f"blur{stage}"] and not p[f"kernel{stage}_is_sinc"] else 0.0

    return {
        "noise of stage 1": noise(1),
        "noise of stage 2": noise(2),
        "stage 2 Poisson": float(p["noise2_kind"] == 1),
        "stage 2 grey": float(p["noise2_is_gray"]),
        "stage 1 grey": float(p["noise1_is_gray"]),
        "blur of stage 1": blur(1),
        "blur of stage 2": blur(2),
        "size after stage 1": float(np.log(p["resize1_scale"])),
        "size after stage 2": float(np.log(p["resize2_scale"])),
        "JPEG quality 1": p["jpeg1_quality"],
        "JPEG quality 2": p["jpeg2_quality"],
        "last filter is a sinc": float(p["final_sinc"]),
    }


def regression(tgsr: dict[str, Any]) -> tuple[str, float, float]:
    """Rank correlation of z with each parameter (80 % bootstrap), and R² of a ridge regression, fitted and left out."""
    z = np.array([tgsr["z"][t["name"]]["10"][0] for t in tgsr["tasks"]])
    table = {k: np.array([t["features"][k] for t in tgsr["tasks"]]) for k in tgsr["tasks"][0]["features"]}
    rng = np.random.default_rng(0)
    found = {k: (spearman(v, z), *spearman_interval(v, z, rng=rng)) for k, v in table.items()}
    order = sorted(found, key=lambda k: -abs(found[k][0]))
    body = [[k, f"{found[k][0]:+.2f}", f"{found[k][1]:+.2f} to {found[k][2]:+.2f}"] for k in order]
    x = np.stack([(ranks(v) - ranks(v).mean()) / (ranks(v).std() or 1) for v in table.values()], axis=1)
    return markdown(["parameter", "Spearman with z", "80 % interval"], body), *ridge(x, z)


def ridge(x: np.ndarray, z: np.ndarray, penalty: float = 10.0) -> tuple[float, float]:
    """R² of a ridge regression with an intercept: of the fit, and with each task predicted from the others."""
    x, centred = x - x.mean(axis=0), z - z.mean()
    hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T) + 1 / len(z)
    residual = centred - hat @ centred
    total = (centred**2).sum()
    left_out = residual / (1 - np.diag(hat))
    return float(1 - (residual**2).sum() / total), float(1 - (left_out**2).sum() / total)


def z_table(tgsr: dict[str, Any]) -> str:
    names = [t["name"] for t in tgsr["tasks"]]
    z5, z10 = (np.array([tgsr["z"][n][k] for n in names]) for k in ("5", "10"))
    low, *quartiles, high = np.quantile(z10[:, 0], [0, 0.25, 0.5, 0.75, 1])
    both = f"{reliability(*z5.T):.2f} / {reliability(*z10.T):.2f}"
    body = [
        ["tasks", str(len(names))],
        ["z: lowest; quartiles; highest", f"{low:.3f}; {', '.join(f'{q:.3f}' for q in quartiles)}; {high:.3f}"],
        ["standard error of z, median", f"{np.median(z10[:, 1]):.4f}"],
        ["reliability, 1 - mean(se²) / var(z), 5 / 10 iterations", both],
        ["rank agreement of 5 with 10 iterations", f"{spearman(z5[:, 0], z10[:, 0]):.2f}"],
    ]
    again = tgsr.get("z_again")
    if again and len(again) >= 8:  # fewer say nothing about ranks
        for k in ("5", "10"):
            pairs = np.array([[tgsr["z"][n][k][0], again[n][k][0]] for n in again]).T
            lower, upper = spearman_interval(*pairs, rng=np.random.default_rng(0))
            label = f"rank agreement with another seed ({len(again)} tasks) [80 %], {k} iterations"
            body.append([label, f"{spearman(*pairs):.2f} [{lower:.2f}, {upper:.2f}]"])
    if tgsr.get("pis"):
        pis = np.array(list(tgsr["pis"].values()))
        z = np.array([tgsr["z"][name]["10"][0] for name in tgsr["pis"]])
        low, *quartiles, high = np.quantile(pis, [0, 0.25, 0.5, 0.75, 1])
        shown = f"{low:+.2f}; {', '.join(f'{q:+.2f}' for q in quartiles)}; {high:+.2f} dB"
        body.append([f"PIS of the {len(pis)} selected tasks: lowest; quartiles; highest", shown])
        body.append(["Spearman of 1 - z and PIS among them", f"{spearman(1 - z, pis):.2f}"])
    return markdown(["quantity", "value"], body)


def tables() -> dict[str, str]:
    """Every table of the page for which there are numbers."""
    found: dict[str, str] = {}
    if (NUMBERS / "rows.json").exists():
        rows = read_json(NUMBERS / "rows.json")
        found |= {f"rows {name}": rows_table(rows, name) for name in SETS if name in rows}
        found |= {f"paired {name}": paired_table(rows, name) for name in SETS if name in rows}
    if (NUMBERS / "tgsr.json").exists():
        tgsr = read_json(NUMBERS / "tgsr.json")
        text, fitted, left_out = regression(tgsr)
        found |= {"z": z_table(tgsr), "parameters": text}
        found["R²"] = f"R² {fitted:.2f}, {left_out:.2f} with each task left out in turn"
    return found


def collect_rows() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name in SETS:
        for net in NETS:
            file = ROOT / f"results/published/rows/test-{name}-{net}/metrics.json"
            if not file.exists():
                continue
            images = read_json(file)["datasets"][name]["images"]
            rows.setdefault(name, {"bicubic": per_image([i["baselines"]["bicubic"] for i in images])})
            rows[name][net] = per_image([i["metrics"] for i in images])
    return rows


def per_image(values: list[dict[str, float]]) -> dict[str, list[float]]:
    return {k: [round(v[k], 4) for v in values] for k in METRICS}


def collect_tgsr() -> dict[str, Any]:
    study = ROOT / "experiments/published/tgsr"
    tasks = read_json(study / "tasks/tasks.json")["tasks"]

    def sweep(name: str) -> dict[str, Any]:
        files = sorted((study / name).glob("indicators*.jsonl"))  # parts of a sweep that still runs, too
        records = [r for file in files for r in read_jsonl(file) if "task" in r]
        pick = lambda r, k: [round(v, 5) for v in r["estimates"][f"probe@{k}"]]  # noqa: E731
        return {r["task"]: {k: pick(r, k) for k in ("5", "10")} for r in records}

    z = sweep("z")
    if not z:
        return {}
    shown = [
        {"name": t["name"], "features": {k: round(v, 3) for k, v in features(t["space"]["params"]).items()}}
        for t in tasks
        if t["name"] in z
    ]
    before, after = scores(study / "groups/before"), scores(study / "groups/round_1_pis")
    pis = {name: round(after[name] - before[name], 4) for name in after}
    return {"tasks": shown, "z": z, "z_again": sweep("again"), "pis": pis}


def scores(folder: Path) -> dict[str, float]:
    """Task -> PSNR, as `GroupTasks` measures it before and after a round."""
    records = [r for file in folder.glob("*.jsonl") for r in read_jsonl(file) if "values" in r]
    return {r["task"]: r["values"]["net"]["psnr"] for r in records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", action="store_true")
    if parser.parse_args().collect:
        NUMBERS.mkdir(exist_ok=True)
        for name, content in (("rows", collect_rows()), ("tgsr", collect_tgsr())):
            if content:
                (NUMBERS / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")
    for name, table in tables().items():
        sys.stdout.write(f"\n{name}\n\n{table}\n")


if __name__ == "__main__":
    main()
