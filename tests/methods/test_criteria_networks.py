"""The networks of Cria-CL: names and numbers of parameters, equation 10, gradients by branch, ESRGAN weights."""

import re

import pytest
import torch

import tgsr.methods  # noqa: F401 - registers the networks
from tgsr.archs import ARCHS
from tgsr.archs.describe import describe
from tgsr.archs.rrdbnet import RRDBNet
from tgsr.engine.tiling import Tiling, restore_tiled
from tgsr.methods.cria_cl.networks import CriaCLPaper, CriaCLReleased
from tgsr.models.weights import load_into
from tgsr.utils.errors import CheckpointError

SMALL = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2}


def num_parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.fixture
def image():
    torch.manual_seed(0)
    return torch.rand(2, 3, 6, 8)


@pytest.mark.parametrize(("num_block", "count"), [(23, 17_286_473), (19, 14_408_777), (20, 15_128_201)])
def test_released_parameter_count(num_block, count):
    with torch.device("meta"):
        assert num_parameters(CriaCLReleased(num_block=num_block)) == count


def test_paper_parameter_count():
    with torch.device("meta"):
        net = CriaCLPaper(num_block=20)
        assert num_parameters(net.masks) == 187_842
        assert num_parameters(net) - num_parameters(net.masks) == 14_984_582
        assert num_parameters(CriaCLPaper(num_block=20, spatial_view=False)) == 14_984_582


def test_released_keys_are_the_published_ones():
    with torch.device("meta"):
        keys = set(CriaCLReleased(num_block=2).state_dict())
    expected = {
        *("conv_first", "trunk_conv", "upconv1", "upconv2", "HRconv", "conv_last", "tail_conv1", "tail_conv2"),
        *(f"RRDB_trunk.{i}.RDB{j}.conv{k}" for i in range(2) for j in (1, 2, 3) for k in range(1, 6)),
        *(
            f"{branch}.{i}.{part}"
            for branch in ("branch1", "branch2", "sm")
            for i in range(3)
            for part in ("block.0", "block.2", "conv")
        ),
    }
    assert keys == {f"{k}.{p}" for k in expected for p in ("weight", "bias")}


def test_released_forward_by_the_published_formula(image):
    net = CriaCLReleased(**SMALL).double()
    x = image.double()
    out = net(x)
    assert out["sr"].shape == (2, 3, 24, 32)
    assert "mask" not in out
    features = net.conv_first(x)
    features = features + net.trunk_conv(net.RRDB_trunk(features))
    for conv in (net.upconv1, net.upconv2):
        features = torch.nn.functional.leaky_relu(
            conv(torch.nn.functional.interpolate(features, scale_factor=2, mode="nearest")), 0.2
        )
    middle = net.conv_last(torch.nn.functional.leaky_relu(net.HRconv(features), 0.2))
    soft = torch.softmax(net.sm(middle), 1)
    wanted = net.tail_conv1(soft * net.branch1(middle)) + net.tail_conv2((1 - soft) * net.branch2(middle))
    assert torch.allclose(out["sr"], wanted)
    assert torch.equal(out["align"], out["sr"])
    assert 0 <= out["share"].min() <= out["share"].max() <= 1


def test_released_branches_get_their_own_gradients(image):
    net = CriaCLReleased(**SMALL)
    net(image)["align"].sum().backward()
    assert net.tail_conv1.weight.grad.abs().sum() > 0
    assert net.tail_conv2.weight.grad is None


def test_paper_blends_by_equation_10(image):
    net = CriaCLPaper(**SMALL)
    out = net(image)
    mask = out["mask"]
    assert mask.shape == (2, 1, 24, 32)
    assert 0 < mask.min() < mask.max() < 1
    assert 0.3 < mask.mean() < 0.7
    assert torch.allclose(out["sr"], mask * out["align"] + (1 - mask) * out["unif"])
    out["align"].sum().backward()
    assert net.branch_unif[0].conv1.weight.grad is None
    assert net.masks.to_masks.weight.grad is None


def test_paper_without_spatial_view_is_the_mean_of_the_branches(image):
    net = CriaCLPaper(**SMALL, spatial_view=False)
    out = net(image)
    assert "mask" not in out
    assert torch.equal(out["sr"], (out["align"] + out["unif"]) / 2)
    out["sr"].sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", ["CriaCLPaper", "CriaCLReleased"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_scales_share_their_weights(name, scale, image):
    net = ARCHS.get(name)(**SMALL, scale=scale)
    assert net(image)["sr"].shape == (2, 3, 6 * scale, 8 * scale)
    assert net.scale == scale
    other = ARCHS.get(name)(**SMALL, scale=4)
    other.load_state_dict(net.state_dict())


