"""What an option file may say: one dataclass per section, checked to the leaf by `tgsr.config.bind`.

Key names are BasicSR's wherever BasicSR has the thing. Components (`{type: NAME, ...}`) are `Spec`s: their arguments
are checked against the signature of the registered class or function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tgsr.config.spec import FrozenDict, Kind, NonNegativeInt, OutputPath, PositiveInt, Range, Spec
from tgsr.config.yaml_loader import PlacedDict

NetworkSpec = Annotated[Spec, Kind("tgsr.archs:ARCHS")]
SpaceSpec = Annotated[Spec, Kind("tgsr.degradations.base:SPACES")]
TaskSetSpec = Annotated[Spec, Kind("tgsr.tasks.sets:TASK_SETS", runtime=("space",))]
TaskSamplerSpec = Annotated[Spec, Kind("tgsr.tasks.samplers:TASK_SAMPLERS", runtime=("tasks", "seed"))]
LossWeightingSpec = Annotated[Spec, Kind("tgsr.tasks.weighting:LOSS_WEIGHTINGS", runtime=("tasks", "seed"))]
DatasetSpec = Annotated[Spec, Kind("tgsr.data.datasets:DATASETS", runtime=("scale", "tasks"))]
LossSpec = Annotated[Spec, Kind("tgsr.losses.base:LOSSES")]
GanLossSpec = Annotated[Spec, Kind("tgsr.losses.gan:GAN_LOSSES")]
OptimizerSpec = Annotated[Spec, Kind("tgsr.models.optimizers:OPTIMIZERS", runtime=("params",))]
SchedulerSpec = Annotated[Spec, Kind("tgsr.models.schedulers:SCHEDULERS")]
MetricSpec = Annotated[Spec, Kind("tgsr.metrics.base:METRICS")]
HookSpec = Annotated[Spec, Kind("tgsr.engine.hooks:HOOKS")]
SinkSpec = Annotated[Spec, Kind("tgsr.engine.logger:SINKS")]
RunnerSpec = Annotated[Spec, Kind("tgsr.engine.runner:RUNNERS", runtime=("options", "context"))]


@dataclass(frozen=True)
class DegradationOptions:
    """How LQ images are made from GT images. Left out for paired data."""

    space: SpaceSpec
    """The whole space of this run."""
    sharpen_input: bool = False
    """Degrade the sharpened (USM) ground truth, as Real-ESRGAN does."""
    where: Literal["auto", "loader", "device"] = "auto"
    """Loader workers (CPU) or the training device; auto: the device where it is a GPU."""
    noise: Literal["auto", "sample", "batch"] = "auto"
    """On a device: noise from each sample's seed, made on the host (the same on any number of ranks), or from one
    generator per iteration and rank, made there; auto: `batch` on a GPU, where making it on the host would hold up
    training."""


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks there are, who chooses them, how their losses are weighted."""

    set: TaskSetSpec | None = None
    """None: one task, the whole space."""
    sampler: TaskSamplerSpec | None = None
    """None: uniform."""
    weighting: LossWeightingSpec | None = None
    """None: the plain mean over samples."""


@dataclass(frozen=True)
class TrainDataOptions:
    """The training set and its loader."""

    dataset: DatasetSpec
    batch_size_per_gpu: PositiveInt | None = None
    """Samples per rank and accumulation step; with `batch_size`, the most of them that a GPU holds (None: any)."""
    batch_size: PositiveInt | None = field(default=None, metadata={"later": True})
    """Samples of one iteration, the same on any number of ranks; the accumulation steps follow from it."""
    num_worker_per_gpu: NonNegativeInt = 2
    prefetch_factor: PositiveInt = 4
    preflight: bool = True
    """Open every image, of the validation sets too, once before training (cached) and list all problems."""
    skip_bad_images: bool = False
    """Leave out of the training set what the preflight finds wrong, with a count, instead of stopping."""


@dataclass(frozen=True)
class DatasetsOptions:
    train: TrainDataOptions | None = None
    val: dict[str, DatasetSpec] = field(default_factory=FrozenDict)
    """Validation or test sets by name."""


@dataclass(frozen=True)
class PathOptions:
    pretrain_network_g: Path | None = None
    param_key_g: str = "auto"
    """`params_ema`, `params`, or auto: the EMA weights where there are any."""
    strict_load_g: bool = True
    pretrain_network_d: Path | None = None
    param_key_d: str = "auto"
    strict_load_d: bool = True
    resume_state: Path | None = None
    """Training state to go on from; with `--auto_resume` only where the run has none of its own."""
    experiments_root: OutputPath = Path("experiments")
    results_root: OutputPath = Path("results")


