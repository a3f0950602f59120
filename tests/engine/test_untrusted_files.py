"""Files from elsewhere or from a damaged disk: noticed, told in one line, nothing in or beside them is executed."""

from __future__ import annotations

import random
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.engine.toy import assert_same, run, toy_options, weights, write_options
from tgsr.archs import ARCHS
from tgsr.cli import main
from tgsr.config.yaml_loader import parse_yaml
from tgsr.engine.checkpoint import load_state
from tgsr.engine.network_files import load_network
from tgsr.models.weights import load_state as load_weights
from tgsr.utils.errors import CheckpointError, ConfigError, UserError
from tgsr.utils.files import write_atomic

CPU = torch.device("cpu")
EVIL = "raise SystemExit('code from a downloaded folder runs')\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    run(root)
    return root


@pytest.fixture
def folder(trained, tmp_path):
    """An experiment as somebody else would hand it on: option file and weights."""
    own = tmp_path / "toy"
    (own / "models").mkdir(parents=True)
    for name in ("toy.yml", "models/net_g_latest.pth"):
        (own / name).write_bytes((trained / "experiments" / "toy" / name).read_bytes())
    return own


@pytest.mark.parametrize("command", ["infer", "export"])
def test_what_lies_beside_weights_is_never_imported(folder, trained, command, capsys):
    (folder / "plugin.py").write_text(EVIL)
    file = folder / "models" / "net_g_latest.pth"
    plain = yaml.safe_load((folder / "toy.yml").read_text())
    (folder / "toy.yml").write_text(yaml.safe_dump({**plain, "import_modules": ["plugin.py"]}))
    image, out = str(trained / "gt" / "00.png"), str(folder / "out")
    arguments = {
        "infer": ["infer", "-i", image, "-o", out, "-w", str(file)],
        "export": ["export", "-w", str(file), "-o", str(folder / "x.safetensors")],
    }[command]
    assert main(arguments) == 0  # the network is one of tgsr's own
    network = {**plain["network_g"], "type": "Theirs"}
    (folder / "toy.yml").write_text(
        yaml.safe_dump({**plain, "network_g": network, "import_modules": ["plugin.py"]})
    )
    capsys.readouterr()
    assert main(arguments) == 2
    (line,) = (t for t in capsys.readouterr().err.splitlines() if t.startswith("error: "))
    assert "nothing was imported" in line
    assert f"-opt {folder / 'toy.yml'}" in line
    with pytest.raises(SystemExit, match="downloaded"):  # the user names the file, and so trusts it
        load_network(file, CPU, option_file=folder / "toy.yml")
    assert not [name for name in sys.modules if name.startswith("tgsr_user_plugin")]


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "name: x", "name: x\nscale: four\nnetwork_g: {type: MSRResNet}", "network_g: MSRResNet", "\0", "a: {",
     "name: toy\nscale: 4\nnetwork_g: {num_feat: 4}"],
)  # fmt: skip
def test_a_useless_option_file_beside_weights_is_passed_over(folder, text, caplog):
    (folder / "toy.yml").write_text(text)
    net, scale = load_network(folder / "models" / "net_g_latest.pth", CPU)
    assert (type(net).__name__, scale) == ("MSRResNet", 4)
    assert "going on without it" in caplog.text


@pytest.mark.parametrize("arguments", [{"num_feat": 10**9}, {"num_block": 10**9}, {"num_feat": -1}, {"num_feat": "x"}])
def test_a_description_of_a_giant_network_is_refused_at_once(folder, arguments):
    plain = yaml.safe_load((folder / "toy.yml").read_text())
    plain["network_g"] |= arguments
    (folder / "toy.yml").write_text(yaml.safe_dump(plain))
    with pytest.raises(CheckpointError, match=r"MSRResNet with these arguments is (a network larger than|no network)"):
        load_network(folder / "models" / "net_g_latest.pth", CPU)


@pytest.mark.parametrize(
    "info",
    ["{", "[]", "{}", '{"network": 3}', '{"network": "MSRResNet", "scale": 0}', '{"network": "No", "scale": 4}',
     '{"network": "MSRResNet", "arguments": 3}'],
)  # fmt: skip
def test_safetensors_with_a_bad_header(tmp_path, info):
    net = ARCHS.get("MSRResNet")(num_feat=4, num_block=1)
    save_file(net.state_dict(), tmp_path / "x.safetensors", {"tgsr": "tgsr-network-1", "info": info})
    with pytest.raises(UserError):
        load_network(tmp_path / "x.safetensors", CPU)


def flip(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    place = rng.randrange(len(damaged))
    damaged[place] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(
    ("kind", "load"), [("training_states/6.state", load_state), ("models/net_g_6.pth", load_weights)]
)
def test_a_flipped_bit_is_noticed_or_harmless(trained, tmp_path, kind, load):
    """Of 200 flips, none may change a value: those that load lie in the padding between the entries."""
    path, rng = trained / "experiments" / "toy" / kind, random.Random(0)
    whole, data, refused = load(path), path.read_bytes(), []
    for _ in range(200):
        (tmp_path / path.name).write_bytes(flip(data, rng))
        try:
            assert same(load(tmp_path / path.name), whole)
        except CheckpointError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert "weights_only" not in "".join(refused)  # torch advises to load without its guard


@pytest.mark.parametrize("damage", [b"", bytes(5000), b".", b"hello", b"\xff" * 4096, b"PK\x05\x06" + bytes(18), b"0"])
def test_a_damaged_state_is_passed_over_whatever_is_in_it(trained, tmp_path, damage, caplog):
    run(tmp_path)
    states = tmp_path / "experiments" / "toy" / "training_states"
    newest = states / "6.state"
    newest.write_bytes(damage or b"")
    run(tmp_path, auto_resume=True)
    assert "6.state: damaged or not a training state" in caplog.text
    assert "trying the one before" in caplog.text
    assert_same(weights(tmp_path), weights(trained))


def test_torchs_words_for_a_full_disk_are_not_repeated(tmp_path):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    def write(file):
        file.file = Full()
        torch.save({"a": torch.ones(9)}, file)

    with pytest.raises(UserError, match="No space left on device.*free space") as caught:
        write_atomic(tmp_path / "x.pth", write)
    assert "enforce fail" not in str(caught.value)


def test_aliases_of_aliases_are_counted_before_they_are_written_out():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 10)]
    with pytest.raises(ConfigError, match="more than 200,000 values"):
        parse_yaml("\n".join(lines), file="bomb.yml")
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]", file="x.yml")["b"] == [[1, 2], [1, 2]]


def test_a_folder_that_cannot_be_written_is_told_by_check(tmp_path, capsys):
    raw = toy_options(tmp_path)
    raw["path"]["experiments_root"] = "/proc/experiments"
    assert main(["train", "-opt", str(write_options(tmp_path, raw)), "--check"]) == 2
    assert "nothing can be written to /proc" in capsys.readouterr().err
