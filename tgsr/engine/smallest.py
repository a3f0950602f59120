"""Options at the smallest budget, for rehearsals: a stage that runs for real in seconds.

`short` keeps networks, batches, crops and precision, so the memory is the real one. `tiny` narrows networks and crops
as well, for a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from tgsr.config.bind import signature_of
from tgsr.config.schema import Options
from tgsr.config.spec import Spec, freeze

ITERATIONS = 3
"""The first one compiles and fills caches; the others tell what an iteration takes."""
IMAGES = 2
LENGTHS = ("total_iter", "periods", "milestones", "T_max", "restarts", "restart_periods", "step_size")
"""Arguments of schedules that count iterations."""
NARROW: Mapping[str, Any] = {
    "num_feat": 8, "num_block": 1, "num_grow_ch": 4, "num_conv": 1, "num_blocks": 1, "num_refinement_blocks": 1,
    "dim": 8, "embed_dim": 12, "depths": (2,), "num_heads": (2,), "num_layers": 2, "squeeze_factor": 4,
}  # fmt: skip
"""Arguments of networks in a tiny rehearsal; a list keeps its length, but for `depths` and their heads."""
_NETWORKS = "tgsr.archs:ARCHS"
TINY_LQ = 16
"""Edge of a training crop at the network's input, in a tiny rehearsal."""


def stretched(options: Options, factor: float) -> Options:
    """The same training with `factor` times the iterations, its schedule stretched with them."""
    train = options.train
    if train is None or factor == 1:
        return options

    def stretch(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(stretch(v) for v in value)
        return max(1, round(value * factor))

    scheduler = train.scheduler
    if scheduler is not None:
        scheduler = with_arguments(scheduler, {k: stretch(v) for k, v in scheduler.kwargs.items() if k in LENGTHS})
    return replace(options, train=replace(train, total_iter=stretch(train.total_iter), scheduler=scheduler))


def with_arguments(spec: Spec, arguments: Mapping[str, Any]) -> Spec:
    """The component with some arguments changed."""
    return replace(spec, kwargs=freeze({**spec.kwargs, **arguments}))


def short(options: Options, arguments: Mapping[str, Any]) -> Options:
    """A stage with three iterations where it trains, and two images in every validation set.

    Args:
        arguments: of `run:`.
    """
    options = stretched(options, ITERATIONS / options.train.total_iter) if options.train is not None else options
    if options.train is not None:
        train = replace(options.train, total_iter=ITERATIONS)
        train = replace(train, net_d_init_iters=min(train.net_d_init_iters, ITERATIONS - 1), net_d_iters=1)
        options = replace(options, train=train)
    val_sets = {name: with_arguments(spec, {"max_images": IMAGES}) for name, spec in options.datasets.val.items()}
    tasks = options.tasks
    return replace(
        options,
        run=None if options.run is None else with_arguments(options.run, arguments),
        datasets=replace(options.datasets, val=freeze(val_sets)),
        tasks=replace(tasks, sampler=_every_iteration(tasks.sampler), weighting=_every_iteration(tasks.weighting)),
        val=replace(options.val, val_freq=None if options.val.val_freq is None else ITERATIONS),
        logger=replace(
            options.logger, print_freq=1, save_checkpoint_freq=ITERATIONS, use_tb_logger=False, wandb=None, sinks=None
        ),
    )


def _every_iteration(spec: Spec | None) -> Spec | None:
    """A sampler or weighting that looks at its tasks after each iteration."""
    return with_arguments(spec, {"interval": 1}) if spec is not None and "interval" in spec.kwargs else spec


def tiny(options: Options) -> Options:
    """Narrow networks, small crops and batches, no loader workers, no ImageNet weights."""
    train, data = options.train, options.datasets.train
    if data is not None:
        is_fixed = options.network_d is not None and "input_size" in signature_of(options.network_d.entry).parameters
        dataset = data.dataset if is_fixed else _small_crops(data.dataset, options.scale)
        micro, whole = data.batch_size_per_gpu, data.batch_size
        most = (
            4 if whole is not None and micro is not None and micro >= whole else 2
        )  # a batch that is not cut stays so
        data = replace(
            data, dataset=dataset, num_worker_per_gpu=0, batch_size_per_gpu=None if micro is None else min(micro, most)
        )
        if getattr(data, "batch_size", None) is not None:
            data = replace(data, batch_size=4)
    if train is not None:
        losses = {name: _without_download(_tiny_inside(spec)) for name, spec in train.losses.items()}
        train = replace(train, losses=freeze(losses))
    return replace(
        options,
        network_g=narrow(options.network_g),
        network_d=narrow(options.network_d),
        run=None if options.run is None else _tiny_inside(options.run),
        datasets=replace(options.datasets, train=data),
        train=train,
        val=replace(options.val, metrics=freeze({n: _without_download(s) for n, s in options.val.metrics.items()})),
        precision="fp32",
    )


def _tiny_inside(spec: Spec) -> Spec:
    """A stage or component whose own components are narrow and need no download."""

    def smaller(value: Any) -> Any:
        if isinstance(value, Spec):
            is_network = value.kind.registry == _NETWORKS
            return narrow(value) if is_network else _without_download(_tiny_inside(value))
        if isinstance(value, Mapping):
            return {key: smaller(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(smaller(item) for item in value)
        if is_dataclass(value):  # a section of the stage's own, such as a row of a table
            return replace(value, **{f.name: smaller(getattr(value, f.name)) for f in fields(value)})
        return value

    found = {key: smaller(value) for key, value in spec.kwargs.items()}
    return with_arguments(spec, {key: value for key, value in found.items() if value != spec.kwargs[key]})


def narrow(network: Spec | None) -> Spec | None:
    """The network with few channels and blocks."""
    if network is None:
        return None
    known = signature_of(network.entry).parameters
    arguments: dict[str, Any] = {}
    for name, small in NARROW.items():
        if name not in known:
            continue
        value = network.kwargs.get(name, known[name].default)
        is_list = isinstance(value, (list, tuple))
        arguments[name] = list(small) if isinstance(small, tuple) else [small] * len(value) if is_list else small
    return with_arguments(network, arguments)


def _small_crops(dataset: Spec, scale: int) -> Spec:
    given = {k: dataset.kwargs.get(k) for k in ("gt_size", "degrade_size")}
    sizes = {k: min(v, TINY_LQ * scale) for k, v in given.items() if v is not None}
    return with_arguments(dataset, sizes)


def _without_download(part: Spec) -> Spec:
    """A loss or metric on a random backbone where it would fetch a trained one."""
    takes = signature_of(part.entry).parameters
    return with_arguments(part, {"pretrained": False}) if "pretrained" in takes else part
