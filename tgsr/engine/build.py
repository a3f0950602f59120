"""From options to objects: the only place that knows how sections of an option file become parts of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tgsr.archs.base import RestorationNetwork
from tgsr.config.channels import channels_of
from tgsr.config.options import place_of
from tgsr.config.schema import Options
from tgsr.config.spec import Spec
from tgsr.data.batch import Batch
from tgsr.data.loader import TrainLoader
from tgsr.data.plan import BatchPlan, PlanBatchSampler, split_batch
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.engine.network_files import input_channels
from tgsr.engine.tiling import TiledRestorer
from tgsr.metrics import measure
from tgsr.metrics.base import Metric
from tgsr.models.adversarial import AdversarialModel
from tgsr.models.base import ModelParts, RestorationModel
from tgsr.models.pixel import PixelModel
from tgsr.models.precision import Precision, resolve_precision
from tgsr.models.weights import load_into
from tgsr.tasks.samplers import TaskSampler, UniformTaskSampler
from tgsr.tasks.task import RealPairs, Task, TaskSet
from tgsr.tasks.weighting import EqualWeighting, LossWeighting
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.luma import luma_of
from tgsr.utils.rng import seed63

logger = logging.getLogger("tgsr")
WHOLE_SPACE = "whole_space"
REAL_PAIRS = "real_pairs"


def build_tasks(options: Options) -> TaskSet:
    """The run's tasks; one task (the whole space, or the real pairs) when the options name none."""
    if options.degradation is None:
        if options.tasks.set is not None:
            raise ConfigError("tasks need a degradation section", place=f"{options.name}: tasks.set")
        return _real_pairs()
    space, spec = options.degradation.space.build(), options.tasks.set
    tasks = TaskSet([Task(WHOLE_SPACE, space)]) if spec is None else spec.build(space=space)
    _check_scale(options, tasks)
    return tasks


def build_training_tasks(options: Options) -> TaskSet:
    """The tasks of the training samples: those of the run, or the real pairs where the training set has LQ files.

    Raises:
        ConfigError: there are several tasks, but no sample could differ by its task.
    """
    tasks, data = build_tasks(options), options.datasets.train
    if data is None or _uses_tasks(data.dataset):
        return tasks
    _check_takes(data.dataset, tasks, options)
    degradation, spec = options.degradation, options.tasks.set
    if degradation is not None and not any(_uses_tasks(s) for s in options.datasets.val.values()):
        named = ["degradation", *(["tasks.set"] if spec is not None else [])]
        logger.warning(
            "%s: no effect, since the LQ images of a %s are files: %s",
            degradation.space.place or options.name, data.dataset.type, " and ".join(named),
        )  # fmt: skip
    return _real_pairs()


def _real_pairs() -> TaskSet:
    return TaskSet([Task(REAL_PAIRS, RealPairs())])


def _uses_tasks(dataset: Spec) -> bool:
    """Whether a data set makes LQ images; one of the user's own that does not tell is taken to do so."""
    return getattr(dataset.entry, "uses_tasks", True)


def _check_takes(dataset: Spec, tasks: TaskSet, options: Options) -> None:
    """ConfigError when there are several tasks for a training set whose LQ images are files."""
    if len(tasks) > 1 and not _uses_tasks(dataset):
        spec = options.tasks.set
        raise ConfigError(
            f"there are {len(tasks)} tasks, but the LQ images of a {dataset.type} are files, the same for every task",
            place=(spec.place if spec is not None else "") or f"{options.name}: tasks",
            remedy="use GTDataset, or leave tasks out",
        )


def _check_scale(options: Options, tasks: TaskSet) -> None:
    """ConfigError when a task makes LQ images of another size than the run's scale asks for."""
    for task in tasks:
        if isinstance(task.space, RealPairs):
            continue
        scale = task.space.pipeline.scale
        if scale != options.scale:
            key = "degradation.space" if options.tasks.set is None else "tasks.set"
            raise ConfigError(
                f"scale is {options.scale}, but the task '{task.name}' degrades by {scale}",
                place=f"{options.name}: {key}",
                remedy="make scale and that of the degradation agree",
            )


