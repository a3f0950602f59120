"""What waiting without spinning is worth: the quickstart's iterations, alone and beside busy processes.

    python benchmarks/waiting_threads.py [--iterations 60] [--busy 0 2] [--rounds 1] [-opt options/quickstart.yml]

Every line is a run of its own from the start of Python to its end, without validation: seconds by the clock, processor
seconds of all its processes, images a second of its training. `spinning` is OpenMP's default, `passive` tgsr's.
Orders are rotated over the rounds, since a machine drifts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "spinning": {"OMP_WAIT_POLICY": "ACTIVE"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
}


def run(option_file: str, iterations: int, env: dict[str, str]) -> dict[str, float]:
    """One training in a folder of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MKL_"))}
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"train.total_iter={iterations}", f"logger.print_freq={iterations}", "datasets.val=~", "logger.best=~",
            f"path.experiments_root={folder}/e", f"path.results_root={folder}/r",
        ]  # fmt: skip
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "tgsr.cli", "train", "-opt", option_file, "--force_yml", *overrides]
        subprocess.run(command, env={**clean, **env}, check=True, stderr=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        log = next(Path(folder, "e").rglob("log.jsonl")).read_text().splitlines()
    (last,) = [event for line in log if (event := json.loads(line))["event"] == "train"]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "images_per_s": last["images_per_s"], "loss": last["losses"]["pixel"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", default="options/quickstart.yml")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="busy processes beside it")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    for number in range(arguments.rounds):
        names = list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]
        for num_busy in arguments.busy:
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_busy)]
            try:
                for name in names:
                    found = run(arguments.opt, arguments.iterations, WAYS[name])
                    print(
                        f"{num_busy} busy  {name:<10}  {found['seconds']:6.1f} s  {found['cpu']:6.1f} s of processor  "
                        f"{found['images_per_s']:5.1f} images/s  loss {found['loss']:.6f}", flush=True
                    )  # fmt: skip
            finally:
                for process in busy:
                    process.kill()


if __name__ == "__main__":
    main()
