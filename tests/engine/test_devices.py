"""Training, resume, validation and degradation on a CPU and, where there is one, on a GPU."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from tests.engine.toy import assert_same, events, toy_options, weights, write_options
from tgsr.config.options import load_options
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.degradations.usm import sharpen
from tgsr.engine.context import Context
from tgsr.engine.stages import Train
from tgsr.engine.trainer import Trainer
from tgsr.utils.device import upload

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
DEGRADATION = {"space": {"type": "SecondOrder", "preset": "x4plus", "scale": 4}, "where": "device"}
DISCRIMINATOR = {
    "model": "AdversarialModel",
    "network_d": {"type": "UNetDiscriminatorSN", "num_feat": 4},
    "train": {
        "optim_d": {"type": "Adam", "lr": 0.001}, "gan": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}
    },
}  # fmt: skip


def made(root, device, *, auto_resume=False, deterministic=False, **sections):
    root.mkdir(parents=True, exist_ok=True)
    raw = toy_options(root, device=device, **{"degradation": DEGRADATION, **sections})
    context = Context.create(device=device, auto_resume=auto_resume, deterministic=deterministic)
    return load_options(write_options(root, raw)), context


def train(root, device, **more):
    options, context = made(root, device, **more)
    stage = Train(options=options, context=context)
    try:
        stage.run()
    finally:
        torch.use_deterministic_algorithms(False)
    return stage.trainer


@pytest.mark.parametrize("device", DEVICES)
def test_device_degrades_as_the_loader_does(device):
    space = SecondOrderSpace()
    params = space.draw(np.random.default_rng(0).random((6, space.num_uniforms)))
    gt = torch.nn.functional.interpolate(
        torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), scale_factor=8, mode="bicubic"
    ).clamp(0, 1)
    there = space.pipeline.apply(sharpen(gt.to(device)), params, backend="torch").cpu()
    here = space.pipeline.apply(sharpen(gt), params, backend="cpu")
    levels = ((there - here).abs() * 255).round()
    assert (levels > 1).float().mean() < 3e-3
    assert (levels > 0).float().mean() < 5e-3


@pytest.mark.parametrize("device", DEVICES)
def test_uploads_arrive_whole_and_apart(device):
    sent = []
    for i in range(50):  # many on their way at once
        arrays = {
            "mask": np.arange(3 + i) % 2 == 0, "empty": np.zeros((0, 4), np.float32),
            "numbers": np.full((i, 7), i, np.float32)[:, ::2], "places": np.arange(i), "exact": np.full(3, 1 / (i + 1)),
        }  # fmt: skip
        sent.append((arrays, upload(arrays, torch.device(device))))
    for arrays, tensors in sent:
        for name, array in arrays.items():
            assert tensors[name].device.type == device
            assert np.array_equal(tensors[name].cpu().numpy(), array)


@pytest.mark.parametrize("device", DEVICES)
def test_precision_of_training_does_not_reach_the_degradation(device):
    space = SecondOrderSpace()
    params = space.draw(np.random.default_rng(1).random((4, space.num_uniforms)))
    gt = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    plain = space.pipeline.apply(gt, params, backend="torch")
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = space.pipeline.apply(gt, params, backend="torch")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("noise", ["sample", "batch"])
@pytest.mark.parametrize("device", DEVICES)
def test_resume_gives_the_same_weights(tmp_path, device, noise):
    degradation = {**DEGRADATION, "noise": noise}
    more = {"degradation": degradation, "deterministic": device == "cuda"}
    train(tmp_path / "whole", device, **more)
    short = {**toy_options(tmp_path)["train"], "total_iter": 4}
    train(tmp_path / "cut", device, train=short, **more)
    train(tmp_path / "cut", device, auto_resume=True, **more)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("device", "precision", "more"),
    [
        ("cpu", "bf16", {}),
        pytest.param("cuda", "bf16", {}, marks=needs_gpu),
        pytest.param("cuda", "fp16", {}, marks=needs_gpu),
        pytest.param("cuda", "bf16", {"compile": True}, marks=needs_gpu),
        pytest.param("cuda", "bf16", {"activation_checkpointing": True}, marks=needs_gpu),
    ],
)
@pytest.mark.parametrize("adversarial", [False, True])
def test_every_precision_trains_and_validates(tmp_path, device, precision, more, adversarial):
    sections = DISCRIMINATOR if adversarial else {"train": {}}
    training = {**toy_options(tmp_path)["train"], **sections["train"], **more}
    train(tmp_path, device, precision=precision, **{**sections, "train": training})
    losses = [e["losses"]["pixel"] for e in events(tmp_path, "train")]
    assert len(losses) == 6
    assert all(map(math.isfinite, losses))
    assert math.isfinite(events(tmp_path, "val")[-1]["metrics"]["psnr"])


def test_discriminator_with_spectral_norm_stays_uncompiled(tmp_path, monkeypatch):
    """With torch's code generator (too slow for a test) its backward pass fails; the generator is compiled."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    training = {**toy_options(tmp_path)["train"], **DISCRIMINATOR["train"]}
    losses = {}
    for compiled in (False, True):
        root = tmp_path / str(compiled)
        trainer = train(root, "cpu", **{**DISCRIMINATOR, "train": {**training, "compile": compiled}})
        losses[compiled] = [e["losses"]["pixel"] for e in events(root, "train")]
        assert (trainer.model.g.forward is not trainer.model.net_g) == compiled
        assert trainer.model.d.forward is trainer.model.net_d
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


@needs_gpu
def test_first_losses_are_those_of_the_cpu(tmp_path):
    for device in ("cpu", "cuda"):
        degradation = {**DEGRADATION, "noise": "sample"}
        train(tmp_path / device, device, degradation=degradation)
    first = [events(tmp_path / device, "train")[0]["losses"]["pixel"] for device in ("cpu", "cuda")]
    assert first[0] == pytest.approx(first[1], rel=1e-3)


@needs_gpu
@pytest.mark.parametrize("adversarial", [False, True])
def test_iterations_do_not_wait_for_the_gpu(tmp_path, adversarial):
    sections = DISCRIMINATOR if adversarial else {"train": {}}
    training = {**toy_options(tmp_path)["train"], **sections["train"]}
    trainer = Trainer(*made(tmp_path, "cuda", **{**sections, "train": training}))
    batches = trainer.data.iterations(0, 6)
    for i in range(3):  # first uses of libraries and caches may wait
        trainer.model.step(next(batches), i)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i in range(3, 6):
            trainer.model.step(next(batches), i)
    finally:
        torch.cuda.set_sync_debug_mode("default")
