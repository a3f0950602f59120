"""The whole way of an option file: load, freeze, write, compare, schema; and the start-up without torch."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tgsr.config.options import (
    diff_options,
    json_schema,
    load_options,
    missing_files,
    options_hash,
    place_of,
    to_plain,
    write_options,
)
from tgsr.config.yaml_loader import load_yaml, to_builtin
from tgsr.utils.errors import ConfigError

TRAIN = """\
name: run
scale: 4
degradation:
  space: {type: SecondOrder, preset: x4plus}
datasets:
  train:
    dataset: {type: GTDataset, dataroot_gt: data/gt, gt_size: 64}
    batch_size_per_gpu: 4
  val:
    set5: {type: PairedDataset, dataroot_gt: data/hr, dataroot_lq: data/lr}
network_g: {type: RRDBNet, num_feat: 8, num_block: 1}
path:
  pretrain_network_g: experiments/${name}_before/net.pth
train:
  total_iter: 1e3
  optim_g: {type: Adam, lr: 1e-4, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [500], gamma: 0.5}
  losses:
    pixel: L1Loss
val:
  val_freq: 500
  metrics:
    psnr: {type: PSNR, crop_border: 4}
logger:
  print_freq: 50
  best: {set5: psnr}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.yml"
    path.write_text(TRAIN)
    return path


def message(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_options(*args, **kwargs)
    return str(caught.value)


def test_load(file: Path) -> None:
    options = load_options(file)
    assert options.train.total_iter == 1000
    assert options.train.optim_g.kwargs == {"lr": 1e-4, "betas": (0.9, 0.99)}
    assert options.train.losses["pixel"].type == "L1Loss"
    assert options.path.pretrain_network_g == Path("experiments/run_before/net.pth")
    assert options.datasets.val["set5"].kwargs["dataroot_lq"] == Path("data/lr")
    assert options.model == "PixelModel"
    assert place_of(options, "train.optim_g.lr") == f"{file}:16: train.optim_g.lr"
    assert place_of(options, "train.warmup_iter") == f"{file}:14: train.warmup_iter"


def test_options_are_frozen_and_can_be_sent_to_other_processes(file: Path) -> None:
    options = load_options(file)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.train.total_iter = 3
    with pytest.raises(TypeError, match="frozen"):
        options.val.metrics.pop("psnr")
    assert pickle.loads(pickle.dumps(options)) == options == copy.deepcopy(options)


def test_misspelt_keys_at_every_depth(file: Path) -> None:
    """Each key of the file, misspelt, is an error that names the line and the key."""
    lines = TRAIN.replace("${name}", "run").splitlines()
    for number, line in enumerate(lines, 1):
        key = line.strip().split(":")[0]
        if key in ("set5", "psnr", "pixel"):  # names, not options
            continue
        broken = [*lines[: number - 1], line.replace(f"{key}:", f"{key}x:", 1), *lines[number:]]
        file.write_text("\n".join(broken))
        text = message(file)
        assert any(t.startswith(f"{file}:{number}: ") and f"'{key}x'" in t for t in text.splitlines()), (line, text)


def test_misspelt_arguments_of_components(file: Path) -> None:
    for number, key, wrong in (
        (4, "preset", "SecondOrder takes no 'presetx'; did you mean 'preset'?"),
        (7, "gt_size", "GTDataset takes no 'gt_sizex'; did you mean 'gt_size'"),
        (11, "num_feat", "RRDBNet takes no 'num_featx'; did you mean 'num_feat'"),
        (16, "lr", "Adam takes no 'lrx'; did you mean 'lr'?"),
        (17, "gamma", "MultiStepLR takes no 'gammax'; did you mean 'gamma'"),
        (23, "crop_border", "PSNR takes no 'crop_borderx'; did you mean 'crop_border'?"),
    ):
        lines = TRAIN.splitlines()
        lines[number - 1] = lines[number - 1].replace(f"{key}:", f"{key}x:")
        file.write_text("\n".join(lines))
        text = message(file).splitlines()[0]
        assert text.startswith(f"{file}:{number}: ")
        assert wrong in text


def test_overrides(file: Path) -> None:
    options = load_options(file, ["train:total_iter=7", "network_g.num_block=2", "path:pretrain_network_g=~"])
    assert (options.train.total_iter, options.network_g.kwargs["num_block"]) == (7, 2)
    assert options.path.pretrain_network_g is None
    expected = "command line: train.totl_iter: there is no option 'totl_iter' here; did you mean 'total_iter'"
    assert message(file, ["train:totl_iter=7"]).startswith(expected)
    assert message(file, ["trian:x=7"]).startswith("command line: trian: there is no option 'trian' here; did you mean")
    assert "command line: network_g.num_fea: RRDBNet takes no 'num_fea'" in message(file, ["network_g:num_fea=7"])


def test_debug_is_a_flag(file: Path) -> None:
    debug = load_options(file, debug=True)
    assert (debug.val.val_freq, debug.logger.print_freq, debug.logger.save_checkpoint_freq) == (8, 1, 8)
    assert not debug.logger.use_tb_logger
    assert load_options(file, ["name=debug_me"]).logger.print_freq == 50


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model=AdversarialModel", "model: AdversarialModel needs 'network_d'; add it, or use PixelModel"),
        ("train.gan=GANLoss", "train.gan: PixelModel has no adversarial loss; set model: AdversarialModel"),
        ("train.losses=~", "'losses' is missing"),
        ("datasets.train=~", "train: training needs 'datasets.train'"),
        ("val.val_tasks=set6", "val.val_tasks: there is no validation set 'set6'; did you mean 'set5'?"),
        ("logger.best={set6: psnr}", "logger.best.set6: there is no validation set 'set6'; did you mean 'set5'?"),
        ("logger.best={set5: psmr}", "logger.best.set5: there is no metric 'psmr'; did you mean 'psnr'?"),
    ],
)
def test_sections_that_need_each_other(file: Path, override: str, problem: str) -> None:
    assert problem in message(file, [override])


