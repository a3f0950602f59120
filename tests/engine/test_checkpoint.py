"""Checkpoints are whole or absent, hold no code, and say what is wrong."""

import pickle

import pytest
import torch

from tgsr.engine.checkpoint import CheckpointWriter, Experiment, load_state, snapshot
from tgsr.utils.errors import CheckpointError, UserError


@pytest.fixture
def experiment(tmp_path):
    experiment = Experiment(tmp_path, "run")
    experiment.prepare(resume=False)
    return experiment


def test_later_steps_do_not_change_what_is_saved(experiment):
    weight = torch.zeros(3)
    writer = CheckpointWriter(experiment, keep_last=None)
    writer.save(1, {"net_g": {"params": {"w": weight}}}, {"iteration": 1})
    weight += 1
    writer.wait()
    assert torch.load(experiment.models / "net_g_1.pth", weights_only=True)["params"]["w"].sum() == 0
    assert load_state(experiment.states / "1.state")["iteration"] == 1


def test_full_disk_keeps_the_old_checkpoint(experiment, monkeypatch):
    writer = CheckpointWriter(experiment, keep_last=None)
    writer.save(1, {"net_g": {"params": {}}}, {"iteration": 1})
    writer.wait()
    good = (experiment.states / "1.state").read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    writer.save(1, {"net_g": {"params": {}}}, {"iteration": 1})
    with pytest.raises(UserError, match="No space left on device"):
        writer.wait()
    assert (experiment.states / "1.state").read_bytes() == good
    assert not list(experiment.path.rglob("*.tmp"))


def test_arbitrary_pickles_are_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path = tmp_path / "1.state"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="damaged or not a training state"):
        load_state(path)
    torch.save({"x": Evil()}, path)
    with pytest.raises(CheckpointError, match="damaged or not a training state"):
        load_state(path)
    assert not marker.exists()


def test_foreign_state(tmp_path):
    torch.save({"epoch": 1, "iter": 5}, tmp_path / "5.state")
    with pytest.raises(CheckpointError, match=r"not a training state of tgsr.*pretrain_network_g"):
        load_state(tmp_path / "5.state")


def test_newest_good_one(experiment, caplog):
    writer = CheckpointWriter(experiment, keep_last=None)
    for i in (2, 10):
        writer.save(i, {"net_g": {}}, {"iteration": i})
    writer.wait()
    assert experiment.iterations() == [2, 10]
    assert experiment.load_newest()["iteration"] == 10
    (experiment.states / "10.state").write_bytes(b"")
    with caplog.at_level("WARNING", logger="tgsr"):
        assert experiment.load_newest()["iteration"] == 2
    assert "trying the one before" in caplog.text


def test_snapshot_copies_every_level():
    value = {"a": [torch.ones(2), {"b": torch.ones(1)}], "c": (1, "x")}
    copy = snapshot(value)
    value["a"][0] += 1
    value["a"][1]["b"] += 1
    assert copy["a"][0].tolist() == [1, 1]
    assert copy["a"][1]["b"].tolist() == [1]
    assert copy["c"] == (1, "x")