@pytest.mark.parametrize("name", ["CriaCLPaper", "CriaCLReleased"])
@pytest.mark.parametrize("scale", [1, 4])
def test_receptive_field_makes_tiles_exact(name, scale):
    torch.manual_seed(0)
    net = ARCHS.get(name)(**SMALL, scale=scale).eval().double()
    radius = (net.receptive_field - 1) // 2
    image = torch.rand(1, 3, 2 * radius + 12, 10, dtype=torch.float64)
    tiling = Tiling.of(net, tile=8, overlap=radius)
    assert tiling.is_exact
    with torch.no_grad():
        whole = net(image)["sr"]
        tiled = restore_tiled(lambda x: net(x)["sr"], image, tiling, scale=scale)
    assert torch.allclose(tiled, whole, atol=1e-10)


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize("name", ["CriaCLPaper", "CriaCLReleased"])
def test_esrgan_weights_initialise_the_trunk(name, old_names, tmp_path, caplog):
    torch.manual_seed(1)
    esrgan = ARCHS.get("RRDBNet")(**SMALL)
    state = esrgan.state_dict()
    if old_names:
        renames = {"^conv_body": "trunk_conv", "^conv_up": "upconv", "^conv_hr": "HRconv"}
        for pattern, new in {r"^body\.(\d+)\.rdb": r"RRDB_trunk.\1.RDB", **renames}.items():
            state = {re.sub(pattern, new, k): v for k, v in state.items()}
    torch.save({"params_ema": state}, tmp_path / "esrgan.pth")
    net = ARCHS.get(name)(**SMALL)
    with pytest.raises(CheckpointError, match="missing"):
        load_into(net, tmp_path / "esrgan.pth")
    load_into(net, tmp_path / "esrgan.pth", strict=False)
    own = net.state_dict()
    trunk = "body.0.rdb2.conv3.weight" if name == "CriaCLPaper" else "RRDB_trunk.0.RDB2.conv3.weight"
    assert torch.equal(own[trunk], esrgan.state_dict()["body.0.rdb2.conv3.weight"])
    hr = "conv_hr.weight" if name == "CriaCLPaper" else "HRconv.weight"
    assert torch.equal(own[hr], esrgan.state_dict()["conv_hr.weight"])
    up = "conv_up2.bias" if name == "CriaCLPaper" else "upconv2.bias"
    assert torch.equal(own[up], esrgan.state_dict()["conv_up2.bias"])


def test_published_weights_load_strictly(tmp_path):
    """A bare state dict, as in the authors' release."""
    torch.manual_seed(2)
    theirs = CriaCLReleased(**SMALL)
    torch.save(theirs.state_dict(), tmp_path / "NTIRE.pth")
    net = CriaCLReleased(**SMALL)
    load_into(net, tmp_path / "NTIRE.pth")
    for key, value in net.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key])


def test_activation_checkpointing_gives_the_same_gradients(image):
    torch.manual_seed(3)
    net = CriaCLPaper(**SMALL)
    grads = []
    for value in (False, True):
        net.activation_checkpointing = value
        net.zero_grad()
        net(image)["sr"].square().mean().backward()
        grads.append(net.body[0].rdb1.conv1.weight.grad.clone())
    assert torch.allclose(*grads, atol=1e-7)


def test_early_branches_have_the_printed_size_and_cost():
    """Table VII: 14.8 M parameters; a tenth less time than ESRGAN's 1,076 G multiply-adds at 300x200."""
    net = CriaCLPaper(num_block=19, branches="early").eval()
    assert num_parameters(net) == 14_785_352
    ours = describe(net, (3, 20, 30)).macs * 100  # 200x300 pixels are a hundred times as many
    esrgan = describe(RRDBNet(num_block=23).eval(), (3, 20, 30)).macs * 100
    assert esrgan / 1e9 == pytest.approx(1075.6, abs=0.1)
    assert ours / 1e9 == pytest.approx(996.7, abs=0.1)


def test_early_branches_make_images_of_their_own(image):
    net = CriaCLPaper(**SMALL, branches="early")
    outputs = net(image)
    assert outputs["align"].shape == (2, 3, 24, 32)
    assert outputs["mask"].shape == (2, 1, 24, 32)
    assert torch.allclose(
        outputs["sr"], outputs["mask"] * outputs["align"] + (1 - outputs["mask"]) * outputs["unif"], atol=1e-6
    )
    outputs["unif"].sum().backward()
    assert all(p.grad is None for p in (*net.branch_align.parameters(), *net.up_align.parameters()))
