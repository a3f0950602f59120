"""PSNR, SSIM, NIQE and LPIPS against basicsr's own code on the same pair, alternating in one process.

    python benchmarks/metrics.py [--size 2040x1356] [--repeats 9] [--threads 1] [--image FILE] [--out FILE.json]

Two forms are timed. `metric`: each side from its own input (basicsr: uint8 BGR arrays, ours: float tensors that are
rounded to 8 bits inside). `whole`: both from the network's float tensor, so basicsr's side includes its tensor2img.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import scipy.ndimage
import torch
import torchvision.transforms.functional as functional

# names that basicsr 1.4.2 imports and that newer libraries have moved
sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
sys.modules.setdefault("scipy.ndimage.filters", scipy.ndimage)


def make_pair(size: tuple[int, int], image: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A photograph enlarged to `size` (width, height), and the same through a x4 bicubic cycle with noise."""
    if image is not None:
        photo = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    else:
        from skimage import data

        photo = data.chelsea()
    gt = cv2.resize(photo, size, interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    gt = (gt + np.random.default_rng(0).normal(0, 0.01, gt.shape)).clip(0, 1).astype(np.float32)
    small = cv2.resize(gt, (size[0] // 4, size[1] // 4), interpolation=cv2.INTER_AREA)
    restored = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    return tuple(torch.from_numpy(i.transpose(2, 0, 1).copy()) for i in (restored, gt))  # type: ignore[return-value]


def contenders(restored: torch.Tensor, gt: torch.Tensor) -> dict[str, tuple[Callable, Callable, Callable]]:
    """By metric: basicsr from uint8, basicsr from float tensors, ours from float tensors."""
    from basicsr.metrics.niqe import calculate_niqe
    from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim
    from basicsr.utils import tensor2img

    from tgsr.metrics.niqe import NIQE
    from tgsr.metrics.psnr_ssim import PSNR, SSIM

    bgr = [tensor2img([image]) for image in (restored, gt)]
    table: dict[str, tuple[Callable, Callable, Callable]] = {}
    for name, theirs, ours in (
        ("PSNR", calculate_psnr, PSNR(crop_border=4)),
        ("SSIM", calculate_ssim, SSIM(crop_border=4)),
    ):
        table[name] = (
            lambda f=theirs: f(*bgr, crop_border=4, test_y_channel=True),
            lambda f=theirs: f(tensor2img([restored]), tensor2img([gt]), crop_border=4, test_y_channel=True),
            lambda m=ours: m(restored, gt),
        )
    niqe = NIQE()
    table["NIQE"] = (
        lambda: calculate_niqe(bgr[0], 0),
        lambda: calculate_niqe(tensor2img([restored]), 0),
        lambda: niqe(restored),
    )
    return table


def compare(
    theirs: Callable, whole: Callable, ours: Callable, repeats: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, object]:
    """Medians, the ratio of each round and its quartiles, and how far the values are apart."""
    functions = {"basicsr": theirs, "basicsr_whole": whole, "ours": ours}
    values = {name: function() for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name].append(clock() - start)
    report: dict[str, object] = {f"{name}_s": statistics.median(times) for name, times in seconds.items()}
    for key, name in (("ratio", "basicsr"), ("ratio_whole", "basicsr_whole")):
        rounds = [a / b for a, b in zip(seconds[name], seconds["ours"], strict=True)]
        report[key] = statistics.median(rounds)
        report[f"{key}_quartiles"] = statistics.quantiles(rounds, n=4)[::2]
    return {**report, "value": values["ours"], "difference": abs(float(values["ours"]) - float(values["basicsr"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2040x1356", help="width x height of the pair")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--out", type=Path, help="also write the report as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    width, height = map(int, args.size.split("x"))
    restored, gt = make_pair((width, height), args.image)
    report: dict[str, object] = {
        "size": args.size,
        "threads": args.threads,
        "repeats": args.repeats,
        "versions": {"torch": torch.__version__, "opencv": cv2.__version__, "python": platform.python_version()},
    }
    print(f"{'':5} {'basicsr s':>10} {'ours s':>8} {'ratio':>6} {'quartiles':>13} {'whole':>6} {'difference':>11}")
    for name, functions in contenders(restored, gt).items():
        row = report[name] = compare(*functions, args.repeats)
        low, high = row["ratio_quartiles"]  # type: ignore[misc]
        print(
            f"{name:5} {row['basicsr_s']:10.4f} {row['ours_s']:8.4f} {row['ratio']:6.2f} {low:6.2f}-{high:<6.2f}"
            f" {row['ratio_whole']:6.2f} {row['difference']:11.1e}"
        )
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
