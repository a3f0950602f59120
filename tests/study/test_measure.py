"""Measuring rows on sets and tasks: the numbers of plain validation, nothing twice, rows of every kind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine.toy import make_images, toy_options, write_options
from tests.ranks import in_processes
from tgsr.archs import ARCHS
from tgsr.config.options import load_options
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.validation import bicubic, validate
from tgsr.methods.tgsr.evaluation import measure as measure_batches
from tgsr.methods.tgsr.evaluation import task_images
from tgsr.study import measure as module
from tgsr.study.measure import Condition, Subject, make_restorer, measure, restored_files, usable_metrics
from tgsr.study.measurements import Measurement, Measurements
from tgsr.utils.errors import CheckpointError, ConfigError, DataError
from tgsr.utils.files import read_jsonl
from tgsr.utils.image_io import save_image
from tgsr.utils.luma import luma_of

METRICS = {"psnr": {"type": "PSNR", "crop_border": 4}, "ssim": {"type": "SSIM", "crop_border": 4}}


def network(seed, **settings):
    torch.manual_seed(seed)
    return ARCHS.get("MSRResNet")(**{"num_feat": 4, "num_block": 1, "upscale": 4, **settings})


@pytest.fixture
def root(tmp_path):
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val", num=3, seed=1)
    make_images(tmp_path / "val" / "large", num=2, size=56, seed=2)
    for seed in (0, 1):
        torch.save({"params": network(seed).state_dict()}, tmp_path / f"net{seed}.pth")
    return tmp_path


@pytest.fixture
def options(root):
    tasks = {"set": {"type": "Points", "num_tasks": 2, "seed": 5}}
    return load_options(write_options(root, toy_options(root, tasks=tasks, val={"metrics": METRICS})))


@pytest.fixture
def context():
    return Context.create(device="cpu")


def run(subjects, conditions, options, context, *, metrics=("psnr", "ssim"), **more):
    path = Path(options.path.results_root) / "measured.jsonl"
    return measure(subjects, conditions, list(metrics), path, options, context, processes=1, **more)


def test_equal_to_validation_and_to_evaluation_by_task(root, options, context):
    subjects = [Subject("bicubic"), Subject("a", root / "net0.pth")]
    tasks = list(build.build_tasks(options))
    conditions = [Condition("toy"), *(Condition("toy", t) for t in tasks)]
    found = run(subjects, conditions, options, context)
    dataset, metrics = build.build_val_sets(options)["toy"], build.build_metrics(options)
    assert len(found.records) == 2 * 3 * 2
    for subject in subjects:
        restore = make_restorer(options, subject, context)
        for task in (None, *tasks):
            means = validate(restore, dataset, metrics, context, task=task).means()
            batches = None if task is None else measure_batches(restore, task_images(dataset, task), metrics)
            for metric in metrics:
                column = "/".join(p for p in ("toy", task and task.name, metric) if p)
                value = found.numbers(subject.label)[column].value
                assert value == pytest.approx(means[metric], rel=1e-6)
                assert batches is None or value == pytest.approx(batches[metric], rel=1e-6)
    assert found.runs("a")[""]["toy/psnr"].num_images == 5
    assert "psnr: " in found.caption()


@pytest.mark.parametrize("is_luma", [True, False])
def test_networks_of_one_channel_are_measured_on_luma(root, context, is_luma):
    """Every row is, where the run's own network has one channel: bicubic, colour networks, images from elsewhere."""
    channels = 1 if is_luma else 3
    own = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 4, "num_in_ch": channels,
           "num_out_ch": channels}  # fmt: skip
    options = load_options(write_options(root, toy_options(root, network_g=own, val={"metrics": METRICS})))
    torch.save({"params": network(2, num_in_ch=1, num_out_ch=1).state_dict()}, root / "grey.pth")
    dataset = build.build_val_sets(replace(options, network_g=None))["toy"]
    save_restored(root / "elsewhere", options, dataset)
    subjects = [Subject("grey", root / "grey.pth"), Subject("colour", root / "net0.pth"), Subject("bicubic"),
                Subject("theirs", images=root / "elsewhere")]  # fmt: skip
    found = run(subjects, [Condition("toy")], options, context, metrics=["psnr"])
    restorers = [network(2, num_in_ch=1, num_out_ch=1), network(0), bicubic(4), bicubic(4)]
    restorers[1].load_state_dict(torch.load(root / "net0.pth")["params"])
    psnr = build.build_metrics(options)["psnr"]
    for subject, restore in zip(subjects, restorers, strict=True):
        is_grey, values = subject.label == "grey", []
        for i in range(len(dataset)):
            sample = dataset.val_sample(i)
            with torch.no_grad():
                image, gt = restore(sample.luma().lq if is_grey else sample.lq).clamp(0, 1), sample.gt
            values.append(psnr(*((luma_of(t)[0] for t in (image, gt)) if is_grey or is_luma else (image[0], gt[0]))))
        value = found.numbers(subject.label)["toy/psnr"].value
        assert value == pytest.approx(sum(values) / len(values), abs=0.02)


