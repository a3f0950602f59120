"""`load_options(file, overrides) -> Options`: the whole way of an option file, and what can be done with the result."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tgsr.config.bind import INTERNAL, LATER, bind, is_output, join_problems, section_parameters, signature_of
from tgsr.config.channels import channels_of
from tgsr.config.compat import translate
from tgsr.config.json_schema import json_schema
from tgsr.config.overrides import apply_overrides
from tgsr.config.schema import Options, Source
from tgsr.config.spec import FrozenDict, Spec
from tgsr.config.yaml_loader import COMMAND_LINE, PlacedDict, interpolate, load_yaml
from tgsr.utils.errors import ConfigError
from tgsr.utils.files import write_atomic
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")

__all__ = [
    "cross_check",
    "diff_options",
    "folder_of",
    "json_schema",
    "load_options",
    "missing_files",
    "options_hash",
    "output_paths",
    "place_of",
    "input_paths",
    "to_plain",
    "training_hash",
    "user_files",
    "write_options",
]

_NO_EFFECT = (
    ("logger",),
    ("num_threads",),
    ("path", "experiments_root"),
    ("path", "results_root"),
    ("path", "resume_state"),
    ("val", "save_img"),
    ("datasets", "train", "num_worker_per_gpu"),
    ("datasets", "train", "prefetch_factor"),
    ("datasets", "train", "preflight"),
)
"""Options that change no weight and no number, left out of the hash."""

MAX_NAME = 200
"""Bytes of a folder's name; file systems take 255, and what is moved aside gets a longer one."""


def load_options(
    path: Path | str, overrides: Iterable[str] = (), *, debug: bool = False, notes: list[str] | None = None
) -> Options:
    """Read, merge, translate, check and freeze an option file.

    Args:
        path: the option file.
        overrides: `key:sub=value` of the command line, laid over the file in order.
        debug: validate and save every 8 iterations, log each one, and write no TensorBoard or W&B.
        notes: receives one line for every legacy key that was understood but has no effect here; None logs them as
            warnings.

    Raises:
        ConfigError: all problems that can be seen without touching data or a device.
    """
    overrides = tuple(overrides)
    data = load_yaml(path)
    apply_overrides(data, overrides)
    run = data.get("run")
    has_stages = isinstance(run, PlacedDict) and isinstance(run.get("stages"), PlacedDict)
    source = Source(data.copy(), overrides) if has_stages else None
    return replace(bind_options(data, debug=debug, notes=notes), source=source)


def bind_options(data: PlacedDict, *, debug: bool = False, notes: list[str] | None = None) -> Options:
    """The second half of `load_options`: what an option file says, as data with places, checked and frozen.

    Args:
        data: is changed.
        debug, notes: see `load_options`.
    """
    interpolate(data)
    translation_notes = translate(data)
    if notes is not None:
        notes.extend(translation_notes)
    else:
        for note in translation_notes:
            logger.warning(note)
    _import_modules(data)
    places: dict[str, str] = {}
    options = bind(data, Options, places=places)
    options = replace(options, places=FrozenDict(places))
    problems = cross_check(options)
    if problems:
        raise join_problems(problems)
    return _debug(options) if debug else options


