"""How two sides are timed: alternating in one process, by wall or processor time; memory in processes of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        clock: `wall`, or `cpu`: processor time of this process, which a busy machine disturbs less.
        threads: of torch, on both sides.
        rounds: times that each form is run; None: what the section finds enough.
        is_quick: small networks and few rounds, to see whether everything runs.
        images: folder of photographs; None: those that come with scikit-image.
        folder: for files that the measurement needs.
        device: `cpu` or `cuda`, of both sides.
        workers: of both sides' loaders, where there are any.
    """

    clock: str
    threads: int
    rounds: int | None
    is_quick: bool
    images: Path | None
    folder: Path
    device: str = "cpu"
    workers: int = 0

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def repeats(self) -> int:
        """Calls of a form in a round: on a GPU several, for the host runs ahead of it."""
        return 10 if self.on_gpu else 1

    def now(self) -> float:
        """Seconds on the chosen clock, once the GPU has done what it was given."""
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
        return time.process_time() if self.clock == "cpu" else time.perf_counter()

    def num_rounds(self, usual: int) -> int:
        """The rounds of a section that usually takes so many."""
        return self.rounds or (max(2, usual // 4) if self.is_quick else usual)


def alternate(
    forms: Mapping[str, Callable[[int], Any]], settings: Settings, rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Run every form once a round, one after the other.

    Args:
        forms: by name; called with the number of the round.
        settings: for the clock and the calls a round.
        rounds: counted rounds.
        warm_up: rounds before them that are not counted.

    Returns:
        Seconds of a call in every round, by form.
    """
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(-warm_up, rounds):
        for name, form in forms.items():
            start = settings.now()
            for k in range(settings.repeats):
                form(max(i, 0) * settings.repeats + k)
            if i >= 0:
                seconds[name].append((settings.now() - start) / settings.repeats)
    return seconds


def compare(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """The median of the rounds' ratios theirs / ours and their quartiles, with the median of each side."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, high = quartiles(ratios)
    return {
        "basicsr": statistics.median(theirs),
        "ours": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "low": low,
        "high": high,
        "rounds": len(ratios),
    }


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The 25th and the 75th percentile."""
    if len(values) == 1:
        return values[0], values[0]
    parts = statistics.quantiles(values, n=4, method="inclusive")
    return parts[0], parts[2]


def row(name: str, unit: str, factor: float, values: Mapping[str, float], **more: Any) -> dict[str, Any]:
    """One line of the table; the seconds of both sides become `unit` by `factor`."""
    scaled = {k: v * factor if k in ("basicsr", "ours") else v for k, v in values.items()}
    return {"name": name, "unit": unit, **scaled, **more}


def run_child(module: str, argument: Mapping[str, Any]) -> dict[str, Any]:
    """Run `python -m comparison.<module> '<json>'`, and read the JSON that it prints last."""
    command = [sys.executable, "-m", f"comparison.{module}", json.dumps(argument)]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory_mib(device: str = "cpu") -> float:
    """The most memory this process has held so far (Linux; unlike getrusage's without the parent's), or its tensors
    on a GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")
