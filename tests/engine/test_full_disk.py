"""A disk that is really full, with nothing or some kilobytes left: one line, and what lay there stays whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.engine.toy import make_images, run, toy_options, write_options
from tgsr.cli import main
from tgsr.data.backends import open_source
from tgsr.data.lmdb_store import write_lmdb
from tgsr.data.packed import pack_images
from tgsr.engine.checkpoint import load_state
from tgsr.study.journal import Journal
from tgsr.utils.errors import UserError
from tgsr.utils.files import write_atomic, write_json

SIZE = 1 << 23


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    run(root)
    return root


@pytest.fixture
def disk(tmp_path):
    """A file system of eight megabytes; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if not shutil.which("mount") or os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, room: int) -> None:
    """Take all but so many bytes, in whole pages."""
    with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - room)


def train(made: Path, disk: Path) -> int:
    places = {"experiments_root": str(disk / "experiments"), "results_root": str(disk / "results")}
    logger = {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": True}
    return main(["train", "-opt", str(write_options(made, toy_options(made, name="full", path=places, logger=logger)))])


def report(made: Path, disk: Path) -> int:
    return main(["report", "toy", "--experiments", str(disk / "experiments"), "--results", str(disk / "results")])


def weights_of(made: Path) -> str:
    return str(made / "experiments" / "toy" / "models" / "net_g_6.pth")


def state(made: Path, disk: Path) -> None:
    content = load_state(made / "experiments" / "toy" / "training_states" / "6.state")
    content["filling"] = torch.zeros(20_000)
    write_atomic(disk / "old" / "6.state", lambda file: torch.save(content, file))


def journal(made: Path, disk: Path) -> None:
    lines = Journal(disk / "old" / "j.jsonl", schema="test", protocol={})
    for i in range(100):
        lines.append({"key": f"k{i}", "text": "x" * 500}, writer=0)


CASES: dict[str, Callable[[Path, Path], object]] = {
    "training": train,
    "state": state,
    "journal": journal,
    "artefact": lambda made, disk: write_json(disk / "old" / "a.json", {"values": list(range(20_000))}),
    "report": report,
    "packed": lambda made, disk: pack_images(open_source(made / "gt"), disk / "packed"),
    "lmdb": lambda made, disk: write_lmdb(open_source(made / "gt"), disk / "x.lmdb"),
    "export": lambda made, disk: main(["export", "-w", weights_of(made), "-o", str(disk / "old" / "x.safetensors")]),
    "inference": lambda made, disk: main(
        ["infer", "-i", str(made / "large"), "-o", str(disk / "out"), "-w", weights_of(made), "--device", "cpu"]
    ),
}


@pytest.mark.parametrize("room", [0, 4096])
@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_lost(made, disk, name, room, capsys):
    if not (made / "large").exists():
        make_images(made / "large", size=64)
    for folder in ("experiments", "results"):
        shutil.copytree(made / folder, disk / folder, ignore=shutil.ignore_patterns("*.html"))
    (disk / "old").mkdir()
    for file in ("6.state", "a.json", "x.safetensors"):
        (disk / "old" / file).write_text("of before")
    lines = Journal(disk / "old" / "j.jsonl", schema="test", protocol={})
    lines.append({"key": "before"}, writer=0)
    before = {p: hashlib.sha1(p.read_bytes()).digest() for p in disk.rglob("*") if p.is_file() and p.suffix != ".jsonl"}
    fill(disk, room)
    capsys.readouterr()
    try:
        code = CASES[name](made, disk)
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert code in (1, 2), (code, told)
    except UserError as error:
        told = str(error)
    assert "No space left" in told or "disk" in told, told
    assert "\n" not in told
    assert {p: hashlib.sha1(p.read_bytes()).digest() for p in before} == before
    assert "before" in lines.read()
