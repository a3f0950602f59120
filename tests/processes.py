"""Processes of their own for tests, forked from one that has imported everything.

A fresh interpreter spends seconds on importing torch before a run begins. Here one process does so once, and every
other is a fork of it: with an environment, a session and an output of its own, that can be killed, and whose end code
is `train.py`'s. Only what is about starting interpreters (torchrun, spawned workers) needs more.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
_FORK = multiprocessing.get_context("forkserver")


def fork(target: Callable[..., None], *args: object) -> BaseProcess:
    """`target(*args)`, a function of a module, in a process of its own."""
    _FORK.set_forkserver_preload(["tests.preloaded"])
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}):  # of the process that is forked
        forkserver.ensure_running()
    process = _FORK.Process(target=_call, args=(target, *args))
    process.start()
    return process


def _call(target: Callable[..., None], *args: object) -> None:
    multiprocessing.set_start_method(None, force=True)  # loader workers are made as they are in a fresh interpreter
    target(*args)


def _join(processes: Sequence[BaseProcess], timeout: float) -> None:
    end = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_ranks(num: int) -> list[dict[str, str]]:
    """The environments that torchrun gives to the processes of one node."""
    port = str(free_port())
    return [
        {"RANK": str(k), "LOCAL_RANK": str(k), "WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num),
         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for k in range(num)
    ]  # fmt: skip


class Run:
    """`python train.py ...` as one process, or one for each rank; looks like `subprocess.Popen`.

    Args:
        arguments: of `train.py`.
        output: file that takes what all of them print.
        ranks: environments, one for each process (see `as_ranks`).
    """

    def __init__(self, arguments: Sequence[str], output: Path, ranks: Sequence[Mapping[str, str]] = ({},)) -> None:
        self.output = output
        output.write_bytes(b"")
        outer = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | {"OMP_NUM_THREADS": "1"}
        self.processes = [fork(_train, [*arguments], str(output), {**outer, **rank}) for rank in ranks]

    @property
    def pid(self) -> int:
        """Of the first; also the id of its group."""
        assert self.processes[0].pid is not None
        return self.processes[0].pid

    @property
    def returncode(self) -> int | None:
        """None while one of them runs; 0 when all ended well."""
        codes = [p.exitcode for p in self.processes]
        return None if None in codes else next((c for c in codes if c), 0)

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        """SIGKILL for all of them and their loader workers, which share their groups."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # one that was killed before it led a group

    def communicate(self, timeout: float = 180) -> tuple[bytes, None]:
        """Wait for all; what they printed. Whoever is still there when the time is over is killed."""
        _join(self.processes, timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError(self.output.read_text()[-3000:])
        return self.output.read_bytes(), None


def _train(arguments: list[str], output: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = ["train.py", *arguments]
    from tgsr.cli import main

    sys.exit(main(["train", *arguments]))
