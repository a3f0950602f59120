"""Runs in processes of their own: killed at random moments, and shared by two ranks."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.engine.toy import POINTS, assert_same, toy_options, weights, write_options
from tests.processes import Run, as_ranks
from tgsr.cli import EXIT_STOPPED

STATEFUL = {"type": "CountingTaskSampler"}
PLUGIN = '''
"""A sampler with state and an interval, for processes that cannot see the tests' own."""
import torch
from tgsr.tasks.samplers import TASK_SAMPLERS, UniformTaskSampler

@TASK_SAMPLERS.register()
class CountingTaskSampler(UniformTaskSampler):
    interval = 4
    def update(self, feedback):
        losses = torch.tensor([feedback.losses.get(t.name, 0.0) for t in self.tasks], dtype=torch.float64)
        self._weights = torch.softmax(10 * losses, 0).numpy()
    def state_dict(self):
        return {"weights": torch.tensor(self._weights)}
    def load_state_dict(self, state):
        self._weights = state["weights"].numpy()
'''


def prepare(root: Path, **sections) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "plugin.py").write_text(PLUGIN)
    base = {
        "import_modules": [str(root / "plugin.py")],
        "tasks": {**POINTS, "sampler": {"type": "CountingTaskSampler"}},
        "datasets": {"train": {**toy_options(root)["datasets"]["train"], "num_worker_per_gpu": 1}, "val": {}},
        "train": {**toy_options(root)["train"], "total_iter": 12},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False, "keep_last": 3},
    }
    return write_options(root, toy_options(root, **{**base, **sections}))


def start(option_file: Path, *, ranks: int = 1, arguments: tuple[str, ...] = ()) -> Run:
    """`train.py --auto_resume`, as torchrun would start it on several ranks."""
    command = ["-opt", str(option_file), "--auto_resume", *arguments]
    return Run(command, option_file.parent / "output.txt", as_ranks(ranks) if ranks > 1 else [{}])


def finish(process: Run, *, code: int = 0) -> str:
    output = process.communicate(timeout=180)[0].decode()
    assert process.returncode == code, output[-3000:]
    return output


def kill_at_random(option_file: Path, *, ranks: int, times: int, seed: int) -> int:
    """Start, wait for a random number of log lines, SIGKILL all ranks; returns how often it died."""
    rng = random.Random(seed)
    log = option_file.parent / "experiments" / "toy" / "log.jsonl"
    kills = 0
    for _ in range(times):
        process = start(option_file, ranks=ranks)
        have = len(log.read_text().splitlines()) if log.exists() else 0
        target = have + rng.randint(1, 4)
        deadline = time.time() + 120
        while process.poll() is None and time.time() < deadline:
            if log.exists() and len(log.read_text().splitlines()) >= target:
                time.sleep(rng.random() * 0.02)
                break
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    return kills


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_and_resumed_is_bitwise(tmp_path, ranks):
    whole, killed = prepare(tmp_path / "whole"), prepare(tmp_path / "killed")
    finish(start(whole, ranks=ranks))
    kills = kill_at_random(killed, ranks=ranks, times=6, seed=ranks)
    assert kills > 0
    finish(start(killed, ranks=ranks))
    assert_same(weights(whole.parent), weights(killed.parent))


def test_two_ranks_equal_one_process_of_twice_the_batch(tmp_path):
    one = prepare(tmp_path / "one")
    train = toy_options(tmp_path / "two")["datasets"]["train"]
    two = prepare(
        tmp_path / "two",
        datasets={"train": {**train, "batch_size_per_gpu": 2}, "val": toy_options(tmp_path / "two")["datasets"]["val"]},
    )
    finish(start(one))
    finish(start(two, ranks=2))
    a, b = weights(one.parent), weights(two.parent)
    assert a.keys() == b.keys()
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 2e-5
    metrics = two.parent / "results" / "toy" / "metrics.json"
    assert metrics.exists()


def test_failing_rank_ends_all_with_its_message(tmp_path):
    option_file = prepare(tmp_path)
    process = start(option_file, ranks=2, arguments=("--force_yml", "device=cuda"))
    if torch.cuda.is_available():
        process.kill()
        pytest.skip("there is a GPU")
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode != 0
    assert "the options ask for CUDA, but torch sees no CUDA device" in output


WORKER_KILLS = int(os.environ.get("TGSR_WORKER_KILLS", "1"))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds workers in Linux's /proc")
@pytest.mark.parametrize("seed", range(WORKER_KILLS))
def test_a_loader_worker_killed_at_a_random_moment_is_one_line(tmp_path, seed):
    rng = random.Random(seed)
    toy = toy_options(tmp_path)
    option_file = prepare(
        tmp_path,
        datasets={"train": {**toy["datasets"]["train"], "num_worker_per_gpu": 2}, "val": toy["datasets"]["val"]},
        train={**toy["train"], "total_iter": 100_000},
        val={**toy["val"], "val_freq": rng.choice((1, 100_000))},
        logger={"print_freq": 1, "save_checkpoint_freq": 5, "use_tb_logger": False},
    )
    process = start(option_file)
    log = tmp_path / "experiments" / "toy" / "log.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.02)
    time.sleep(0.3 * rng.random())
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(rng.choice(workers)), signal.SIGKILL)
    output = finish(process, code=2)
    assert "a loader worker died" in output.splitlines()[-1]
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_and_ends_cleanly(tmp_path, number):
    option_file = prepare(
        tmp_path,
        train={**toy_options(tmp_path)["train"], "total_iter": 100_000},
        logger={"print_freq": 1, "save_checkpoint_freq": 100_000, "use_tb_logger": False},
    )
    process = start(option_file)
    log = tmp_path / "experiments" / "toy" / "log.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (log.exists() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    output = finish(process, code=EXIT_STOPPED)
    assert "saving after this iteration" in output
    assert len(list((tmp_path / "experiments" / "toy" / "training_states").iterdir())) == 1
