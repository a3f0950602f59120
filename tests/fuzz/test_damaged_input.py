"""A fuzzer: files of every kind, damaged at random, are read or refused in the user's words; nothing else may happen.

Within bounded time and memory, nothing in them is executed and nothing is written beside them. Ten seconds in the
suite; by hand for as long as one likes:

    TGSR_FUZZ_SECONDS=600 TGSR_FUZZ_SEED=1 pytest tests/fuzz
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import tgsr.methods  # noqa: F401 - registers
from tests.data.data_toys import task_set
from tests.engine.toy import make_images, run, toy_options
from tgsr.archs import ARCHS
from tgsr.config.options import load_options
from tgsr.data.backends import open_source
from tgsr.data.packed import PackedSource, pack_images
from tgsr.engine.checkpoint import load_state
from tgsr.engine.network_files import load_network
from tgsr.methods.grids.router import Router
from tgsr.models.export import NetworkInfo, export_safetensors
from tgsr.models.weights import load_state as load_weights
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import UserError
from tgsr.utils.files import read_json, read_jsonl
from tgsr.utils.image_io import probe_image, read_image

SECONDS = float(os.environ.get("TGSR_FUZZ_SECONDS", "8"))
SEED = int(os.environ.get("TGSR_FUZZ_SEED", "0"))
LONGEST, MOST_BYTES = 5.0, 1 << 30
"""Seconds and bytes of one file."""
CPU = torch.device("cpu")
TOKENS = [b"-1", b"0", b"999999999999", b"1e999", b"NaN", b"null", b'"x"', b"[]", b"{}", b"true", b"*a", b"&a 1", b"\0"]


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        seeds: whole files.
        read: what reads one.
    """

    seeds: list[Path]
    read: Callable[[Path], object]


class Executed:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def hostile(path: Path, marker: Path) -> Path:
    """An archive of torch's whose pickle runs something."""
    torch.save({"params": {"a": torch.ones(2)}}, path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = pickle.dumps(Executed(marker)) if entry.filename.endswith("data.pkl") else old.read(entry)
            new.writestr(entry.filename, content)
    path.write_bytes(out.getvalue())
    return path


def images(root: Path) -> list[Path]:
    """One of each format that OpenCV writes here."""
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.bmp", "a.webp", "a.tif"):
        cv2.imwrite(str(root / name), pixels)
    cv2.imwrite(str(root / "deep.png"), pixels.astype(np.uint16) * 257)
    return sorted(root.iterdir())


def targets(root: Path, marker: Path) -> dict[str, Target]:
    run(root / "run")
    made = root / "run" / "experiments" / "toy"
    state, weights = made / "training_states" / "6.state", made / "models" / "net_g_6.pth"
    net = ARCHS.get("MSRResNet")(num_feat=4, num_block=1)
    tensors, ours = root / "plain.safetensors", root / "ours.safetensors"
    save_file(net.state_dict(), tensors)
    export_safetensors(ours, net.state_dict(), NetworkInfo("MSRResNet", {"num_feat": 4, "num_block": 1}, 4))
    option_file = root / "toy.yml"
    option_file.write_text(yaml.safe_dump(toy_options(root)))
    task_set(3).save(root / "tasks.json")
    pack_images(open_source(make_images(root / "gt", num=2)), root / "packed")
    index = next((root / "packed").glob("*.json"))
    pictures = images(root / "pictures")
    bad = hostile(root / "hostile.pth", marker)
    router = root / "router.json"
    router.write_text(json.dumps({"schema": "tgsr.router", "version": 1, "rule": "divergence", "groups": [
        {"name": "a", "members": ["blur"], "weights": None}], "degradations": ["blur"], "ggds": [], "descriptor": {
        "type": "pixels"}, "sampling": {}, "ood_distance": 1.0, "ood_share": 0.1, "discriminant": None, "about": {}}))

    def every_image(path: Path) -> None:
        source = PackedSource(path.parent)
        for i in range(len(source)):
            source.read(i)

    def beside(path: Path) -> None:
        """The option file of the experiment that weights lie in."""
        folder = path.parent / "e"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "models").mkdir(parents=True)
        shutil.copy(path, folder / "e.yml")
        shutil.copy(weights, folder / "models" / "x.pth")
        load_network(folder / "models" / "x.pth", CPU)

    return {
        "state": Target([state, bad], load_state),
        "weights": Target([weights, bad], load_weights),
        "network": Target([weights, ours, tensors], lambda path: load_network(path, CPU)),
        "option file": Target([option_file], load_options),
        "option file beside weights": Target([made / "toy.yml"], beside),
        "task set": Target([root / "tasks.json"], TaskSet.load),
        "router": Target([router], Router.load),
        "artefact": Target([root / "run" / "results" / "toy" / "metrics.json"], read_json),
        "log": Target([made / "log.jsonl"], lambda path: list(read_jsonl(path))),
        "packed index": Target([index], every_image),
        "image header": Target(pictures, probe_image),
        "image": Target(pictures, read_image),
    }  # fmt: skip


def damage(data: bytes, rng: random.Random) -> bytes:
    """One to three mutations."""
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data) + 1)
        length = min(rng.choice((1, 2, 4, 16, 256, 4096)), len(data) - place)
        piece = data[place : place + length]
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data = data[:place] + data[place + length :]
        elif kind == 2:
            data = data[:place] + bytes(length) + data[place + length :]
        elif kind == 3:
            data = data[:place] + rng.randbytes(length) + data[place + length :]
        elif kind == 4:
            data = data[:place] + piece * rng.randint(2, 4) + data[place + length :]
        elif kind == 5 and piece:
            data = data[:place] + bytes([piece[0] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        elif kind == 6:
            words = list(re.finditer(rb"[\w.+-]+", data[:100_000]))
            if words:
                word = rng.choice(words)
                data = data[: word.start()] + rng.choice(TOKENS) + data[word.end() :]
        else:
            data = data[:place] + rng.choice(TOKENS) + data[place:]
    return data


def listing(root: Path, *, but: Path) -> set[Path]:
    return {p for p in root.rglob("*") if not p.is_relative_to(but)}


NAMES = ["state", "weights", "network", "option file", "option file beside weights", "task set", "router", "artefact",
         "log", "packed index", "image header", "image"]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    marker = root / "executed"
    found = targets(root, marker)
    assert list(found) == NAMES
    return root, marker, found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_read_or_refused_in_one_line(prepared, name, caplog, record_property):
    root, marker, found = prepared
    target, rng, folder = found[name], random.Random(f"{SEED} {name}"), root / "damaged"
    before = listing(root, but=folder)
    peak, end, num = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() + SECONDS / len(NAMES), 0
    while time.monotonic() < end or num < 20:
        num += 1
        seed = target.seeds[num % len(target.seeds)]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if name == "packed index":
            shutil.copytree(seed.parent, folder, dirs_exist_ok=True)
        path = folder / seed.name
        path.write_bytes(damage(seed.read_bytes(), rng))
        start = time.monotonic()
        try:
            target.read(path)
        except UserError as error:
            if "\n" in str(error) and not name.startswith("option file"):  # which may tell all of its problems
                pytest.fail(f"{name}, file {num} of seed {SEED}: more than a line: {error}")
        except Exception as error:
            pytest.fail(f"{name}, file {num} of seed {SEED}: {type(error).__name__}: {error}")
        assert time.monotonic() - start < LONGEST, (name, num)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MOST_BYTES >> 10
    assert not marker.exists()
    assert listing(root, but=folder) == before
    record_property("files", num)
