"""Every registered network keeps the contract; those that other libraries have give the same numbers."""

import copy
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.basicsr_oracle import load_basicsr
from tgsr.archs import ARCHS
from tgsr.archs.base import RestorationNetwork, pad_to_multiple
from tgsr.archs.describe import describe, param_summary
from tgsr.archs.identify import identify
from tgsr.utils.errors import ConfigError

SWIN = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "img_size": 16, "window_size": 4, "drop_path_rate": 0.0}
TINY = {
    "RRDBNet": {"num_feat": 8, "num_block": 2, "num_grow_ch": 4},
    "MSRResNet": {"num_feat": 8, "num_block": 2},
    "SRResNetSameSize": {"num_feat": 8, "num_block": 2},
    "LightSR": {"num_feat": 8, "num_block": 2},
    "SRVGGNetCompact": {"num_feat": 8, "num_conv": 2},
    "Restormer": {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
    "SwinIR": SWIN,
    "HAT": {**SWIN, "compress_ratio": 3, "squeeze_factor": 3},
}
CASES = [
    *TINY.items(),
    ("RRDBNet", {**TINY["RRDBNet"], "scale": 2}),
    ("RRDBNet", {**TINY["RRDBNet"], "scale": 1}),
    ("MSRResNet", {**TINY["MSRResNet"], "upscale": 3}),
    ("MSRResNet", {**TINY["MSRResNet"], "upscale": 8}),
    ("Restormer", {**TINY["Restormer"], "LayerNorm_type": "BiasFree", "bias": True}),
    ("SwinIR", {**SWIN, "upscale": 2, "upsampler": "pixelshuffle", "resi_connection": "3conv"}),
    ("SwinIR", {**SWIN, "upscale": 1, "upsampler": ""}),
]
DISCRIMINATORS = ("UNetDiscriminatorSN", "VGGStyleDiscriminator", "PatchDiscriminator")


def ids(case: object) -> str | None:
    return case if isinstance(case, str) else None


def build(name: str, kwargs: dict | None = None) -> nn.Module:
    if name in ("SwinIR", "HAT"):
        pytest.importorskip("spandrel")
    torch.manual_seed(0)
    return ARCHS.get(name)(**(TINY.get(name, {}) if kwargs is None else kwargs))


def test_every_network_of_the_room_is_covered():
    own = {name for name in ARCHS.names() if ARCHS.get(name).__module__.startswith("tgsr.archs.")}
    assert own == {*TINY, *DISCRIMINATORS}


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=ids)
def test_size_gradient_and_round_trip(name, kwargs):
    net = build(name, kwargs)
    assert isinstance(net, RestorationNetwork)
    x = torch.rand(2, 3, 16, 16)
    out = net(x)
    assert out.shape == (2, 3, 16 * net.scale, 16 * net.scale)
    assert kwargs.get("scale", kwargs.get("upscale", net.scale)) == net.scale
    out.square().mean().backward()
    dead = [n for n, p in net.named_parameters() if p.grad is None]
    assert not dead
    other = build(name, kwargs)
    nn.init.zeros_(next(other.parameters()))
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    torch.testing.assert_close(other.eval()(x), net.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "kwargs"), CASES, ids=ids)
@pytest.mark.parametrize("size", [(13, 18), (5, 3)], ids=str)
def test_odd_sizes_are_padded_and_cropped(name, kwargs, size):
    net = build(name, kwargs).eval()
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        out = net(x)
        assert out.shape[-2:] == (size[0] * net.scale, size[1] * net.scale)
        whole = net.compute(pad_to_multiple(x, net.size_multiple))
    torch.testing.assert_close(out, whole[..., : out.shape[-2], : out.shape[-1]], rtol=0, atol=0)


