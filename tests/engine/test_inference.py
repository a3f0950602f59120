"""Inference and export as a user meets them: any weights, any image, one line for what is wrong."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from tests.engine.toy import make_images, toy_options, write_options
from tgsr.archs import ARCHS
from tgsr.cli import main
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.inference import ImageRestorer, duration, infer_files
from tgsr.engine.network_files import describe_weights, load_network
from tgsr.engine.runner import run_stage

TINY = {
    "RRDBNet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4, "scale": 2},
    "SRVGGNetCompact": {"num_feat": 8, "num_conv": 2, "upscale": 4},
    "MSRResNet": {"num_feat": 8, "num_block": 1, "upscale": 4},
    "LightSR": {"num_feat": 8, "num_block": 1, "upscale": 3},
    "Restormer": {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
    "SwinIR": {
        "embed_dim": 12, "depths": (2,), "num_heads": (2,), "window_size": 4, "upsampler": "pixelshuffle", "upscale": 2,
    },
}  # fmt: skip


def make_weights(path, name="MSRResNet", **changes):
    torch.manual_seed(0)
    net = ARCHS.get(name)(**{**TINY[name], **changes})
    state = net.state_dict()
    torch.save({"params": {k: torch.zeros_like(v) for k, v in state.items()}, "params_ema": state}, path)
    return net.eval()


class Identity(torch.nn.Module):
    """Enlarges by nearest neighbours, so that results can be told from inputs."""

    def forward(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=2)


@pytest.fixture
def restorer():
    return ImageRestorer(Identity(), scale=2, device=torch.device("cpu"))


def run(*arguments, code=0):
    assert main([*map(str, arguments)]) == code


@pytest.mark.parametrize("name", TINY)
def test_published_weights_run_without_an_option_file(tmp_path, name, capsys):
    if name == "SwinIR":
        pytest.importorskip("spandrel")
    net = make_weights(tmp_path / "w.pth", name)
    loaded, scale = load_network(tmp_path / "w.pth", torch.device("cpu"))
    assert scale == net.scale
    x = torch.rand(1, 3, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)
    make_images(tmp_path / "in", num=1, size=16)
    run("infer", "-i", tmp_path / "in", "-o", tmp_path / "out", "-w", tmp_path / "w.pth", "--device", "cpu")
    assert cv2.imread(str(tmp_path / "out" / "00.png")).shape == (16 * scale, 16 * scale, 3)
    assert f"it is {name}" in capsys.readouterr().err


def test_every_kind_of_image(tmp_path, restorer):
    folder = make_images(tmp_path / "in", num=1, size=16)
    rng = np.random.default_rng(0)
    colour16 = rng.integers(0, 65536, (10, 12, 3), dtype=np.uint16)
    alpha8 = rng.integers(0, 256, (10, 12, 4), dtype=np.uint8)
    cv2.imwrite(str(folder / "deep.png"), colour16)
    cv2.imwrite(str(folder / "alpha.png"), alpha8)
    cv2.imwrite(str(folder / "grey.jpg"), np.full((10, 12), 77, np.uint8))
    cv2.imwrite(str(folder / "grey16.png"), np.full((10, 12), 30000, np.uint16))
    (folder / "deeper").mkdir()
    cv2.imwrite(str(folder / "deeper" / "x.bmp"), alpha8[..., :3])
    outcome = infer_files(folder, tmp_path / "out", lambda image: (restorer, {}), suffix="_x2")
    assert not outcome.failed
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in outcome.written)
    assert names == ["00_x2.png", "alpha_x2.png", "deep_x2.png", "deeper/x_x2.bmp", "grey16_x2.png", "grey_x2.jpg"]

    def read(name):
        return cv2.imread(str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED)

    assert np.array_equal(read("deep_x2.png")[::2, ::2], colour16)
    assert np.array_equal(read("deeper/x_x2.bmp")[::2, ::2], alpha8[..., :3])
    assert read("alpha_x2.png").shape == (20, 24, 4)
    assert np.array_equal(read("alpha_x2.png")[::2, ::2, :3], alpha8[..., :3])
    assert read("grey_x2.jpg").shape == (20, 24)
    grey = read("grey16_x2.png")
    assert grey.shape == (20, 24)
    assert grey.dtype == np.uint16
    assert (grey == 30000).all()


def test_outscale_tile_and_half(tmp_path):
    make_weights(tmp_path / "w.pth")
    folder = make_images(tmp_path / "in", num=1, size=40)
    arguments = ["infer", "-i", folder, "-w", tmp_path / "w.pth", "--device", "cpu"]
    run(*arguments, "-o", tmp_path / "whole")
    run(*arguments, "-o", tmp_path / "tiled", "--tile", 20)
    run(*arguments, "-o", tmp_path / "half", "--half")
    run(*arguments, "-o", tmp_path / "small", "-s", 1.5, "--ext", "jpg")
    whole, tiled, half = (cv2.imread(str(tmp_path / n / "00.png")).astype(int) for n in ("whole", "tiled", "half"))
    assert np.abs(whole - tiled).max() <= 1
    assert 0 < np.abs(whole - half).max() < 12
    assert cv2.imread(str(tmp_path / "small" / "00.jpg")).shape == (60, 60, 3)
    for wrong in (["--tile", -1], ["-s", 0]):
        with pytest.raises(SystemExit):
            main([*map(str, [*arguments, *wrong])])


def test_one_bad_file_does_not_stop_the_rest(tmp_path, capsys):
    make_weights(tmp_path / "w.pth")
    folder = make_images(tmp_path / "in", num=3, size=16)
    (folder / "01.png").write_bytes((folder / "01.png").read_bytes()[:100])
    (folder / "empty.jpg").touch()
    run("infer", "-i", folder, "-o", tmp_path / "out", "-w", tmp_path / "w.pth", "--device", "cpu", code=1)
    captured = capsys.readouterr()
    assert "2 restored, 2 failed" in captured.out
    assert "Traceback" not in captured.err
    for name in ("01.png", "empty.jpg"):
        (line,) = [line for line in captured.err.splitlines() if f"in/{name}" in line]
        assert "copy or download it again" in line
    assert "4/4" in captured.err or "3/4" in captured.err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["00.png", "02.png"]


def test_anything_a_network_raises_is_one_line_for_its_file(tmp_path):
    folder = make_images(tmp_path / "in", num=2, size=16)
    broken = ImageRestorer(Identity(), scale=2, device=torch.device("cpu"))
    calls = []

    def choose(image):
        calls.append(image)
        if len(calls) == 1:
            raise RuntimeError("sizes do not fit\nat line 3")
        return broken, {}

    outcome = infer_files(folder, tmp_path / "out", choose)
    assert [p.name for p in outcome.written] == ["01.png"]
    assert outcome.failed == {folder / "00.png": f"{folder / '00.png'}: RuntimeError: sizes do not fit"}


def test_nan_is_not_written_as_a_black_image(tmp_path):
    folder = make_images(tmp_path / "in", num=1, size=16)
    net = torch.nn.Module()
    net.forward = lambda x: x * float("nan")
    bad = ImageRestorer(net, scale=1, device=torch.device("cpu"))
    outcome = infer_files(folder, tmp_path / "out", lambda image: (bad, {}))
    assert not outcome.written
    assert "NaN or infinite" in outcome.failed[folder / "00.png"]
    assert not any((tmp_path / "out").iterdir())


def test_nothing_is_overwritten_by_mistake(tmp_path, restorer):
    folder = make_images(tmp_path / "in", num=1, size=16)
    before = (folder / "00.png").read_bytes()
    outcome = infer_files(folder, folder, lambda image: (restorer, {}))
    assert "would replace its input" in outcome.failed[folder / "00.png"]
    assert (folder / "00.png").read_bytes() == before
    cv2.imwrite(str(folder / "00.bmp"), np.zeros((8, 8, 3), np.uint8))
    outcome = infer_files(folder, tmp_path / "out", lambda image: (restorer, {}), extension="png")
    assert len(outcome.written) == 1
    assert "would replace that of 00." in next(iter(outcome.failed.values()))
    first = infer_files(folder, folder / "out", lambda image: (restorer, {}))
    again = infer_files(folder, folder / "out", lambda image: (restorer, {}))
    assert len(first.written) == len(again.written) == 2  # results inside the input folder are no inputs


def test_output_folder_that_cannot_be_written(tmp_path, capsys):
    make_weights(tmp_path / "w.pth")
    folder = make_images(tmp_path / "in", num=1, size=16)
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", "/proc/nowhere"):
        run("infer", "-i", folder, "-o", output, "-w", tmp_path / "w.pth", "--device", "cpu", code=2)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith(f"error: {output}: ")
        assert error.endswith("give another folder with -o")


def _pickle_bomb(path, marker):
    class Bomb:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"params": Bomb()}, path)


def test_bad_weights_are_one_line(tmp_path, capsys):
    folder = make_images(tmp_path / "in", num=1, size=16)
    option_file = write_options(tmp_path, toy_options(tmp_path))
    make_weights(tmp_path / "good.pth")
    make_weights(tmp_path / "x2.pth", upscale=2, num_feat=4)
    make_weights(tmp_path / "rrdb.pth", "RRDBNet")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "good.pth").read_bytes()[:2000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    _pickle_bomb(tmp_path / "bomb.pth", tmp_path / "executed")
    discriminator = ARCHS.get("UNetDiscriminatorSN")(num_feat=4).state_dict()
    torch.save({"params": discriminator}, tmp_path / "net_d.pth")
    torch.save({"params": {"a.weight": torch.zeros(2)}}, tmp_path / "unknown.pth")
    cases = [
        ("x2.pth", option_file, "it would fit MSRResNet with upscale: 2 (now 4)"),
        ("rrdb.pth", option_file, "the file holds a network like RRDBNet"),
        ("cut.pth", None, "truncated or not a checkpoint"),
        ("cut.safetensors", None, "truncated"),
        ("bomb.pth", None, "nothing of it was executed"),
        ("net_d.pth", None, "weights of a discriminator"),
        ("unknown.pth", None, "give the option file they were trained with"),
        ("absent.pth", None, "no such file"),
        ("in", None, "a folder, not a file"),
    ]
    for name, options, text in cases:
        extra = [] if options is None else ["-opt", options]
        run("infer", "-i", folder, "-o", tmp_path / "out", "-w", tmp_path / name, "--device", "cpu", *extra, code=2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert name in line
        assert text in line, line
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()


def test_scale_and_network_must_agree(tmp_path, capsys):
    make_weights(tmp_path / "w.pth", upscale=2)
    network = {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2}
    path = write_options(tmp_path, toy_options(tmp_path, network_g=network))
    run("infer", "-i", tmp_path / "val", "-w", tmp_path / "w.pth", "-opt", path, "--device", "cpu", code=2)
    assert "scale is 4, but this MSRResNet enlarges by 2" in capsys.readouterr().err


def test_export_then_infer_from_the_file_alone(tmp_path, capsys):
    pytest.importorskip("safetensors")
    net = make_weights(tmp_path / "w.pth")
    run("export", "-w", tmp_path / "w.pth", "-o", tmp_path / "net.safetensors", "--name", "ours")
    card = (tmp_path / "net.md").read_text()
    assert card.startswith("# ours")
    for text in ("MSRResNet", "x4", "num_block: 1", "tgsr infer -w net.safetensors"):
        assert text in card
    found = describe_weights(tmp_path / "net.safetensors")
    assert (found.type, found.scale, found.name) == ("MSRResNet", 4, "ours")
    loaded, _ = load_network(tmp_path / "net.safetensors", torch.device("cpu"))
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in loaded.state_dict().items())
    run("export", "-w", tmp_path / "w.pth", "-o", tmp_path / "net.pth", code=2)
    assert "use .safetensors or .onnx" in capsys.readouterr().err


def test_export_onnx_and_safetensors_share_a_card(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("safetensors")
    make_weights(tmp_path / "w.pth")
    run("export", "-w", tmp_path / "w.pth", "-o", tmp_path / "a.onnx", tmp_path / "a.safetensors", "--size", 16, 16)
    card = (tmp_path / "a.md").read_text()
    assert "`a.onnx`" in card
    assert "`a.safetensors`" in card
    assert "of PyTorch" in card


def test_the_card_of_a_run_carries_its_numbers_with_their_protocol(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    path = write_options(tmp_path, toy_options(tmp_path))
    assert run_stage(load_options(path), Context.create(device="cpu"))
    models = tmp_path / "experiments" / "toy" / "models"
    run("export", "-w", models / "net_g_latest.pth", "-o", tmp_path / "toy.safetensors")
    card = (tmp_path / "toy.md").read_text()
    assert "# toy" in card
    assert "toy/psnr (Y (BT.601), crop 4, 8-bit)" in card
    run("export", "-w", models / "net_g_2.pth", "-o", tmp_path / "early.safetensors")
    assert "psnr" not in (tmp_path / "early.md").read_text()  # those numbers belong to other weights


def test_duration_reads_well():
    assert [duration(s) for s in (0.4, 59, 61, 3725)] == ["0 s", "59 s", "1 min 01 s", "1 h 02 min"]


def test_help_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from tgsr.cli import main; main(['infer', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--outscale" in done.stdout
