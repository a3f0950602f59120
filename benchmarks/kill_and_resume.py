"""Kill training runs at random moments until they are done, and compare all they leave with a run left alone: every
entry of weights and states, and the lines of the log.

    python benchmarks/kill_and_resume.py --kills 14                   # each of eleven configurations
    python benchmarks/kill_and_resume.py --kills 20 --only "two ranks"
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.engine.test_kill_and_ranks import finish, kill_at_random, prepare, start  # noqa: E402

LOADER = {"batch_size_per_gpu": 4, "num_worker_per_gpu": 0}
TRAIN = {
    "ema_decay": 0.9,
    "optim_g": {"type": "Adam", "lr": 0.001},
    "losses": {"pixel": {"type": "L1Loss"}},
}
GAN = {
    "optim_d": {"type": "Adam", "lr": 0.001},
    "gan": {"type": "GANLoss", "gan_type": "vanilla"},
}
LOG = {"print_freq": 1, "use_tb_logger": False, "keep_last": 3, "save_checkpoint_freq": 1}
VAL = {"val_freq": 3, "metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}}


def configurations(root: Path, total_iter: int) -> dict[str, tuple[int, dict[str, Any]]]:
    """Name -> ranks and sections of the option file."""
    data = {"type": "GTDataset", "dataroot_gt": str(root / "gt"), "gt_size": 32, "use_hflip": True}
    val = {"toy": {"type": "GTDataset", "dataroot_gt": str(root / "val")}}
    train = {**TRAIN, "total_iter": total_iter}
    loader = {**LOADER, "dataset": data}
    discriminator = {"type": "UNetDiscriminatorSN", "num_feat": 4}

    def sections(**changes: Any) -> dict[str, Any]:
        base = {"datasets": {"train": loader, "val": {}}, "train": train, "logger": LOG}
        return {**base, **changes}

    return {
        "sampler with state and intervals": (1, sections()),
        "no tasks": (1, sections(tasks={})),
        "two loader workers": (1, sections(datasets={"train": {**loader, "num_worker_per_gpu": 2}, "val": {}})),
        "accumulation": (1, sections(train={**train, "accumulation_steps": 2})),
        "bf16": (1, sections(precision="bf16")),
        "adversarial": (1, sections(model="AdversarialModel", network_d=discriminator, train={**train, **GAN})),
        "validation and best": (
            1, sections(datasets={"train": loader, "val": val}, val=VAL, logger={**LOG, "best": {"toy": "psnr"}}),
        ),
        "rare checkpoints": (1, sections(logger={**LOG, "save_checkpoint_freq": 4})),
        "schedule and clipping": (
            1, sections(train={**train, "clip_grad_norm": 0.1, "warmup_iter": 3,
                               "scheduler": {"type": "MultiStepLR", "milestones": [5, 9], "gamma": 0.5}}),
        ),
        "two ranks": (2, sections(datasets={"train": {**loader, "batch_size_per_gpu": 2}, "val": {}})),
        "two ranks, validation": (
            2, sections(datasets={"train": {**loader, "batch_size_per_gpu": 2}, "val": val}, val=VAL),
        ),
    }  # fmt: skip


def entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """`name.key` -> tensor or plain value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from entries(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from entries(item, f"{name}.{number}")
    else:
        yield name, value


def left_by(root: Path) -> dict[str, Any]:
    """Everything in the files of a run, but for the options, which hold its paths, and times in the log."""
    folder, found = root / "experiments" / "toy", {}
    for path in sorted([*(folder / "models").iterdir(), *(folder / "training_states").iterdir()]):
        for name, value in entries(torch.load(path, weights_only=True), f"{path.parent.name}/{path.name}"):
            if not name.endswith(".options"):
                found[name] = value
    for number, line in enumerate((folder / "log.jsonl").read_text().splitlines()):
        event = json.loads(line)
        timed = ("time", "images_per_s", "data_share", "peak_memory_gib")
        found[f"log {number}"] = {k: v for k, v in event.items() if k not in timed}
    return found


def is_same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    return a == b or (a != a and b != b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=14, help="of each configuration")
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one configuration")
    arguments = parser.parse_args()
    total_kills = total_differing = 0
    for name in configurations(Path(), 1):
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            roots = [Path(folder) / part for part in ("whole", "killed")]
            ranks = 1
            files = []
            for root in roots:
                ranks, sections = configurations(root, arguments.iterations)[name]
                files.append(prepare(root, **sections))
            finish(start(files[0], ranks=ranks))
            kills = kill_at_random(files[1], ranks=ranks, times=arguments.kills, seed=arguments.seed)
            finish(start(files[1], ranks=ranks))
            a, b = map(left_by, roots)
        differing = [k for k in a.keys() | b.keys() if k not in a or k not in b or not is_same(a[k], b[k])]
        result = {"configuration": name, "kills": kills, "entries": len(a), "differing": len(differing)}
        print(json.dumps(result), *sorted(differing)[:3], flush=True)
        total_kills, total_differing = total_kills + kills, total_differing + len(differing)
    print(json.dumps({"kills": total_kills, "differing": total_differing}))
    raise SystemExit(bool(total_differing))


if __name__ == "__main__":
    main()
