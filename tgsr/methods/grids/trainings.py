"""Trainings of GRIDS: one network for one group of degradations, each a run of the engine, several at once."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from tgsr.config.options import import_file, to_plain, user_files
from tgsr.config.schema import Options, TaskOptions
from tgsr.config.spec import Kind, Spec
from tgsr.degradations.named import NamedMixSpace
from tgsr.engine import build
from tgsr.engine.context import Context, set_up_logging
from tgsr.engine.trainer import Trainer
from tgsr.engine.validation import Restore, validate
from tgsr.methods.grids.oracle import OracleMemo, Trained, group_key
from tgsr.methods.grids.tasks import named_tasks
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError, Stopped, UserError

logger = logging.getLogger("tgsr")
_TASK_SETS = Kind("tgsr.tasks.sets:TASK_SETS", runtime=("space",))
SECONDS_BETWEEN_LOOKS = 2.0


def alone(context: Context) -> Context:
    """This device as a world of one: what one rank does without the others."""
    lonely = context.alone()
    lonely.auto_resume = True
    return lonely


def all_tasks(options: Options) -> TaskSet:
    """One task for each degradation of the options' `NamedMix` space."""
    if options.degradation is None:
        raise ConfigError("GRIDS needs named degradations", place=f"{options.name}: degradation", remedy="add NamedMix")
    space = options.degradation.space.build()
    if options.tasks.set is None and isinstance(space, NamedMixSpace):
        return named_tasks(space=space)
    return build.build_tasks(options)


def scaled_budget(options: Options, factor: float) -> Options:
    """The same training with `factor` times the iterations, its schedule stretched with them."""
    train = options.train
    if train is None or factor == 1:
        return options

    def stretch(value: Any) -> Any:
        return [stretch(v) for v in value] if isinstance(value, (list, tuple)) else round(value * factor)

    scheduler = train.scheduler
    if scheduler is not None:
        lengths = ("total_iter", "periods", "milestones", "T_max", "restarts")
        kwargs = {k: stretch(v) if k in lengths else v for k, v in scheduler.kwargs.items()}
        scheduler = replace(scheduler, kwargs=kwargs)
    return replace(options, train=replace(train, total_iter=stretch(train.total_iter), scheduler=scheduler))


def training_protocol(options: Options, val: str) -> dict[str, Any]:
    """Everything the PSNR of a trained group depends on, except which group it is."""
    plain = to_plain(options)
    data = dict(plain["datasets"]["train"] or {})
    for key in ("num_worker_per_gpu", "prefetch_factor", "preflight"):
        data.pop(key, None)
    return {
        "network": plain["network_g"],
        "train": plain["train"],
        "data": data,
        "degradation": plain["degradation"],
        "val": plain["datasets"]["val"].get(val),
        "metrics": plain["val"]["metrics"],
        "seed": options.manual_seed,
        "precision": options.precision,
        "pretrained": plain["path"]["pretrain_network_g"],
    }


def protocol_hash(protocol: dict[str, Any]) -> str:
    """12 hex digits."""
    return hashlib.blake2b(json.dumps(protocol, sort_keys=True).encode(), digest_size=6).hexdigest()


def run_name(names: Sequence[str]) -> str:
    """Folder of a group's training: readable for one or two degradations, a digest of the names for more."""
    key = group_key(names)
    if len(names) <= 2:
        return key
    return f"{len(names)}_{hashlib.blake2b(key.encode(), digest_size=5).hexdigest()}"


def group_options(options: Options, root: Path, names: Sequence[str]) -> Options:
    """The options of one group's training, an experiment of its own below `root`."""
    return replace(
        options,
        name=run_name(names),
        run=None,
        tasks=TaskOptions(set=Spec(_TASK_SETS, "NamedTasks", {"names": sorted(names)})),
        datasets=replace(options.datasets, val={}),
        path=replace(options.path, experiments_root=root, resume_state=None),
        logger=replace(options.logger, use_tb_logger=False, wandb=None, best={}, keep_last=1),
    )