def build_task_sampler(options: Options, tasks: TaskSet) -> TaskSampler:
    spec = options.tasks.sampler
    if spec is None:
        return UniformTaskSampler(tasks, seed=options.manual_seed)
    return spec.build(tasks=tasks, seed=options.manual_seed)


def build_loss_weighting(options: Options, tasks: TaskSet) -> LossWeighting:
    spec = options.tasks.weighting
    if spec is None:
        return EqualWeighting(tasks, seed=options.manual_seed)
    return spec.build(tasks=tasks, seed=options.manual_seed)


def build_network(options: Options) -> nn.Module:
    """The generator with its initial weights: from the seed, then from `path.pretrain_network_g`."""
    if options.network_g is None:
        raise ConfigError("there is no network", place=f"{options.name}: network_g")
    torch.manual_seed(seed63(options.manual_seed, "init-g"))
    net = options.network_g.build()
    net.input_channels = channels_of(options.network_g.entry, options.network_g.kwargs)[0]
    own = net.scale if isinstance(net, RestorationNetwork) else None
    if own is not None and own != options.scale:
        raise ConfigError(
            f"scale is {options.scale}, but this {options.network_g.type} enlarges by {own}",
            place=f"{options.name}: network_g",
            remedy="make scale and network_g agree",
        )
    path = options.path
    if path.pretrain_network_g is not None:
        load_into(net, path.pretrain_network_g, strict=path.strict_load_g, key=path.param_key_g)
    if options.train is not None and options.train.activation_checkpointing:
        if not getattr(net, "supports_activation_checkpointing", False):
            raise ConfigError(
                f"{options.network_g.type} has no activation checkpointing", place="train.activation_checkpointing"
            )
        net.activation_checkpointing = True
    return net


def build_model(options: Options, context: Context, weighting: LossWeighting) -> RestorationModel:
    """Networks, losses, optimisers and EMA of a training run."""
    train = options.train
    if train is None:
        raise ConfigError("there is no train section", place=options.name)
    precision = Precision(resolve_precision(options.precision, context.device), context.device)
    parts = ModelParts(
        device=context.device,
        precision=precision,
        weighting=weighting,
        seed=options.manual_seed,
        rank=context.rank,
        world_size=context.world_size,
        group=context.group,
        channels_last=options.channels_last,
        compile=train.compile,
        clip_grad_norm=train.clip_grad_norm,
        ema_decay=train.ema_decay,
        warmup_iter=train.warmup_iter,
        find_unused_parameters=train.find_unused_parameters,
    )
    net_g = build_network(options)
    losses = {name: spec.build() for name, spec in train.losses.items()}
    scheduler = train.scheduler.build() if train.scheduler is not None else None
    lr_at = scheduler.lr_at if scheduler is not None else lambda iteration, base_lr: base_lr
    arguments: tuple[Any, ...] = (net_g, losses, lambda p: train.optim_g.build(params=p), lr_at, parts)
    if options.model == "PixelModel":
        if not losses:
            raise ConfigError("a PixelModel needs at least one loss", place=f"{options.name}: train.losses")
        return PixelModel(*arguments)
    needed = {"network_d": options.network_d, "train.gan": train.gan, "train.optim_d": train.optim_d}
    for section, value in needed.items():
        if value is None:
            raise ConfigError("an AdversarialModel needs this section", place=f"{options.name}: {section}")
    torch.manual_seed(seed63(options.manual_seed, "init-d"))
    net_d = options.network_d.build()  # type: ignore[union-attr]
    path = options.path
    if path.pretrain_network_d is not None:
        load_into(net_d, path.pretrain_network_d, strict=path.strict_load_d, key=path.param_key_d)
    return AdversarialModel(
        *arguments,
        net_d=net_d,
        gan=train.gan.build(),  # type: ignore[union-attr]
        make_optimizer_d=lambda p: train.optim_d.build(params=p),  # type: ignore[union-attr]
        net_d_iters=train.net_d_iters,
        net_d_init_iters=train.net_d_init_iters,
    )


