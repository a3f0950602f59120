"""Legacy option files: small files with the keys of BasicSR's family, checked as options and as translated data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tgsr.config.compat import translate
from tgsr.config.options import load_options, missing_files
from tgsr.config.overrides import apply_overrides
from tgsr.config.yaml_loader import parse_yaml, to_builtin
from tgsr.utils.errors import ConfigError

DEGRADATION = """\
resize_prob: [0.1, 0.8, 0.1]
resize_range: [0.2, 1.4]
gaussian_noise_prob: 0.4
noise_range: [2, 20]
poisson_scale_range: [0.1, 2]
gray_noise_prob: 0.3
jpeg_range: [40, 90]
second_blur_prob: 0.7
resize_prob2: [0.2, 0.5, 0.3]
resize_range2: [0.4, 1.1]
gaussian_noise_prob2: 0.4
noise_range2: [2, 15]
poisson_scale_range2: [0.1, 1.5]
gray_noise_prob2: 0.3
jpeg_range2: [40, 90]
gt_size: 128
queue_size: 24
"""
GT_SET = """\
datasets:
  train:
    name: photos
    type: RealESRGANDataset
    dataroot_gt: data/gt
    meta_info: data/meta.txt
    io_backend:
      type: disk
    blur_kernel_size: 15
    kernel_list: [iso, aniso]
    kernel_prob: [0.6, 0.4]
    sinc_prob: 0.2
    blur_sigma: [0.3, 2]
    betag_range: [0.6, 3]
    betap_range: [1, 1.5]
    blur_kernel_size2: 15
    kernel_list2: [iso, aniso]
    kernel_prob2: [0.6, 0.4]
    sinc_prob2: 0.2
    blur_sigma2: [0.3, 1]
    betag_range2: [0.6, 3]
    betap_range2: [1, 1.5]
    final_sinc_prob: 0.6
    gt_size: 256
    use_hflip: True
    use_rot: False
    use_shuffle: true
    num_worker_per_gpu: 3
    batch_size_per_gpu: 6
    dataset_enlarge_ratio: 2
    prefetch_mode: ~
"""
PAIRS = """\
datasets:
  train:
    name: pairs
    type: PairedImageDataset
    dataroot_gt: data/hr
    dataroot_lq: data/lr
    meta_info_file: data/meta.txt
    filename_tmpl: '{}x4'
    io_backend:
      type: lmdb
    gt_size: 96
    use_flip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 3
    batch_size_per_gpu: 6
    dataset_enlarge_ratio: 100
    prefetch_mode: cpu
    num_prefetch_queue: 2
  val:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: set5/hr
    dataroot_lq: set5/lr
    io_backend:
      type: disk
  val_2:
    name: wild
    type: SingleImageDataset
    dataroot_lq: wild
    io_backend:
      type: disk
"""
G = "network_g:\n  type: RRDBNet\n  num_in_ch: 3\n  num_out_ch: 3\n  num_feat: 8\n  num_block: 1\n  num_grow_ch: 4\n"
D = "network_d:\n  type: UNetDiscriminatorSN\n  num_in_ch: 3\n  num_feat: 8\n  skip_connection: True\n"
PATH = "path:\n  pretrain_network_g: ~\n  param_key_g: params_ema\n  strict_load_g: true\n  resume_state: ~\n"
OPTIM = "    type: Adam\n    lr: !!float 1e-4\n    weight_decay: 0\n    betas: [0.9, 0.99]\n"
PIXEL_TRAIN = f"""\
train:
  ema_decay: 0.999
  optim_g:
{OPTIM}
  scheduler:
    type: CosineAnnealingRestartLR
    periods: [250, 250]
    restart_weights: [1, 1]
    eta_min: !!float 1e-7
  total_iter: 500
  warmup_iter: -1
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
"""
GAN_TRAIN = f"""\
train:
  ema_decay: 0.999
  optim_g:
{OPTIM}
  optim_d:
{OPTIM}
  scheduler:
    type: MultiStepLR
    milestones: [400]
    gamma: 0.5
  total_iter: 500
  warmup_iter: -1
  pixel_opt:
    type: L1Loss
    loss_weight: !!float 1e-2
    reduction: mean
  perceptual_opt:
    type: PerceptualLoss
    layer_weights:
      'conv5_4': 1
    vgg_type: vgg19
    use_input_norm: true
    perceptual_weight: !!float 1.0
    style_weight: 0
    range_norm: false
    criterion: l1
  gan_opt:
    type: GANLoss
    gan_type: vanilla
    real_label_val: 1.0
    fake_label_val: 0.0
    loss_weight: !!float 1e-1
  net_d_iters: 1
  net_d_init_iters: 0
