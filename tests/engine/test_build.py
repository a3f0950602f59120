"""What the parts of an option file promise each other: one scale, and tasks that validation sets may name."""

import copy
import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.engine.toy import toy_options, write_options
from tgsr.archs import ARCHS
from tgsr.config.options import load_options
from tgsr.data.datasets import DATASETS, PairedDataset
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.utils.errors import ConfigError, DataError

POINTS = {"set": {"type": "Points", "num_tasks": 3, "seed": 5}}
BICUBIC_X2 = {"type": "Bicubic", "scale": 2}


def load(root, **sections):
    return load_options(write_options(root, toy_options(root, **sections)))


def val_options(root, task, **sections):
    datasets = copy.deepcopy(toy_options(root)["datasets"])
    datasets["val"]["named"] = {**datasets["val"]["toy"], "task": task}
    return load(root, datasets=datasets, **sections)


def test_a_validation_set_names_a_task_of_the_run(tmp_path):
    options = val_options(tmp_path, "task_0001", tasks=POINTS)
    sets, tasks = build.build_val_sets(options), build.build_tasks(options)
    for i in range(2):
        batch = sets["named"].val_sample(i)
        assert batch.task_ids.tolist() == [1]
        assert torch.equal(batch.lq, sets["toy"].val_sample(i, tasks[1]).lq)
        assert sets["toy"].val_task(i).name == "whole_space"  # the other set stays what it was
    with pytest.raises(DataError, match="there is no task 'task_0009' among 3 tasks"):
        build.build_val_sets(val_options(tmp_path, "task_0009", tasks=POINTS))


def test_a_validation_set_names_the_whole_space(tmp_path):
    sets = build.build_val_sets(val_options(tmp_path, "whole_space", tasks=POINTS))
    assert torch.equal(sets["named"].val_sample(0).lq, sets["toy"].val_sample(0).lq)


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"scale": 2}, "toy: degradation.space: scale is 2, but the task 'whole_space' degrades by 4; make scale and"),
        (
            {"tasks": {"set": {"type": "Spaces", "spaces": {"whole": {"type": "Bicubic"}, "half": BICUBIC_X2}}}},
            "toy: tasks.set: scale is 4, but the task 'half' degrades by 2; make scale and",
        ),
    ],
)
def test_tasks_of_another_scale(tmp_path, sections, problem):
    with pytest.raises(ConfigError) as caught:
        build.build_tasks(load(tmp_path, **sections))
    assert str(caught.value).startswith(problem)


def test_a_network_of_another_scale(tmp_path):
    network = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    with pytest.raises(ConfigError, match="toy: network_g: scale is 4, but this MSRResNet enlarges by 2; make scale"):
        build.build_network(load(tmp_path, network_g=network))


def test_real_pairs_have_no_scale(tmp_path):
    assert build.build_tasks(load(tmp_path, scale=3, degradation=None)).names == ["real_pairs"]
    pairs = {"set": {"type": "Spaces", "spaces": {"real": {"type": "RealPairs"}, "made": {"type": "Bicubic"}}}}
    assert build.build_tasks(load(tmp_path, tasks=pairs)).names == ["made", "real"]


def pairs_options(root, *, val="GTDataset", train="PairedDataset", **sections):
    """A training set of real pairs in an option file that also has a degradation."""
    folders = {"dataroot_gt": str(root / "gt"), "dataroot_lq": str(root / "lq")}
    pairs = {"type": train, **folders, "gt_size": 32}
    held_out = {"dataroot_gt": str(root / "val"), **({"dataroot_lq": str(root / "lq")} if val != "GTDataset" else {})}
    data = {**toy_options(root)["datasets"]["train"], "dataset": pairs}
    return load(root, datasets={"train": data, "val": {"toy": {"type": val, **held_out}}}, **sections)


def test_tasks_of_a_training_set_that_has_its_lq_images(tmp_path):
    with pytest.raises(ConfigError) as caught:
        build.build_training_tasks(pairs_options(tmp_path, tasks=POINTS))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'toy.yml'}:")
    assert "tasks.set: there are 3 tasks, but the LQ images of a PairedDataset are files" in message
    assert message.endswith("; use GTDataset, or leave tasks out")


def test_an_unused_degradation_is_one_warning(tmp_path, caplog):
    assert build.build_training_tasks(pairs_options(tmp_path)).names == ["real_pairs"]  # it makes the validation's LQ
    assert not caplog.records
    assert build.build_training_tasks(pairs_options(tmp_path, val="PairedDataset")).names == ["real_pairs"]
    (record,) = caplog.records
    assert "degradation.space: no effect, since the LQ images of a PairedDataset are files: degr" in record.getMessage()


def test_own_sets_take_tasks_unless_they_say_otherwise(tmp_path, monkeypatch, caplog):
    class OwnPairs(PairedDataset):
        """Pairs that differ by task."""

        uses_tasks = True

    class Plain(torch.utils.data.Dataset):
        """Says nothing of tasks."""

        def __init__(self, *, dataroot_gt: Path, dataroot_lq: Path, gt_size: int, scale: int, tasks: object) -> None:
            super().__init__()

    for entry in (OwnPairs, Plain):
        monkeypatch.setitem(DATASETS._entries, entry.__name__, entry)
        options = pairs_options(tmp_path, train=entry.__name__, val="PairedDataset", tasks=POINTS)
        assert len(build.build_training_tasks(options)) == 3
    assert not caplog.records


def test_networks_that_tell_no_scale(tmp_path, monkeypatch):
    """A plain module, and a network of another library whose arguments do not say it."""

    class Fixed(nn.Module):
        def __init__(self, num_feat: int = 4) -> None:
            super().__init__()

    adapted = importlib.import_module("tgsr.archs.basicsr_adapter")._adapted(Fixed)
    for network in (Fixed, adapted):
        monkeypatch.setitem(ARCHS._entries, "Fixed", network)
        options = load(tmp_path)
        net = build.build_network(replace(options, network_g=replace(options.network_g, type="Fixed", kwargs={})))
        assert getattr(net, "scale", None) is None


@pytest.mark.parametrize("channels_last", [True, False])
def test_every_restorer_uses_the_memory_format_of_the_options(tmp_path, channels_last):
    path = write_options(tmp_path, {**toy_options(tmp_path), "channels_last": channels_last})
    options, context = load_options(path), Context(torch.device("cpu"))
    model = build.build_model(options, context, build.build_loss_weighting(options, build.build_tasks(options)))
    tiled, seen = build.make_restorer(options, context), []
    assert model.ema_g is not None
    for net in (model.ema_g.module, tiled.net):
        net.register_forward_pre_hook(lambda _, images: seen.append(images[0].stride(1) == 1))
    lq = torch.rand(2, 3, 8, 9)
    assert torch.equal(model.restore(lq), tiled(lq))  # both have the weights of the options' seed
    assert seen == [channels_last] * 2
    assert (tiled.net.conv_first.weight.stride(1) == 1) == channels_last
