"""Context: what one process knows of its surroundings: rank, device, threads, signals, folders."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import FrameType
from typing import Any, Literal

import torch
import torch.distributed as dist

from tgsr.engine.ranks import Ranks
from tgsr.engine.train_log import Coloured, TrainLog
from tgsr.utils.errors import ConfigError, Stopped, UserError
from tgsr.utils.threads import usable_cpus

Launcher = Literal["auto", "none", "pytorch", "slurm"]
SAME_SIGINT_S = 20.0
"""Seconds; torchrun waits half a minute for its processes before it kills them."""
logger = logging.getLogger("tgsr")


def slurm_environment(env: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables from srun's; the first host of the node list is the meeting point.

    Args:
        env: of a process that srun started.

    Raises:
        UserError: srun did not start it.
    """
    nodes = next((env[k] for k in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") if k in env), "")
    if "SLURM_PROCID" not in env or "SLURM_NTASKS" not in env or not nodes or not _is_in_step(env):
        raise UserError(
            "--launcher slurm was given, but this process was not started by srun",
            remedy="start with: srun --ntasks=N python train.py -opt FILE.yml --launcher slurm",
        )
    job, step = _leading_number(env.get("SLURM_JOB_ID", "")), _leading_number(env.get("SLURM_STEP_ID", ""))
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_NTASKS"],
        "LOCAL_RANK": env.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": str(_leading_number(env.get("SLURM_NTASKS_PER_NODE", "")) or _tasks_of_node(env)),
        "MASTER_ADDR": env.get("MASTER_ADDR", first_host(nodes)),
        "MASTER_PORT": env.get("MASTER_PORT", str(20000 + (job * 7 + step) % 20000)),
    }


def first_host(nodes: str) -> str:
    """`gpu-[007-009,12]-ib,cpu1` -> `gpu-007-ib`: the first name of SLURM's node list."""
    match = re.match(r"([^,\[]*)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    assert match is not None, "the pattern fits any text"
    prefix, number, suffix = match.groups()
    return f"{prefix}{number or ''}{suffix or ''}"


def _tasks_of_node(env: Mapping[str, str]) -> int:
    """Processes of this node from `SLURM_STEP_TASKS_PER_NODE`, e.g. `4(x2),3`."""
    text = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or env["SLURM_NTASKS"]
    counts: list[int] = []
    for part in text.split(","):
        match = re.match(r"(\d+)(?:\(x(\d+)\))?", part)
        counts += [int(match[1])] * int(match[2] or 1) if match else []
    node = _leading_number(env.get("SLURM_NODEID", ""))
    return counts[node] if node < len(counts) else 1


def _leading_number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _is_in_step(env: Mapping[str, str]) -> bool:
    """Whether srun started this process; a batch script and salloc's shell see the job's variables, too, as one
    process: without the number of a step, or with one of SLURM's own, near 2^32."""
    return 0 <= _leading_number(env.get("SLURM_STEP_ID", "4294967295")) < 0xFFFFFF00


def _started_by_srun(env: Mapping[str, str]) -> bool:
    """As one of several tasks of a step."""
    return _is_in_step(env) and _leading_number(env.get("SLURM_NTASKS", "1")) > 1


def _is_torchruns_own(env: Mapping[str, str]) -> bool:
    """torchrun sets one thread where nobody has chosen a number."""
    return "TORCHELASTIC_RUN_ID" in env and env.get("OMP_NUM_THREADS") == "1"


def _is_bound_to_task(env: Mapping[str, str], local_rank: int) -> bool:
    """Whether SLURM shows this task one GPU and hides the others', as `srun --gpus-per-task=1` does."""
    # Under a torchrun that srun started, several processes share the task and its GPU.
    if "SLURM_PROCID" not in env or env.get("SLURM_LOCALID", "0") != str(local_rank):
        return False
    visible = env.get("CUDA_VISIBLE_DEVICES", "")
    names_one = env.get("SLURM_STEP_GPUS", "").isdigit() or (visible != "" and "," not in visible)
    return "SLURM_GPUS_PER_TASK" in env or names_one


def resolve_device(wanted: Literal["auto", "cpu", "cuda"], local_rank: int = 0) -> torch.device:
    """The device of this process; ConfigError when CUDA is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("the options ask for CUDA, but torch sees no CUDA device", remedy="set device: cpu or auto")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.cuda.device_count() == 1 and _is_bound_to_task(os.environ, local_rank):
        return torch.device("cuda", 0)
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"local rank {local_rank} has no GPU of its own: this machine shows {torch.cuda.device_count()}",
            remedy=f"start {torch.cuda.device_count()} processes per node",
        )
    return torch.device("cuda", local_rank)


class StopFlag:
    """Whether this process was asked to stop, and how it answers; shared by a context and its copies."""

    def __init__(self, *, is_set: bool = False) -> None:
        self.is_set, self.is_caught, self.is_deferred = is_set, False, False

    def __reduce__(self) -> Any:  # a process that gets a copy catches its own signals
        return StopFlag, ()


@dataclass
class Context:
    """Rank, world and device of this process; collective operations that do nothing in a world of one.

    Attributes:
        device: of this rank's networks.
        rank, world_size, local_rank: as torchrun counts them.
        auto_resume: continue an experiment that exists instead of moving it aside.
        debug: `--debug` was given.
        after_validation: called with its options on rank 0 when a training has been validated, but for the last time.
        after_stage: called with its options on rank 0 when a stage has just been done (the command line's reports).
        ranks: where the ranks meet; None in a world of one.
        stop: what the signals have said.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    auto_resume: bool = False
    debug: bool = False
    after_stage: Callable[[Any], None] | None = None
    after_validation: Callable[[Any], None] | None = None
    ranks: Ranks | None = None
    stop: StopFlag = field(default_factory=StopFlag, repr=False)

    @staticmethod
    def create(
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        num_threads: int | None = None,
        launcher: Launcher = "auto",
        auto_resume: bool = False,
        debug: bool = False,
        deterministic: bool = False,
    ) -> Context:
        """Read the environment of torchrun or SLURM, join the process group and choose the device."""
        env: dict[str, str] = dict(os.environ)
        if launcher == "slurm" or (launcher == "auto" and "RANK" not in env and _started_by_srun(env)):
            found = slurm_environment(env)
            env.update(found)
            os.environ.update(found)  # as under torchrun, for torch and for messages that name the rank
        if launcher == "pytorch" and "RANK" not in env:
            raise UserError(
                "--launcher pytorch was given, but RANK is not set",
                remedy="start with: torchrun --nproc_per_node=N train.py -opt FILE.yml",
            )
        use_world = launcher != "none" and "RANK" in env
        rank, world = (int(env["RANK"]), int(env["WORLD_SIZE"])) if use_world else (0, 1)
        local_rank = int(env.get("LOCAL_RANK", "0")) if use_world else 0
        where = resolve_device(device, local_rank)
        if where.type == "cuda":
            torch.cuda.set_device(where)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        elif world > 1 and ("OMP_NUM_THREADS" not in env or _is_torchruns_own(env)):
            local_world = int(env.get("LOCAL_WORLD_SIZE", str(world)))
            torch.set_num_threads(max(1, usable_cpus() // local_world))
        elif "OMP_NUM_THREADS" not in env:
            torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
        ranks = _join(where, rank, world) if world > 1 else None
        return Context(where, rank, world, local_rank, auto_resume=auto_resume, debug=debug, ranks=ranks)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def store(self) -> dist.Store:
        """For what ranks tell each other besides these methods: a `dist.PrefixStore` of it with a name of one's own."""
        return self._ranks.store

    @property
    def group(self) -> dist.ProcessGroup | None:
        """For collectives on tensors; None: the default group."""
        return None if self.ranks is None else self.ranks.group

    @property
    def _ranks(self) -> Ranks:
        assert self.ranks is not None, "a world of several ranks has a meeting point"
        return self.ranks

    def barrier(self) -> None:
        """Wait for all ranks, as long as it takes."""
        if self.world_size > 1:
            self._ranks.meet()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place, on all ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def gather(self, items: list[Any]) -> list[Any]:
        """All ranks' items in rank order, on all ranks, however long the slowest takes."""
        if self.world_size == 1:
            return items
        return [item for part in self._ranks.gather(items) for item in part]

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, on all ranks, however long it takes."""
        return value if self.world_size == 1 else self._ranks.from_first(value)

    def should_stop(self, iteration: int = 0) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer at the same call.

        On several GPUs the question makes the host wait, so it is asked at every tenth iteration only.
        """
        if self.world_size == 1:
            return self.stop_requested
        if self.device.type == "cuda" and iteration % 10:
            return False
        flag = torch.tensor([float(self.stop_requested)], device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flag.item())

    def split(self, parts: int | Sequence[int]) -> Context:
        """This rank's share when the ranks are divided, each share a world of its own. Called on all ranks.

        Neighbours stay together; `close` the share after use.

        Args:
            parts: number of shares, as equal as can be; or the size of each.
        """
        if self.ranks is None:
            return self.alone()
        if isinstance(parts, int):
            parts = [self.world_size // parts + (k < self.world_size % parts) for k in range(parts)]
        ranks = self.ranks.split(parts)
        quiet = replace(self, after_stage=None, after_validation=None)
        return replace(quiet, rank=ranks.rank, world_size=ranks.world_size, ranks=ranks)

    def alone(self) -> Context:
        """This device as a world of one: what one rank does without the others."""
        quiet = replace(self, after_stage=None, after_validation=None)
        return replace(quiet, rank=0, world_size=1, local_rank=0, ranks=None)

    @property
    def stop_requested(self) -> bool:
        """Whether this process was asked to stop."""
        return self.stop.is_set

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self.stop.is_set = value

    @property
    def may_leave(self) -> bool:
        """Whether those who use this context can leave in the middle of their work: not one of several ranks that works
        alone for a while, for whom the others wait."""
        return self.world_size > 1 or not dist.is_initialized()

    @contextmanager
    def stopping(self, *, at_once: bool) -> Iterator[None]:
        """How a signal is answered inside: with `Stopped` at once, or by setting `stop_requested` and nothing else.

        Several ranks never leave at once: they agree first, where they ask (`should_stop`, `validate`).
        """
        before, self.stop.is_deferred = self.stop.is_deferred, not at_once
        try:
            if at_once and self.stop_requested and self._answers_at_once:
                raise Stopped
            yield
        finally:
            self.stop.is_deferred = before

    @property
    def _answers_at_once(self) -> bool:
        return not self.stop.is_deferred and self.world_size == 1 and self.may_leave

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Inside, SIGTERM, SIGINT and SIGUSR1 ask to stop; see `stopping`. A second SIGINT interrupts at once.

        Under torchrun one Ctrl-C comes several times, from the terminal and handed on by torchrun: what follows within
        `SAME_SIGINT_S` is the same one.
        """
        if self.stop.is_caught:
            yield
            return
        owner, asked = os.getpid(), -math.inf

        def handle(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if os.getpid() != owner:  # a forked child, which has nothing to save
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            now = time.monotonic()
            if self.stop_requested and number == signal.SIGINT:
                if "TORCHELASTIC_RUN_ID" in os.environ and now - asked < SAME_SIGINT_S:
                    return
                raise KeyboardInterrupt
            self.stop_requested, asked = True, now
            what = "stopping" if self._answers_at_once else "saving after this iteration, then stopping"
            logger.warning("%s received: %s", signal.Signals(number).name, what)
            if self._answers_at_once:
                raise Stopped

        old = {}
        try:
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
                if hasattr(signal, name):  # Windows lacks the last one
                    number = getattr(signal, name)
                    old[number] = signal.signal(number, handle)
        except ValueError:  # not in the main thread: somebody embeds us and owns the signals
            pass
        self.stop.is_caught = True
        try:
            yield
        finally:
            self.stop.is_caught = False
            for number, handler in old.items():
                signal.signal(number, handler)

    def fail(self) -> None:
        """This rank ends with an error: those who wait for it must not wait for ever."""
        if self.ranks is not None:
            self.ranks.fail()

    def close(self) -> None:
        """Leave the ranks, all together: after an error just exit, for leaving waits for the others."""
        if self.world_size > 1:
            self._ranks.leave()
            if dist.is_initialized():
                dist.destroy_process_group(self.group)


def _join(device: torch.device, rank: int, world: int) -> Ranks:
    """Meet the other processes where torch's launcher says, and make the group of all of them."""
    timeout = timedelta(minutes=int(os.environ.get("TGSR_TIMEOUT_MINUTES", "30")))
    store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=timeout))
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=rank,
            world_size=world,
            timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )
    ranks = Ranks(dist.PrefixStore("tgsr", store), rank, world, timeout=timeout)
    ranks.show_life()
    return ranks


def set_up_logging(*, rank: int, level: int = logging.INFO) -> None:
    """Messages of `tgsr` to stderr: all of rank 0, warnings of the others with their rank."""
    root = logging.getLogger("tgsr")
    own = TrainLog.of_process() if rank == 0 else None
    root.handlers[:] = [] if own is None else [own]
    handler = logging.StreamHandler(sys.stderr)
    prefix = "" if rank == 0 else f"[rank {rank}] "
    formatter = Coloured if sys.stderr.isatty() and "NO_COLOR" not in os.environ else logging.Formatter
    handler.setFormatter(formatter(f"%(asctime)s {prefix}%(levelname)s %(message)s", "%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(level if rank == 0 else logging.WARNING)
    root.propagate = False
