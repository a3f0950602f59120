"""A finished stage runs again when a file of an earlier stage that it reads has changed, and only then."""

import json

import pytest

from tests.engine.toy import make_images, toy_options
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner, input_digests, run_stage


class Noted(Runner):
    """Notes whether it was told to resume."""

    seen: list[bool] = []

    def run(self):
        self.seen.append(self.context.auto_resume)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Options of a stage that reads the weights of an earlier one, and those weights."""
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val")
    if "NotedForTests" not in RUNNERS:
        RUNNERS.register("NotedForTests")(Noted)
    weights = tmp_path / "experiments/earlier/models/net_g_latest.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first" * 300_000)  # more than one block
    raw = toy_options(tmp_path, run={"type": "NotedForTests"})
    raw["path"]["pretrain_network_g"] = str(weights)
    file = tmp_path / "toy.yml"
    file.write_text(json.dumps(raw))
    Noted.seen.clear()
    return load_options(file), weights


def resume(options):
    context = Context.create(device="cpu", auto_resume=True)
    assert run_stage(options, context)
    assert context.auto_resume


def test_a_changed_input_makes_the_stage_run_afresh(stage):
    options, weights = stage
    resume(options)
    resume(options)
    assert Noted.seen == [True]
    same = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(same)  # copied: other times, same content
    resume(options)
    assert Noted.seen == [True]
    weights.write_bytes(same[:-1] + b"!")
    resume(options)
    assert Noted.seen == [True, False]
    resume(options)
    assert Noted.seen == [True, False]
    weights.unlink()  # cleared away after use: nothing to run again for
    resume(options)
    assert Noted.seen == [True, False]


def test_inputs_are_files_of_other_experiments(stage):
    options, weights = stage
    root = weights.parents[2]
    assert list(input_digests(options)) == ["earlier/models/net_g_latest.pth"]  # not the images beside the root
    own = root / options.name
    own.mkdir()
    (root / "earlier").rename(own / "earlier")
    (root / "earlier").symlink_to(own / "earlier")
    assert input_digests(options) == {}


def test_a_marker_without_inputs_counts_only_where_nothing_is_read(stage):
    options, weights = stage
    resume(options)
    marker = weights.parents[2] / options.name / "stage.json"
    old = json.loads(marker.read_text())
    del old["inputs"]
    marker.write_text(json.dumps(old))
    resume(options)
    assert Noted.seen == [True, True]  # unknown whether it has changed: resumed, nothing is moved aside
    assert "inputs" in json.loads(marker.read_text())
    marker.write_text(json.dumps(old))
    weights.unlink()
    resume(options)
    assert Noted.seen == [True, True]