@pytest.mark.parametrize("name", ["''", ".", "..", "a/../b", "./a", "/a", "a//b", "' '"])
def test_a_name_is_a_folder_of_its_own(file: Path, name: str) -> None:
    file.write_text(TRAIN.replace("name: run", f"name: {name}"))
    assert message(file).startswith(f"{file}:1: name: '{name.strip(chr(39))}' names no folder below experiments/; give")
    file.write_text(TRAIN.replace("name: run", "name: a/b..c"))
    assert load_options(file).name == "a/b..c"


def test_what_is_written_is_read_again(file: Path, tmp_path: Path) -> None:
    options = load_options(file)
    again_file = tmp_path / "again.yml"
    write_options(options, again_file)
    again = load_options(again_file)
    assert again == options
    assert to_plain(again) == to_plain(options) == to_builtin(load_yaml(again_file))
    assert options_hash(again) == options_hash(options)


def test_hash_and_differences(file: Path) -> None:
    options = load_options(file)
    same = load_options(file, ["logger.print_freq=1", "datasets.train.num_worker_per_gpu=0", "num_threads=1"])
    other = load_options(file, ["network_g.num_feat=9", "val.tile=64", "val.metrics.ssim=SSIM"])
    assert options_hash(same) == options_hash(options) != options_hash(other)
    assert diff_options(to_plain(options), to_plain(other)) == [
        "network_g.num_feat: 8 -> 9",
        "val.tile: null -> 64",
        'val.metrics.ssim.type: absent -> "SSIM"',
    ]


def test_missing_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/gt").mkdir(parents=True)
    (tmp_path / "data/hr").mkdir()
    problems = [str(p) for p in missing_files(load_options("x.yml"))]
    assert problems == [
        "x.yml:10: datasets.val.set5.dataroot_lq = data/lr: no such file or folder; correct the path",
        "x.yml:13: path.pretrain_network_g = experiments/run_before/net.pth: no such file or folder; correct the path",
    ]


def test_modules_of_the_user(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from tgsr.losses.pixel import L1Loss\nfrom tgsr.losses.base import LOSSES\n\n"
        "@LOSSES.register()\nclass MineOfTheTest(L1Loss):\n"
        "    def __init__(self, *, power: float = 1.0) -> None:\n        super().__init__()\n"
    )
    overrides = ["train.losses.extra={type: MineOfTheTest, power: 2}"]
    assert "there is no loss 'MineOfTheTest'" in message(file, overrides)
    file.write_text(TRAIN + "import_modules: [mine.py]\n")
    for _ in range(2):  # the second time it is there already
        assert load_options(file, overrides).train.losses["extra"].kwargs == {"power": 2.0}
    assert "MineOfTheTest takes no 'pwer'" in message(file, [*overrides, "train.losses.extra.pwer=1"])
    place = f"{file}:27: import_modules: "
    for entry, problem in (
        ("nowhere.py", f"there is no file '{tmp_path}/nowhere.py'"),
        ("no_such_module_at_all", "there is no module 'no_such_module_at_all'; install it, or set PYTHONPATH"),
        ("broken.py", "'broken.py' cannot be imported: ZeroDivisionError: division by zero"),
        ("needs.py", "'needs.py' needs an absent module 'no_such_module_at_all'; install it, or set PYTHONPATH"),
    ):
        (tmp_path / "broken.py").write_text("1 / 0\n")
        (tmp_path / "needs.py").write_text("import no_such_module_at_all\n")
        file.write_text(TRAIN + f"import_modules: [{entry}]\n")
        assert message(file) == place + problem


def test_json_schema(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = to_builtin(load_yaml(file))
    assert list(validator.iter_errors(good)) == []
    assert list(validator.iter_errors({"_base_": "x.yml", "network_g": {"num_feat": 3}})) == []
    for section, wrong in (
        ("train", {**good["train"], "totl_iter": 3}),
        ("network_g", {"type": "RRDBNet", "num_fea": 3}),
        ("network_g", {"type": "RRDBNet", "num_feat": "many"}),
        ("scale", 0),
        ("nmae", "x"),
    ):
        assert list(validator.iter_errors({**good, section: wrong})) != [], section
    network = next(n for n in schema["$defs"]["network"]["oneOf"] if n["properties"]["type"]["const"] == "RRDBNet")
    assert network["properties"]["num_feat"]["description"]
    assert "warm-up" in schema["properties"]["train"]["anyOf"][0]["properties"]["warmup_iter"]["description"]


def test_start_up_imports_no_torch() -> None:
    code = "import sys, tgsr.config.options, tgsr.config.schema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_required_section_that_is_null_is_told(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text("name: x\nscale: 4\ndegradation:\n  space:\n")
    with pytest.raises(ConfigError, match=r"x.yml:4: degradation.space"):
        load_options(path)
