"""Folders of images restored elsewhere: the numbers of our own protocol, or one line that says why not."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from tests.engine.toy import make_images, toy_options, write_options
from tgsr.cli import main
from tgsr.engine.folders import evaluate_folder
from tgsr.metrics.base import METRICS
from tgsr.utils.errors import DataError


def run(*arguments, code=0):
    assert main([*map(str, arguments)]) == code


def half_as_bright(gt, folder, *, suffix="", cut=0):
    folder.mkdir(parents=True)
    for path in gt.iterdir():
        image = cv2.imread(str(path))
        edge = image.shape[0] - cut
        cv2.imwrite(str(folder / f"{path.stem}{suffix}.png"), image[:edge, :edge] // 2)
    return folder


@pytest.fixture
def gt(tmp_path):
    return make_images(tmp_path / "gt", num=3, size=64)


def metrics(**kinds):
    return {name: METRICS.get(kind)() for name, kind in kinds.items()}


def test_numbers_are_those_of_the_metric_and_carry_the_protocol(tmp_path, gt, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    half_as_bright(gt, tmp_path / "diffusion")
    path = write_options(tmp_path, toy_options(tmp_path, val={"metrics": {"p": {"type": "PSNR", "color": "rgb"}}}))
    run("evaluate", "-i", "diffusion", "--gt", gt, "-opt", path)
    content = json.loads((tmp_path / "results" / "diffusion" / "metrics.json").read_text())
    entry = content["datasets"]["diffusion"]
    metric = METRICS.get("PSNR")(color="rgb")
    assert entry["metrics"]["p"]["protocol"] == metric.protocol
    assert entry["metrics"]["p"]["protocol"] in capsys.readouterr().out
    values = []
    for file in sorted(gt.iterdir()):
        image = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1)
        values.append(metric((image // 2) / 255, image / 255))
    assert entry["metrics"]["p"]["mean"] == pytest.approx(np.mean(values))
    assert [i["name"] for i in entry["images"]] == ["00", "01", "02"]
    assert content["schema"] == "tgsr.metrics"
    run("evaluate", "-i", "diffusion", "--gt", gt, "-opt", path)
    assert not list(tmp_path.glob("results/*_archived_*")), "measured again, it replaces its own numbers"
    own = tmp_path / "results" / "diffusion" / "metrics.json"
    own.write_text(json.dumps({**content, "weights": "experiments/diffusion/models/net_g_latest.pth"}))
    run("evaluate", "-i", "diffusion", "--gt", gt, "-opt", path)
    assert len(list(tmp_path.glob("results/diffusion_archived_*/metrics.json"))) == 1, "those of a run are kept"


def test_missing_partners_name_the_suffix_that_would_do(tmp_path, gt, capsys):
    restored = half_as_bright(gt, tmp_path / "sr", suffix="_out")
    arguments = ["evaluate", "-i", restored, "--gt", gt, "-o", tmp_path / "m.json", "--crop_border", 0]
    run(*arguments, code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "3 of 3 ground-truth images have no restored partner: 00, 01, 02" in line
    assert line.endswith("give --suffix _out")
    assert not (tmp_path / "m.json").exists()
    cv2.imwrite(str(restored / "extra.png"), np.zeros((8, 8, 3), np.uint8))
    content = evaluate_folder(restored, gt, metrics(psnr="PSNR"), name="m", suffix="_out")
    assert content["datasets"]["m"]["metrics"]["psnr"]["num_images"] == 3


def test_sizes_are_checked_before_anything_is_measured(tmp_path, gt):
    restored = half_as_bright(gt, tmp_path / "sr", cut=1)
    with pytest.raises(DataError, match=r"3 images differ .* 00: 63x63 but ground truth 64x64.*give --scale"):
        evaluate_folder(restored, gt, {"never": None}, name="m")
    content = evaluate_folder(restored, gt, metrics(psnr="PSNR"), name="m", scale=7)  # 64 -> 63
    assert content["datasets"]["m"]["metrics"]["psnr"]["num_images"] == 3
    with pytest.raises(DataError, match="check --gt and the scale"):
        evaluate_folder(half_as_bright(gt, tmp_path / "small", cut=32), gt, metrics(psnr="PSNR"), name="m")


def test_without_ground_truth_only_niqe(tmp_path, capsys):
    photos = make_images(tmp_path / "photos", num=2, size=200)
    run("evaluate", "-i", photos, "-o", tmp_path / "m.json")
    entry = json.loads((tmp_path / "m.json").read_text())["datasets"]["photos"]
    assert set(entry["metrics"]) == {"niqe"}
    assert entry["metrics"]["niqe"]["mean"] > 0
    with pytest.raises(DataError, match="no metric works without ground truth"):
        evaluate_folder(photos, None, metrics(psnr="PSNR"), name="m")
    with pytest.raises(DataError, match="name one under val.metrics"):
        evaluate_folder(photos, None, {}, name="m")
    small = make_images(tmp_path / "small", num=1, size=40)
    capsys.readouterr()
    run("evaluate", "-i", small, "-o", tmp_path / "n.json", code=2)
    error = capsys.readouterr().err
    assert "small: niqe is left out for 1 of 1 images (00.png: NIQE needs two blocks" in error
    assert "no metric can be taken of any image; choose others with -opt FILE.yml" in error


def test_a_broken_image_and_an_empty_folder_are_named(tmp_path, gt, capsys):
    restored = half_as_bright(gt, tmp_path / "sr")
    (restored / "01.png").write_bytes((restored / "01.png").read_bytes()[:200])
    path = write_options(tmp_path, toy_options(tmp_path, val={"metrics": {"p": {"type": "PSNR"}}}))
    run("evaluate", "-i", restored, "--gt", gt, "-opt", path, "-o", tmp_path / "m.json", code=2)
    assert "01.png: the image is truncated" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    run("evaluate", "-i", tmp_path / "empty", "--gt", gt, code=2)
    assert "the folder holds no images" in capsys.readouterr().err