def place_of(options: Options, key: str) -> str:
    """`file:line: key` of a dotted key, or of the nearest section above it, for messages."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        place = options.places.get(".".join(parts[:length]))
        if place is not None:
            return f"{place}: {key}"
    return key


def cross_check(options: Options) -> list[ConfigError]:
    """What no single value shows: sections that need each other, names that refer to others."""
    problems: list[ConfigError] = []

    def complain(key: str, problem: str, remedy: str = "") -> None:
        problems.append(ConfigError(problem, place=place_of(options, key), remedy=remedy))

    if any(part.strip() in ("", ".", "..") for part in options.name.split("/")):  # else runs share or leave the roots
        complain("name", f"'{options.name}' names no folder below experiments/", "give a name such as x, or a/b")
    if any(len(part.encode()) > MAX_NAME for part in options.name.split("/")):
        complain("name", f"'{options.name:.40}...' is too long for a folder", "a study's axes can have shorter labels")
    train = options.train
    if options.model == "AdversarialModel" and train is not None:
        for key, value in (
            ("network_d", options.network_d),
            ("train.optim_d", train.optim_d),
            ("train.gan", train.gan),
        ):
            if value is None:
                complain("model", f"AdversarialModel needs '{key}'", "add it, or use PixelModel")
    if options.model == "PixelModel" and train is not None and train.gan is not None:
        complain("train.gan", "PixelModel has no adversarial loss", "set model: AdversarialModel")
    if train is not None and train.clip_grad_norm == 0:
        complain("train.clip_grad_norm", "0 would clip every gradient to nothing", "leave it out for no clipping")
    if train is not None and not train.losses and train.gan is None:
        complain("train.losses", "there is no loss to minimise", "add one, for example pixel: {type: L1Loss}")
    if train is not None and options.run is None:
        for key, value in (("network_g", options.network_g), ("datasets.train", options.datasets.train)):
            if value is None:
                complain("train", f"training needs '{key}'")
    data = options.datasets.train
    if data is not None and data.batch_size is None and data.batch_size_per_gpu is None:
        complain("datasets.train", "there is no batch size", "give batch_size (over all GPUs) or batch_size_per_gpu")
    if data is not None and data.batch_size is not None and train is not None and train.accumulation_steps > 1:
        complain("train.accumulation_steps", "it follows from datasets.train.batch_size", "leave it out")
    if train is not None and train.ema_decay == 0:
        for name, loss in train.losses.items():
            if getattr(loss.entry, "needs_average", False):
                complain(f"train.losses.{name}", f"{loss.type} asks the averaged network", "set train.ema_decay: 0.999")
    _check_channels(options, complain)
    _check_validation(options, complain)
    return problems


def _check_channels(options: Options, complain: Any) -> None:
    """Images are RGB, or luma for networks of one channel; nothing else can be trained or restored."""
    network = options.network_g
    if network is None:
        return
    inputs, outputs = channels_of(network.entry, network.kwargs)
    if (inputs, outputs) not in ((3, 3), (1, 1)):
        problem = f"{network.type} makes {outputs} channels of {inputs}"
        complain("network_g", problem, "3 of 3 for RGB, or 1 of 1 for luma")
        return
    if options.network_d is not None:
        judged = channels_of(options.network_d.entry, options.network_d.kwargs)[0]
        if judged != outputs:
            problem = f"it judges images of {judged} channels, network_g makes {outputs}"
            complain("network_d", problem, "make them equal")
    for name, loss in options.train.losses.items() if options.train is not None else ():
        wanted = getattr(loss.entry, "num_channels", None)
        if wanted not in (None, outputs):
            complain(f"train.losses.{name}", f"{loss.type} takes {wanted} channels, network_g makes {outputs}")


def _check_validation(options: Options, complain: Any) -> None:
    names = sorted(options.datasets.val)
    wanted = options.val.val_tasks
    if wanted is not None and wanted not in names:
        complain("val.val_tasks", f"there is no validation set '{wanted}'", did_you_mean(wanted, names))
    for dataset, metric in options.logger.best.items():
        if dataset not in names:
            complain(f"logger.best.{dataset}", f"there is no validation set '{dataset}'", did_you_mean(dataset, names))
        elif metric not in options.val.metrics:
            complain(
                f"logger.best.{dataset}",
                f"there is no metric '{metric}'",
                did_you_mean(metric, options.val.metrics),
            )


def _debug(options: Options) -> Options:
    val, logger = options.val, options.logger
    return replace(
        options,
        val=replace(val, val_freq=8 if val.val_freq else None),
        logger=replace(logger, print_freq=1, save_checkpoint_freq=8, use_tb_logger=False, wandb=None),
    )


def _import_modules(data: PlacedDict) -> None:
    """Import the user's own modules, so that what they register can be named; wrong types are left to the binder."""
    entries = data.get("import_modules")
    place = data.place_of("import_modules")
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, str):
            continue
        where = f"{place}: import_modules"
        try:
            if entry.endswith(".py"):
                import_file(_module_file(entry, place))
            else:
                importlib.import_module(entry)
        except ModuleNotFoundError as error:
            own = error.name is not None and (entry == error.name or entry.startswith(f"{error.name}."))
            problem = f"there is no module '{entry}'" if own else f"'{entry}' needs an absent module '{error.name}'"
            raise ConfigError(problem, place=where, remedy="install it, or set PYTHONPATH") from None
        except FileNotFoundError as error:
            raise ConfigError(f"there is no file '{error.filename}'", place=where) from None
        except Exception as error:
            raise ConfigError(f"'{entry}' cannot be imported: {type(error).__name__}: {error}", place=where) from error


def _module_file(entry: str, place: str) -> Path:
    """The file of a `.py` entry: relative to the option file of its place, or to the working folder."""
    return folder_of(place) / entry


def folder_of(place: str) -> Path:
    """The folder of the option file in a place `file:line`; the working folder for what the command line says."""
    return Path() if place.startswith(COMMAND_LINE) else Path(place.rsplit(":", 1)[0]).parent


def import_file(path: Path) -> None:
    """Import a Python file once, under a name that its full path fixes."""
    path = path.resolve()
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    name = f"tgsr_user_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def user_files() -> list[str]:
    """The user's own files that have been imported: a spawned process must import them, too, before it reads a job."""
    return [str(m.__file__) for name, m in list(sys.modules.items()) if name.startswith("tgsr_user_")]


