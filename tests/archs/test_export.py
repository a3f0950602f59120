"""Exports: what is written can be rebuilt, gives the same numbers, or is refused."""

import sys

import pytest
import torch

from tgsr.archs.restormer import Restormer
from tgsr.archs.rrdbnet import RRDBNet
from tgsr.models.export import (
    NetworkInfo,
    OnnxReport,
    export_onnx,
    export_safetensors,
    model_card,
    network_from_file,
    read_safetensors,
)
from tgsr.utils.errors import CheckpointError, UserError

TINY = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4, "scale": 2}
INFO = NetworkInfo("RRDBNet", TINY, scale=2, name="run", options_hash="ab12", metrics={"Set5/psnr": 31.25})


def test_safetensors_rebuilds_the_network(tmp_path):
    pytest.importorskip("safetensors")
    net = RRDBNet(**TINY).eval()
    export_safetensors(tmp_path / "net.safetensors", net.state_dict(), INFO)
    rebuilt, info = network_from_file(tmp_path / "net.safetensors")
    assert info == INFO
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(x), net(x), rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "net.safetensors"]


def test_foreign_and_cut_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="does not say which network"):
        read_safetensors(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"\x08")
    with pytest.raises(CheckpointError, match="truncated"):
        read_safetensors(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        read_safetensors(tmp_path / "c.safetensors")


def test_onnx_runs_other_sizes_with_the_same_result(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    net = Restormer(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    report = export_onnx(net, tmp_path / "net.onnx", size=(20, 24))
    assert report.is_dynamic
    assert report.size == (24, 24)
    assert report.size_multiple == 8
    assert report.max_difference < 1e-5
    assert net.training
    x = torch.rand(3, 3, 8, 40)
    (found,) = runtime.InferenceSession(tmp_path / "net.onnx").run(None, {"lq": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), net(x), rtol=0, atol=1e-5)


def test_onnx_of_windowed_attention_is_written_for_one_size(tmp_path, caplog):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("spandrel")
    from tgsr.archs import ARCHS

    net = ARCHS.get("SwinIR")(embed_dim=12, depths=(2,), num_heads=(2,), window_size=4, img_size=16, upscale=2)
    report = export_onnx(net, tmp_path / "net.onnx", size=(24, 16))
    assert not report.is_dynamic
    assert report.max_difference < 1e-5
    assert "24x16 only" in caplog.text
    shape = runtime.InferenceSession(tmp_path / "net.onnx").get_inputs()[0].shape
    assert shape == [1, 3, 24, 16]


def test_onnx_that_differs_is_not_written(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(UserError, match=r"differ by .* nothing was written"):
        export_onnx(RRDBNet(**TINY), tmp_path / "net.onnx", size=(16, 16), tolerance=-1.0)
    assert not any(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime; pip install -e '\.\[onnx\]'$"):
        export_onnx(RRDBNet(**TINY), tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"needs a package \(.*onnx.*\); pip install -e '\.\[onnx\]'$"):
        export_onnx(RRDBNet(**TINY), tmp_path / "net.onnx", check=False)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="pip install safetensors"):
        export_safetensors(tmp_path / "a.safetensors", {}, INFO)


def test_model_card_says_what_is_needed():
    card = model_card(INFO, files={"net.pth": "weights"}, onnx=OnnxReport(False, (24, 16), 8, 2e-6))
    parameters = sum(p.numel() for p in RRDBNet(**TINY).parameters())
    for text in (
        "# run",
        "RRDBNet",
        "x2",
        f"{parameters:,}",
        "ab12",
        "31.2500",
        "num_block: 1",
        "`net.pth`",
        "24x16 only",
    ):
        assert text in card
