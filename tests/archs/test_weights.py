"""Weights: containers, layouts, refusals, and explanations of what does not fit."""

import os
import pickle

import pytest
import torch
from torch import nn

from tgsr.archs.rrdbnet import RRDBNet
from tgsr.archs.srresnet import MSRResNet
from tgsr.models.layouts import basicsr_names
from tgsr.models.weights import load_into, load_state, save_weights
from tgsr.utils.errors import CheckpointError


def rrdb(**kwargs) -> RRDBNet:
    return RRDBNet(**{"num_feat": 8, "num_block": 2, "num_grow_ch": 4, **kwargs})


def equal(net: nn.Module, state: dict) -> bool:
    return all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def old_names(state: dict) -> dict:
    """The layout of BSRGAN, KAIR and MMSR."""
    pairs = [("conv_body", "trunk_conv"), ("body.", "RRDB_trunk."), (".rdb", ".RDB"), ("conv_up", "upconv")]
    renamed = {}
    for key, value in state.items():
        for new, old in pairs:
            key = key.replace(new, old)
        renamed[key.replace("conv_hr", "HRconv")] = value
    return renamed


def first_release_names(state: dict) -> dict:
    """The layout of ESRGAN's first release, spelt out by hand."""
    heads = {"conv_first": "0", "conv_body": "1.sub.2", "conv_up1": "3", "conv_up2": "6", "conv_hr": "8"}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "body":
            new = f"model.1.sub.{parts[1]}.{parts[2].upper()}.{parts[3]}.0.{parts[4]}"
        else:
            new = f"model.{heads.get(parts[0], '10')}.{parts[1]}"
        renamed[new] = value
    return renamed