def evaluate_tasks(
    restore: Restore, options: Options, val: str, metric: str, tasks: TaskSet, context: Context
) -> dict[str, float]:
    """Degradation -> mean of a metric over a validation set, every image degraded with its fixed draw."""
    dataset = options.datasets.val[val].build(scale=options.scale, tasks=tasks)
    measure = {metric: options.val.metrics[metric].build()}
    return {t.name: validate(restore, dataset, measure, context, task=t).means()[metric] for t in tasks}


def train_group(
    options: Options, context: Context, root: Path, names: tuple[str, ...], *, val: str, metric: str
) -> Trained | None:
    """Train and measure one group; resumes what an interrupted process left; None when asked to stop.

    A training that fails (NaN, out of memory) is a result with `status="failed"`; wrong options and missing data are
    errors of the whole stage.
    """
    start = time.perf_counter()
    tasks = all_tasks(options).subset(names)
    run = group_options(options, root, names)
    try:
        trainer = Trainer(run, context)
        trainer.run()
        if trainer.is_stopping:
            return None
        psnr = evaluate_tasks(trainer.restore, options, val, metric, tasks, context)
    except (ConfigError, DataError):
        raise
    except (UserError, RuntimeError) as error:
        logger.warning("the training of %s failed: %s", group_key(names), error)
        return Trained(names, status="failed", error=str(error)[:300], seconds=time.perf_counter() - start)
    weights = trainer.experiment.models / "net_g_latest.pth"
    return Trained(names, psnr, checkpoint=str(weights), seconds=round(time.perf_counter() - start, 1))


def _work(
    options: Options, context: Context, root: Path, names: tuple[str, ...], val: str, metric: str
) -> Trained | None:
    return train_group(options, context, root, names, val=val, metric=metric)


