"""Networks of groups of degradations: each trained once, by the pool, and measured on its degradations."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tgsr.config.options import to_plain
from tgsr.config.schema import Options
from tgsr.degradations.named import NamedMixSpace
from tgsr.engine import build
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.validation import Restore, validate
from tgsr.methods.grids.tasks import named_tasks
from tgsr.models.precision import resolve_precision
from tgsr.study.journal import Journal, Record
from tgsr.study.measure import Subject, make_restorer
from tgsr.study.pool import Pool
from tgsr.study.subrun import latest_weights, sub_options, task_set, train
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError, Stopped, UserError
from tgsr.utils.files import file_digest, read_json
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")
JOURNAL = "oracle.jsonl"


def group_key(names: Sequence[str]) -> str:
    """Key of a group: its names in alphabetical order."""
    return "+".join(sorted(names))


@dataclass(frozen=True)
class Trained:
    """One network of a group.

    Attributes:
        names: degradations of the group, sorted.
        psnr: degradation -> PSNR in dB of the network on it; empty when the training failed.
        status: `ok` or `failed`.
        error: why it failed.
        checkpoint: weights of the network.
        seconds: wall time.
        attempt: 1, and one more each time it is made again.
        digest: of the weights of a network that was trained elsewhere.
    """

    names: tuple[str, ...]
    psnr: Mapping[str, float] = field(default_factory=dict)
    status: str = "ok"
    error: str = ""
    checkpoint: str = ""
    seconds: float = 0.0
    attempt: int = 1
    digest: str = ""

    @staticmethod
    def of(record: Mapping[str, Any]) -> Trained:
        """From a line of the journal, or an entry of an older `oracle.json`."""
        known = {k: v for k, v in record.items() if k in Trained.__dataclass_fields__}
        return Trained(**{**known, "names": tuple(record["names"])})


def all_tasks(options: Options) -> TaskSet:
    """One task for each degradation of the options' `NamedMix` space."""
    if options.degradation is None:
        raise ConfigError("GRIDS needs named degradations", place=f"{options.name}: degradation", remedy="add NamedMix")
    space = options.degradation.space.build()
    if options.tasks.set is None and isinstance(space, NamedMixSpace):
        return named_tasks(space=space)
    return build.build_tasks(options)


def training_protocol(options: Options, val: str, context: Context) -> dict[str, Any]:
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
        "precision": resolve_precision(options.precision, context.device),
        "pretrained": plain["path"]["pretrain_network_g"],
    }


def protocol_hash(protocol: Mapping[str, Any]) -> str:
    """12 hex digits."""
    return hashlib.blake2b(json.dumps(protocol, sort_keys=True).encode(), digest_size=6).hexdigest()


def run_name(names: Sequence[str]) -> str:
    """Folder of a group's training: readable for one or two degradations, a digest of the names for more."""
    key = group_key(names)
    if len(names) <= 2:
        return key
    return f"{len(names)}_{hashlib.blake2b(key.encode(), digest_size=5).hexdigest()}"


def evaluate_tasks(
    restore: Restore, options: Options, val: str, metric: str, tasks: TaskSet, context: Context
) -> dict[str, float]:
    """Degradation -> mean of a metric over a validation set, every image degraded with its fixed draw."""
    dataset = options.datasets.val[val].build(scale=options.scale, tasks=tasks)
    measure = {metric: options.val.metrics[metric].build()}
    return {t.name: validate(restore, dataset, measure, context, task=t).means()[metric] for t in tasks}


