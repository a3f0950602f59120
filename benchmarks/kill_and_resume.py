"""Kill a training run at random moments until it is done, and compare its weights with those of a run left alone.

    python benchmarks/kill_and_resume.py --kills 20 --ranks 1
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.engine.test_kill_and_ranks import finish, kill_at_random, prepare, start  # noqa: E402
from tests.engine.toy import weights  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train = {
        "total_iter": arguments.iterations,
        "ema_decay": 0.9,
        "optim_g": {"type": "Adam", "lr": 0.001},
        "losses": {"pixel": {"type": "L1Loss"}},
    }
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = (prepare(Path(folder) / name, train=train) for name in ("whole", "killed"))
        finish(start(whole, ranks=arguments.ranks))
        kills = kill_at_random(killed, ranks=arguments.ranks, times=arguments.kills, seed=arguments.seed)
        finish(start(killed, ranks=arguments.ranks))
        a, b = weights(whole.parent), weights(killed.parent)
    different = [k for k in a if not torch.equal(a[k], b[k])]
    result = {"ranks": arguments.ranks, "kills": kills, "tensors": len(a), "different": len(different)}
    print(json.dumps(result))
    raise SystemExit(bool(different) or a.keys() != b.keys())


if __name__ == "__main__":
    main()
