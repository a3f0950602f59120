"""A stop is answered wherever the run is: what was trained is saved, the exit code says that it can go on."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import pytest

import tgsr.config.options as options_module
from tests.engine.toy import POINTS, assert_same, events, run, toy_options, weights, write_options
from tgsr.cli import EXIT_STOPPED, main
from tgsr.config.options import load_options
from tgsr.engine import build, stages, trainer, validation
from tgsr.engine.context import SAME_SIGINT_S, Context
from tgsr.engine.runner import run_stage
from tgsr.metrics.psnr_ssim import PSNR
from tgsr.report import page
from tgsr.tasks.samplers import TASK_SAMPLERS
from tgsr.utils.errors import Stopped

VALIDATED = {
    "val": {"metrics": {"psnr": {"type": "PSNR", "crop_border": 4}}, "val_freq": 2},
    "logger": {"print_freq": 1, "save_checkpoint_freq": 100, "use_tb_logger": False, "best": {"toy": "psnr"}},
}


def signal_at(monkeypatch, place, name: str, *, call: int, number: int = signal.SIGTERM) -> list[int]:
    """Send this process a signal at the n-th call of a function, in the middle of whatever calls it."""
    original, calls = getattr(place, name), []

    def signalled(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, signalled)
    return calls


def start(option_file: str, *, resume: bool = False) -> bool:
    """The command line's way, without its report."""
    return run_stage(load_options(option_file), Context.create(device="cpu", auto_resume=resume))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    run(root, **VALIDATED)
    return root


@pytest.mark.parametrize(
    ("place", "name", "call", "iteration", "number"),
    [
        (PSNR, "__call__", 2, 2, signal.SIGTERM),  # the second image of the first validation; no checkpoint was due
        (PSNR, "__call__", 4, 4, signal.SIGINT),
        (PSNR, "__call__", 7, 6, signal.SIGUSR1),  # the final measurement
        (build, "preflight", 1, None, signal.SIGUSR1),
        (stages, "file_digest", 1, 6, signal.SIGTERM),
    ],
)
def test_where_the_run_is(tmp_path, monkeypatch, whole, place, name, call, iteration, number):
    option_file = str(write_options(tmp_path, toy_options(tmp_path, **VALIDATED)))
    calls = signal_at(monkeypatch, place, name, call=call, number=number)
    assert not start(option_file)
    assert len(calls) == call  # nothing went on after it
    states = tmp_path / "experiments" / "toy" / "training_states"
    found = sorted(int(p.stem) for p in states.iterdir()) if states.exists() else []
    assert found[-1:] == ([] if iteration is None else [iteration])
    assert not (tmp_path / "experiments" / "toy" / "stage.json").exists()
    monkeypatch.undo()
    assert start(option_file, resume=True)
    assert_same(weights(tmp_path), weights(whole))
    assert_same(weights(tmp_path, "best_psnr"), weights(whole, "best_psnr"))
    for kind in ("train", "val"):
        assert [e["iter"] for e in events(tmp_path, kind)] == [e["iter"] for e in events(whole, kind)]


def test_a_stop_before_the_report_makes_up_for_it(tmp_path, monkeypatch):
    """And the exit code says that there is more to do, so that `train && test` does not go on."""
    option_file = str(write_options(tmp_path, toy_options(tmp_path)))
    with monkeypatch.context() as patch:
        signal_at(patch, page, "write_run_report", call=1)
        assert main(["train", "-opt", option_file]) == EXIT_STOPPED == 75
    assert not (tmp_path / "experiments" / "toy" / "stage.json").exists()
    written = []
    monkeypatch.setattr(page, "write_run_report", lambda *folders: written.append(folders))
    assert main(["train", "-opt", option_file, "--auto_resume"]) == 0
    assert len(written) == 1


def test_feedback_that_a_stop_interrupted_is_given_by_the_run_that_goes_on(tmp_path, monkeypatch):
    metric = {"psnr": {"type": "PSNR", "crop_border": 4}}
    sections = {**VALIDATED, "tasks": POINTS, "val": {"metrics": metric, "val_tasks": "toy"}}
    monkeypatch.setattr(TASK_SAMPLERS.get("HardestTaskSampler"), "needs_metrics", True)
    uninterrupted = run(tmp_path / "whole", **sections)
    with monkeypatch.context() as patch:
        signal_at(patch, trainer, "validate", call=5)  # the second task of the second interval
        stopped = run(tmp_path / "stopped", **sections)
    assert (stopped.iteration, stopped.owes_feedback) == (4, True)
    resumed = run(tmp_path / "stopped", auto_resume=True, **sections)
    assert [f.iteration for f in resumed.sampler.seen] == [4, 6]
    assert resumed.sampler.seen[0] == uninterrupted.sampler.seen[1]
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert [e["iter"] for e in events(tmp_path / "stopped", "tasks")] == [2, 4, 6]


def test_a_stopped_test_and_a_stopped_chain(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(page, "write_run_report", lambda *folders: None)
    option_file = str(write_options(tmp_path, toy_options(tmp_path)))
    weights_file = str(tmp_path / "experiments" / "toy" / "models" / "net_g_latest.pth")
    before = (tmp_path / "results" / "toy" / "metrics.json").read_bytes()
    with monkeypatch.context() as patch:
        signal_at(patch, validation, "save_image", call=2)
        arguments = ["test", "-opt", option_file, "--force_yml", f"path:pretrain_network_g={weights_file}"]
        assert main(arguments) == EXIT_STOPPED
    assert (tmp_path / "results" / "toy" / "metrics.json").read_bytes() == before

    chain = tmp_path / "chain.yml"
    lines = [f"- {option_file} name={name} path:experiments_root={tmp_path / 'c'}" for name in ("first", "second")]
    chain.write_text("name: chain\nscale: 4\nrun:\n  type: Chain\n  stages:\n" + "".join(f"  {t}\n" for t in lines))
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        signal_at(patch, stages, "write_metrics", call=1)
        assert main(["train", "-opt", str(chain)]) == EXIT_STOPPED
    assert (tmp_path / "c" / "first").exists()
    assert not (tmp_path / "c" / "second").exists()
    assert main(["train", "-opt", str(chain)]) == 0
    assert (tmp_path / "c" / "second" / "stage.json").exists()


def test_a_forked_child_dies_of_a_signal_as_ever():
    context = Context.create(device="cpu")
    with context.catch_signals():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert not context.stop_requested


def test_where_work_must_be_finished_a_signal_only_asks():
    context = Context.create(device="cpu")
    with context.catch_signals():
        with context.stopping(at_once=False):
            os.kill(os.getpid(), signal.SIGUSR1)
            assert context.should_stop()
            with pytest.raises(Stopped), context.stopping(at_once=True):
                pass
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert replace(context, rank=1).stop_requested  # shared by the copies that stages make


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_what_torchrun_hands_on_is_the_same_interrupt(monkeypatch, first):
    """The terminal's Ctrl-C reaches the ranks, and torchrun sends its own; the state is being saved meanwhile."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    context = Context.create(device="cpu")
    with context.catch_signals(), context.stopping(at_once=False):
        for number in (first, signal.SIGINT, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert context.should_stop()
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + SAME_SIGINT_S)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_before_the_run_has_begun(tmp_path, monkeypatch):
    option_file = str(write_options(tmp_path, toy_options(tmp_path)))
    signal_at(monkeypatch, options_module, "load_options", call=1, number=signal.SIGUSR1)
    assert main(["train", "-opt", option_file]) == EXIT_STOPPED
    assert not (tmp_path / "experiments").exists()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