def build_val_sets(options: Options) -> dict[str, Any]:
    """Validation sets by name. GT sets are degraded by the whole space unless they name a task of the run, or a task
    is given at validation.
    """
    whole = named = None
    specs = options.datasets.val
    of_the_run = {name for name, spec in specs.items() if spec.kwargs.get("task") not in (None, WHOLE_SPACE)}
    if options.degradation is not None:
        whole = TaskSet([Task(WHOLE_SPACE, options.degradation.space.build())])
        named = build_tasks(options) if of_the_run else None
    sets = {
        name: spec.build(scale=options.scale, tasks=named if name in of_the_run else whole)
        for name, spec in specs.items()
    }
    for dataset in sets.values():
        dataset.is_luma = is_luma(options)
    return sets


def is_luma(options: Options) -> bool:
    """Whether the network has one channel, so that images become luma on their way to it."""
    network = options.network_g
    return network is not None and channels_of(network.entry, network.kwargs)[0] == 1


def tell_too_small(val_sets: Mapping[str, Any], metrics: Mapping[str, Metric], context: Context) -> None:
    """Warn, from the images' headers, of metrics that cannot be taken; before hours of training."""
    for name, dataset in val_sets.items() if context.is_main else ():
        if hasattr(dataset, "result_size"):
            sizes = [(dataset.name(i), dataset.result_size(i)) for i in range(len(dataset))]
            measure.tell_too_small(metrics, name, sizes)


def preflight(dataset: Any, context: Context, *, skip_bad: bool = False) -> None:
    """Rank 0 opens all images; all ranks hear the outcome, so that they leave out the same ones or end alike.

    Args:
        dataset: an ImageDataset; sets of other kinds are taken as they are.
        context: this process.
        skip_bad: leave bad images out instead of raising.
    """
    if not hasattr(dataset, "preflight"):
        return
    outcome: UserError | set[int] = set()
    num_images = len(dataset)
    if context.is_main:
        try:
            outcome = dataset.preflight(skip_bad=skip_bad).bad
        except UserError as error:
            outcome = error
    outcome = context.from_main(outcome)
    if isinstance(outcome, UserError):
        raise outcome
    if outcome and not context.is_main:
        dataset.keep([i for i in range(num_images) if i not in outcome])


def build_metrics(options: Options) -> dict[str, Metric]:
    return {name: spec.build() for name, spec in options.val.metrics.items()}


def build_restorer(options: Options, model: RestorationModel) -> TiledRestorer:
    """The model for images of any size."""
    return _tiled(options, model.restore, model.net_g)


def make_restorer(options: Options, context: Context, net: nn.Module | None = None) -> TiledRestorer:
    """The network of the options with its weights, or another one, for images of any size; nothing that trains."""
    precision = Precision(resolve_precision(options.precision, context.device), context.device)
    channels_last = options.channels_last
    net = precision.place(net or build_network(options), channels_last=channels_last).eval()
    return _tiled(options, lambda lq: precision.restore(net, lq, channels_last=channels_last), net)


def _tiled(options: Options, restore: Callable[[torch.Tensor], torch.Tensor], net: nn.Module) -> TiledRestorer:
    """A network of one channel restores the luma of what it gets."""
    own = (lambda lq: restore(luma_of(lq))) if input_channels(net) == 1 else restore
    return TiledRestorer(own, net, scale=options.scale, tile=options.val.tile, max_pixels=options.val.max_pixels)


def global_batch(options: Options, ranks: int = 1) -> int:
    """Samples of one iteration over all ranks."""
    data, train = options.datasets.train, options.train
    assert data is not None, "checked by whoever trains"
    if data.batch_size is not None:
        return data.batch_size
    assert data.batch_size_per_gpu is not None, "checked with the options"
    return data.batch_size_per_gpu * ranks * (1 if train is None else train.accumulation_steps)


def micro_batches(options: Options, ranks: int) -> tuple[int, int]:
    """Images of a rank's micro batch, and accumulation steps.

    Raises:
        ConfigError: the ranks don't divide the batch.
    """
    size, data = global_batch(options, ranks), options.datasets.train
    assert data is not None
    try:
        return split_batch(size, ranks, data.batch_size_per_gpu)
    except ValueError as error:
        fit = [str(n) for n in range(1, size + 1) if size % n == 0]
        remedy = f"start {', '.join(fit[:-1])} or {fit[-1]} ranks" if len(fit) > 1 else "start one rank"
        place = place_of(options, "datasets.train.batch_size")
        raise ConfigError(str(error), place=place, remedy=f"{remedy}, or give another batch_size") from None