@dataclass(frozen=True)
class GroupWork:
    """Trains and measures the group of each key (see `pool.Work`).

    Attributes:
        options: of all trainings.
        root: experiments root of the runs.
        val: set that is measured on.
        metric: name of the metric.
        known: group -> weights that were trained elsewhere and are only measured.
    """

    options: Options
    root: Path
    val: str
    metric: str
    known: Mapping[str, Path] = field(default_factory=dict)

    def open(self, context: Context) -> Callable[[str], Record]:
        return lambda key: self._measure(key, context)

    def _measure(self, key: str, context: Context) -> Record:
        """A training that fails (NaN, out of memory) is a result; wrong options and missing data are errors."""
        start = time.perf_counter()
        try:
            found = self._made(key.split("+"), context)
        except (ConfigError, DataError, Stopped):
            raise
        except (UserError, RuntimeError) as error:
            if context.world_size > 1:
                raise  # the other ranks may not have failed
            logger.warning("the training of %s failed: %s", key, error)
            found = {"psnr": {}, "status": "failed", "error": str(error)[:300]}
        return {"names": sorted(key.split("+")), **found, "seconds": round(time.perf_counter() - start, 1)}

    def _made(self, names: list[str], context: Context) -> Record:
        weights, about = self.known.get(group_key(names)), {}
        if weights is None:
            run = sub_options(
                self.options, run_name(names), root=self.root, tasks=task_set("NamedTasks", names=sorted(names)),
                keep_last=1, fixed_batch=True,
            )  # fmt: skip
            trainer = train(run, context)
            restore, weights = trainer.restore, latest_weights(trainer)
        else:
            about = {"digest": file_digest(weights)}
            restore = make_restorer(self.options, Subject(group_key(names), weights), context)
        tasks = all_tasks(self.options).subset(sorted(names))
        psnr = evaluate_tasks(restore, self.options, self.val, self.metric, tasks, context)
        return {"psnr": psnr, "status": "ok", "checkpoint": str(weights), **about}


class GroupTrainer:
    """Trains the groups that the journal lacks; use as a context manager, on all ranks.

    Every group costs the same budget, that of `options.train`. `trainer(groups)` returns when all of them are there.

    Args:
        options: of all trainings.
        context: this process.
        folder: `models/<hash of the configuration>/` below it holds the runs, `oracle.jsonl` the results. An
            `oracle.json` of an earlier version is read as well.
        val: name of the validation set to measure on.
        metric: name of the metric, `psnr`.
        processes: trainings at once in this rank; None: one for each core on a CPU, 1 on a GPU.
        known: group (`a+b`) -> weights that were trained elsewhere with the same options: measured, not trained.

    Raises:
        ConfigError: no such set or metric; a known group of unknown degradations.
        DataError: the folder holds the trainings of another configuration; they are left alone.
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
        known: Mapping[str, Path] | None = None,
    ) -> None:
        wanted = (("datasets.val", options.datasets.val, val), ("val.metrics", options.val.metrics, metric))
        for section, there, name in wanted:
            if name not in there:
                raise ConfigError(f"there is no '{name}'", place=f"{options.name}: {section}", remedy="add it")
        self.options, self.context, self.folder = options, context, folder
        self.known = known_networks(known or {}, options)
        self.protocol = training_protocol(options, val, context)
        config = protocol_hash(self.protocol)
        # a run resumes what lies there, which must not be another's
        work = GroupWork(options, folder / "models" / config, val, metric, self.known)
        self.journal = Journal(folder / JOURNAL, schema="tgsr.oracle", protocol=self.protocol)
        batch = None if options.datasets.train is None else global_batch(options)
        self.pool = Pool(
            work, self.journal, context, processes=processes, label=options.name, trains=True, batch_size=batch
        )
        self._trained: dict[str, Trained] = {}
        if context.is_main:
            self.take_over(old_memos(folder), must_fit=True)
        self._reload()

    @property
    def num_parallel(self) -> int:
        """Trainings that run at once over all ranks."""
        return self.pool.num_parallel

    @property
    def trainings(self) -> list[Trained]:
        """All that there are."""
        return list(self._trained.values())

    def get(self, names: Sequence[str]) -> Trained | None:
        """The network of a group, or None."""
        return self._trained.get(group_key(names))

    def __call__(self, groups: Sequence[Sequence[str]], *, again: Sequence[Sequence[str]] = ()) -> None:
        """Make the groups that are not there, and those of `again` anew. Called by all ranks with the same groups.

        Raises:
            Stopped: asked to stop.
        """
        keys = list(dict.fromkeys(map(group_key, groups)))
        before = set(self._trained)
        if not self.pool.run(keys, again=[*map(group_key, again), *self._changed(keys)]):
            raise Stopped
        self._reload()
        for key in keys if self.context.is_main else ():
            if key not in before:
                found = self._trained[key]
                values = ", ".join(f"{k} {v:.2f}" for k, v in found.psnr.items())
                logger.info("%s: %s (%.0f s)", key, values or found.error, found.seconds)

    def take_over(self, memos: Sequence[Path], *, must_fit: bool = False) -> None:
        """Add what other folders hold of the very same configuration; on one rank, followed by `reload`."""
        done = self.journal.read()
        for path in memos:
            for trained in read_memo(path, self.protocol, must_fit=must_fit):
                key = group_key(trained.names)
                if key not in done or (done[key]["status"] != "ok" and trained.status == "ok"):
                    attempt = max(trained.attempt, done[key].get("attempt", 1) + 1 if key in done else 1)
                    done[key] = {"key": key, **asdict(trained), "attempt": attempt}
                    self.journal.append(done[key], writer=self.context.rank)

    def reuse(self, folder: Path) -> None:
        """The trainings of another stage where its configuration is the same; on all ranks."""
        if self.context.is_main:
            self.take_over([folder / JOURNAL, *sorted(folder.glob("oracle.*.jsonl")), *old_memos(folder)])
        self._reload()

    def _reload(self) -> None:
        self._trained = {k: Trained.of(r) for k, r in self.journal.shared(self.context).items()}

    def _changed(self, keys: Sequence[str]) -> list[str]:
        """Known networks that were measured with other weights than are there now; as rank 0 sees the disk."""
        found: list[str] = []
        if self.context.is_main:
            there = [(k, self._trained[k].digest) for k in keys if k in self.known and k in self._trained]
            found = [key for key, digest in there if digest != file_digest(self.known[key])]
        return self.context.from_main(found)

    def __enter__(self) -> GroupTrainer:
        self.pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.__exit__(*error)


def known_networks(networks: Mapping[str, Path], options: Options) -> dict[str, Path]:
    """Group key -> weights, of an option file's `a+b: weights`; ConfigError for unknown degradations."""
    names, place = all_tasks(options).names, f"{options.name}: run.networks"
    for name in (n for key in networks for n in key.split("+")):
        if name not in names:
            raise ConfigError(f"the run has no degradation '{name}'", place=place, remedy=did_you_mean(name, names))
    return {group_key(key.split("+")): Path(path) for key, path in networks.items()}


