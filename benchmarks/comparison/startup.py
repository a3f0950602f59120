"""Start-up: what `--help` costs on both sides, and a whole check of an option file on ours."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from comparison.measure import ROOT, Settings, compare, quartiles, row

THEIR_HELP = (
    "import sys, torchvision.transforms.functional as f;"
    "sys.modules['torchvision.transforms.functional_tensor'] = f;"
    "sys.argv = ['train.py', '--help'];"
    "from basicsr.train import parse_options; parse_options('.', is_train=True)"
)
COMMANDS = {
    "basicsr": [sys.executable, "-c", THEIR_HELP],
    "help": [sys.executable, "-m", "tgsr.cli", "--help"],
    "check": [sys.executable, "train.py", "-opt", "options/quickstart.yml", "--check"],
    "torch": [sys.executable, "-c", "import torch"],
}


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Seconds of processes of their own; `--check` beside nothing, for basicsr has none."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    rounds = settings.num_rounds(5)
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            seconds[name].append(_run(command, settings.clock))
    rows = [row("--help: basicsr's train.py / tgsr", "s", 1, compare(seconds["basicsr"], seconds["help"]))]
    titles = {"check": "train.py --check (quickstart: one real step)", "torch": "import torch, for scale"}
    for name, title in titles.items():
        low, high = quartiles(seconds[name])
        median = sorted(seconds[name])[rounds // 2]
        rows.append({"name": title, "unit": "s", "ours": median, "low_s": low, "high_s": high, "rounds": rounds})
    return rows


def _run(command: Sequence[str], clock: str) -> float:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if clock == "wall":
        return time.perf_counter() - start
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
