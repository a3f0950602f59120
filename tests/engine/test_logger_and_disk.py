"""Where numbers go, what a full disk does to a whole run, and what compiling does to saved names."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import sys
import time
import urllib.request
from types import SimpleNamespace
from urllib.parse import quote

import pytest
import torch

from tests.engine.toy import assert_same, events, run, toy_options, weights, write_options
from tgsr.cli import main
from tgsr.utils.errors import UserError
from tgsr.utils.files import append_jsonl


def test_full_disk_ends_with_one_line_and_the_run_goes_on_later(tmp_path, capsys, monkeypatch):
    option_file = str(write_options(tmp_path, toy_options(tmp_path)))
    states = tmp_path / "experiments" / "toy" / "training_states"
    save = torch.save

    def full_after_the_first(content, file):
        if (states / "2.state").exists():
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", full_after_the_first)
    assert main(["train", "-opt", option_file]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "No space left" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "free space" in lines[0]
    assert [p.name for p in states.iterdir()] == ["2.state"]
    monkeypatch.setattr(torch, "save", save)
    assert main(["train", "-opt", option_file, "--auto_resume"]) == 0
    run(tmp_path / "whole")
    assert_same(weights(tmp_path), weights(tmp_path / "whole"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_disk_under_the_log_is_a_users_error():
    with pytest.raises(UserError, match="/dev/full: cannot be written: .*No space left"):
        append_jsonl("/dev/full", {"event": "train"})


def test_tensorboard_has_the_curves_of_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, logger={"print_freq": 2, "save_checkpoint_freq": 6, "use_tb_logger": True})
    curves = EventAccumulator(str(tmp_path / "experiments" / "toy" / "tb_logger"))
    curves.Reload()
    written = [(e.step, e.value) for e in curves.Scalars("train/losses/pixel")]
    logged = [(e["iter"], pytest.approx(e["losses"]["pixel"])) for e in events(tmp_path, "train")]
    assert written == logged
    assert [e.step for e in curves.Scalars("val/metrics/psnr")] == [6]
    assert_tensorboard_serves(tmp_path / "experiments", "toy/tb_logger", "train/losses/pixel", written)


def assert_tensorboard_serves(folder, name, tag, points):
    """Starts TensorBoard as its command does, and loads the page and the data of one curve."""
    from tensorboard import default, program

    # tb-nightly, which basicsr brings, registers the plugins of packages a second time (README says how to mend it)
    mended = all(distribution.name != "tb-nightly" for distribution in importlib.metadata.distributions())
    server = program.TensorBoard(plugins=default.get_plugins() if mended else default.get_static_plugins())
    server.configure(argv=["", "--logdir", str(folder), "--port", "0", "--load_fast", "false"])
    address = server.launch()

    def get(path):
        with urllib.request.urlopen(address + path, timeout=20) as answer:
            return answer.read().decode()

    assert "TensorBoard" in get("")
    deadline = time.monotonic() + 20
    while name not in (tags := json.loads(get("data/plugin/scalars/tags"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tag in tags[name]
    curve = json.loads(get(f"data/plugin/scalars/scalars?run={quote(name)}&tag={quote(tag)}"))
    assert [(step, value) for _, step, value in curve] == points


def test_curves_of_a_resumed_run_are_those_of_its_log(tmp_path):
    """A validation fell on the checkpoint that the run goes on from, and once it has to be made up for."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": True}
    val = {"metrics": {"psnr": {"type": "PSNR"}}, "val_freq": 2}
    train = toy_options(tmp_path)["train"]
    run(tmp_path, logger=logs, val=val, train={**train, "total_iter": 4})
    run(tmp_path, logger=logs, val=val, auto_resume=True)
    path = tmp_path / "experiments" / "toy" / "training_states" / "6.state"
    state = torch.load(path, weights_only=True)
    state["hooks"]["ValidationHook"]["done"] = 4  # killed between the line of the validation and its checkpoint
    torch.save(state, path)
    run(tmp_path, logger=logs, val=val, auto_resume=True)
    assert [e["iter"] for e in events(tmp_path, "val")] == [2, 4, 6]
    curves = EventAccumulator(str(tmp_path / "experiments" / "toy" / "tb_logger"))
    curves.Reload()
    assert [e.step for e in curves.Scalars("train/lr")] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in curves.Scalars("val/metrics/psnr")] == [2, 4, 6]


def test_the_run_at_wandb_goes_on_and_a_missing_key_is_one_line(tmp_path, monkeypatch):
    started = []

    def init(**arguments):
        started.append(arguments["id"])
        return SimpleNamespace(id=arguments["id"] or "abc", log=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Image=lambda *_, **__: None))
    sections = {"logger": {"save_checkpoint_freq": 2, "use_tb_logger": False, "wandb": {"project": "toy"}}}
    run(tmp_path, **sections)
    run(tmp_path, **sections, auto_resume=True)
    assert started == [None, "abc"]

    def refuse(**_):
        raise RuntimeError("api_key not configured (no-tty)\ncall wandb.login()")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"logger.wandb: W&B does not start: api_key.*WANDB_MODE=offline"):
        run(tmp_path, **sections)


def test_another_number_of_threads_is_told(tmp_path, caplog):
    run(tmp_path)
    torch.set_num_threads(2)
    try:
        run(tmp_path, auto_resume=True)
    finally:
        torch.set_num_threads(1)
    assert "made with 1 threads, now there are 2" in caplog.text


def test_absent_wandb_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        run(tmp_path, logger={"wandb": {"project": "toy"}, "use_tb_logger": False})
    assert not (tmp_path / "experiments" / "toy" / "log.jsonl").exists()


def test_compiled_and_channels_last_save_the_same_names(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    a, b = tmp_path / "a", tmp_path / "b"
    run(a, channels_last=False)
    run(b, channels_last=True, train={**toy_options(b)["train"], "compile": True})
    plain, compiled = weights(a), weights(b)
    assert plain.keys() == compiled.keys()
    assert all(torch.allclose(plain[k], compiled[k], atol=1e-5) for k in plain)
