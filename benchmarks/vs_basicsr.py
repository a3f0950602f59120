"""Faster than BasicSR by how much: its own code and ours on the same inputs, alternating in one process.

    python benchmarks/vs_basicsr.py [--only degrade,step,memory,iteration,metrics,crops,startup]
                                    [--clock wall|cpu] [--threads 1] [--rounds N] [--quick] [--json FILE]
                                    [--device cpu|cuda] [--workers N]

| section | basicsr's side |
|---|---|
| degrade | `RealESRGANModel.feed_data`, as shipped and with a separable unsharp mask |
| step | `optimize_parameters` of RealESRNetModel and RealESRGANModel, fp32 |
| memory | the same twice, each form in a process of its own |
| iteration | `RealESRGANDataset`, `feed_data`, `optimize_parameters`, all in this process |
| metrics | `calculate_psnr`, `calculate_ssim`, `calculate_niqe` on a 2040x1356 pair |
| crops | `FileClient`, `imfrombytes`, `img2tensor` of PNG files |
| startup | `train.py --help` |
| launches | operations of the first three, counted on the CPU: what a GPU's host has to launch, and what it waits for |

A ratio is the median over rounds of basicsr's seconds over ours, with its quartiles; in `degrade` it is the ratio of
means with an 80 % bootstrap interval, because the cost of a sample varies with its draw. basicsr 1.4.2 is changed only
where it does not run otherwise: `.cuda()` does nothing without a GPU, `filter2D` gets a contiguous image, VGG has
random weights on both sides, the pair pool (which would cost it time) is off.

Wall time is what a user waits, and needs an idle machine. Processor time (`--clock cpu`) also works beside other
processes; use it with one thread, for a second one is counted even while it waits.

`--device cuda` runs degrade, step, memory and iteration on a GPU, with larger batches, our compiled form and the share
of the arithmetic floor (operations of a step over those that a large bf16 product reaches in that time); `--workers`
are those of both sides' loaders in `iteration`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from comparison.measure import Settings  # noqa: E402

SECTIONS = {
    "degrade": ("degrading", "measure"),
    "step": ("steps", "measure"),
    "memory": ("steps", "measure_memory"),
    "iteration": ("iterations", "measure"),
    "metrics": ("quality", "measure"),
    "crops": ("crops", "measure"),
    "startup": ("startup", "measure"),
    "launches": ("launches", "measure"),
}


ON_GPU = ("degrade", "step", "memory", "iteration")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="sections, with commas; default: all that the device has")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV, both sides")
    parser.add_argument("--rounds", type=int, help="of each form; default: by section")
    parser.add_argument("--quick", action="store_true", help="small networks, few rounds")
    parser.add_argument("--images", type=Path, help="folder of photographs; default: scikit-image's")
    parser.add_argument("--json", type=Path, help="also write the tables here; sections already there stay")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="of both loaders in `iteration`")
    arguments = parser.parse_args()
    if arguments.only is None:
        arguments.only = ",".join(ON_GPU if arguments.device == "cuda" else SECTIONS)
    if arguments.device == "cuda" and arguments.clock == "cpu":
        parser.error("--clock cpu says nothing of a GPU; use --clock wall")
    unknown = set(arguments.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    return arguments


def number(value: Any) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| | basicsr | ours | unit | ratio | spread | rounds |", "|---|---|---|---|---|---|---|"]
    for r in rows:
        ratio, spread = number(r.get("ratio")), "-"
        if "low" in r:
            spread = f"{number(r['low'])} to {number(r['high'])}"
        if "share" in r:
            ratio = f"share {number(r['share'])}"
        cells = [r["name"], number(r.get("basicsr")), number(r.get("ours")), r["unit"], ratio, spread, str(r["rounds"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def device_name(device: str) -> str:
    """The GPU's name, or `cpu`."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else device


def versions() -> dict[str, Any]:
    """What the numbers belong to."""
    import cv2
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "num_cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # before torch and OpenBLAS are loaded, children too
    report: dict[str, Any] = {"benchmark": "vs_basicsr", "sections": {}}
    if arguments.json and arguments.json.exists():
        report = json.loads(arguments.json.read_text())
    import cv2
    import torch

    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            clock=arguments.clock,
            threads=arguments.threads,
            rounds=arguments.rounds,
            is_quick=arguments.quick,
            images=arguments.images,
            folder=Path(folder),
            device=arguments.device,
            workers=arguments.workers,
        )
        for name in arguments.only.split(","):
            module, function = SECTIONS[name]
            rows = getattr(importlib.import_module(f"comparison.{module}"), function)(settings)
            how = {"clock": settings.clock, "threads": settings.threads, "quick": settings.is_quick}
            how |= {"device": device_name(settings.device if name in ON_GPU else "cpu"), **versions()}
            report["sections"][name] = {**how, "rows": rows}
            print(f"\n{name} ({settings.clock} time, {settings.threads} thread(s))\n\n{table(rows)}", flush=True)
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