def test_padding_reflects_and_repeats_where_it_cannot():
    x = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 5, 5)
    assert pad_to_multiple(x, 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(x[..., :2], 8)[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert pad_to_multiple(x, 5) is x


CONVOLUTIONAL = [c for c in CASES if c[0] in ("RRDBNet", "MSRResNet", "SRResNetSameSize", "LightSR", "SRVGGNetCompact")]


@pytest.mark.parametrize(("name", "kwargs"), CONVOLUTIONAL, ids=ids)
def test_receptive_field_bounds_what_a_pixel_sees(name, kwargs):
    kwargs = {**kwargs, **({"num_conv": 1} if "num_conv" in kwargs else {"num_block": 1})}
    net = build(name, kwargs).double()
    for parameter in net.parameters():  # all weights positive: no path is cut by an activation or cancelled
        nn.init.constant_(parameter, 0.01)
    radius = (net.receptive_field - 1) // 2
    fold = net.size_multiple
    centre = (radius + fold) // fold * fold
    x = torch.rand(1, 3, 1, 1).double().expand(1, 3, 8, 2 * centre + fold).clone().requires_grad_()
    row = net(x)[0].sum((0, 1))
    widest = 0
    for phase in range(fold * net.scale):
        (gradient,) = torch.autograd.grad(row[centre * net.scale + phase], x, retain_graph=True)
        seen = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        place = centre + phase // net.scale
        widest = max(widest, place - int(seen[0]), int(seen[-1]) - place)
    assert widest == radius, (widest, radius)


CHECKPOINTED = [c for c in TINY.items() if c[0] != "SRVGGNetCompact"]


@pytest.mark.parametrize(("name", "kwargs"), CHECKPOINTED, ids=ids)
def test_activation_checkpointing_changes_memory_only(name, kwargs):
    net = build(name, kwargs)
    copied = copy.deepcopy(net)
    assert net.supports_activation_checkpointing
    assert not net.activation_checkpointing
    net.activation_checkpointing = True
    assert net.activation_checkpointing
    assert not copied.activation_checkpointing
    x = torch.rand(1, 3, 16, 16)
    kept = []
    for model in (net, copied):
        saved = 0

        def count(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(x).square().mean().backward()
        kept.append(saved)
    for ours, theirs in zip(net.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert kept[0] < kept[1]


def test_checkpointing_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="SRVGGNetCompact has no activation checkpointing"):
        build("SRVGGNetCompact").activation_checkpointing = True


@pytest.mark.parametrize(
    ("name", "kwargs", "parameters"),
    [
        ("RRDBNet", {}, 16_697_987),
        ("MSRResNet", {}, 1_517_571),
        ("SRResNetSameSize", {}, 1_222_147),
        ("Restormer", {}, 26_126_644),
        ("Restormer", {"LayerNorm_type": "BiasFree"}, 26_111_668),
        ("UNetDiscriminatorSN", {}, 4_376_897),
        ("SRVGGNetCompact", {}, 621_424),
        ("SRVGGNetCompact", {"num_conv": 32}, 1_213_296),
    ],
)
def test_parameter_counts(name, kwargs, parameters):
    with torch.device("meta"):
        assert describe(build(name, kwargs)).parameters == parameters


MEDIUM = {"depths": (6,) * 6, "embed_dim": 180, "num_heads": (6,) * 6, "mlp_ratio": 2}
LARGE = {
    "SwinIR-M": ("SwinIR", {**MEDIUM, "window_size": 8}, 11_715_559),
    "SwinIR-L": (
        "SwinIR",
        {"depths": (6,) * 9, "embed_dim": 240, "num_heads": (8,) * 9, "window_size": 8, "mlp_ratio": 2,
         "resi_connection": "3conv"},
        28_013_059,
    ),
    "HAT": ("HAT", {**MEDIUM, "window_size": 16}, 20_772_507),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_parameter_counts_of_transformers(case, monkeypatch):
    name, kwargs, parameters = case
    pytest.importorskip("spandrel")
    module = importlib.import_module(f"spandrel.architectures.{name}.__arch.{name}")
    monkeypatch.setattr(module, "trunc_normal_", lambda tensor, **_: tensor)  # values do not matter, time does
    assert describe(build(name, kwargs)).parameters == parameters


PARITY = [
    ("RRDBNet", {"num_in_ch": 3, "num_out_ch": 3, **TINY["RRDBNet"], "scale": 4}),
    ("RRDBNet", {"num_in_ch": 3, "num_out_ch": 3, **TINY["RRDBNet"], "scale": 2}),
    ("RRDBNet", {"num_in_ch": 3, "num_out_ch": 3, **TINY["RRDBNet"], "scale": 1}),
    ("MSRResNet", {**TINY["MSRResNet"], "upscale": 2}),
    ("MSRResNet", {**TINY["MSRResNet"], "upscale": 3}),
    ("MSRResNet", {**TINY["MSRResNet"], "upscale": 4}),
    ("SRVGGNetCompact", {**TINY["SRVGGNetCompact"], "act_type": "prelu"}),
    ("SRVGGNetCompact", {**TINY["SRVGGNetCompact"], "act_type": "leakyrelu", "upscale": 2}),
    ("UNetDiscriminatorSN", {"num_in_ch": 3, "num_feat": 8}),
    ("UNetDiscriminatorSN", {"num_in_ch": 3, "num_feat": 8, "skip_connection": False}),
    ("VGGStyleDiscriminator", {"num_in_ch": 3, "num_feat": 4, "input_size": 128}),
    ("VGGStyleDiscriminator", {"num_in_ch": 3, "num_feat": 4, "input_size": 256}),
    ("SwinIR", {**SWIN, "upscale": 4, "upsampler": "nearest+conv"}),
    ("SwinIR", {**SWIN, "upscale": 2, "upsampler": "pixelshuffle", "resi_connection": "3conv", "mlp_ratio": 2}),
    ("SwinIR", {**SWIN, "upscale": 3, "upsampler": "pixelshuffledirect"}),
]


@pytest.mark.parametrize(("name", "kwargs"), PARITY, ids=ids)
def test_equals_basicsr_on_the_same_weights(name, kwargs):
    load_basicsr("basicsr.archs")
    table = load_basicsr("basicsr.utils.registry").ARCH_REGISTRY
    torch.manual_seed(1)
    theirs = (table._obj_map.get(name) or table._obj_map[f"{name}_basicsr"])(**kwargs).eval()
    ours = build(name, kwargs).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    unmatched = set(theirs.state_dict()) ^ set(ours.state_dict())
    assert all("attn_mask" in k or "relative_position_index" in k for k in unmatched)
    size = kwargs.get("input_size", 16)
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["RRDBNet", "MSRResNet"])
def test_initial_weights_are_as_wide_as_basicsrs(name):
    load_basicsr("basicsr.archs")
    table = load_basicsr("basicsr.utils.registry").ARCH_REGISTRY
    kwargs = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 32, "num_block": 1}
    theirs = dict(table.get(name)(**kwargs).named_parameters())
    for key, value in build(name, kwargs).named_parameters():
        if key.endswith("weight"):
            torch.testing.assert_close(value.std(), theirs[key].std(), rtol=0.15, atol=0, msg=key)
        else:
            assert bool((value == 0).all()) == bool((theirs[key] == 0).all()), key


@pytest.mark.parametrize("name", ["SwinIR", "HAT"])
def test_equals_spandrel_and_takes_arguments_from_option_files(name):
    module = pytest.importorskip(f"spandrel.architectures.{name}")
    kwargs = {"upscale": 4, "in_chans": 3, "img_size": 16, "window_size": 4, "img_range": 1.0, "depths": [2, 2],
              "embed_dim": 12, "num_heads": [2, 2], "mlp_ratio": 2, "upsampler": "pixelshuffle",
              "resi_connection": "1conv"}  # fmt: skip
    if name == "HAT":
        kwargs |= {"compress_ratio": 3, "squeeze_factor": 3, "conv_scale": 0.01, "overlap_ratio": 0.5}
    torch.manual_seed(1)
    theirs = getattr(module, name)(**kwargs).eval()
    ours = build(name, kwargs).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 13, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "kwargs"), [("EDSR", {"upscale": 2}), ("RCAN", {"num_group": 1, "upscale": 4})])
