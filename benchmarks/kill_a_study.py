"""Kill a whole study at random moments until it is done, and compare weights, tasks, test sets and table with one left
alone.

    python benchmarks/kill_a_study.py --kills 30
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.engine.toy import make_images, toy_options  # noqa: E402
from tests.processes import Run, as_ranks  # noqa: E402

RUN = """
type: Study
axes: {seed: [0, 1]}
stages:
  pre: {}
  tasks: {run: {type: MakeTasks, num_tasks: 6}}
  tuned: {over: [seed], path: {pretrain_network_g: "@pre"}, tasks: {set: {type: File, path: "@tasks"}}}
  sets: {tasks: {set: {type: File, path: "@tasks"}}, run: {type: BuildBenchmarks, gt: VAL}}
  table: {run: {type: PaperTable, sets: "@sets", rows: {pre: "@pre", tuned: "@tuned", bicubic: bicubic}}}
"""


def prepare(root: Path) -> Path:
    """The study file, with its images beside it."""
    make_images(root / "gt")
    make_images(root / "val", num=3, seed=1)
    options = toy_options(root, name="study", run=yaml.safe_load(RUN.replace("VAL", str(root / "val"))))
    options["train"]["total_iter"] = 10
    options["logger"]["save_checkpoint_freq"] = 1
    (root / "study.yml").write_text(yaml.safe_dump(options, sort_keys=False))
    return root / "study.yml"


def leaves(root: Path) -> dict[str, Any]:
    """Everything that a study leaves and that must not depend on kills."""
    found: dict[str, Any] = {}
    for path in sorted(root.glob("experiments/study/**/*_latest.pth")):
        state = torch.load(path, weights_only=True)
        entries = {f"{key}.{name}": value for key, part in state.items() for name, value in part.items()}
        found |= {f"{path.parts[-3]}.{name}": value.numpy().tobytes() for name, value in entries.items()}
    tasks = json.loads((root / "experiments/study/tasks/tasks.json").read_text())
    found |= {f"tasks.{key}": value for key, value in tasks.items() if key not in ("options", "source")}
    found |= {f"sets.{p.parts[-3:]}": p.read_bytes() for p in sorted(root.glob("experiments/study/sets/**/*.png"))}
    table = json.loads((root / "results/study/table/table.json").read_text())
    found |= {f"table.{i}": record for i, record in enumerate(table["measurements"]["records"])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    ranks = as_ranks(args.ranks) if args.ranks > 1 else [{}]
    kills = rounds = compared = differing = 0
    where: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = prepare(Path(folder) / "whole")
        start = time.monotonic()
        run(whole, ranks)
        length = time.monotonic() - start
        expected = leaves(whole.parent)
        while kills < args.kills:
            root = Path(folder) / f"killed_{rounds}"
            option_file = prepare(root)
            for _ in range(args.kills - kills):
                process = Run(["-opt", str(option_file)], root / "output.txt", ranks)
                end = time.monotonic() + rng.uniform(0.1, 0.5) * length
                while process.poll() is None and time.monotonic() < end:
                    time.sleep(0.01)
                if process.poll() is not None:
                    break
                process.kill()
                process.communicate()
                kills += 1
                done = len(list(root.glob("experiments/study/*/stage.json")))
                where[f"{done} done"] = where.get(f"{done} done", 0) + 1
            run(option_file, ranks)
            found = leaves(root)
            compared += len(expected)
            differing += sum(found.get(key) != expected.get(key) for key in {*found, *expected})
            rounds += 1
            print(f"{kills} kills, {rounds} rounds, {compared} entries, {differing} differing {where}", flush=True)


def run(option_file: Path, ranks: list[dict[str, str]]) -> None:
    process = Run(["-opt", str(option_file)], option_file.parent / "output.txt", ranks)
    output = process.communicate(timeout=600)[0].decode()
    if process.returncode:
        sys.exit(output[-3000:])


if __name__ == "__main__":
    main()