@pytest.mark.parametrize(
    "pack",
    [
        lambda s: s,
        lambda s: {"params": s},
        lambda s: {"params": {k: v * 0 for k, v in s.items()}, "params_ema": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {"state_dict": {f"generator.{k}": v for k, v in s.items()} | {"discriminator.a": torch.zeros(1)}},
        lambda s: {"params": {f"module._orig_mod.{k}": v for k, v in s.items()}},
        old_names,
        first_release_names,
    ],
    ids=["bare", "params", "ema wins", "module", "part of a larger module", "compiled", "old", "first release"],
)
def test_every_layout_loads(tmp_path, pack):
    state = rrdb().state_dict()
    torch.save(pack(state), tmp_path / "net.pth")
    net = rrdb()
    load_into(net, tmp_path / "net.pth")
    assert equal(net, state)


@pytest.mark.parametrize(
    "pack",
    [
        lambda raw, mean: {"model": raw, "ema": mean, "step": 5},
        lambda raw, mean: {"model": raw, "model_ema": {"module": mean}, "optimizer": {"state": {0: {"exp_avg": raw}}}},
        lambda raw, mean: {"g": raw, "g_ema": mean, "d": {"a": torch.zeros(3)}, "d_ema": {"a": torch.zeros(3)}},
        lambda raw, mean: {"net_g": raw, "net_g_ema": mean},
        lambda raw, mean: {"state_dict": raw, "ema_state_dict": {"n_averaged": torch.tensor(7), **module(mean)}},
        lambda raw, mean: {"state_dict": {**under("generator", raw), **under("generator_ema", mean)}},
        lambda raw, mean: {"ema": {"initted": torch.tensor(True), **under("ema_model", mean)}, "model": raw},
        lambda raw, mean: {"checkpoint": {"params": raw, "params_ema": mean}, "iter": 3},
        lambda raw, mean: {"model": raw, "swa": mean},
    ],
)
def test_averages_are_recognised_under_any_name(tmp_path, pack):
    raw, net = rrdb().state_dict(), rrdb()
    mean = {k: v + 1 for k, v in raw.items()}
    torch.save(pack(raw, mean), tmp_path / "w.pth")
    load_into(net, tmp_path / "w.pth")
    assert equal(net, mean)


def test_a_layer_called_ema_is_no_average(tmp_path):
    net = nn.ModuleDict({"ema": nn.Conv2d(3, 3, 1), "body": nn.Conv2d(3, 3, 1), "avg_conv": nn.Conv2d(3, 4, 3)})
    state = {k: v + 1 for k, v in net.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    load_into(net, tmp_path / "w.pth")
    assert equal(net, state)


def under(head, state):
    return {f"{head}.{k}": v for k, v in state.items()}


def module(state):
    return under("module", state)


def test_the_log_says_which_of_several_sets_was_taken(tmp_path, caplog):
    caplog.set_level("INFO")
    state = rrdb().state_dict()
    torch.save({"model": {k: v * 0 for k, v in state.items()}, "ema": state}, tmp_path / "w.pth")
    net = rrdb()
    load_into(net, tmp_path / "w.pth")
    assert "its 'ema' is taken (there are model, too)" in caplog.text
    load_into(net, tmp_path / "w.pth", key="model")
    assert not any(v.any() for v in net.state_dict().values())


def test_computed_buffers_are_no_weights(tmp_path):
    """SwinIR's masks depend on the training patch, and its index tables on nothing but the window."""
    pytest.importorskip("spandrel")
    from tgsr.archs import ARCHS

    small = {"upscale": 2, "window_size": 4, "depths": [2], "embed_dim": 12, "num_heads": [2]}
    trained, net = (ARCHS.get("SwinIR")(img_size=size, **small) for size in (12, 16))
    state = trained.state_dict()
    learned = {k: v for k, v in state.items() if "attn_mask" not in k and "relative_position_index" not in k}
    assert len(learned) < len(state)
    x = torch.rand(1, 3, 9, 13)
    for content in (state, learned):
        torch.save({"params": content}, tmp_path / "w.pth")
        load_into(net, tmp_path / "w.pth")
        torch.testing.assert_close(net.eval()(x), trained.eval()(x))


def test_old_residual_network_keeps_upconv():
    keys = ["recon_trunk.3.conv1.weight", "upconv1.weight", "HRconv.bias", "conv_last.bias"]
    assert list(basicsr_names(keys).values()) == [
        "body.3.conv1.weight",
        "upconv1.weight",
        "conv_hr.bias",
        "conv_last.bias",
    ]


def test_new_file_into_a_network_of_the_old_layout(tmp_path):
    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.RRDB_trunk = rrdb().body
            self.trunk_conv = nn.Conv2d(8, 8, 3)

        def state_dict(self, *args, **kwargs):
            return {k.replace(".rdb", ".RDB"): v for k, v in super().state_dict(*args, **kwargs).items()}

        def load_state_dict(self, state, strict=True):
            return super().load_state_dict({k.replace(".RDB", ".rdb"): v for k, v in state.items()}, strict=strict)

    source = rrdb()
    torch.save({"params": source.state_dict()}, tmp_path / "net.pth")
    net = Old()
    load_into(net, tmp_path / "net.pth", strict=False)
    assert torch.equal(net.RRDB_trunk[1].rdb2.conv3.weight, source.body[1].rdb2.conv3.weight)
    assert torch.equal(net.trunk_conv.bias, source.conv_body.bias)


def test_named_entry(tmp_path):
    first, second = rrdb().state_dict(), rrdb().state_dict()
    save_weights(tmp_path / "net.pth", first, second)
    assert torch.equal(load_state(tmp_path / "net.pth", "params")["conv_last.bias"], first["conv_last.bias"])
    assert torch.equal(load_state(tmp_path / "net.pth")["conv_last.bias"], second["conv_last.bias"])
    save_weights(tmp_path / "raw.pth", first)
    assert torch.equal(load_state(tmp_path / "raw.pth", "params_ema")["conv_last.bias"], first["conv_last.bias"])
    torch.save({"a": first, "b": second}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match="no weights.*a, b"):
        load_state(tmp_path / "two.pth")


def test_saved_file_is_what_basicsr_reads(tmp_path):
    net = rrdb()
    save_weights(tmp_path / "net.pth", {f"module.{k}": v for k, v in net.state_dict().items()})
    content = torch.load(tmp_path / "net.pth", weights_only=True)
    assert list(content) == ["params"]
    rrdb().load_state_dict(content["params"])


def test_safetensors(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = rrdb().state_dict()
    save_file(state, tmp_path / "net.safetensors")
    net = rrdb()
    load_into(net, tmp_path / "net.safetensors")
    assert equal(net, state)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "net.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated"):
        load_state(tmp_path / "cut.safetensors")


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB_FOLDER"],)


def test_pickles_are_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB_FOLDER", str(tmp_path / "boom"))
    torch.save({"params": rrdb().state_dict(), "x": Bomb()}, tmp_path / "net.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
    for name in ("net.pth", "plain.pth"):
        with pytest.raises(
            CheckpointError, match="Python objects other than tensors.*mkdir.*nothing of it was executed"
        ):
            load_state(tmp_path / name)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + bytes(64), b"version https"]
)
def test_other_files(tmp_path, content):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"net\.pth: truncated or not a checkpoint"):
        load_state(tmp_path / "net.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path, share):
    save_weights(tmp_path / "net.pth", rrdb().state_dict())
    whole = (tmp_path / "net.pth").read_bytes()
    (tmp_path / "net.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="truncated"):
        load_state(tmp_path / "net.pth")


def test_a_long_message_of_torch_is_cut_between_words(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("internal miniz error. " + "If you trust this, do nothing. " * 9)

    (tmp_path / "net.pth").write_bytes(b"x")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(CheckpointError) as caught:
        load_state(tmp_path / "net.pth")
    text = str(caught.value).partition("bytes; ")[2].partition(");")[0]
    assert len(text) <= 120
    assert text.removesuffix(" ...").split()[-1] in ("If", "you", "trust", "this,", "do", "nothing.")
    assert text.endswith(" ...")


def test_absent_and_odd_contents(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_state(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="folder"):
        load_state(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        load_state(tmp_path / "list.pth")
    torch.save({"iter": 3, "optimizers": []}, tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match="no weights.*iter, optimizers"):
        load_state(tmp_path / "state.pth")


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        ({"num_feat": 16}, {}, "num_feat: 16 (now 8)"),
        ({"num_block": 3}, {}, "num_block: 3 (now 2)"),
        ({"num_block": 1}, {}, "num_block: 1 (now 2)"),
        ({"scale": 2}, {}, "scale: 2 (now 4)"),
        ({"scale": 1}, {"scale": 2}, "scale: 1 (now 2)"),
        ({"num_grow_ch": 6}, {}, "num_grow_ch: 6 (now 4)"),
    ],
)
def test_mismatch_names_the_setting(tmp_path, theirs, ours, said):
    save_weights(tmp_path / "net.pth", rrdb(**theirs).state_dict())
    net = rrdb(**ours)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(net, tmp_path / "net.pth")
    assert "does not fit RRDBNet" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert equal(net, before)


def test_mismatch_counts_and_other_network(tmp_path):
    save_weights(tmp_path / "net.pth", MSRResNet(num_feat=8, num_block=3, upscale=2).state_dict())
    with pytest.raises(CheckpointError, match=r"missing .*unexpected .*like MSRResNet with .*num_block: 3, upscale: 2"):
        load_into(rrdb(), tmp_path / "net.pth")
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="1 unexpected .*another network"):
        load_into(rrdb(), tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="another network"):
        load_into(rrdb(), tmp_path / "odd.pth", strict=False)


def test_lenient_loading_takes_what_fits_and_says_the_rest(tmp_path, caplog):
    source = rrdb(num_block=3)
    save_weights(tmp_path / "net.pth", source.state_dict())
    net = rrdb()
    with caplog.at_level("WARNING", logger="tgsr"):
        load_into(net, tmp_path / "net.pth", strict=False)
    assert torch.equal(net.conv_first.weight, source.conv_first.weight)
    assert "30 unexpected (body.2.rdb1.conv1.weight" in caplog.text


def test_onnx_is_no_weights_file(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not weights to load; give what it was exported from"):
        load_state(tmp_path / "net.onnx")