def test_basicsr_networks_by_name(name, kwargs):
    load_basicsr("basicsr.archs")
    kwargs = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 16, "num_block": 1, **kwargs}
    net = build(name, kwargs)
    assert isinstance(net, RestorationNetwork)
    assert net.scale == kwargs["upscale"]
    assert net(torch.rand(1, 3, 7, 9)).shape == (1, 3, 7 * net.scale, 9 * net.scale)


def test_unknown_name_and_missing_basicsr(monkeypatch):
    adapter = importlib.import_module("tgsr.archs.basicsr_adapter")

    def absent() -> None:
        raise ImportError("No module named 'basicsr'")

    monkeypatch.setattr(adapter, "import_basicsr", absent)
    with pytest.raises(ConfigError, match=r"'EDSR' is basicsr's.*pip install -e '\.\[basicsr\]'"):
        ARCHS.get("EDSR")
    with pytest.raises(ConfigError, match="did you mean 'RRDBNet'"):
        ARCHS.get("RRDBnett")


def test_basicsrs_names_are_suggested():
    load_basicsr()
    with pytest.raises(ConfigError, match="there is no network 'EDSRR'; did you mean 'EDSR'"):
        ARCHS.get("EDSRR")


def test_known_names_ask_for_nothing_of_basicsr():
    code = "from tgsr.archs import ARCHS; import sys; ARCHS.get('LightSR'); assert 'basicsr' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(("name", "kwargs"), [c for c in CASES if c[0] != "SRResNetSameSize"], ids=ids)
