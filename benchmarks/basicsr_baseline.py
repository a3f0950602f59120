"""Yardstick of the foundation experiment: the same small network trained by basicsr 1.4.2's own code on a CPU.

Everything that learns or degrades is basicsr's, unmodified: `RealESRGANDataset`, `EnlargedSampler`, `RealESRNetModel`
(`feed_data`, its pair pool, `optimize_parameters`), `MSRResNet`, `L1Loss`, Adam, `MultiStepRestartLR`, EMA and
`save_network`. Three things outside it are patched, because basicsr 1.4.2 does not run on a CPU with a current torch
otherwise: the import alias for torchvision, `.cuda()` without a GPU, and one `.contiguous()` before `filter2D`.

Settings: x4, the published RealESRNet x4plus second-order degradation, `gt_usm: false`, 128 px ground-truth crops cut
from the degraded 400 px crop, horizontal flips, batch 8, 2500 iterations (20,000 images), pair pool of 176 (the
published 180 is not divisible by 8). `EnlargedSampler` orders the images by the epoch alone, so all seeds see the same
order of images; crops, flips, kernels, degradations and the initial weights follow `--seed`.

A killed run goes on from its newest `states/<iter>.state` (every 250 iterations) and gives the weights of an
uninterrupted one. Output in `--out`: `net_g_<iter>.pth` (`params`, `params_ema`), `log.jsonl` and `run.json`.

Example: python benchmarks/basicsr_baseline.py --dataroot datasets/BSDS500/train --out experiments/basicsr_seed0
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

KERNELS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
KERNEL_PROB = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
DATASET: dict[str, Any] = {
    "io_backend": {"type": "disk"}, "use_hflip": True, "use_rot": False,
    "blur_kernel_size": 21, "kernel_list": KERNELS, "kernel_prob": KERNEL_PROB, "sinc_prob": 0.1,
    "blur_sigma": [0.2, 3], "betag_range": [0.5, 4], "betap_range": [1, 2],
    "blur_kernel_size2": 21, "kernel_list2": KERNELS, "kernel_prob2": KERNEL_PROB, "sinc_prob2": 0.1,
    "blur_sigma2": [0.2, 1.5], "betag_range2": [0.5, 4], "betap_range2": [1, 2], "final_sinc_prob": 0.8,
}
DEGRADATION: dict[str, Any] = {
    "resize_prob": [0.2, 0.7, 0.1], "resize_range": [0.15, 1.5], "gaussian_noise_prob": 0.5, "noise_range": [1, 30],
    "poisson_scale_range": [0.05, 3], "gray_noise_prob": 0.4, "jpeg_range": [30, 95],
    "second_blur_prob": 0.8, "resize_prob2": [0.3, 0.4, 0.3], "resize_range2": [0.3, 1.2],
    "gaussian_noise_prob2": 0.5, "noise_range2": [1, 25], "poisson_scale_range2": [0.05, 2.5],
    "gray_noise_prob2": 0.4, "jpeg_range2": [30, 95],
}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True, help="folder of ground-truth training images")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, states and the log")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--gt-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--milestones", type=int, nargs="*", default=[2000])
    parser.add_argument("--ema-decay", type=float, default=0.99)
    parser.add_argument("--num-feat", type=int, default=32)
    parser.add_argument("--num-block", type=int, default=8)
    parser.add_argument("--queue-size", type=int, default=176, help="pair pool, a multiple of the batch; 0: none")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--log-every", type=int, default=100)
    return parser.parse_args()


def load_basicsr() -> Any:
    """basicsr's RealESRNet module, patched to run without a GPU."""
    import torchvision.transforms.functional as functional

    sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = lambda self, *args, **kwargs: self
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    from basicsr.models import realesrnet_model
    from basicsr.utils import get_root_logger

    get_root_logger(log_level=logging.WARNING)
    filter2d = realesrnet_model.filter2D
    realesrnet_model.filter2D = lambda image, kernel: filter2d(image.contiguous(), kernel)
    return realesrnet_model