"""
REST = """\
val:
  val_freq: !!float 5e2
  save_img: true
  pbar: False
  suffix: ~
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 4
      test_y_channel: true
      better: higher
    ssim:
      type: calculate_ssim
      crop_border: 4
    niqe:
      type: calculate_niqe
      crop_border: 4
      better: lower
logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~
dist_params:
  backend: nccl
  port: 29500
"""


def head(model: str, scale: int = 4) -> str:
    return f"name: legacy\nmodel_type: {model}\nscale: {scale}\nnum_gpu: auto\nmanual_seed: 0\n"


def load(tmp_path: Path, text: str, *overrides: str) -> tuple[Any, list[str]]:
    file = tmp_path / "x.yml"
    file.write_text(text)
    notes: list[str] = []
    return load_options(file, overrides, notes=notes), [n.replace(str(file), "x.yml") for n in notes]


def translated(text: str, *overrides: str) -> Any:
    data = parse_yaml(text, file="x.yml")
    apply_overrides(data, overrides)
    translate(data)
    return to_builtin(data)


def message(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        translated(text)
    return str(caught.value)


def test_real_esrgan(tmp_path: Path) -> None:
    usm = "l1_gt_usm: True\npercep_gt_usm: False\ngan_gt_usm: False\n"
    text = head("RealESRGANModel", 2) + usm + DEGRADATION + GT_SET + G + D + PATH + GAN_TRAIN + REST
    options, notes = load(tmp_path, text)
    assert options.model == "AdversarialModel"
    space = options.degradation.space
    assert (space.type, space.kwargs["scale"], options.degradation.sharpen_input) == ("SecondOrder", 2, True)
    assert list(space.kwargs["jpeg_range2"]) == [40, 90]
    assert list(space.kwargs["kernel_list"]) == ["iso", "aniso"]
    assert (space.kwargs["second_blur_prob"], space.kwargs["final_sinc_prob"]) == (0.7, 0.6)
    train = options.datasets.train
    assert (train.batch_size_per_gpu, train.num_worker_per_gpu) == (6, 3)
    assert train.dataset.type == "GTDataset"
    assert dict(train.dataset.kwargs) == {
        "dataroot_gt": Path("data/gt"),
        "meta_info": Path("data/meta.txt"),
        "io_backend": "disk",
        "gt_size": 128,
        "degrade_size": 400,
        "use_hflip": True,
        "use_rot": False,
    }
    losses = options.train.losses
    assert {k: v.kwargs.get("target", "gt") for k, v in losses.items()} == {"pixel": "gt_usm", "perceptual": "gt"}
    assert losses["pixel"].kwargs["loss_weight"] == 0.01
    assert options.train.gan.kwargs.get("target", "gt") == "gt"
    assert not options.train.gan.kwargs.get("relativistic", False)
    assert options.path.param_key_g == "params_ema"
    assert options.logger.wandb is None
    assert notes == [
        "x.yml:25: queue_size has no effect: every sample has its own degradation, so there is no pool of pairs"
    ]


def test_real_esrgan_compares_with_the_sharpened_image_by_default() -> None:
    data = translated(head("RealESRGANModel") + GT_SET + GAN_TRAIN)
    assert data["train"]["gan"]["target"] == "gt_usm"
    assert {loss["target"] for loss in data["train"]["losses"].values()} == {"gt_usm"}


@pytest.mark.parametrize(("usm", "target"), [("True", "gt_usm"), ("False", "gt")])
@pytest.mark.parametrize("model", ["RealESRNetModel", "RealHATMSEModel"])
def test_real_esrnet(tmp_path: Path, model: str, usm: str, target: str) -> None:
    text = head(model) + f"gt_usm: {usm}\n" + DEGRADATION + GT_SET + G + PATH + PIXEL_TRAIN + REST
    options, _ = load(tmp_path, text)
    assert options.model == "PixelModel"
    assert options.degradation.sharpen_input is (usm == "True")
    assert options.train.losses["pixel"].kwargs.get("target", "gt") == target


def test_real_esrgan_on_pairs(tmp_path: Path) -> None:
    pairs = PAIRS.replace("PairedImageDataset", "RealESRGANPairedDataset", 1).replace("lmdb", "disk")
    text = head("RealESRGANModel") + "l1_gt_usm: True\npercep_gt_usm: True\ngan_gt_usm: False\n"
    text += "high_order_degradation: False\n" + pairs + G + D + PATH + GAN_TRAIN + REST
    options, notes = load(tmp_path, text)
    assert options.degradation is None
    assert options.datasets.train.dataset.type == "PairedDataset"
    assert options.train.losses["pixel"].kwargs["target"] == "gt_usm"
    assert notes == []


def test_pairs(tmp_path: Path) -> None:
    options, notes = load(tmp_path, head("SRModel") + PAIRS + G + PATH + PIXEL_TRAIN + REST)
    assert options.model == "PixelModel"
    assert options.degradation is None
    assert dict(options.datasets.train.dataset.kwargs) == {
        "dataroot_gt": Path("data/hr"),
        "dataroot_lq": Path("data/lr"),
        "meta_info": Path("data/meta.txt"),
        "filename_tmpl": "{}x4",
        "io_backend": "lmdb",
        "gt_size": 96,
        "use_hflip": True,
        "use_rot": True,
    }
    assert {k: v.type for k, v in options.datasets.val.items()} == {"Set5": "PairedDataset", "wild": "LQDataset"}
    assert options.train.scheduler.type == "CosineAnnealingRestartLR"
    assert options.val.val_freq == 500
    metrics = options.val.metrics
    assert metrics["psnr"].type == "PSNR"
    assert dict(metrics["psnr"].kwargs) == {"crop_border": 4, "color": "y"}
    assert dict(metrics["ssim"].kwargs) == {"crop_border": 4, "color": "rgb"}
    assert dict(metrics["niqe"].kwargs) == {"crop_border": 4}
    assert notes == []


def test_places_survive_the_move(tmp_path: Path) -> None:
    text = head("SRModel") + PAIRS.replace("use_rot:", "use_rott:") + G + PATH + PIXEL_TRAIN + REST
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    line = text.splitlines().index("    use_rott: true") + 1
    expected = f"{tmp_path}/x.yml:{line}: datasets.train.dataset.use_rott: PairedDataset takes no 'use_rott'; did you"
    assert str(caught.value).startswith(expected)


def test_esrgan_is_relativistic() -> None:
    assert translated(head("ESRGANModel") + GAN_TRAIN)["train"]["gan"]["relativistic"] is True
    assert "relativistic" not in translated(head("SRGANModel") + GAN_TRAIN)["train"]["gan"]


def test_test_files(tmp_path: Path) -> None:
    text = head("ESRGANModel").replace("num_gpu: auto", "num_gpu: 0") + "tile:\n  tile_size: 256\n  tile_pad: 32\n"
    text += "datasets:\n"
    for i, name in enumerate(("Set5", "Set5", "Set14")):
        text += f"  test_{i}:\n    name: {name}\n    type: SingleImageDataset\n    dataroot_lq: in{i}\n"
        text += "    io_backend:\n      type: disk\n"
    text += G + "path:\n  pretrain_network_g: w.pth\n  strict_load_g: true\nval:\n  save_img: true\n  suffix: ~\n"
    options, notes = load(tmp_path, text)
    assert options.model == "PixelModel"
    assert options.train is None
    assert options.device == "cpu"
    assert {k: v.kwargs["dataroot_lq"] for k, v in options.datasets.val.items()} == {
        "Set5": Path("in0"),
        "test_1": Path("in1"),
        "Set14": Path("in2"),
    }
    assert (options.val.tile, options.val.save_img) == (256, True)
    assert notes == ["x.yml:8: tile_pad has no effect: the overlap of tiles follows from the network"]


def test_bicubic_pairs_made_on_the_fly() -> None:
    text = head("HATModel", 3) + PAIRS.replace("PairedImageDataset", "ImageNetPairedDataset", 1)
    data = translated(text.replace("    dataroot_lq: data/lr\n", ""))
    assert data["degradation"] == {"space": {"type": "Bicubic", "scale": 3}}
    assert data["datasets"]["train"]["dataset"]["type"] == "GTDataset"


def test_lpips_of_tgsr() -> None:
    text = "val:\n  metrics:\n    lpips: {type: calculate_lpips, crop_border: 4, test_y_channel: true, better: lower}\n"
    assert translated(text)["val"]["metrics"]["lpips"] == {"type": "LPIPS", "net": "vgg"}


def test_legacy_keys_on_the_command_line(tmp_path: Path) -> None:
    text = head("SRModel") + PAIRS + G + PATH + PIXEL_TRAIN + REST
    options, _ = load(
        tmp_path,
        text,
        "datasets:train:dataroot_gt=/mine",
        "datasets:train:batch_size_per_gpu=2",
        "datasets:val:dataroot_lq=/val",
        "train:total_iter=7",
        "train:pixel_opt:loss_weight=0.5",
        "datasets.train.dataset.gt_size=48",
        "datasets.val.Set5.dataroot_gt=/new",
    )
    assert options.datasets.train.dataset.kwargs["dataroot_gt"] == Path("/mine")
    assert options.datasets.train.dataset.kwargs["gt_size"] == 48
    assert options.datasets.train.batch_size_per_gpu == 2
    assert options.datasets.val["Set5"].kwargs["dataroot_lq"] == Path("/val")
    assert options.datasets.val["Set5"].kwargs["dataroot_gt"] == Path("/new")
    assert (options.train.total_iter, options.train.losses["pixel"].kwargs["loss_weight"]) == (7, 0.5)


OURS = """\
name: ours
scale: 4
datasets:
  train: {dataset: {type: GTDataset, dataroot_gt: a, gt_size: 64}, batch_size_per_gpu: 1}
