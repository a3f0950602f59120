"""`benchmarks/gpu_hour.sh` without a GPU: every part at its smallest size, failing parts, and the captured step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.toy import assert_same, toy_options, write_options
from tgsr.config.options import load_options
from tgsr.data.batch import Batch
from tgsr.engine import build
from tgsr.engine.context import Context

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_hour  # noqa: E402
from comparison import gpu_parts, steps  # noqa: E402
from comparison.graphed import GraphedStep  # noqa: E402
from comparison.rounded import round_once  # noqa: E402


@pytest.fixture
def no_vgg(monkeypatch):
    """The adversarial step's VGG19 takes seconds to fill with random numbers."""
    monkeypatch.setattr(gpu_parts, "_cases", lambda run: [steps.Case("msrresnet", 1, 1, 8)])


def test_every_part_runs_and_writes(tmp_path, no_vgg):
    inside = [name for name in gpu_parts.PARTS if name != "tests"]  # which starts pytest
    options = ["--out", str(tmp_path), "--size", "tiny", "--device", "cpu", "--inline", "--only", ",".join(inside)]
    assert gpu_hour.main(options) == 0
    summary = (tmp_path / "summary.md").read_text()
    rows = {name: [json.loads(x) for x in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in inside}
    for name in inside:
        assert f"## {name}: done" in summary
        assert rows[name]
    assert {"fp32", "bf16", "bf16, copies", "bf16, graph", "bf16, copies, graph"} <= {r["form"] for r in rows["step"]}
    assert all(r["ms"] > 0 for r in rows["step"] if "ms" in r)
    assert 0 <= rows["iteration"][0]["host's share in the loader"] < 1
    assert [r["sweep"] for r in rows["sweep"]] == ["paired, bf16", "paired, bf16, graph", "plain loop, fp32"]
    assert len(rows["profile"]) == 4 + 15
    assert sum(part.seconds for part in gpu_parts.PARTS.values()) < 660  # most parts end before their limit


def test_the_script_runs_parts_in_processes_of_their_own(tmp_path):
    command = ["bash", str(ROOT / "benchmarks/gpu_hour.sh"), "--size", "tiny", "--device", "cpu"]
    done = subprocess.run([*command, "--out", str(tmp_path), "--only", "tests"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "tests.log").read_text()
    assert '"passed": 2' in (tmp_path / "tests.jsonl").read_text()
    assert "## tests: done" in (tmp_path / "summary.md").read_text()


def test_failures_and_limits_are_told(tmp_path, monkeypatch):
    def broken(run):
        """Broken."""
        run.row(first=1)
        raise RuntimeError("no such kernel")

    parts = {"broken": gpu_parts.Part(broken, 9), "late": gpu_parts.Part(broken, 9)}
    monkeypatch.setattr(gpu_parts, "PARTS", parts)
    assert gpu_hour.main(["--out", str(tmp_path), "--inline", "--only", "broken"]) == 1
    assert gpu_hour.main(["--out", str(tmp_path), "--inline", "--minutes", "0.01", "--only", "late"]) == 1
    assert "no such kernel" in (tmp_path / "broken.log").read_text()
    assert json.loads((tmp_path / "broken.jsonl").read_text()) == {"first": 1}  # what it had found is kept
    assert "late: not begun" in (tmp_path / "summary.md").read_text()
    hanging = gpu_hour._attempt("rehearsal", gpu_hour.parse_arguments(["--out", str(tmp_path)]), 0.1)
    assert hanging == "stopped: it ran over its limit"


def models(tmp_path, num=2, **sections):
    options = load_options(write_options(tmp_path, toy_options(tmp_path, **sections)))
    context = Context(torch.device("cpu"))
    weighting = build.build_loss_weighting(options, build.build_tasks(options))
    return [build.build_model(options, context, weighting) for _ in range(num)]


def batch(seed):
    made = torch.Generator().manual_seed(seed)
    return Batch(gt=torch.rand(2, 3, 32, 32, generator=made), lq=torch.rand(2, 3, 8, 8, generator=made))


def test_a_captured_step_trains_like_the_plain_one_and_starts_afresh(tmp_path):
    plain, other = models(tmp_path)
    step = GraphedStep(other, batch(9))
    for _ in range(2):
        step.reset()
        plain.reset({"g": {k: v.clone() for k, v in models(tmp_path, 1)[0].net_g.state_dict().items()}})
        for i in range(3):
            ours, theirs = step([batch(i)], i), plain.step([batch(i)], i)
            assert torch.equal(ours.total, theirs.total)
        assert_same(plain.net_g.state_dict(), other.net_g.state_dict())
        assert_same(plain.ema_g.module.state_dict(), other.ema_g.module.state_dict())
    with pytest.raises(ValueError, match="one shape; gt, lq differ"):
        step([Batch(gt=torch.rand(1, 3, 32, 32), lq=torch.rand(1, 3, 8, 8))], 0)


def test_weights_that_are_rounded_once_a_step_train_to_the_same_bits(tmp_path):
    plain, other = models(tmp_path, precision="bf16")
    rounded = round_once(other)
    for i in range(4):
        assert torch.equal(plain.step([batch(i)], i).total, other.step([batch(i)], i).total)
    assert_same(plain.net_g.state_dict(), other.net_g.state_dict())
    assert_same(plain.ema_g.module.state_dict(), other.ema_g.module.state_dict())
    assert all(torch.equal(c, w.bfloat16()) for c, w in zip(rounded.copies, rounded.weights, strict=True))
    assert torch.equal(plain.restore(batch(0).lq), other.restore(batch(0).lq))
