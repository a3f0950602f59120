"""`prepare_data.py --for`: all that a file's stages read and do not make."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from tests.data.originals import lay_out, write_originals
from tests.engine.toy import toy_options
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.needs import inputs_of, remedy_for
from tgsr.engine.runner import make_runner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, gt="datasets/Set14/HR", **more):
    raw = toy_options(Path())
    raw["name"] = name
    raw["datasets"]["train"]["dataset"].update(dataroot_gt=gt, gt_size=32)
    raw["datasets"]["val"]["toy"]["dataroot_gt"] = "datasets/Set5/HR"
    Path(f"{name}.yml").write_text(yaml.safe_dump({**raw, **more}))


def prepare_for(monkeypatch, *arguments):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", ["prepare_data", "--for", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "scripts" / "prepare_data.py"), run_name="__main__")
    return stop.value.code


def test_for_makes_all_that_the_stages_read(folder, monkeypatch, capsys):
    write("pre")
    write("tune", path={"pretrain_network_g": "experiments/pre/models/net_g_latest.pth"})
    Path("chain.yml").write_text("name: chain\nscale: 4\nrun: {type: Chain, stages: [pre.yml, tune.yml]}\n")
    paths = inputs_of(make_runner(load_options("chain.yml"), Context.create(device="cpu")))
    assert paths == [Path("datasets/Set14/HR"), Path("datasets/Set5/HR")]
    for name in ("set5", "set14"):
        write_originals(name, Path("datasets/originals/benchmark"))
    assert prepare_for(monkeypatch, "chain.yml") == 0
    assert all(path.is_dir() for path in paths)
    assert capsys.readouterr().out.endswith("2 of 2 files and folders are there\n")
    assert prepare_for(monkeypatch, "chain.yml") == 0


def test_for_says_all_that_it_cannot_get(folder, monkeypatch, capsys):
    lay_out("set5", Path("datasets"))
    path = {"pretrain_network_g": "weights/HAT_SRx4.pth", "pretrain_network_d": "mine.pth"}
    write("mine", "datasets/RealSR/train_x4/HR", path=path)
    assert prepare_for(monkeypatch, "mine.yml") == 2
    said = capsys.readouterr()
    lines = [line.removeprefix("error: ") for line in said.err.splitlines()]
    assert [re.sub(r"[ :;].*", "", line) for line in lines] == ["realsr", "HAT_SRx4", "mine.pth"]
    assert "1 of 4 files and folders are there" in said.out


def test_missing_files_name_the_command(folder):
    write("mine", path={"pretrain_network_g": "weights/RealESRGAN_x4plus.pth", "pretrain_network_d": "mine.pth"})
    problems = make_runner(load_options("mine.yml"), Context.create(device="cpu")).missing_files()
    assert [str(p).partition(" = ")[2] for p in problems] == [
        "datasets/Set14/HR: no such file or folder; python scripts/prepare_data.py --dataset set14",
        "datasets/Set5/HR: no such file or folder; python scripts/prepare_data.py --dataset set5",
        "weights/RealESRGAN_x4plus.pth: no such file or folder; tgsr weights RealESRGAN_x4plus",
        "mine.pth: no such file or folder; correct the path",
    ]
    assert remedy_for(Path("datasets/mine")) == "correct the path"