@dataclass(frozen=True)
class TrainOptions:
    total_iter: PositiveInt
    optim_g: OptimizerSpec
    losses: dict[str, LossSpec]
    """Generator losses by name; their sum is minimised."""
    optim_d: OptimizerSpec | None = None
    gan: GanLossSpec | None = None
    """The adversarial game of `model: AdversarialModel`: kind, generator weight, relativistic."""
    scheduler: SchedulerSpec | None = None
    warmup_iter: int = -1
    """Iterations of linear warm-up from 0; -1: none."""
    ema_decay: Annotated[float, Range(0, 1)] = 0.0
    """0: no EMA."""
    accumulation_steps: PositiveInt = 1
    clip_grad_norm: Annotated[float, Range(0)] | None = None
    net_d_iters: PositiveInt = 1
    """Update the generator every this many iterations."""
    net_d_init_iters: NonNegativeInt = 0
    """Iterations at the start in which only the discriminator learns."""
    on_nan: Literal["stop", "skip"] = "stop"
    """A NaN or infinite loss or gradient: stop, or skip the step, ten in a row at most."""
    activation_checkpointing: bool = False
    compile: bool = False
    find_unused_parameters: bool = False
    hooks: dict[str, HookSpec] | None = field(default=None, metadata={"later": True})
    """What else happens around a step, by name: registered in `HOOKS`."""


@dataclass(frozen=True)
class ValOptions:
    val_freq: PositiveInt | None = None
    """None: after the last iteration only."""
    save_img: bool = True
    """Keep restored images, inputs and baselines of the last measurement, for reports; false: the numbers alone."""
    metrics: dict[str, MetricSpec] = field(default_factory=FrozenDict)
    tile: PositiveInt | None = None
    """Tile edge in LQ pixels; None: tiles only above `max_pixels`."""
    max_pixels: PositiveInt = 1_500_000
    """LQ images with more pixels than this are tiled."""
    val_tasks: str | None = None
    """Name of the validation set whose images are degraded by every task of the run, for task feedback."""


@dataclass(frozen=True)
class WandbOptions:
    project: str
    resume_id: str | None = None


@dataclass(frozen=True)
class LoggerOptions:
    print_freq: PositiveInt = 100
    save_checkpoint_freq: PositiveInt = 5000
    """Iterations from one checkpoint to the next."""
    save_checkpoint_seconds: Annotated[float, Range(0)] | None = 120
    """Time without a checkpoint after which the state alone is written, for a sudden end; None: never."""
    keep_last: PositiveInt | None = 5
    """Checkpoints to keep; None: all."""
    best: dict[str, str] = field(default_factory=FrozenDict)
    """Also keep the best weights by `{validation set: metric}`, as `net_g_best_<metric>.pth`
    (`net_g_best_<set>_<metric>.pth` where sets share a metric)."""
    use_tb_logger: bool = True
    wandb: WandbOptions | None = None
    sinks: dict[str, SinkSpec] | None = field(default=None, metadata={"later": True})
    """Where else the numbers go, by name: registered in `SINKS`."""


@dataclass(frozen=True)
class Source:
    """An option file before it is checked: what a study makes its stages from.

    Attributes:
        data: merged, with places; neither interpolated nor translated.
        overrides: of the command line, which are in `data` too.
        moved: beginning of a path -> what a rehearsal puts in its place.
    """

    data: PlacedDict
    overrides: tuple[str, ...] = ()
    moved: Mapping[str, str] = field(default_factory=FrozenDict)


@dataclass(frozen=True)
class Options:
    """One option file."""

    name: str
    """Of the run and of its folders below `experiments/` and `results/`; `a/b` makes nested ones."""
    scale: PositiveInt
    run: RunnerSpec | None = None
    """Which stage this file describes; None: plain training."""
    model: Literal["PixelModel", "AdversarialModel"] = "PixelModel"
    manual_seed: NonNegativeInt = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: PositiveInt | None = None
    """CPU threads of each rank; None: `OMP_NUM_THREADS`, or the CPUs this process may use, divided by the ranks.
    Another number adds in another order: the last digits of a run's numbers differ."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of forward and backward; weights and optimiser stay fp32. auto: bf16 where the device is fast at it."""
    channels_last: bool = True
    deterministic: bool = False
    """Only deterministic kernels on a GPU (slower); on a CPU results are always the same."""
    import_modules: list[str] = field(default_factory=list)
    """Your own modules (dotted names or .py files) that register networks, losses, degradations or samplers."""
    degradation: DegradationOptions | None = None
    tasks: TaskOptions = field(default_factory=TaskOptions)
    datasets: DatasetsOptions = field(default_factory=DatasetsOptions)
    network_g: NetworkSpec | None = None
    network_d: NetworkSpec | None = None
    path: PathOptions = field(default_factory=PathOptions)
    train: TrainOptions | None = None
    val: ValOptions = field(default_factory=ValOptions)
    logger: LoggerOptions = field(default_factory=LoggerOptions)
    places: Mapping[str, str] = field(
        default_factory=FrozenDict, compare=False, repr=False, metadata={"internal": True}
    )
    """Where each key was written (`train.lr` -> `file:line`), for messages; not an option."""
    source: Source | None = field(default=None, compare=False, repr=False, metadata={"internal": True})
    """The file as it was read, where it has stages; not an option."""
