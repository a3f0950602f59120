"""Training, masks, tables and efficiency of Cria-CL by option files, on two tiny images."""

import json

import cv2
import numpy as np
import pytest
import torch
import yaml

import tgsr.methods  # noqa: F401 - registers the stages
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import run_stage
from tgsr.methods.cria_cl.masks import measure_masks, owner_map, region_maps
from tgsr.methods.cria_cl.reporting import WEIGHTED_SUM
from tgsr.report.artefacts import Metrics
from tgsr.study.measurements import Measurements
from tgsr.utils.errors import ConfigError, DataError

NETWORK = {"type": "CriaCLPaper", "num_feat": 4, "num_block": 1, "num_grow_ch": 2}
LOSSES = {
    "pixel": {"type": "L1Loss", "loss_weight": 0.01},
    "perceptual": {"type": "CriterionLoss", "criterion": {"type": "features", "layer": "conv3"}},
    "align": {"type": "AlignmentLoss", "positives": ["ssim"]},
    "unif": {"type": "UniformityLoss", "negatives": [{"type": "features", "layer": "conv3"}, "adversarial"]},
}


@pytest.fixture
def stage(tmp_path):
    """`stage(name, **sections)` runs one stage in `tmp_path`."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(2):
        smooth = cv2.GaussianBlur(rng.random((48, 40, 3)), (0, 0), 2)
        image = np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)

    def run(name, *, resume=False, **sections):
        images = {"type": "GTDataset", "dataroot_gt": str(tmp_path / "images")}
        adam = {"type": "Adam", "lr": 1e-3}
        data = {
            "name": name,
            "scale": 4,
            "model": "AdversarialModel",
            "precision": "fp32",
            "device": "cpu",
            "degradation": {"space": {"type": "SecondOrder", "preset": "none", "noise_prob": 1.0}},
            "network_g": NETWORK,
            "network_d": {"type": "UNetDiscriminatorSN", "num_feat": 4},
            "datasets": {
                "train": {"dataset": {**images, "gt_size": 32}, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0},
                "val": {"small": images},
            },
            "train": {
                "total_iter": 4, "optim_g": adam, "optim_d": adam, "losses": LOSSES,
                "gan": {"type": "GANLoss", "loss_weight": 5e-3},
            },
            "val": {"metrics": {"psnr": {"type": "PSNR", "color": "rgb", "crop_border": 4}}},
            "path": {"experiments_root": str(tmp_path / "experiments"), "results_root": str(tmp_path / "results")},
            "logger": {"use_tb_logger": False, "print_freq": 2, "save_checkpoint_freq": 2},
        }  # fmt: skip
        for key, value in sections.items():
            both = isinstance(data.get(key), dict) and isinstance(value, dict)
            data[key] = {**data[key], **value} if both else value
        file = tmp_path / f"{name}.yml"
        file.write_text(yaml.safe_dump(data))
        run_stage(load_options(file), Context.create(device="cpu", launcher="none", auto_resume=resume))
        return tmp_path

    return run


def weights(root, name):
    return torch.load(root / "experiments" / name / "models" / "net_g_latest.pth", weights_only=True)["params"]


def read_log(root, name):
    lines = (root / "experiments" / name / "log.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] == "train"]


def test_training_masks_and_report(stage):
    root = stage("run_0")
    losses = read_log(root, "run_0")[-1]["losses"]
    assert set(losses) == {*LOSSES, "gan"}
    assert all(np.isfinite(v) for v in losses.values())
    path = {
        "experiments_root": str(root / "experiments"), "results_root": str(root / "results"),
        "pretrain_network_g": str(root / "experiments/run_0/models/net_g_latest.pth"),
    }  # fmt: skip
    stage("masks_0", run={"type": "CriaMasks", "num_images": 1, "crop_size": 16}, path=path)
    content = json.loads((root / "experiments/masks_0/masks.json").read_text())
    assert content["schema"] == "tgsr.cria_masks"
    assert 0 < content["means"]["s_mean"] < 1
    assert 0 <= content["means"]["raises_error"] <= 1
    assert len(content["images"]) == 2
    assert (root / "results/masks_0/report/figures/mask_0.png").exists()
    rows = {"Full": [str(root / "results/run_0")], WEIGHTED_SUM: [str(root / "results/run_0")]}
    masks = {"Full": [str(root / "experiments/masks_0/masks.json")]}
    stage("report", run={"type": "CriaAblation", "rows": rows, "masks": masks, "num_images": 1})
    page = (root / "results/report/report/report.md").read_text()
    assert "Which regions each branch owns" in page
    assert "Rank correlation with Table V" in page
    found = Measurements.load(root / "results/report/ablation.json")
    assert found.differences(WEIGHTED_SUM)["Full"]["small/psnr"] == [0.0]
    stage("plain_test", run={"type": "Test"}, val={"save_img": False}, path=path)
    tested, trained = (Metrics.read(root / "results" / n).datasets["small"]["metrics"] for n in ("plain_test", "run_0"))
    assert tested["psnr"]["mean"] == pytest.approx(trained["psnr"]["mean"])


def test_interrupted_training_goes_on_where_it_was(stage):
    train = {"total_iter": 4}
    root = stage("whole", train={**_train(), **train})
    stage("parts", train={**_train(), "total_iter": 2})
    (root / "experiments/parts/stage.json").unlink()
    stage("parts", resume=True, train={**_train(), **train})
    for key, value in weights(root, "whole").items():
        assert torch.equal(value, weights(root, "parts")[key]), key


def _train(losses=None):
    adam = {"type": "Adam", "lr": 1e-3}
    gan = {"type": "GANLoss", "loss_weight": 5e-3}
    return {"total_iter": 1, "optim_g": adam, "optim_d": adam, "losses": losses or LOSSES, "gan": gan}


def test_released_network_trains_without_masks(stage):
    root = stage("released", network_g={**NETWORK, "type": "CriaCLReleased"}, train=_train())
    assert np.isfinite(read_log(root, "released")[-1]["losses"]["align"])


def test_combines_with_tasks_and_their_sampler(stage):
    root = stage(
        "tasks", train=_train(), tasks={"set": {"type": "Points", "num_tasks": 3, "seed": 0}},
    )  # fmt: skip
    assert sum(e["count"] for e in read_log(root, "tasks")[-1]["tasks"].values()) == 2


def test_pairs_of_equal_size_train(stage, tmp_path):
    pairs = {
        "type": "PairedDataset", "dataroot_gt": str(tmp_path / "images"), "dataroot_lq": str(tmp_path / "images"),
    }  # fmt: skip
    train = {"dataset": {**pairs, "gt_size": 16}, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0}
    root = stage(
        "camera", scale=1, degradation=None, network_g={**NETWORK, "scale": 1}, train=_train(),
        datasets={"train": train, "val": {"pairs": pairs}},
    )  # fmt: skip
    assert Metrics.read(root / "results/camera").datasets["pairs"]["metrics"]["psnr"]["num_images"] == 2


def test_a_network_without_branches_is_refused(stage):
    with pytest.raises(ConfigError, match="no 'align' image"):
        stage("rrdb", network_g={**NETWORK, "type": "RRDBNet"}, train=_train())


def test_no_discriminator_is_refused(stage):
    losses = {"unif": {"type": "UniformityLoss", "negatives": ["adversarial"]}}
    with pytest.raises(ConfigError, match="needs a discriminator"):
        stage("alone", model="PixelModel", network_d=None, train={"losses": losses, "gan": None, "optim_d": None})


def test_efficiency(stage):
    networks = {"Ours": NETWORK, "ESRGAN": {"type": "RRDBNet", "num_feat": 4, "num_block": 1, "num_grow_ch": 2}}
    run = {"type": "CriaEfficiency", "networks": networks, "input_size": [8, 12], "num_warmup": 0, "num_frames": 2}
    root = stage("speed", run=run)
    found = json.loads((root / "experiments/speed/efficiency.json").read_text())
    assert found["input_size"] == [8, 12]
    assert all(len(e["times"]) == 2 and e["seconds"] > 0 for e in found["networks"].values())
    table = (root / "results/speed/report/tables/table_7.md").read_text()
    assert "paper 0.7217" in table
    assert "paper 16.70" in table
    assert "DASR" in table  # printed only
    assert found["networks"]["Ours"]["macs"] > 0


def test_an_ablation_needs_its_reference_and_one_run_a_seed(stage):
    with pytest.raises(ConfigError, match="there is no row"):
        stage("wrong", run={"type": "CriaAblation", "rows": {"Full": ["x"]}})
    root = stage("run", train=_train())
    twice = [str(root / "results/run")] * 2
    with pytest.raises(DataError, match="two runs of 'L_pixel .* have the same seed"):
        stage("twice", run={"type": "CriaAblation", "rows": {WEIGHTED_SUM: twice}})


def test_regions_and_their_masks():
    gt = torch.full((1, 3, 48, 48), 0.5)
    gt[..., 24:] = 1.0  # one vertical edge
    torch.manual_seed(0)
    gt[..., :20, :16] += 0.2 * torch.rand(1, 1, 20, 16)  # texture
    regions = region_maps(gt)
    assert torch.equal(sum(r.int() for r in regions.values()), torch.ones(1, 1, 48, 48, dtype=torch.int32))
    assert regions["edge"][0, 0, 30, 24]
    assert regions["texture"][0, 0, 10, 8]
    assert regions["flat"][0, 0, 40, 5]
    outputs = {"sr": gt, "align": gt, "unif": gt - 0.1, "mask": regions["edge"].float()}
    found = measure_masks(outputs, gt)
    assert found["s_edge"] == 1
    assert found["s_flat"] == found["s_texture"] == 0
    assert found["psnr_align"] > found["psnr_unif"] == pytest.approx(20, abs=0.01)
    assert owner_map({"sr": gt}) is None


def test_hazard_of_the_printed_alignment(stage, tmp_path):
    val = {"small": {"type": "GTDataset", "dataroot_gt": str(tmp_path / "images"), "val_crop": 32}}
    run = {"type": "CriaHazard", "num_steps": 15, "lr": 5e-3}
    root = stage("hazard", run=run, datasets={"val": val})
    values = json.loads((root / "experiments/hazard/hazard.json").read_text())["values"]
    mean = {k: np.mean(v["c_pix"]) for k, v in values.items()}
    assert mean["pixel loss alone"] < mean["start"]
    assert mean["anchor detached"] < mean["as printed"]
    assert all(0 <= v <= 1 for v in values["start"]["raises_error"])
