"""A run small enough for tests: tiny images, a tiny network, options as a dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.stages import Train
from tgsr.engine.trainer import Trainer
from tgsr.tasks.samplers import TASK_SAMPLERS, Feedback, UniformTaskSampler


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


def run(root: Path, *, auto_resume: bool = False, **sections) -> Trainer:
    root.mkdir(parents=True, exist_ok=True)
    options = load_options(write_options(root, toy_options(root, **sections)))
    stage = Train(options=options, context=Context.create(device="cpu", auto_resume=auto_resume))
    stage.run()
    return stage.trainer


def weights(root: Path, iteration: int | str = "latest", name: str = "toy") -> dict[str, torch.Tensor]:
    content = torch.load(root / "experiments" / name / "models" / f"net_g_{iteration}.pth", weights_only=True)
    return {f"{k}.{n}": v for k, group in content.items() for n, v in group.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [k for k in a if not torch.equal(a[k], b[k])]
    assert not different, f"{len(different)} of {len(a)} tensors differ, first {different[0]}"


def events(root: Path, kind: str, name: str = "toy") -> list[dict]:
    lines = (root / "experiments" / name / "log.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == kind]


@TASK_SAMPLERS.register()
class HardestTaskSampler(UniformTaskSampler):
    """Test sampler: after each interval only the task with the largest loss is drawn."""

    interval = 2

    def __init__(self, tasks, *, seed: int) -> None:
        super().__init__(tasks, seed=seed)
        self.seen: list[Feedback] = []

    def update(self, feedback: Feedback) -> None:
        self.seen.append(feedback)
        worst = max(feedback.losses, key=feedback.losses.get)
        self._weights = (torch.arange(len(self.tasks)) == self.tasks.index(worst)).double().numpy()

    def state_dict(self):
        return {"weights": torch.tensor(self._weights)}

    def load_state_dict(self, state) -> None:
        self._weights = state["weights"].numpy()


POINTS = {"set": {"type": "Points", "num_tasks": 3, "seed": 5}, "sampler": {"type": "HardestTaskSampler"}}
