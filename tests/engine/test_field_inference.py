"""Inference on what photographers have: results as the inputs were, and a word about all that is not done."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.data.data_toys import photo
from tests.data.test_field_images import ALPHA, RGB, wide_gamut
from tests.engine.toy import make_images, run, toy_options, weights, write_options
from tgsr.archs import ARCHS
from tgsr.cli import main
from tgsr.config.options import load_options
from tgsr.engine.build import TrainData
from tgsr.engine.inference import ImageRestorer, infer_files
from tgsr.engine.network_files import load_network
from tgsr.engine.validation import file_stems, validate
from tgsr.metrics.niqe import NIQE
from tgsr.metrics.psnr_ssim import PSNR
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.image_io import probe_image, read_image, read_image_alpha, read_picture, save_image
from tgsr.utils.luma import luma_of

CPU = torch.device("cpu")
ADAM = {"type": "Adam", "lr": 0.001}
GREY = {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 4, "num_block": 1, "upscale": 4}


class Nearest(nn.Module):
    def forward(self, x):
        return torch.nn.functional.interpolate(x, scale_factor=2)


@pytest.fixture
def restore():
    restorer = ImageRestorer(Nearest(), scale=2, device=CPU)
    return lambda *args, **kwargs: infer_files(*args, lambda image: (restorer, {}), **kwargs)


def test_profiles_depth_and_transparency_stay(tmp_path, restore):
    profile, folder = wide_gamut(), tmp_path / "in"
    for name in ("a.png", "b.tif", "c.jpg", "d.webp", "e.jfif"):
        save_image(folder / name, RGB, quality=100, profile=profile)
    save_image(folder / "deep.tif", RGB / 255.0, alpha=ALPHA / 255.0, bit_depth=16, profile=profile)
    save_image(folder / "exact.webp", RGB, alpha=ALPHA, quality=None)
    outcome = restore(folder, tmp_path / "out")
    assert not outcome.failed
    assert not outcome.left_out
    assert {p.name for p in outcome.written} == {p.name for p in folder.iterdir()}
    for name in ("a.png", "b.tif", "c.jpg", "d.webp", "e.jfif", "deep.tif"):
        assert read_picture(tmp_path / "out" / name).profile == profile
    assert probe_image(tmp_path / "out" / "deep.tif").bit_depth == 16
    colours, alpha = read_image_alpha(tmp_path / "out" / "exact.webp")  # lossless, as it was
    assert np.array_equal(colours, RGB.repeat(2, 0).repeat(2, 1))
    assert alpha is not None


def test_quality_is_said_and_can_be_asked_for(tmp_path, restore, caplog):
    caplog.set_level("INFO")
    save_image(tmp_path / "a.jpg", RGB, quality=100)
    restore(tmp_path / "a.jpg", tmp_path / "1")
    assert "1 results are JPEG of quality 95" in caplog.text
    restore(tmp_path / "a.jpg", tmp_path / "2", quality=100)
    restore(tmp_path / "a.jpg", tmp_path / "3", extension="png")
    exact = read_image(tmp_path / "3" / "a.png").astype(int)
    errors = [np.abs(read_image(tmp_path / k / "a.jpg") - exact).mean() for k in ("1", "2")]
    assert errors[1] < errors[0] < 2


def test_what_a_format_cannot_hold_is_known_before_the_work(tmp_path, restore, caplog):
    caplog.set_level("INFO")
    Image.fromarray(photo(0, 8200, 8)).save(tmp_path / "strip.webp", lossless=True)
    outcome = restore(tmp_path / "strip.webp", tmp_path / "out")
    assert [p.name for p in outcome.written] == ["strip.png"]
    assert "a side of .webp is at most 16383" in caplog.text
    refused = ImageRestorer(Nearest(), scale=2, device=CPU)
    refused._restored = lambda lq: pytest.fail("worked on")
    outcome = infer_files(tmp_path / "strip.webp", tmp_path / "o", lambda image: (refused, {}), extension="webp")
    assert "16383" in next(iter(outcome.failed.values()))
    with pytest.raises(UserError, match="--ext: cannot write 'xyz'"):
        restore(tmp_path / "strip.webp", tmp_path / "o", extension="xyz")


def test_a_result_larger_than_the_memory_is_refused_before_the_work(tmp_path, monkeypatch):
    save_image(tmp_path / "a.png", RGB)
    monkeypatch.setattr("os.sysconf", lambda name: 1000)
    restorer = ImageRestorer(Nearest(), scale=200, device=CPU)
    outcome = infer_files(tmp_path / "a.png", tmp_path / "o", lambda image: (restorer, {}))
    assert "19200x14400 pixels needs 3 GB" in next(iter(outcome.failed.values()))


def test_nothing_is_left_out_silently(tmp_path, restore, capsys):
    folder = tmp_path / "in"
    save_image(folder / "a.png", RGB)
    image = Image.fromarray(RGB)
    image.save(folder / "b.gif")
    image.save(folder / "film.png", save_all=True, append_images=[image.rotate(90), image.rotate(180)])
    image.save(folder / "pages.tif", save_all=True, append_images=[image])
    (folder / "c.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    (folder / "scan.old").write_bytes((folder / "a.png").read_bytes())
    (folder / "notes.txt").write_text("no picture")
    outcome = restore(folder, tmp_path / "out")
    assert {p.name for p in outcome.written} == {"a.png", "film.png", "pages.tif"}
    words = {path.name: text for path, text in outcome.left_out.items()}
    assert set(words) == {"b.gif", "c.heic", "scan.old", "film.png", "pages.tif"}
    assert "first of its 3 frames" in words["film.png"]
    assert "HEIC" in words["c.heic"]
    assert [p.name for p in restore(folder / "scan.old", tmp_path / "2").written] == ["scan.png"]  # named by the user
    torch.save({"params": ARCHS.get("MSRResNet")(num_feat=4, num_block=1).state_dict()}, tmp_path / "w.pth")
    arguments = ["infer", "-i", folder, "-o", tmp_path / "3", "-w", tmp_path / "w.pth", "--device", "cpu"]
    assert main([*map(str, arguments)]) == 1
    assert "3 restored, 0 failed, 5 left out or in part" in capsys.readouterr().out


def test_grey_weights_restore_grey_images_as_they_are_and_colour_by_luma(tmp_path):
    torch.manual_seed(0)
    net = ARCHS.get("SRVGGNetCompact")(num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=2).eval()
    torch.save({"params": net.state_dict()}, tmp_path / "w.pth")
    loaded, scale = load_network(tmp_path / "w.pth", CPU)
    restorer = ImageRestorer(loaded, scale=scale, device=CPU)
    grey = RGB[..., :1].repeat(3, axis=2)
    with torch.no_grad():
        expected = net(torch.from_numpy(grey[..., 0] / np.float32(255))[None, None]).clamp(0, 1)[0, 0]
        restored, _ = restorer(grey)
        assert np.abs(restored - expected.numpy()[..., None]).max() < 1e-6
        colour, _ = restorer(RGB)
        lq = torch.from_numpy(RGB.transpose(2, 0, 1) / np.float32(255))[None]
        wanted = net(luma_of(lq))
    found = luma_of(torch.from_numpy(colour.transpose(2, 0, 1))[None])
    inside = (colour > 0).all(-1) & (colour < 1).all(-1)  # elsewhere colours were clipped
    assert inside.mean() > 0.3
    assert np.abs((found - wanted)[0, 0].numpy()[inside]).max() < 1e-5


def test_a_network_of_one_channel_trains_and_is_measured_on_luma(tmp_path):
    network = {"type": "MSRResNet", **GREY}
    trainer = run(tmp_path, network_g=network)
    assert weights(tmp_path)["params.conv_first.weight"].shape[1] == 1
    data = TrainData(trainer.options, trainer.context, trainer.tasks, trainer.sampler)
    batch = next(data.iterations(0, 1))[0]
    assert batch.lq.shape == (4, 1, 8, 8)
    assert 16 / 255 <= batch.gt.min() <= batch.gt.max() <= 235 / 255
    folder = tmp_path / "results" / "toy"
    entry = json.loads((folder / "metrics.json").read_text())["datasets"]["toy"]
    image = entry["images"][0]
    sr, gt = (cv2.imread(str(folder / image["files"][kind]), cv2.IMREAD_UNCHANGED) for kind in ("sr", "gt"))
    assert sr.ndim == 2
    error = np.square(sr[4:-4, 4:-4].astype(float) - gt[4:-4, 4:-4]).mean()
    assert image["metrics"]["psnr"] == pytest.approx(10 * np.log10(255**2 / error), abs=0.05)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"network_g": {"type": "MSRResNet", "num_in_ch": 4, "upscale": 4}}, "network_g: .* makes 3 channels of 4"),
        ({"network_g": {"type": "MSRResNet", "num_in_ch": 1, "upscale": 4}}, "makes 3 channels of 1"),
        (
            {"network_g": {"type": "MSRResNet", **GREY}, "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3}},
            "network_d: it judges images of 3 channels",
        ),
        (
            {"train": {"ema_decay": 0, "losses": {"ldl": {"type": "LDLLoss"}}}},
            "train.losses.ldl: LDLLoss asks the averaged network; set train.ema_decay",
        ),
    ],
)
def test_channels_and_averages_are_checked_with_the_options(tmp_path, sections, words):
    path = write_options(tmp_path, toy_options(tmp_path, **sections))
    with pytest.raises(ConfigError, match=words):
        load_options(path)


def test_the_ldl_loss_trains(tmp_path):
    losses = {"pixel": {"type": "L1Loss"}, "ldl": {"type": "LDLLoss"}}
    trainer = run(tmp_path, train={"total_iter": 2, "optim_g": ADAM, "ema_decay": 0.5, "losses": losses})
    assert trainer.iteration == 2


def test_a_metric_that_an_image_is_too_small_for_is_left_out_and_told(tmp_path, caplog):
    metrics = {"psnr": {"type": "PSNR"}, "niqe": {"type": "NIQE"}}
    train = {"total_iter": 1, "optim_g": ADAM, "losses": {"p": {"type": "L1Loss"}}}
    run(tmp_path, val={"metrics": metrics}, train=train)
    assert "toy: niqe is left out for 2 of 2 images (00: NIQE needs two blocks" in caplog.text
    entry = json.loads((tmp_path / "results" / "toy" / "metrics.json").read_text())["datasets"]["toy"]
    assert set(entry["metrics"]) == {"psnr"}


def test_means_are_over_the_images_that_a_metric_was_taken_of(tmp_path):
    from tgsr.data.datasets import GTDataset, PairedDataset
    from tgsr.engine.context import Context

    make_images(tmp_path / "gt", num=2, size=40)
    make_images(tmp_path / "large", num=1, size=200, seed=3)
    (tmp_path / "large" / "00.png").rename(tmp_path / "gt" / "large.png")
    data = PairedDataset(dataroot_gt=tmp_path / "gt", dataroot_lq=tmp_path / "gt", scale=1)
    result = validate(lambda lq: lq * 0.9, data, {"psnr": PSNR(), "niqe": NIQE()}, Context.create(device="cpu"))
    assert [set(i.metrics) for i in result.images] == [{"psnr"}, {"psnr"}, {"psnr", "niqe"}]
    assert result.means()["niqe"] == result.images[2].metrics["niqe"]
    assert GTDataset(dataroot_gt=tmp_path / "gt", scale=3, val_crop=99).result_size(2) == (99, 99)


def test_result_files_never_share_a_name():
    names = ["a/b", "a_b", "x", "x_lq", "A_b", "a/b~2"]
    stems = file_stems(names)
    files = [f"{s}{k}".lower() for s in stems for k in ("", "_lq", "_gt")]
    assert len(set(files)) == len(files)
    assert file_stems(["d/a", "d/b"]) == ["d_a", "d_b"]
