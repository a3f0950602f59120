"""Hooks and log sinks of one's own come out of the option file; a hook's state is part of the checkpoint."""

from __future__ import annotations

import json

import pytest

from tests.engine.toy import run, toy_options, write_options
from tgsr.config.options import load_options, to_plain
from tgsr.engine.checkpoint import load_state
from tgsr.utils.errors import ConfigError

PARTS = """
from pathlib import Path
from tgsr.engine.hooks import HOOKS, Hook
from tgsr.engine.logger import SINKS, Sink

@HOOKS.register()
class CountSteps(Hook):
    def __init__(self, *, every: int = 1) -> None:
        self.every, self.count = every, 0
    def after_step(self, trainer, result, batches) -> None:
        self.count += trainer.iteration % self.every == 0
    def state_dict(self):
        return {"count": self.count}
    def load_state_dict(self, state) -> None:
        self.count = state["count"]

@SINKS.register()
class Lines(Sink):
    def open(self, folder, name, resume_at) -> None:
        self.file = (Path(folder) / "lines.txt").open("a")
        print("open", name, resume_at, file=self.file)
    def event(self, kind, iteration, content) -> None:
        print(kind, iteration, file=self.file, flush=True)
    def close(self) -> None:
        self.file.close()
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "parts.py"  # one file: names are registered once
    path.write_text(PARTS)
    return str(path)


@pytest.fixture
def parts(module):
    return {
        "import_modules": [module],
        "train": {"hooks": {"all": {"type": "CountSteps"}, "even": {"type": "CountSteps", "every": 2}}},
        "logger": {"sinks": {"text": {"type": "Lines"}}, "print_freq": 3},
    }


def test_hooks_keep_their_state_and_sinks_get_the_events(tmp_path, parts):
    first = {**parts, "train": {**parts["train"], "total_iter": 4}}
    run(tmp_path, **first)
    trainer = run(tmp_path, auto_resume=True, **parts)
    state = load_state(trainer.experiment.states / "6.state")["hooks"]
    assert state["all (train.hooks)"] == {"count": 6}
    assert state["even (train.hooks)"] == {"count": 3}
    lines = (tmp_path / "experiments/toy/lines.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("open")] == ["open toy None", "open toy 4"]
    events = [json.loads(x) for x in (tmp_path / "experiments/toy/log.jsonl").read_text().splitlines()]
    assert {f"{e['event']} {e['iter']}" for e in events} <= set(lines)


def test_a_misspelt_argument_is_named_and_files_without_them_are_as_before(tmp_path, parts):
    plain = load_options(write_options(tmp_path, toy_options(tmp_path)))
    assert "hooks" not in to_plain(plain)["train"]  # so old hashes stay
    assert "sinks" not in to_plain(plain)["logger"]
    parts["train"]["hooks"]["even"]["evry"] = parts["train"]["hooks"]["even"].pop("every")
    with pytest.raises(ConfigError, match=r"train.hooks.even.evry: CountSteps takes no 'evry'; did you mean 'every'\?"):
        load_options(write_options(tmp_path, toy_options(tmp_path, **parts)))