def restored(monkeypatch):
    """Labels of the subjects whose images are restored, one entry a batch."""
    seen, made = [], module.make_restorer

    def spy(options, subject, context):
        restore = made(options, subject, context)

        def call(lq):
            seen.append((subject.label, len(lq)))
            return restore(lq)

        return call

    monkeypatch.setattr(module, "make_restorer", spy)
    return seen


def test_nothing_is_measured_twice(root, options, context, monkeypatch):
    seen = restored(monkeypatch)
    a, b = Subject("a", root / "net0.pth"), Subject("b", root / "net1.pth")
    first = run([a], [Condition("toy")], options, context)
    assert sum(n for _, n in seen) == 5
    seen.clear()
    both = run([a, b], [Condition("toy")], options, context)  # a row more
    assert {label for label, _ in seen} == {"b"}
    assert both.numbers("a") == first.numbers("a")
    seen.clear()
    same = Subject("the same weights", root / "copy.pth")
    same.weights.write_bytes(a.weights.read_bytes())
    again = run([same, b], [Condition("toy")], replace(options, name="other"), context)
    assert seen == []
    assert again.numbers("the same weights") == first.numbers("a")
    torch.save({"params": network(7).state_dict()}, a.weights)  # trained anew
    new = run([a], [Condition("toy")], options, context)
    assert {label for label, _ in seen} == {"a"}
    assert new.numbers("a") != first.numbers("a")


def test_another_metric_costs_its_own_numbers(root, options, context, monkeypatch):
    taken, values = [], module._values
    monkeypatch.setattr(module, "_values", lambda i, s, m, d, **kw: taken.append(len(m)) or values(i, s, m, d, **kw))
    subject = [Subject("a", root / "net0.pth")]
    run(subject, [Condition("toy")], options, context, metrics=["psnr"])
    found = run(subject, [Condition("toy")], options, context)
    assert set(taken) == {1}
    assert set(found.numbers("a")) == {"toy/psnr", "toy/ssim"}
    space = replace(options.degradation.space, kwargs={**options.degradation.space.kwargs, "blur_sigma": (0.2, 0.3)})
    other = replace(options, degradation=replace(options.degradation, space=space))
    assert run(subject, [Condition("toy")], other, context).numbers("a") != found.numbers("a")


def test_goes_on_after_a_stop_with_equal_numbers(root, options, context, monkeypatch):
    conditions = [Condition("toy", t) for t in build.build_tasks(options)]
    subjects = [Subject("a", root / "net0.pth"), Subject("bicubic")]
    whole = measure(subjects, conditions, ["psnr"], root / "whole.jsonl", options, context, processes=1)
    values, calls = module._values, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return values(*args, **kwargs)

    monkeypatch.setattr(module, "_values", stopping)
    path = root / "part.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure(subjects, conditions, ["psnr"], path, options, context, processes=1)
    monkeypatch.setattr(module, "_values", values)
    seen = restored(monkeypatch)
    found = measure(subjects, conditions, ["psnr"], path, options, context, processes=1)
    assert found == whole
    assert len(seen) > 0
    assert [list(r.images) for r in found.records] == [list(r.images) for r in whole.records]
    lines = [line for file in root.glob("part*.jsonl") for line in read_jsonl(file)]
    assert sum("values" in line for line in lines) == len({line["key"] for line in lines if "values" in line})