def build_dataset(args: argparse.Namespace) -> Any:
    """basicsr's dataset over all images of the folder, in sorted order."""
    from basicsr.data.realesrgan_dataset import RealESRGANDataset

    names = sorted(p.name for p in args.dataroot.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if len(names) < args.batch:
        sys.exit(f"{args.dataroot}: {len(names)} images, a batch needs {args.batch}")
    meta_info = args.out / "meta_info.txt"
    meta_info.write_text("".join(f"{name}\n" for name in names))
    return RealESRGANDataset({**DATASET, "io_backend": {"type": "disk"}, "dataroot_gt": str(args.dataroot),
                              "meta_info": str(meta_info), "gt_size": args.gt_size})


def build_model(args: argparse.Namespace, module: Any) -> Any:
    """basicsr's RealESRNetModel with the options of this experiment."""
    model = module.RealESRNetModel({
        **DEGRADATION, "scale": 4, "gt_usm": False, "gt_size": args.gt_size, "queue_size": args.queue_size,
        "num_gpu": 0, "dist": False, "is_train": True, "path": {"models": str(args.out)},
        "network_g": {"type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": args.num_feat,
                      "num_block": args.num_block, "upscale": 4},
        "train": {
            "ema_decay": args.ema_decay,
            "optim_g": {"type": "Adam", "lr": args.lr, "weight_decay": 0, "betas": [0.9, 0.99]},
            "scheduler": {"type": "MultiStepLR", "milestones": args.milestones, "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
    })
    if not args.queue_size:
        model._dequeue_and_enqueue = lambda: None
    return model


def rng_state() -> dict[str, Any]:
    """The three global random states that basicsr draws from, in a form that `weights_only` loading accepts."""
    kind, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "torch": torch.get_rng_state(),
            "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest]}


def set_rng_state(state: dict[str, Any]) -> None:
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))


def save(model: Any, args: argparse.Namespace, iteration: int, clock: dict[str, float], losses: list[float]) -> None:
    """Weights in basicsr's form and a whole-or-absent state; only the newest state is kept."""
    model.save_network([model.net_g, model.net_g_ema], "net_g", iteration, param_key=["params", "params_ema"])
    state = {
        "iteration": iteration, "clock": clock, "losses": losses, "rng": rng_state(),
        "net_g": model.net_g.state_dict(), "net_g_ema": model.net_g_ema.state_dict(),
        "optimizer": model.optimizer_g.state_dict(),
        "scheduler": {k: v for k, v in model.schedulers[0].state_dict().items() if k in ("last_epoch", "_step_count")},
    }
    if hasattr(model, "queue_lr"):
        state["queue"] = {"lr": model.queue_lr, "gt": model.queue_gt, "ptr": model.queue_ptr}
    folder = args.out / "states"
    folder.mkdir(exist_ok=True)
    temporary = folder / "state.tmp"
    torch.save(state, temporary)
    os.replace(temporary, folder / f"{iteration}.state")
    for old in folder.glob("*.state"):
        if old.stem != str(iteration):
            old.unlink()


def resume(model: Any, args: argparse.Namespace) -> tuple[int, dict[str, float], list[float]]:
    """Load the newest state: its iteration (0 without one), the seconds used so far, the losses not yet logged."""
    states = sorted((args.out / "states").glob("*.state"), key=lambda p: int(p.stem))
    if not states:
        return 0, {"seconds": 0.0, "cpu_seconds": 0.0, "read": 0.0, "degrade": 0.0, "step": 0.0}, []
    state = torch.load(states[-1], weights_only=True)
    model.net_g.load_state_dict(state["net_g"])
    model.net_g_ema.load_state_dict(state["net_g_ema"])
    model.optimizer_g.load_state_dict(state["optimizer"])
    model.schedulers[0].__dict__.update(state["scheduler"])
    if "queue" in state:
        model.queue_lr, model.queue_gt = state["queue"]["lr"], state["queue"]["gt"]
        model.queue_ptr = state["queue"]["ptr"]
    set_rng_state(state["rng"])
    log = args.out / "log.jsonl"
    if log.exists():  # lines after the state are written again
        kept = [line for line in log.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["iter"] <= state["iteration"]]
        log.write_text("".join(f"{line}\n" for line in kept))
    return state["iteration"], state["clock"], state["losses"]


def epoch_order(dataset: Any, epoch: int) -> list[int]:
    from basicsr.data.data_sampler import EnlargedSampler

    sampler = EnlargedSampler(dataset, num_replicas=1, rank=0)
    sampler.set_epoch(epoch)
    return list(sampler)


def train(model: Any, dataset: Any, args: argparse.Namespace) -> None:
    """basicsr's training loop without workers: every draw happens in this process, so a resume is exact."""
    start, clock, losses = resume(model, args)
    per_epoch = len(dataset) // args.batch
    order: tuple[int, list[int]] = (-1, [])
    for iteration in range(start + 1, args.iterations + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        epoch, position = divmod(iteration - 1, per_epoch)
        if order[0] != epoch:
            order = (epoch, epoch_order(dataset, epoch))
        model.update_learning_rate(iteration)
        batch = default_collate([dataset[i] for i in order[1][position * args.batch:(position + 1) * args.batch]])
        read = time.perf_counter()
        model.feed_data(batch)
        degraded = time.perf_counter()
        model.optimize_parameters(iteration)
        losses.append(model.get_current_log()["l_pix"])
        end = time.perf_counter()
        spent = {"seconds": end - wall, "cpu_seconds": time.process_time() - cpu, "read": read - wall,
                 "degrade": degraded - read, "step": end - degraded}
        clock = {key: clock[key] + value for key, value in spent.items()}
        if iteration % args.log_every == 0 or iteration == args.iterations:
            record = {"iter": iteration, "loss": sum(losses) / len(losses), "lr": model.get_current_learning_rate()[0],
                      **{key: round(value, 2) for key, value in clock.items()}}
            losses = []
            with open(args.out / "log.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)
        if iteration % args.save_every == 0 or iteration == args.iterations:
            save(model, args, iteration, clock, losses)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    module = load_basicsr()
    from basicsr.utils import set_random_seed

    set_random_seed(args.seed)
    dataset, model = build_dataset(args), build_model(args, module)
    run = {"arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
           "dataset": DATASET, "degradation": {**DEGRADATION, "gt_usm": False}, "num_images": len(dataset),
           "num_parameters": sum(p.numel() for p in model.net_g.parameters()),
           "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                        "opencv": cv2.__version__, "basicsr": sys.modules["basicsr"].__version__}}
    (args.out / "run.json").write_text(json.dumps(run, indent=1) + "\n")
    train(model, dataset, args)


if __name__ == "__main__":
    main()