def _leave_with_parent() -> None:
    """Else a worker whose parent was killed would go on, in the folder that the restarted stage resumes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _start_worker(threads: int, files: Sequence[str], modules: Sequence[str]) -> None:
    """A spawned process knows no registered methods yet, nor what the user has added."""
    Thread(target=_leave_with_parent, daemon=True).start()
    import tgsr.methods  # noqa: F401 - registers

    for file in files:
        import_file(Path(file))
    for module in modules:
        importlib.import_module(module)
    torch.set_num_threads(threads)
    set_up_logging(rank=0, level=logging.WARNING)


class GroupTrainer:
    """Trains the groups that a memo lacks: shared by ranks, and on a CPU by local processes of one thread or more.

    Every group costs the same budget, that of `options.train`. Use as a context manager; `trainer(groups)` returns when
    all of them are in the memo.

    Args:
        options: of all trainings.
        context: this process.
        folder: `models/<hash of the configuration>/` below it holds the runs, `oracle.json` the results.
        val: name of the validation set to measure on.
        metric: name of the metric, `psnr`.
        processes: trainings at once in this rank; None: one for each core on a CPU, 1 on a GPU.
    """

    def __init__(
        self,
        options: Options,
        context: Context,
        folder: Path,
        *,
        val: str,
        metric: str = "psnr",
        processes: int | None = None,
    ) -> None:
        wanted = (("datasets.val", options.datasets.val, val), ("val.metrics", options.val.metrics, metric))
        for section, known, name in wanted:
            if name not in known:
                raise ConfigError(f"there is no '{name}'", place=f"{options.name}: {section}", remedy="add it")
        self.options, self.context, self.val, self.metric = options, context, val, metric
        self.processes = processes or _default_processes(context)
        protocol = training_protocol(options, val)
        config = protocol_hash(protocol)
        self.root = folder / "models" / config  # a run resumes what lies there, which must not be another's
        self.memo = OracleMemo(folder / "oracle.json", config=config, protocol=protocol, writer=context.rank)
        self._pool: ProcessPoolExecutor | None = None

    @property
    def num_parallel(self) -> int:
        """Trainings that run at once over all ranks."""
        return self.processes * self.context.world_size

    def __call__(self, groups: Sequence[tuple[str, ...]], *, again: Sequence[tuple[str, ...]] = ()) -> None:
        """Train the groups that the memo lacks, and those of `again` anew; all ranks return when the memo holds all.

        The ranks' memos may differ for a moment, so rank 0 says what is to be trained and which attempt to wait for.

        Raises:
            Stopped: asked to stop.
            UserError: a process died.
        """
        missing, wanted = self.context.from_main(self._plan(groups, again))
        mine = missing[self.context.rank :: self.context.world_size]
        if self.processes == 1 or len(mine) <= 1:
            for names in mine:
                lonely = alone(self.context)
                trained = train_group(self.options, lonely, self.root, names, val=self.val, metric=self.metric)
                self._note(trained, wanted[names])
        else:
            self._train_in_processes(mine, wanted)
        while any((found := self.memo.get(g)) is None or found.attempt < n for g, n in wanted.items()):
            self._stop_if_asked()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self.memo.reload()

    def _plan(
        self, groups: Sequence[tuple[str, ...]], again: Sequence[tuple[str, ...]]
    ) -> tuple[list[tuple[str, ...]], dict[tuple[str, ...], int]]:
        """The groups to train, and for every group the attempt whose result is waited for."""
        missing, wanted = [], {}
        for group in dict.fromkeys(groups):
            known = self.memo.get(group)
            is_missing = known is None or group in again
            missing += [group] * is_missing
            wanted[group] = (0 if known is None else known.attempt) + is_missing
        return missing, wanted

    def _train_in_processes(self, groups: Sequence[tuple[str, ...]], attempts: Mapping[tuple[str, ...], int]) -> None:
        threads = max(1, torch.get_num_threads() // self.processes)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.processes, mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker, initargs=(threads, user_files(), self._modules()),
            )  # fmt: skip
        try:
            job = (_work, self.options, alone(self.context), self.root)
            waiting: dict[Future[Trained | None], tuple[str, ...]] = {
                self._pool.submit(*job, names, self.val, self.metric): names for names in groups
            }
            while waiting:
                done, _ = wait(waiting, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                for future in done:
                    self._note(future.result(), attempts[waiting.pop(future)])
                self._stop_if_asked()
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {self.processes} training processes was killed, perhaps for want of memory",
                place=str(self.root),
                remedy="start again with fewer processes (run.processes); finished trainings are kept, the others "
                "go on from their last checkpoints",
            ) from error

    def _modules(self) -> list[str]:
        return [m for m in self.options.import_modules if not m.endswith(".py")]

    def _note(self, trained: Trained | None, attempt: int) -> None:
        if trained is None:
            raise Stopped
        trained = replace(trained, attempt=attempt)
        self.memo.add(trained)
        values = ", ".join(f"{k} {v:.2f}" for k, v in trained.psnr.items())
        logger.info("%s: %s (%.0f s)", group_key(trained.names), values or trained.error, trained.seconds)

    def _stop_if_asked(self) -> None:
        if self.context.stop_requested:
            raise Stopped

    def __enter__(self) -> GroupTrainer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            if error[0] is not None:
                for child in multiprocessing.active_children():
                    child.terminate()  # SIGTERM: a training saves its checkpoint and leaves
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


@contextmanager
def stoppable(context: Context) -> Iterator[None]:
    """Signals set `context.stop_requested`; a stage that was stopped ends quietly, to be resumed."""
    with context.catch_signals():
        try:
            yield
        except Stopped:
            context.stop_requested = True


def _default_processes(context: Context) -> int:
    if context.device.type != "cpu":
        return 1
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", context.world_size))
    return max(1, len(os.sched_getaffinity(0)) // ranks_here)