def test_the_network_of_other_weights_is_found_in_the_file(root, options, context):
    torch.manual_seed(0)
    other = ARCHS.get("RRDBNet")(num_feat=8, num_block=1, num_grow_ch=4, scale=4)
    torch.save({"params_ema": other.state_dict()}, root / "rrdb.pth")
    restore = make_restorer(options, Subject("published", root / "rrdb.pth"), context)
    lq = torch.rand(1, 3, 10, 12)
    with torch.inference_mode():
        torch.testing.assert_close(restore(lq), other.eval()(lq))
    wide = network(3, num_feat=8)
    torch.save({"params": wide.state_dict()}, root / "wide.pth")  # the type of network_g in another size
    assert make_restorer(options, Subject("wide", root / "wide.pth"), context)(lq).shape == (1, 3, 40, 48)
    torch.save({"params": {"x": torch.zeros(3)}}, root / "none.pth")
    with pytest.raises(CheckpointError, match="none.pth"):
        make_restorer(options, Subject("none", root / "none.pth"), context)
    torch.save({"params": network(0, upscale=2).state_dict()}, root / "x2.pth")
    with pytest.raises(ConfigError, match="enlarges by 2, the run by 4"):
        make_restorer(options, Subject("x2", root / "x2.pth"), context)


def save_restored(folder, options, dataset, ending=""):
    restore = bicubic(options.scale)
    for i in range(len(dataset)):
        save_image(folder / f"{dataset.name(i)}{ending}.png", restore(dataset.val_sample(i).lq)[0])


@pytest.mark.parametrize("ending", ["", "_out"])
@pytest.mark.parametrize("place", ["", "toy", "toy/LQ", "LQ/toy"])
def test_images_restored_elsewhere(root, options, context, place, ending):
    folder = root / "elsewhere"
    dataset = build.build_val_sets(options)["toy"]
    save_restored(folder / place, options, dataset, ending)
    found = run([Subject("bicubic"), Subject("theirs", images=folder)], [Condition("toy")], options, context)
    for column, number in found.numbers("theirs").items():  # rounded to 8 bits by the files
        assert number.value == pytest.approx(found.numbers("bicubic")[column].value, abs=0.01)
    next((folder / place).glob("*/*.png"), None).unlink()
    with pytest.raises(DataError, match="1 of 5 images of 'toy' are missing"):
        run([Subject("theirs", images=folder)], [Condition("toy")], options, context)


@pytest.mark.parametrize("place", ["", "toy"])
def test_images_of_tasks_restored_elsewhere(root, options, context, place):
    """Each task has a folder of its own; a task without one is not measured."""
    tasks, dataset, restore = (
        list(build.build_tasks(options)),
        build.build_val_sets(options)["toy"],
        bicubic(options.scale),
    )
    for i in range(len(dataset)):
        image = restore(dataset.val_sample(i, tasks[1]).lq)[0]
        save_image(root / "elsewhere" / place / tasks[1].name / f"{dataset.name(i)}.png", image)
    subjects = [Subject("bicubic"), Subject("theirs", images=root / "elsewhere")]
    found = run(subjects, [Condition("toy", t) for t in tasks], options, context)
    theirs, ours = found.numbers("theirs"), found.numbers("bicubic")
    assert set(theirs) == {f"toy/{tasks[1].name}/{m}" for m in ("psnr", "ssim")}
    for column, number in theirs.items():
        assert number.value == pytest.approx(ours[column].value, abs=0.01)


def test_a_folder_without_the_set_or_of_another_size(root, options, context):
    assert restored_files(root / "nothing", "toy", ["a"]) is None
    save_image(root / "empty" / "other" / "a.png", torch.rand(3, 8, 8))
    assert restored_files(root / "empty", "toy", ["a"]) is None
    dataset = build.build_val_sets(options)["toy"]
    for i in range(len(dataset)):
        save_image(root / "small" / "toy" / f"{dataset.name(i)}.png", torch.rand(3, 8, 8))
    with pytest.raises(DataError, match="8x8, its ground truth 40x40"):
        run([Subject("theirs", images=root / "small")], [Condition("toy")], options, context)


def test_networks_of_single_tasks_make_one_row(root, options, context):
    tasks = list(build.build_tasks(options))
    conditions = [Condition("toy", t) for t in tasks]
    nets = [Subject("single", root / f"net{k}.pth", on=(t.name,)) for k, t in enumerate(tasks)]
    found = run([*nets, Subject("shared", root / "net0.pth")], conditions, options, context)
    single, shared = found.numbers("single"), found.numbers("shared")
    assert set(single) == set(shared)
    assert single[f"toy/{tasks[0].name}/psnr"] == shared[f"toy/{tasks[0].name}/psnr"]
    assert single[f"toy/{tasks[1].name}/psnr"] != shared[f"toy/{tasks[1].name}/psnr"]