def test_identified_by_shapes_alone(name, kwargs):
    net = build(name, kwargs)
    found, settings = identify({k: v.shape for k, v in net.state_dict().items()})
    assert found == name
    rebuilt = build(name, settings | ({"img_size": 16} if name in ("SwinIR", "HAT") else {}))
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in net.state_dict().items()}
    for key in set(settings) & set(kwargs):
        assert settings[key] == (list(kwargs[key]) if isinstance(kwargs[key], tuple) else kwargs[key]), key


def test_identify_knows_discriminators_and_admits_ignorance():
    for name, kwargs in (("UNetDiscriminatorSN", {"num_feat": 8}), ("VGGStyleDiscriminator", {"num_feat": 4})):
        shapes = {k: v.shape for k, v in build(name, kwargs).state_dict().items()}
        assert identify(shapes)[0] == name
    assert identify({"a": (1,)}) is None


def test_discriminators():
    net = build("UNetDiscriminatorSN", {"num_feat": 8})
    out = net(torch.rand(2, 3, 24, 32))
    assert out.shape == (2, 1, 24, 32)
    out.mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(ConfigError, match="multiples of 8, got 20x24; change gt_size"):
        net(torch.rand(1, 3, 20, 24))
    net = build("VGGStyleDiscriminator128", {"num_feat": 4})
    assert net(torch.rand(2, 3, 128, 128)).shape == (2, 1)
    with pytest.raises(ConfigError, match="got 96x96; set gt_size"):
        net(torch.rand(2, 3, 96, 96))


def test_describe_counts_by_hand():
    net = build("SRVGGNetCompact", {"num_feat": 4, "num_conv": 1, "upscale": 2})
    convs = 9 * (3 * 4 + 4 * 4 + 4 * 12)
    found = describe(net, (3, 8, 10))
    assert found.macs == convs * 8 * 10
    assert found.output_shape == (3, 16, 20)
    assert found.parameters == convs + 4 + 4 + 12 + 8
    assert sum(param_summary(net).values()) == found.parameters
    assert net.training
    assert "SRVGGNetCompact" in str(found)


def test_transformers_refuse_arguments_that_do_not_belong_together():
    with pytest.raises(ConfigError, match="depths has 1 entries, num_heads 2"):
        build("SwinIR", {**SWIN, "depths": (2,)})
    with pytest.raises(ConfigError, match="embed_dim 13"):
        build("HAT", {**SWIN, "embed_dim": 13})


@pytest.mark.parametrize(("name", "ours"), [("esrgan", "RRDBNet"), ("Compact", "SRVGGNetCompact"), ("hat_m", "HAT")])
def test_names_of_other_projects_lead_to_ours(name, ours):
    with pytest.raises(ConfigError, match=f"there is no network '{name}'; here it is called '{ours}'"):
        ARCHS.get(name)
