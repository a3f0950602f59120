"""Where metrics are computed, and which are not computed again."""

import math

import pytest
import torch

from tgsr.data.batch import Batch
from tgsr.engine.context import Context
from tgsr.engine.validation import evaluate
from tgsr.metrics.base import Metric
from tgsr.metrics.lpips import LPIPS
from tgsr.metrics.measure import Remembered, measure
from tgsr.metrics.niqe import NIQE
from tgsr.metrics.psnr_ssim import PSNR

CPU = torch.device("cpu")
AWAY = torch.device("meta")  # a device that is not the CPU


class Distance(Metric):
    """Mean absolute difference; tells where its images were."""

    higher_is_better = False
    protocol = "mean absolute difference"

    def __init__(self, *, is_network=False, fits=True):
        self.is_network, self.fits = is_network, fits
        self.places = []

    def __call__(self, restored, gt):
        self.places.append((restored.device.type, gt.device.type))
        if not self.fits and restored.device != CPU:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.5 if restored.device != CPU else (restored - gt).abs().mean().item()


def test_networks_are_computed_on_the_device_the_rest_where_the_images_are(caplog):
    metrics = {"plain": Distance(), "net": Distance(is_network=True), "large": Distance(is_network=True, fits=False)}
    values = measure(metrics, torch.ones(3, 4, 5), torch.zeros(3, 4, 5), AWAY)
    assert values == {"plain": 1.0, "net": 0.5, "large": 1.0}
    assert metrics["plain"].places == [("cpu", "cpu")]
    assert metrics["net"].places == [("meta", "meta")]
    assert metrics["large"].places == [("meta", "meta"), ("cpu", "cpu")]
    assert "a 5x4 image is measured on the CPU" in caplog.text
    assert LPIPS.is_network
    assert list(measure({"plain": Distance(), "niqe": NIQE()}, torch.rand(3, 200, 200), None, CPU)) == ["niqe"]


@pytest.fixture
def counted(monkeypatch):
    calls = []
    real = PSNR.__call__
    monkeypatch.setattr(PSNR, "__call__", lambda self, *pair: calls.append(self.protocol) or real(self, *pair))
    return calls


def test_remembered_by_content_and_protocol(tmp_path, counted):
    path, (a, b) = tmp_path / "measured.jsonl", torch.rand(2, 3, 20, 20)
    metrics = {"mine": Distance(), "psnr": PSNR(crop_border=4)}
    first = Remembered(path).measure(metrics, a, b, CPU)
    again = Remembered(path)  # another process
    assert again.measure(metrics, a.clone(), b.clone(), CPU) == first
    assert list(first) == ["mine", "psnr"]
    assert len(counted) == 1
    assert len(metrics["mine"].places) == 2  # whoever wrote it may have changed it
    again.measure({"psnr": PSNR(crop_border=3)}, a, b, CPU)
    again.measure(metrics, a, b + 1e-6, CPU)
    again.measure(metrics, b, a, CPU)
    again.measure(metrics, a.reshape(3, 10, 40), b.reshape(3, 10, 40), CPU)
    assert len(counted) == 5
    assert math.isinf(again.measure(metrics, a, a, CPU)["psnr"])  # no number for JSON: not kept
    path.write_text(path.read_text()[:-20] + "\n{}\n")
    assert Remembered(path).measure(metrics, a, b, CPU) == first
    assert len(path.read_text().splitlines()) == 1


def test_other_weights_are_another_metric():
    nets = [LPIPS(net="squeeze", pretrained=False) for _ in range(2)]
    assert nets[0].identity == nets[1].identity
    other = LPIPS(net="squeeze", pretrained=False)
    next(other._net.parameters()).data.add_(1)
    assert other.identity != nets[0].identity


class _Images:
    def __init__(self, num=3):
        self.gt = torch.rand(num, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.gt)

    def name(self, index):
        return str(index)

    def val_sample(self, index, task=None):
        return Batch(gt=self.gt[index], lq=self.gt[index][..., ::4, ::4].contiguous())


def test_a_baseline_is_measured_once_for_all_checkpoints(tmp_path, counted, monkeypatch):
    monkeypatch.setenv("TGSR_CACHE", str(tmp_path / "cache"))
    images = _Images()

    def run(shift):
        restore = lambda lq: torch.nn.functional.interpolate(lq, scale_factor=4) + shift  # noqa: E731
        content = evaluate(
            restore, {"set": images}, {"psnr": PSNR()}, Context(CPU), results=tmp_path, scale=4, stamp={},
            save_images=False,
        )  # fmt: skip
        return content["datasets"]["set"]

    first, second = run(0.0), run(0.1)
    assert len(counted) == 6 + 3
    assert first["baselines"] == second["baselines"]
    assert first["metrics"]["psnr"]["mean"] != second["metrics"]["psnr"]["mean"]
    images.gt[1] += 0.01  # one image of the benchmark is another now
    assert run(0.0)["baselines"] != first["baselines"]
    assert len(counted) == 9 + 3 + 1
