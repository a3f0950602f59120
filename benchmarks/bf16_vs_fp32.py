"""Does bf16 cost quality: two trainings from the same weights on the same batches, one in fp32 and one in bf16.

For every seed the option file's loader makes each batch once, both models take a step on it, and at the end both
restore the validation sets with their EMA weights. The differences in PSNR, paired by seed, go beside the spread
over seeds, which is what a difference has to be compared with.

    python benchmarks/bf16_vs_fp32.py --seeds 0 1 2 --iterations 300 --json results/bf16_vs_fp32.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tgsr.methods  # noqa: E402, F401
from tgsr.config.options import load_options  # noqa: E402
from tgsr.engine import build  # noqa: E402
from tgsr.engine.context import Context  # noqa: E402
from tgsr.engine.validation import validate  # noqa: E402

MODES = ("fp32", "bf16")


def train_pair(option_file: Path, overrides: list[str], seed: int, iterations: int) -> dict[str, dict[str, float]]:
    """Metrics of both trainings: mode -> `set/metric` -> value, and the mean loss of the last tenth."""
    context = Context(torch.device("cpu"))
    changes = [f"manual_seed={seed}", f"train:total_iter={iterations}", "datasets:train:num_worker_per_gpu=0"]
    options = {
        mode: load_options(option_file, [*overrides, *changes, f"precision={mode}"]) for mode in MODES
    }
    common = options["fp32"]
    tasks = build.build_tasks(common)
    data = build.TrainData(common, context, tasks, build.build_task_sampler(common, tasks))
    models = {mode: build.build_model(o, context, build.build_loss_weighting(o, tasks)) for mode, o in options.items()}
    losses: dict[str, list[float]] = {mode: [] for mode in MODES}
    for i, batches in enumerate(data.iterations(0, iterations)):
        for mode, model in models.items():
            losses[mode].append(float(model.step(batches, i).total.mean()))
    data.close()
    metrics = {name: metric for name, metric in build.build_metrics(common).items() if name == "psnr"}
    results: dict[str, dict[str, float]] = {}
    for mode, model in models.items():
        restore = build.build_restorer(options[mode], model)
        results[mode] = {"loss": statistics.fmean(losses[mode][-max(1, iterations // 10) :])}
        for name, dataset in build.build_val_sets(common).items():
            for metric, value in validate(restore, dataset, metrics, context).means().items():
                results[mode][f"{name}/{metric}"] = value
    return results


def summarise(runs: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Per quantity: both means over seeds, the paired differences and the deviation over seeds in fp32."""
    summary = {}
    for key in runs[0]["fp32"]:
        values = {mode: [run[mode][key] for run in runs] for mode in MODES}
        differences = [b - a for a, b in zip(values["fp32"], values["bf16"], strict=True)]
        summary[key] = {
            **{mode: statistics.fmean(v) for mode, v in values.items()},
            "differences": differences,
            "mean_difference": statistics.fmean(differences),
            "deviation_over_seeds": statistics.stdev(values["fp32"]) if len(runs) > 1 else None,
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", "--opt", type=Path, default=Path("options/quickstart.yml"))
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:SUB=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.process_time()
    runs: list[dict[str, dict[str, float]]] = []
    for seed in arguments.seeds:
        runs.append(train_pair(arguments.opt, arguments.force_yml, seed, arguments.iterations))
        report = {
            "benchmark": "bf16_vs_fp32", "option_file": str(arguments.opt), "changes": arguments.force_yml,
            "iterations": arguments.iterations, "seeds": arguments.seeds, "cpu_seconds": time.process_time() - start,
            "runs": runs, "summary": summarise(runs),
        }  # fmt: skip
        print(json.dumps(report["summary"], indent=1), flush=True)
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
