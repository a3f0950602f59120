"""Trainings inside a stage: their options, their budget, and leaving when the stage is asked to stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tgsr.config.schema import Options, TaskOptions, TaskSetSpec
from tgsr.config.spec import Kind, Spec
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.engine.smallest import stretched
from tgsr.engine.trainer import Trainer
from tgsr.utils.errors import Stopped

_TASK_SETS = Kind("tgsr.tasks.sets:TASK_SETS", runtime=("space",))


@contextmanager
def stoppable(context: Context) -> Iterator[None]:
    """Signals set `context.stop_requested`; a stage that was stopped ends quietly, to be resumed."""
    with context.catch_signals():
        try:
            yield
        except Stopped:
            context.stop_requested = True


def task_set(type_: str, **kwargs: Any) -> TaskSetSpec:
    """The spec of a registered task set, e.g. `task_set("File", path=tasks, names=[...])`."""
    return Spec(_TASK_SETS, type_, kwargs)


def sub_options(
    options: Options,
    name: str,
    *,
    tasks: TaskSetSpec | None = None,
    root: Path | None = None,
    seed: int | None = None,
    budget: float = 1.0,
    save_every: int | None = None,
    keep_last: int | None = None,
    fixed_batch: bool = False,
) -> Options:
    """Options of one training inside a stage: no stage of its own, no validation, no log elsewhere.

    Args:
        options: of the stage; its `train` is the training's.
        name: of the training, below the stage's own.
        tasks: which it trains on. None: as the stage.
        root: experiments root. None: below the stage's own folder (`<stage>/<name>`).
        seed: None: the stage's.
        budget: factor on the iterations, see `stretched`.
        save_every: iterations between checkpoints. None: as the stage.
        keep_last: checkpoints to keep. None: as the stage.
        fixed_batch: write out the global batch of one rank, so that it is the same whatever share of the ranks trains;
            for trainings that the pool hands out (`run_all(..., trains=True, batch_size=global_batch(options))`).
    """
    logger = replace(
        options.logger,
        use_tb_logger=False,
        wandb=None,
        best={},
        save_checkpoint_freq=save_every or options.logger.save_checkpoint_freq,
        keep_last=keep_last or options.logger.keep_last,
    )
    run = replace(
        options,
        name=f"{options.name}/{name}" if root is None else name,
        run=None,
        manual_seed=options.manual_seed if seed is None else seed,
        tasks=options.tasks if tasks is None else TaskOptions(set=tasks),
        datasets=replace(options.datasets, val={}),
        val=replace(options.val, val_tasks=None),
        path=replace(options.path, resume_state=None, experiments_root=root or options.path.experiments_root),
        logger=logger,
    )
    return stretched(_with_fixed_batch(run) if fixed_batch else run, budget)


def _with_fixed_batch(options: Options) -> Options:
    data, training = options.datasets.train, options.train
    assert data is not None, "a training has data"
    assert training is not None, "a training has a budget"
    data = replace(data, batch_size=global_batch(options))
    training = replace(training, accumulation_steps=1)
    return replace(options, datasets=replace(options.datasets, train=data), train=training)


def train(options: Options, context: Context, *, hooks: Sequence[Hook] = ()) -> Trainer:
    """Train, or go on with what an earlier start left; on return the weights are on the disk on all ranks.

    Args:
        options: of `sub_options`.
        context: the ranks that share it: those of the stage, or those that the pool gives.
        hooks: in addition to the trainer's own.

    Returns:
        The trainer, with `experiment` and `restore`.

    Raises:
        Stopped: asked to stop; it resumes.
    """
    auto_resume, context.auto_resume = context.auto_resume, True
    try:
        trainer = Trainer(options, context, hooks=hooks)
        trainer.run()
    finally:
        context.auto_resume = auto_resume
    if trainer.is_stopping:
        context.stop_requested = True
        raise Stopped
    return trainer


def latest_weights(trainer: Trainer) -> Path:
    """Of the generator, after the last iteration."""
    return trainer.experiment.models / "net_g_latest.pth"