train:
  losses: {pixel: {type: L1Loss, loss_weight: 1.0}}
  gan: {type: GANLoss, loss_weight: 0.1}
val:
  metrics: {psnr: {type: PSNR, color: y}}
"""


def test_our_own_form_is_left_alone() -> None:
    assert translated(OURS) == to_builtin(parse_yaml(OURS, file="x.yml"))
    misspelt = "name: x\nnoise_range: [1, 2]\ndatasets:\n  train: {dataset: {type: GTDataset}, btch_size: 3}\n"
    assert translated(misspelt) == to_builtin(parse_yaml(misspelt, file="x.yml"))


def test_legacy_overrides_of_our_own_form() -> None:
    data = translated(
        OURS, "datasets:train:dataroot_gt=b", "train:gan_opt:loss_weight=0.2", "train:pixel_opt:loss_weight=3"
    )
    assert data["datasets"]["train"]["dataset"] == {"type": "GTDataset", "dataroot_gt": "b", "gt_size": 64}
    assert data["train"]["gan"] == {"type": "GANLoss", "loss_weight": 0.2}
    assert data["train"]["losses"]["pixel"] == {"type": "L1Loss", "loss_weight": 3}


def test_mixed_files() -> None:
    text = head("RealESRGANModel") + GT_SET + "degradation: {space: {jpeg_range: [50, 60]}, where: loader}\n"
    degradation = translated(text)["degradation"]
    assert degradation["space"]["jpeg_range"] == [50, 60]
    assert degradation["space"]["type"] == "SecondOrder"
    assert (degradation["where"], degradation["sharpen_input"]) == ("loader", True)


def test_notes_of_keys_without_effect(tmp_path: Path) -> None:
    text = head("SRModel") + DEGRADATION + PAIRS.replace("use_shuffle: true", "use_shuffle: false")
    _, notes = load(tmp_path, text + G + PATH + "  ignore_resume_networks: network_g\n" + PIXEL_TRAIN)
    assert [n.split(": ", 1)[1] for n in notes] == [
        "queue_size has no effect: every sample has its own degradation, so there is no pool of pairs",
        "use_shuffle has no effect: training data are shuffled",
        "resize_prob and keys like it have no effect: the training data are pairs",
        "ignore_resume_networks has no effect: a run resumes with all its networks",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "name: x\nmodel_type: EDVRModel\n",
            "x.yml:2: model_type: EDVRModel (video restoration) is not supported; tgsr restores single images",
        ),
        (
            "model_type: HiFaceGANModel\n",
            "x.yml:1: model_type: HiFaceGANModel (face restoration) is not supported; tgsr restores single images",
        ),
        (
            "model_type: RealESRGANMode\n",
            "x.yml:1: model_type: there is no model 'RealESRGANMode'; did you mean 'RealESRGANModel'",
        ),
        (
            "network_g: {type: EDSR, num_in_ch: 3}\ndatasets: {val: {type: SingleImageDataset, color: y}}\n",
            "x.yml:2: color: 'y' are images of one channel, which network_g does not take; set num_in_ch: 1",
        ),
        (
            "train:\n  pixel_opt: {type: L1Loss, reduction: sum}\n",
            "x.yml:2: reduction: reduction 'sum' is not supported; losses are means over a sample; use loss_weight",
        ),
        (
            "network_g: {type: EDSR}\ndatasets:\n  train:\n    type: PairedImageDataset\n    color: y\n",
            "x.yml:5: color: 'y' are images of one channel, which network_g does not take",
        ),
        (
            "datasets:\n  train:\n    type: PairedImageDataset\n    mean: [0.5, 0.5, 0.5]\n",
            "x.yml:4: mean: normalised input images are not supported; images are in [0, 1]",
        ),
    ],
)
def test_what_has_no_counterpart_is_one_line(text: str, expected: str) -> None:
    assert message(text).startswith(expected)
    assert "\n" not in message(text)


def test_renamed_and_moved_keys() -> None:
    text = "model_type: SRModel\nfind_unused_parameters: true\nsave_img: true\nsuffix: ~\n"
    text += "path: {pretrain_model_g: a.pth, strict_load: false, root: /r}\ntrain: {niter: 10, use_grad_clip: true}\n"
    data = translated(text)
    assert data["path"] == {"pretrain_network_g": "a.pth", "strict_load_g": False}
    assert data["train"] == {"find_unused_parameters": True, "total_iter": 10, "clip_grad_norm": 0.01}
    assert data["val"] == {"save_img": True}
    assert data["model"] == "PixelModel"


def test_ldl_has_a_loss_of_its_own_and_compares_with_the_plain_image() -> None:
    text = head("RealESRGANModel") + "l1_gt_usm: true\ntrain:\n  pixel_opt: {type: L1Loss}\n"
    losses = translated(text + "  ldl_opt: {type: L1Loss, loss_weight: 0.5, reduction: mean}\n")["train"]["losses"]
    assert losses["ldl"] == {"type": "LDLLoss", "criterion": "l1", "loss_weight": 0.5}
    assert losses["pixel"]["target"] == "gt_usm"


def test_color_y_is_understood_for_networks_of_one_channel(tmp_path: Path) -> None:
    text = "name: x\nscale: 4\nmodel_type: SRModel\nnetwork_g: {type: MSRResNet, num_in_ch: 1, num_out_ch: 1}\n"
    options, _ = load(tmp_path, text + "datasets: {val: {type: SingleImageDataset, dataroot_lq: a, color: y}}\n")
    assert "color" not in options.datasets.val["val"].kwargs


@pytest.mark.parametrize("keys", [("val", "val_2"), ("val:Set5", "val:Set14")])
def test_the_command_line_reaches_each_of_several_validation_sets(tmp_path: Path, keys: tuple[str, str]) -> None:
    """By the file's key, as BasicSR does, and by the set's name, as reports call it."""
    text = "name: x\nscale: 4\nmodel_type: SRModel\nnetwork_g: {type: MSRResNet}\ndatasets:\n"
    for key, name in (("val", "Set5"), ("val_2", "Set14")):
        text += f"  {key}: {{name: {name}, type: PairedImageDataset, dataroot_gt: {name}/gt, dataroot_lq: {name}/lq}}\n"
    (tmp_path / "sets.yml").write_text(text)
    changes = [f"datasets:{keys[0]}:dataroot_gt=a", f"datasets:{keys[1]}:dataroot_gt=b"]
    sets = load_options(tmp_path / "sets.yml", changes).datasets.val
    assert {k: str(v.kwargs["dataroot_gt"]) for k, v in sets.items()} == {"Set5": "a", "Set14": "b"}
    missing = [error.place for error in missing_files(load_options(tmp_path / "sets.yml", changes))]
    assert sorted(place.split(" = ")[1] for place in missing) == ["Set14/lq", "Set5/lq", "a", "b"]