def test_sets_without_ground_truth_get_the_metrics_that_need_none(root, options, context, monkeypatch):
    make_images(root / "lq", num=2, size=104, seed=3)
    plain = toy_options(root, val={"metrics": {**METRICS, "niqe": {"type": "NIQE"}}})
    plain["datasets"]["val"]["lq"] = {"type": "LQDataset", "dataroot_lq": str(root / "lq")}
    options = load_options(write_options(root, {**plain, "name": "lq"}))
    subject = [Subject("a", root / "net0.pth")]
    found = run(subject, [Condition("lq")], options, context, metrics=["psnr", "niqe"])
    assert set(found.numbers("a")) == {"lq/niqe"}
    seen = restored(monkeypatch)
    assert run(subject, [Condition("lq")], options, context, metrics=["psnr", "niqe"]) == found
    assert seen == []
    few = run(subject, [Condition("lq")], options, context, metrics=["niqe"], num_images=1)
    assert few.records[0].value == found.records[0].images["00"]


def test_metrics_without_weights_are_left_out(options, context, monkeypatch):
    from tgsr.metrics.base import METRICS as REGISTRY

    def fails(self, restored, gt):
        raise DataError("weights cannot be had", remedy="give them")

    monkeypatch.setattr(REGISTRY.get("SSIM"), "__call__", fails)
    assert usable_metrics(options, context) == (["psnr"], {"ssim": "weights cannot be had; give them"})
    monkeypatch.setattr(REGISTRY.get("PSNR"), "__call__", fails)
    with pytest.raises(ConfigError, match="none of the metrics can be computed here; weights cannot"):
        usable_metrics(options, context)


def numbers(label, values):
    return [Measurement.of(label, "s", None, "psnr", {f"i{k}": v for k, v in enumerate(values)})]


@pytest.fixture
def table():
    records = [
        *numbers("base", [1.0, 3.0]), *numbers("seeds#0", [20.0, 22.0]), *numbers("seeds#1", [22.0, 26.0]),
        *numbers("other#1", [21.0, 24.0]), *numbers("other#2", [0.0, 0.0]),
    ]  # fmt: skip
    return Measurements(records=records, metrics={"psnr": {"protocol": "Y", "higher_is_better": True}})


def test_differences_are_of_equal_seeds(table):
    number = table.numbers("seeds")["s/psnr"]
    assert (number.value, number.num_runs) == (22.5, 2)
    assert number.spread == pytest.approx(2.1213, abs=1e-4)  # of 21 and 24
    assert table.differences("seeds") == {"other": {"s/psnr": [-1.5]}}  # seed 1 alone is common
    assert table.differences("base")["seeds"] == {"s/psnr": [19.0, 22.0]}  # one run without a seed is over all
    row = table.gain("base")[0]
    assert row.label == "seeds over base"
    assert row.is_signed
    assert not row.is_ranked
    assert table.paired("seeds").cell("other", "s/psnr").value == -1.5
    with pytest.raises(DataError, match="no measured row 'sedes'"):
        table.paired("sedes")


def test_images_are_pairs(table):
    assert table.image_differences("seeds", "base", "s/psnr") == {"i0": 20.0, "i1": 21.0}


def test_round_trip_without_images(table, tmp_path):
    table.save(tmp_path / "m.json")
    found = Measurements.load(tmp_path / "m.json")
    assert found == table
    assert found.records[0].images == {}
    assert found.columns[0].higher_is_better
    assert json.loads((tmp_path / "m.json").read_text())["schema"] == "tgsr.measurements"


def test_other_protocols_do_not_join(table):
    other = Measurements(records=[], metrics={"psnr": {"protocol": "RGB"}})
    with pytest.raises(DataError, match="psnr was measured as 'Y' and as 'RGB'"):
        table.joined(other)


def _on_a_rank(context, file, root):
    options = load_options(file)
    return measure(
        [Subject("a", root / "net0.pth"), Subject("bicubic")], [Condition("toy")], ["psnr"], root / "ranks.jsonl",
        options, context, processes=1,
    )  # fmt: skip


def test_two_ranks_share_the_images(root, options, context):
    whole = _on_a_rank(context, root / "toy.yml", root)
    for file in root.glob("ranks*.jsonl"):
        file.unlink()
    assert in_processes(2, _on_a_rank, root / "toy.yml", root) == [whole, whole]
    records = [line for file in root.glob("ranks*.jsonl") for line in read_jsonl(file) if "values" in line]
    assert sorted(r["start"] for r in records) == [0, 1, 2, 3, 4]  # each image once
