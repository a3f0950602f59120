"""The two stages everybody knows: training and testing."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tgsr.config.options import missing_files, options_hash
from tgsr.config.schema import Options, PathOptions, TaskOptions
from tgsr.config.yaml_loader import COMMAND_LINE
from tgsr.data.batch import Batch
from tgsr.data.prepare import prepare_elsewhere
from tgsr.engine import build
from tgsr.engine.build import make_restorer
from tgsr.engine.checkpoint import move_aside
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook, StepClock
from tgsr.engine.logger import pretty
from tgsr.engine.needs import remedy_for
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.start import tell_cost, tell_start
from tgsr.engine.tiling import TiledRestorer
from tgsr.engine.trainer import Trainer
from tgsr.engine.validation import Restore, evaluate, validate
from tgsr.metrics.base import Metric
from tgsr.models.precision import resolve_precision
from tgsr.tasks.task import Task
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import file_digest, read_json, write_json

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class Train(Runner):
    """Plain training, then the numbers of the final weights on the validation sets.

    Attributes:
        trainer: after `run`, for those who want more than files.
        measure: whether the final weights are measured.
    """

    trainer: Trainer
    measure = True
    continues_other_options = False
    product = "models/net_g_latest.pth"

    def units(self) -> tuple[float, str]:
        return 0 if self.options.train is None else self.options.train.total_iter, "iterations"

    def files_kept(self) -> int:
        train, log = self.options.train, self.options.logger
        made = 1 if train is None else -(-train.total_iter // log.save_checkpoint_freq) + 1
        return made if log.keep_last is None else min(made, log.keep_last + 1)

    def __init__(self, *, options: Options, context: Context) -> None:
        super().__init__(options=options, context=context)
        if options.datasets.train is not None:
            build.micro_batches(options, context.world_size)  # refused before anything runs

    def hooks(self) -> list[Hook]:
        """In addition to the trainer's own."""
        return []

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """A training uses all that its options name."""
        return missing_files(self.options, made=made, remedy=remedy_for)

    def run(self) -> None:
        clock = StepClock()
        trainer = self.trainer = Trainer(self.options, self.context, hooks=[*self.hooks(), clock], results=self.results)
        trainer.run()
        self.seconds_per_unit = clock.seconds_per_step
        if trainer.is_stopping or not self.measure or not trainer.val_sets:
            return
        write_metrics(
            self.options,
            self.context,
            trainer.restore,
            trainer.val_sets,
            trainer.metrics,
            weights=trainer.experiment.models / "net_g_latest.pth",
            iteration=trainer.iteration,
            start=self.options.path,
        )

    def check(self) -> list[str]:
        """One real step in memory and the first image of every validation set; nothing is written.

        Builds everything, reads one batch, measures, names parameters that get no gradient.
        """
        with TemporaryDirectory() as folder:
            trainer = Trainer(prepare_elsewhere(self.options, Path(folder)), self.context)
            tell_start(trainer)
            try:
                batches = next(trainer.data.iterations(0, 1))
                seconds = self._two_steps(trainer, batches)
                for name, dataset in trainer.val_sets.items():
                    validate(trainer.restore, _FirstImage(dataset), trainer.metrics, self.context)
                    logger.info("%s: the first image can be measured", name)
            finally:
                trainer.data.close()
            shapes = {k: tuple(getattr(batches[0], k).shape) for k in ("lq", "gt")}
            logger.info("one step works: lq %s, gt %s", shapes["lq"], shapes["gt"])
            tell_cost(trainer, seconds)
        problems = []
        for name, part in trainer.model.trained().items():
            unused = [n for n, p in part.net.named_parameters() if p.requires_grad and p.grad is None]
            if unused:
                problems.append(
                    f"network_{name}: {len(unused)} parameters get no gradient ({', '.join(unused[:5])}); on several "
                    "GPUs set train.find_unused_parameters: true"
                )
        return problems

    def _two_steps(self, trainer: Trainer, batches: list[Batch]) -> float:
        """Seconds of the second one; the first one compiles and fills caches."""
        assert self.options.train is not None
        every = self.options.train.net_d_iters
        first = -(-self.options.train.net_d_init_iters // every) * every  # in which the generator learns
        start = 0.0
        for iteration in (first, first + every):
            start = time.perf_counter()
            trainer.model.step(batches, iteration)
            if self.context.device.type == "cuda":
                torch.cuda.synchronize(self.context.device)
        return time.perf_counter() - start

    def check_ahead(self) -> list[str]:
        """Builds networks, losses and metrics, and loads the weights that are there."""
        path = self.options.path
        there = {
            key: given if given is not None and given.exists() else None
            for key, given in (
                ("pretrain_network_g", path.pretrain_network_g),
                ("pretrain_network_d", path.pretrain_network_d),
            )
        }
        options = replace(self.options, path=replace(path, **there), tasks=TaskOptions())
        tasks = build.build_tasks(options)
        build.build_model(options, self.context, build.build_loss_weighting(options, tasks))
        build.build_metrics(options)
        return []


class _FirstImage:
    """A data set without its other images."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.is_luma = getattr(dataset, "is_luma", False)

    def __len__(self) -> int:
        return min(1, len(self.dataset))

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def val_sample(self, index: int, task: Task | None = None) -> Batch:
        return self.dataset.val_sample(index, task)


@RUNNERS.register()
class Test(Runner):
    """Measure weights on the sets under `datasets.val`. Numbers of other weights are moved aside first.

    Attributes:
        start: what a training of these options starts from; its network is measured, too, where it is another one.
    """

    def __init__(self, *, options: Options, context: Context) -> None:
        super().__init__(options=options, context=context)
        self.start = options.path

    @classmethod
    def of_run(cls, options: Options, context: Context, wanted: str | None = None) -> Test:
        """For the option file of a training: the weights that it has made; see `find_weights`."""
        weights, start = find_weights(options, wanted), options.path
        if weights != start.pretrain_network_g:  # how a start is loaded says nothing about the run's own
            path = replace(start, pretrain_network_g=weights, param_key_g="auto", strict_load_g=True)
            options = replace(options, path=path)
        test = cls(options=options, context=context)
        test.start = start
        return test

    def run(self) -> None:
        weights = self._weights()
        restore, val_sets, metrics = self._build(self.options)
        build.tell_too_small(val_sets, metrics, self.context)
        iteration = _iteration_of(weights, self.folder / "models")
        logger.info("measuring %s%s", weights, "" if iteration is None else f" (iteration {iteration})")
        if self.context.is_main and _is_of_other_weights(self.results / "metrics.json", weights):
            move_aside(self.results)
        self.context.barrier()
        write_metrics(
            self.options,
            self.context,
            restore,
            val_sets,
            metrics,
            weights=weights,
            iteration=iteration,
            start=self.start,
        )

    def claims(self) -> list[Path]:
        """The results alone: an experiment is not written to."""
        return [self.results]

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """A test uses all of what is left of its options."""
        return missing_files(self.used_options(), made=made, remedy=remedy_for)

    def used_options(self) -> Options:
        """Without what only a training reads: weights are often tested where its images are not."""
        return replace(
            self.options,
            run=None,
            train=None,
            network_d=None,
            tasks=TaskOptions(),  # a set that names one of the tasks builds them
            path=replace(self.options.path, pretrain_network_d=None, resume_state=None),
            datasets=replace(self.options.datasets, train=None),
        )

    def check(self) -> list[str]:
        """Builds everything, loads the weights and opens every image."""
        self._weights()
        with TemporaryDirectory() as folder:
            _, val_sets, _ = self._build(prepare_elsewhere(self.options, Path(folder)))
            for name, val_set in val_sets.items():
                build.preflight(val_set, self.context)
                logger.info("%s: %d images", name, len(val_set))
        return []

    def _build(self, options: Options) -> tuple[TiledRestorer, dict[str, Any], dict[str, Metric]]:
        """Network with weights, sets and metrics."""
        val_sets = build.build_val_sets(options)
        if not val_sets:
            place = f"{options.name}: datasets.val"
            raise UserError("there is no data set to test on", place=place, remedy="name one")
        return make_restorer(options, self.context), val_sets, build.build_metrics(options)

    def _weights(self) -> Path:
        weights = self.options.path.pretrain_network_g
        if weights is None:
            place = f"{self.options.name}: path.pretrain_network_g"
            raise UserError("testing needs weights", place=place, remedy="give their path")
        return weights


def is_training(options: Options) -> bool:
    """Whether an option file is that of a training, plain or a method's, whose `pretrain_network_g` is a start."""
    return options.train is not None and (options.run is None or issubclass(options.run.entry, Train))


def find_weights(options: Options, wanted: str | None) -> Path | None:
    """The weights that `test.py` measures.

    Args:
        options: of a training, or of a test.
        wanted: `latest`, `best`, `best_psnr`, an iteration, or a file. None: those of the command line
            (`path.pretrain_network_g`), or the newest of the training, or, without one, those of the option file.

    Returns:
        Their path, which may not exist where the options name it; None where nothing names any.

    Raises:
        UserError: there are none of this name, or several that `best` may mean.
    """
    models = Path(options.path.experiments_root) / options.name / "models"
    if wanted is None:
        given = options.path.pretrain_network_g
        is_chosen = options.places.get("path.pretrain_network_g", "").startswith(COMMAND_LINE)
        if is_chosen or not is_training(options):
            return given
        if not (models / "net_g_latest.pth").exists():
            logger.warning("%s has not been trained yet: measuring what it starts from", options.name)
            return given
        wanted = "latest"
    found = [path for path in (models / f"net_g_{wanted}.pth", Path(wanted).expanduser()) if path.is_file()]
    found = found[:1] or sorted(models.glob("net_g_best_*.pth") if wanted == "best" else ())
    if len(found) != 1:
        there = ", ".join(p.stem.removeprefix("net_g_") for p in sorted(models.glob("net_g_*.pth"))) or "none yet"
        problem = "there are several weights" if found else "there are no weights"
        raise UserError(f"{problem} '{wanted}'", place=str(models), remedy=f"-w FILE, or one of: {there}")
    return found[0]


def _iteration_of(weights: Path, models: Path) -> int | None:
    """The iteration that weights of a run are of, by the name of the same file; None for those of another run."""
    for path in models.glob("net_g_*.pth"):
        number = path.stem.removeprefix("net_g_")
        if number.isdigit() and path.samefile(weights):
            return int(number)
    return None


def _is_of_other_weights(metrics: Path, weights: Path) -> bool:
    """Whether a `metrics.json` is there and does not tell that it is of these weights."""
    if not metrics.exists():
        return False
    try:
        found = read_json(metrics)
    except DataError:
        return True
    if "weights_digest" in found:
        return found["weights_digest"] != file_digest(weights)
    return found.get("weights") != str(weights)  # written by a version that took no digest


def write_metrics(
    options: Options,
    context: Context,
    restore: Restore,
    datasets: dict[str, Any],
    metrics: dict[str, Any],
    *,
    weights: Path,
    iteration: int | None,
    start: PathOptions,
) -> dict[str, Any]:
    """Evaluate and write `results/<name>/metrics.json`; the content, on all ranks.

    Args:
        start: whose `pretrain_network_g` is measured as the baseline `start`, where it is another whole network.
    """
    results = Path(options.path.results_root) / options.name
    baselines: dict[str, Restore] = {}
    first = start.pretrain_network_g
    if first is not None and first != weights and start.strict_load_g and context.from_main(first.exists()):
        baselines["start"] = make_restorer(replace(options, path=start), context)
    digest = context.from_main(file_digest(weights) if context.is_main else "")
    content = evaluate(
        restore,
        datasets,
        metrics,
        context,
        results=results,
        scale=options.scale,
        stamp={
            "name": options.name,
            "options": options_hash(options),
            "seed": options.manual_seed,
            "weights": str(weights),
            "weights_digest": digest,
            "iteration": iteration,
            **({"start": str(first)} if baselines else {}),
            "precision": resolve_precision(options.precision, context.device),
        },
        save_images=options.val.save_img,
        baselines=baselines,
    )
    if context.is_main:
        write_json(results / "metrics.json", content)
        for name, entry in content["datasets"].items():
            logger.info("%s: %s", name, pretty({m: v["mean"] for m, v in entry["metrics"].items()}))
            for baseline, values in entry["baselines"].items():
                logger.info("%s, %s: %s", name, baseline, pretty({m: v["mean"] for m, v in values.items()}))
    return content
