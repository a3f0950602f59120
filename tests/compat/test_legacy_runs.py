"""Legacy option files run through the command line with nothing overridden but paths, lengths and workers."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest
import torch

from tests.engine.toy import make_images
from tgsr.archs import ARCHS
from tgsr.cli import main
from tgsr.config.options import load_options
from tgsr.data.backends import open_source
from tgsr.data.lmdb_store import write_lmdb

MSRRESNET = "network_g:\n  type: MSRResNet\n  num_in_ch: 3\n  num_out_ch: 3\n  num_feat: 8\n  num_block: 1\n"
ADAM = "    type: Adam\n    lr: !!float 2e-4\n    weight_decay: 0\n    betas: [0.9, 0.99]\n"
LOGGER = """\
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
PAIRS = f"""\
name: pairs_x4
model_type: SRModel
scale: 4
num_gpu: 1
manual_seed: 0
datasets:
  train:
    name: photos
    type: PairedImageDataset
    dataroot_gt: elsewhere/hr.lmdb
    dataroot_lq: elsewhere/lr.lmdb
    filename_tmpl: '{{}}'
    io_backend:
      type: lmdb
    gt_size: 32
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 100
    prefetch_mode: ~
  val:
    name: little
    type: PairedImageDataset
    dataroot_gt: elsewhere/hr
    dataroot_lq: elsewhere/lr
    io_backend:
      type: disk
{MSRRESNET}  upscale: 4
path:
  pretrain_network_g: ~
  strict_load_g: true
  resume_state: ~
train:
  ema_decay: 0.999
  optim_g:
{ADAM}
  scheduler:
    type: CosineAnnealingRestartLR
    periods: [250000, 250000]
    restart_weights: [1, 1]
    eta_min: !!float 1e-7
  total_iter: 500000
  warmup_iter: -1
  pixel_opt:
    type: L1Loss
    loss_weight: 1.0
    reduction: mean
val:
  val_freq: !!float 5e3
  save_img: false
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 4
      test_y_channel: false
      better: higher
{LOGGER}
"""
TEST = f"""\
name: test_x4
model_type: SRModel
scale: 4
num_gpu: 1
manual_seed: 0
tile:
  tile_size: 16
  tile_pad: 4
datasets:
  test_1:
    name: little
    type: PairedImageDataset
    dataroot_gt: elsewhere/hr
    dataroot_lq: elsewhere/lr
    filename_tmpl: '{{}}x4'
    io_backend:
      type: disk
  test_2:
    name: wild
    type: SingleImageDataset
    dataroot_lq: elsewhere/wild
    io_backend:
      type: disk
{MSRRESNET}  upscale: 4
path:
  pretrain_network_g: elsewhere/net.pth
  param_key_g: params_ema
  strict_load_g: true
val:
  save_img: true
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
      test_y_channel: true
      better: higher
"""


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hr = make_images(tmp_path / "hr", num=3, size=48)
    for folder, template in (("lr", "{}"), ("lrx4", "{}x4")):
        (tmp_path / folder).mkdir()
        for path in hr.iterdir():
            small = cv2.resize(cv2.imread(str(path)), (12, 12), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(tmp_path / folder / f"{template.format(path.stem)}.png"), small)
    return tmp_path


def run(command, text, path, *overrides):
    path.write_text(text)
    forced = ["--force_yml", *overrides] if overrides else []
    assert main([command, "-opt", str(path), *forced]) == 0


def test_training_on_pairs_in_lmdb(data):
    for name in ("hr", "lr"):
        write_lmdb(open_source(data / name, io_backend="disk", names=None), data / f"{name}.lmdb")
    run(
        "train", PAIRS, data / "train.yml",
        "datasets:train:dataroot_gt=hr.lmdb", "datasets:train:dataroot_lq=lr.lmdb",
        "datasets:train:num_worker_per_gpu=0", "datasets:val:dataroot_gt=hr", "datasets:val:dataroot_lq=lr",
        "train:total_iter=2", "logger:use_tb_logger=false",
    )  # fmt: skip
    state = torch.load(data / "experiments" / "pairs_x4" / "models" / "net_g_latest.pth", weights_only=True)
    assert set(state) == {"params", "params_ema"}
    metrics = json.loads((data / "results" / "pairs_x4" / "metrics.json").read_text())["datasets"]["little"]["metrics"]
    assert metrics["psnr"]["protocol"] == "RGB, crop 4, 8-bit"
    assert metrics["psnr"]["num_images"] == 3


def test_testing_with_tiles_and_without_ground_truth(data, capsys):
    torch.manual_seed(0)
    net = ARCHS.get("MSRResNet")(num_feat=8, num_block=1)
    torch.save({"params_ema": net.state_dict()}, data / "net.pth")
    run(
        "test", TEST, data / "test.yml",
        "datasets:test_1:dataroot_gt=hr", "datasets:test_1:dataroot_lq=lrx4", "datasets:test_2:dataroot_lq=lr",
        "path:pretrain_network_g=net.pth",
    )  # fmt: skip
    content = json.loads((data / "results" / "test_x4" / "metrics.json").read_text())["datasets"]
    assert set(content) == {"little", "wild"}
    assert set(content["little"]["metrics"]) == {"psnr", "ssim"}
    assert content["wild"]["metrics"] == {}
    assert (data / "results" / "test_x4" / "images" / "wild" / "00.png").exists()


def test_legacy_files_compute_in_fp32_unless_told_otherwise(data):
    (data / "train.yml").write_text(PAIRS)
    assert load_options(data / "train.yml").precision == "fp32"
    assert load_options(data / "train.yml", ["precision=bf16"]).precision == "bf16"


def test_threads_share_one_environment_of_an_lmdb(data):
    write_lmdb(open_source(data / "hr", io_backend="disk", names=None), data / "hr.lmdb")
    sources = [open_source(data / "hr.lmdb", io_backend="lmdb", names=None) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(lambda i: sources[i % 8].read(i % 3), range(48)))
    finally:
        sys.setswitchinterval(interval)
    assert all((images[i] == images[i % 3]).all() for i in range(48))