def to_plain(value: Any) -> Any:
    """Options (or a part of them) as dicts, lists and scalars for YAML and JSON; read again, they are equal."""
    if isinstance(value, Spec):
        return {"type": value.type, **{k: to_plain(v) for k, v in value.kwargs.items()}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get(INTERNAL) or (f.metadata.get(LATER) and getattr(value, f.name) is None))
        }
    if isinstance(value, Mapping):
        return {k: to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def options_hash(options: Options) -> str:
    """12 hex digits that depend on every option that can change a weight or a number."""
    return _digest(to_plain(options))


def training_hash(options: Options) -> str:
    """The same for weights alone: without validation, unless the choice of tasks follows it."""
    plain = to_plain(options)
    if options.val.val_tasks is None:
        plain["val"], plain["datasets"]["val"] = {}, {}
    return _digest(plain)


def _digest(plain: dict[str, Any]) -> str:
    for *sections, key in _NO_EFFECT:
        part = plain
        for section in sections:
            part = part.get(section) or {}
        part.pop(key, None)
    if "batch_size" in (plain["datasets"]["train"] or {}):  # then this says what a GPU holds, and the batch is the same
        plain["datasets"]["train"].pop("batch_size_per_gpu")
    text = json.dumps(plain, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def write_options(options: Options, path: Path | str) -> None:
    """Write the options as run, defaults included, as an option file; `.py` files to import get their whole paths."""
    plain = to_plain(options)
    place = options.places.get("import_modules", COMMAND_LINE)
    plain["import_modules"] = [  # the written file lies in another folder
        str(_module_file(entry, place).resolve()) if entry.endswith(".py") else entry
        for entry in plain["import_modules"]
    ]
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
    write_atomic(path, lambda f: f.write(text.encode()))


def diff_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for every difference of two plain options, as `train.total_iter: 1000 -> 2000`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    lines = []
    for key in dict.fromkeys((*before, *after)):
        if before.get(key, ...) != after.get(key, ...):
            shown = [json.dumps(side[key]) if key in side else "absent" for side in (before, after)]
            lines.append(f"{key}: {shown[0]} -> {shown[1]}")
    return lines


def _leaves(data: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(data, Mapping) and data:
        return [leaf for k, v in data.items() for leaf in _leaves(v, f"{path}.{k}" if path else str(k))]
    return [(path, data)]


def missing_files(
    options: Options,
    *,
    made: Sequence[Path] = (),
    later: Sequence[Path] = (),
    remedy: Callable[[Path], str] = lambda _path: "correct the path",
) -> list[ConfigError]:
    """Files and folders that the options name and that are not there; outputs of the run itself are left out.

    For `--check` and for the start of a stage; not part of `load_options`, since a chain of stages may make them.

    Args:
        options: of one stage.
        made: files and folders that earlier stages will have made: they, and all below them, are not missing.
        later: the same of the stage itself and of later ones. They are missing only as arguments of `run`: the other
            sections may come from a `_base_` of the whole chain, and the stage need not use them.
        remedy: what to do about a path, e.g. the command that makes it.
    """

    def is_missing(key: str, path: Path) -> bool:
        roots = made if key.startswith("run.") else (*made, *later)
        return not path.exists() and not any(path.resolve().is_relative_to(root.resolve()) for root in roots)

    return [
        ConfigError("no such file or folder", place=f"{place_of(options, key)} = {path}", remedy=remedy(path))
        for key, path in input_paths(options)
        if is_missing(key, path)
    ]


def output_paths(component: Spec) -> list[Path]:
    """What a component writes: its arguments that are marked as output."""
    known = signature_of(component.entry).parameters
    values = [value for key, value in component.kwargs.items() if key in known and is_output(known[key].annotation)]
    return [value for value in values if isinstance(value, Path)]


def input_paths(value: Any, key: str = "") -> list[tuple[str, Path]]:
    """`(dotted key, path)` of everything that the options read, without what they write."""

    def join(name: object) -> str:
        return f"{key}.{name}" if key else str(name)

    children: Sequence[tuple[str, Any]] = ()
    if isinstance(value, Path):
        return [(key, value)]
    if isinstance(value, Spec):
        if value.kwargs.get("prepare") is not None:
            return []  # the data set makes its own files
        known = signature_of(value.entry).parameters
        children = [(k, v) for k, v in value.kwargs.items() if k not in known or not is_output(known[k].annotation)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = section_parameters(type(value))
        children = [(k, getattr(value, k)) for k, p in known.items() if not is_output(p.annotation)]
    elif isinstance(value, Mapping):
        children = list(value.items())
    elif isinstance(value, (list, tuple)):
        return [found for i, item in enumerate(value) for found in input_paths(item, f"{key}[{i}]")]
    return [found for name, child in children for found in input_paths(child, join(name))]