class TrainData:
    """Micro batches of any range of iterations, on the device.

    Args:
        options, context: of the run.
        tasks: of the run.
        sampler: chooses among them.
    """

    def __init__(self, options: Options, context: Context, tasks: TaskSet, sampler: TaskSampler) -> None:
        data, train = options.datasets.train, options.train
        assert data is not None, "checked by the trainer"
        assert train is not None, "checked by the trainer"
        self.context, self.tasks = context, tasks
        self.channels_last, self.is_luma = options.channels_last, is_luma(options)
        micro, self.num_micro = micro_batches(options, context.world_size)
        degradation = options.degradation
        self.on_device = degradation is not None and (
            degradation.where == "device" or (degradation.where == "auto" and context.device.type == "cuda")
        )
        self.options = options
        _check_takes(data.dataset, tasks, options)
        self.dataset = data.dataset.build(scale=options.scale, tasks=tasks)
        self.dataset.configure(
            seed=options.manual_seed,
            degrade="device" if self.on_device else "loader",
            sharpen_input=degradation is not None and degradation.sharpen_input,
            want_usm=wants_usm(options),
        )
        if data.preflight:
            preflight(self.dataset, context, skip_bad=data.skip_bad_images)
        self.plan = BatchPlan(
            len(self.dataset),
            batch_size=micro * context.world_size * self.num_micro,
            sampler=sampler,
            seed=options.manual_seed,
            rank=context.rank,
            world_size=context.world_size,
        )
        if data.batch_size is not None and context.is_main:
            text = "%s: a batch of %d = %d ranks x %d images x %d accumulation steps"
            logger.info(text, options.name, self.plan.batch_size, context.world_size, micro, self.num_micro)
        self.batch_sampler = PlanBatchSampler(self.plan, num_micro=self.num_micro)
        self.loader = TrainLoader(
            self.dataset,
            self.batch_sampler,
            num_workers=data.num_worker_per_gpu,
            prefetch_factor=data.prefetch_factor,
            pin_memory=context.device.type == "cuda",
        )

    def iterations(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """The micro batches of each iteration in `[start, stop)`."""
        self.batch_sampler.set_range(start, stop)
        batches = iter(self.loader)
        for iteration in range(start, stop):
            yield [self._on_device(next(batches), iteration, k) for k in range(self.num_micro)]

    def _on_device(self, batch: Batch, iteration: int, micro: int) -> Batch:
        batch = batch.to(self.context.device, channels_last=self.channels_last)
        if self.on_device:
            generator = batch_noise(self.options, self.context.device, iteration, self.context.rank, micro)
            batch = self.dataset.degrade_on_device(batch, generator)
        return batch.luma() if self.is_luma else batch

    def close(self) -> None:
        """End the loader's workers."""
        self.loader.close()


def batch_noise(options: Options, device: torch.device, *stream: int | str) -> torch.Generator | None:
    """What draws the noise of a batch on a device, as `degradation.noise` says; None: each sample's own seed does.

    Args:
        options: of the run.
        device: that degrades.
        stream: what tells this batch from all others of the run.
    """
    how = "sample" if options.degradation is None else options.degradation.noise
    if how == "auto":
        how = "batch" if device.type == "cuda" else "sample"
    if how == "sample":
        return None
    generator = torch.Generator(device)
    generator.manual_seed(seed63(options.manual_seed, "noise", *stream))
    return generator


def wants_usm(options: Options) -> bool:
    """Whether some loss or the discriminator compares with the sharpened ground truth."""
    train = options.train
    if train is None:
        return False
    specs = [*train.losses.values(), *([train.gan] if train.gan is not None else [])]
    return any(spec.kwargs.get("target") == "gt_usm" for spec in specs)


def build_hooks(options: Options) -> list[Hook]:
    """Those of `train.hooks`."""
    assert options.train is not None
    found = []
    for name, spec in (options.train.hooks or {}).items():
        hook: Hook = spec.build()
        hook.name = f"{name} (train.hooks)"
        found.append(hook)
    return found
