"""A run small enough for tests: tiny images, a tiny network, options as a dictionary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml


def make_images(folder: Path, num: int = 6, size: int = 40, seed: int = 0) -> Path:
    """Smooth random photographs-like PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(num):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:02d}.png"), cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC))
    return folder


def toy_options(root: Path, **sections: Any) -> dict[str, Any]:
    """Raw options of a run that takes a second; `sections` are merged over them, two levels deep."""
    options: dict[str, Any] = {
        "name": "toy",
        "scale": 4,
        "device": "cpu",
        "precision": "fp32",
        "num_threads": 1,
        "degradation": {"space": {"type": "SecondOrder", "preset": "x4plus", "scale": 4}},
        "datasets": {
            "train": {
                "dataset": {"type": "GTDataset", "dataroot_gt": str(root / "gt"), "gt_size": 32, "use_hflip": True},
                "batch_size_per_gpu": 4,
                "num_worker_per_gpu": 0,
            },
            "val": {"toy": {"type": "GTDataset", "dataroot_gt": str(root / "val")}},
        },
        "network_g": {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 4},
        "train": {
            "total_iter": 6,
            "ema_decay": 0.5,
            "optim_g": {"type": "Adam", "lr": 0.001},
            "losses": {"pixel": {"type": "L1Loss"}},
        },
        "val": {"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}},
        "path": {"experiments_root": str(root / "experiments"), "results_root": str(root / "results")},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }
    for key, value in sections.items():
        if isinstance(value, dict) and isinstance(options.get(key), dict):
            options[key] = {**options[key], **value}
        else:
            options[key] = value
    return options


def write_options(root: Path, options: dict[str, Any]) -> Path:
    """Save as YAML, with images beside it."""
    if not (root / "gt").exists():
        make_images(root / "gt")
        make_images(root / "val", num=2, seed=1)
    path = root / f"{options['name']}.yml"
    path.write_text(yaml.safe_dump(options))
    return path
