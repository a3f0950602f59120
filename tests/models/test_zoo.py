"""Published weights by name: the table, fetching and checking, and the places that take a name."""

import inspect
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tgsr.archs import ARCHS
from tgsr.archs.srvgg import SRVGGNetCompact
from tgsr.cli import main
from tgsr.engine.network_files import describe_weights
from tgsr.models.weights import load_state
from tgsr.models.zoo import FOLDER, ZOO, Published, command_for, fetch, fetch_paths, name_of, resolve
from tgsr.utils.download import sha256_of
from tgsr.utils.errors import CheckpointError, DataError, UserError
from tgsr.utils.image_io import read_image, save_image

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"num_feat": 4, "num_conv": 1, "upscale": 2, "act_type": "leakyrelu"}


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """Weights of a small network "toy" somewhere else; the working folder is empty."""
    torch.manual_seed(0)
    file = tmp_path / "elsewhere" / "net.pth"
    file.parent.mkdir()
    torch.save({"params": SRVGGNetCompact(**SETTINGS).state_dict()}, file)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return file


def publish(monkeypatch, *urls, **more):
    entry = {"network": "SRVGGNetCompact", "settings": SETTINGS, "scale": 2, "page": "https://a.page", **more}
    monkeypatch.setitem(ZOO, "toy", Published("a toy", urls=urls, **entry))


def test_weights_of_option_files_have_names():
    named = {w for f in (ROOT / "options").rglob("*.yml") for w in re.findall(r"\bweights/[\w.-]+\.pth", f.read_text())}
    assert len(named) >= 8
    assert {w: name_of(ROOT / w, ROOT / FOLDER) for w in named} == {w: Path(w).stem for w in named}


@pytest.mark.parametrize("name", ZOO)
def test_entries_are_complete(name):
    entry = ZOO[name]
    inspect.signature(ARCHS.get(entry.network)).bind(**entry.settings)
    assert entry.page.startswith("https://")
    assert all(url.startswith("https://") for url in entry.urls)
    assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}|[0-9a-f]{8}", entry.sha256)
    suffix = re.search(r"-([0-9a-f]{8})$", name)
    assert suffix is None or entry.sha256.startswith(suffix[1]), "the name tells the checksum"


def test_a_name_is_fetched_once_and_checked(origin, monkeypatch):
    publish(monkeypatch, "file:///nowhere.pth", origin.as_uri(), sha256=sha256_of(origin))
    said = []
    path = fetch("toy", say=said.append)
    assert path == Path("weights/toy.pth")
    assert path.read_bytes() == origin.read_bytes()
    assert said == ["weights/toy.pth: a toy; checked SHA-256; terms: not known here; read its page"]
    origin.unlink()
    assert fetch("toy") == path
    assert [p.name for p in FOLDER.iterdir()] == ["toy.pth"]


def test_other_files_are_refused(origin, monkeypatch):
    publish(monkeypatch, origin.as_uri(), sha256="0" * 64)
    with pytest.raises(DataError, match=r"another checksum.*from https://a.page .*put it at weights/toy.pth"):
        fetch("toy")
    publish(monkeypatch, origin.as_uri(), settings={**SETTINGS, "num_feat": 8})
    with pytest.raises(CheckpointError):
        fetch("toy")
    assert not list(FOLDER.iterdir())
    publish(monkeypatch, origin.as_uri())
    assert fetch("toy").exists()


def test_weights_inside_an_archive(origin, monkeypatch, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        packed.writestr("model/other.pth", b"x")
        packed.write(origin, "model/net.pth")
    publish(monkeypatch, (tmp_path / "model.zip").as_uri(), member="net.pth")
    assert fetch("toy").read_bytes() == origin.read_bytes()
    assert [p.name for p in FOLDER.iterdir()] == ["toy.pth"]
    fetch("toy").unlink()
    publish(monkeypatch, (tmp_path / "model.zip").as_uri(), member="absent.pth")
    with pytest.raises(DataError, match=r"holds no absent\.pth"):
        fetch("toy")


def test_what_a_person_has_to_get_and_what_nobody_knows(origin, monkeypatch):
    publish(monkeypatch)
    with pytest.raises(UserError, match=r"toy cannot be fetched without a person; get toy\.pth from https://a\.page"):
        fetch("toy")
    problems = fetch_paths([Path("weights/toy.pth"), Path("weights/mine.pth")], say=print)
    assert [str(problem).split(" ")[0] for problem in problems] == ["toy"]
    with pytest.raises(UserError, match="did you mean 'RealESRGAN_x4plus'"):
        fetch("RealESRGAN_x4pluss")
    with pytest.raises(UserError, match=r"no published weights of that name.*did you mean 'RealESRGAN_x4plus'"):
        resolve(Path("RealESRGAN_x4pluss"))
    with pytest.raises(UserError, match=r"mine\.pth: no such file; check -w"):
        resolve(Path("mine.pth"))
    assert command_for("weights/mine.pth") is None
    assert command_for("elsewhere/toy.pth") is None


@pytest.mark.parametrize("ask", [resolve, load_state])
def test_absent_files_name_the_command(ask, origin, monkeypatch):
    publish(monkeypatch)
    with pytest.raises(UserError, match=r"weights/toy\.pth: no such file; tgsr weights toy"):
        ask(Path("weights/toy.pth"))


def test_inference_takes_a_name_and_the_settings_that_shapes_do_not_tell(origin, monkeypatch, tmp_path):
    publish(monkeypatch, origin.as_uri())
    save_image(tmp_path / "in" / "a.png", np.full((8, 8, 3), 128, np.uint8))
    assert main(["infer", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-w", "toy", "--device", "cpu"]) == 0
    assert read_image(tmp_path / "out" / "a.png").shape == (16, 16, 3)
    assert describe_weights(Path("weights/toy.pth")).arguments["act_type"] == "leakyrelu"
    assert main(["export", "-w", "toy", "-o", str(tmp_path / "net.safetensors")]) == 0


def test_the_command(origin, monkeypatch, capsys):
    publish(monkeypatch, origin.as_uri())
    assert main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ZOO)
    assert any(line.startswith("HAT_SRx4 ") and "by hand" in line for line in lines)
    assert main(["weights", "toy"]) == 0
    assert capsys.readouterr().out.startswith("weights/toy.pth: a toy")
    assert main(["weights", "toy", "nothing_like_it"]) == 2
    assert "there are no weights 'nothing_like_it'" in capsys.readouterr().err