def old_memos(folder: Path) -> list[Path]:
    """`oracle.json` and `oracle.<k>.json` of earlier versions, rank k's."""
    return [p for p in (folder / "oracle.json", *sorted(folder.glob("oracle.*.json"))) if p.exists()]


def read_memo(path: Path, protocol: Mapping[str, Any] | None = None, *, must_fit: bool = False) -> list[Trained]:
    """The trainings of a journal or of an older `oracle.json`.

    Args:
        path: the file; absent: none.
        protocol: that they must have been made with. None: any.
        must_fit: DataError for another protocol; otherwise it holds nothing of use.
    """
    if not path.exists():
        return []
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        head, records = (lines[0], lines[1:]) if lines else ({}, [])
        is_same = protocol is None or head.get("protocol") == json.loads(json.dumps(protocol))
        return [Trained.of(r) for r in records] if is_same else []
    data = read_json(path)
    if not isinstance(data, Mapping) or data.get("schema") != "tgsr.oracle" or data.get("version") != 1:
        raise DataError("not an oracle memo of this version", place=str(path), remedy="move it aside")
    if protocol is not None and not _is_of(data, protocol):
        if not must_fit:
            return []
        raise DataError(
            f"this memo belongs to another configuration ({_difference(data.get('protocol', {}), protocol)})",
            place=str(path), remedy="give the stage another name, or restore the options the memo was made with",
        )  # fmt: skip
    return [Trained.of(entry) for entry in data["trainings"].values()]


def _is_of(memo: Mapping[str, Any], protocol: Mapping[str, Any]) -> bool:
    """An older memo has the precision as the option file had it, `auto` among them."""
    return memo["config"] in (protocol_hash(protocol), protocol_hash({**protocol, "precision": "auto"}))


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    for key in dict.fromkeys((*ours, *theirs)):
        if ours.get(key) != theirs.get(key):
            return f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here"
    return f"hash {protocol_hash(ours)} here"


def with_seed(options: Options, seed: int) -> Options:
    """The same run with another seed."""
    return replace(options, manual_seed=seed)
