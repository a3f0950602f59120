"""A table: every kind of row, sets of a folder, the paper's values beside; resumed, incomplete, wrong."""

import json

import pytest
import torch

from tests.engine.toy import make_images, toy_options, write_options
from tgsr.archs import ARCHS
from tgsr.config.options import load_options
from tgsr.data.benchmark import build_benchmark
from tgsr.degradations.base import SPACES
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner, run_stage
from tgsr.study import measure as module
from tgsr.study.paper import TableFile
from tgsr.study.rows import with_sets
from tgsr.tasks.sets import whole_space
from tgsr.utils.errors import ConfigError, DataError

PRINTED = """title: A paper
tables:
  "1":
    title: "Table 1: groups"
    sets: [Group0, Group1]
    metrics: [psnr]
    rows:
      Base: [20.00, 21.00]
      Theirs: [22.00, null]
    notes: [A note.]
  "2":
    title: "Table 2: tasks"
    sets: [toy]
    tasks: [task_0000, task_0001]
    metrics: [psnr]
    rows:
      Single: [30.00, 31.00]
"""


def save_network(path, seed):
    torch.manual_seed(seed)
    net = ARCHS.get("MSRResNet")(num_feat=4, num_block=1, upscale=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params": net.state_dict()}, path)
    return str(path)


@pytest.fixture
def root(tmp_path):
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val", num=3, seed=1)
    (tmp_path / "printed.yml").write_text(PRINTED)
    space = SPACES.get("SecondOrder")(preset="x4plus", scale=4)
    for k, name in enumerate(("Group0", "Group1", "Group10", "random")):
        build_benchmark(tmp_path / "val", whole_space(space=space), tmp_path / "sets" / name, seed=k)
    return tmp_path


@pytest.fixture
def weights(root):
    return [save_network(root / "weights" / f"net{k}.pth", k) for k in range(3)]


def load(root, name, **run):
    tasks = {"set": {"type": "Points", "num_tasks": 3, "seed": 5}}
    stage = {"type": "PaperTable", "paper": f"{root}/printed.yml/1", "sets": str(root / "sets"), "processes": 1, **run}
    return load_options(write_options(root, toy_options(root, name=name, tasks=tasks, run=stage)))


def run(root, name="table", *, resume=True, **arguments):
    assert run_stage(load(root, name, **arguments), Context.create(device="cpu", auto_resume=resume))
    folder = root / "results" / name
    return TableFile.load(folder / "table.json"), (folder / "report" / "tables" / "table.md").read_text()


def test_rows_of_every_kind(root, weights):
    dataset_options, _ = with_sets(load(root, "x", rows={"a": "bicubic"}), root / "sets")
    from tgsr.engine.build import build_val_sets
    from tgsr.engine.validation import bicubic
    from tgsr.utils.image_io import save_image

    for name, dataset in build_val_sets(dataset_options).items():
        for i in range(len(dataset)):
            image = bicubic(4)(dataset.val_sample(i).lq)[0]
            save_image(root / "restored" / name / f"{dataset.name(i)}.png", image)
    rows = {
        "bicubic": "bicubic", "Base": weights[0], "Theirs": {"images": str(root / "restored")},
        "Ours": [weights[0], weights[1]], "Named": {"1": weights[1], "5": weights[2]},
        "Explicit": {"weights": weights[2], "network": {"type": "MSRResNet", "num_feat": 4, "num_block": 1}},
        "Later": "experiments/later/net.pth", "Partly#0": weights[0], "Partly#1": "nowhere.pth",
    }  # fmt: skip
    found, text = run(root, rows=rows, gain_over="Base")
    assert list(found.not_measured) == ["Later", "Partly#1"]
    numbers = found.measurements.numbers
    assert set(numbers("Base")) == {"Group0/psnr", "Group1/psnr"}  # the paper's sets of the folder
    assert numbers("Ours")["Group0/psnr"].num_runs == 2
    assert set(found.measurements.runs("Named")) == {"1", "5"}
    assert numbers("Theirs")["Group0/psnr"].value == pytest.approx(numbers("bicubic")["Group0/psnr"].value, abs=0.01)
    assert numbers("Partly") == numbers("Base")
    table = found.table()
    assert [r.label for r in table.rows][:2] == ["Base", "Theirs"]
    assert table.cell("Base", "Group1/psnr").paper == 21.0
    gain = table.cell("Ours over Base", "Group0/psnr").value
    assert gain == pytest.approx(numbers("Ours")["Group0/psnr"].value - numbers("Base")["Group0/psnr"].value)
    assert "(paper 20.00)" in text
    page = (root / "results" / "table" / "report" / "report.md").read_text()
    assert "Not measured, since the files are not there: Later, Partly#1." in page
    assert "A note." in page
    assert (root / "results" / "table" / "report" / "tables" / "table.csv").exists()


def test_a_row_that_comes_later_costs_its_own_numbers(root, weights, monkeypatch):
    later = root / "experiments" / "t" / "models" / "net.pth"
    rows = {"Base": weights[0], "Later": str(later)}
    first, _ = run(root, rows=rows)
    assert first.not_measured == ["Later"]
    save_network(later, 5)
    made, build = [], module.make_restorer
    monkeypatch.setattr(module, "make_restorer", lambda o, s, c: made.append(s.label) or build(o, s, c))
    second, _ = run(root, rows=rows)
    assert made == ["Later"]
    assert second.not_measured == []
    assert second.measurements.numbers("Base") == first.measurements.numbers("Base")
    third, _ = run(root, rows=rows, resume=False)
    assert made == ["Later"]
    assert third == second


def test_the_papers_values_alone(root):
    found, text = run(root, rows={"Base": "nowhere.pth"})
    assert "n/a (paper 20.00)" in text
    assert found.measurements.records == []


def test_results_of_a_test_are_a_row(root, weights):
    content = {"psnr": {"mean": 19.5, "protocol": "Y, crop 4, 8-bit", "num_images": 3, "higher_is_better": True}}
    data = {"schema": "tgsr.metrics", "version": 1, "name": "x", "datasets": {"Group0": {"metrics": content}}}
    (root / "done").mkdir()
    (root / "done" / "metrics.json").write_text(json.dumps(data))
    found, _ = run(root, rows={"Base": str(root / "done")})
    assert found.measurements.numbers("Base")["Group0/psnr"].value == 19.5
    content["psnr"]["protocol"] = "RGB"
    (root / "done" / "metrics.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="psnr was measured as"):
        run(root, "mixed", rows={"Base": str(root / "done"), "Ours": weights[0]})


def test_networks_by_task_from_an_artefact(root, weights):
    groups = [{"members": ["task_0000"], "weights": weights[0]}, {"members": ["task_0001"], "weights": weights[1]}]
    (root / "groups.json").write_text(json.dumps({"groups": groups}))
    rows = {
        "Single": str(root / "groups.json"), "Same": {"weights": {"task_0000": weights[0], "task_0001": weights[1]}},
        "One": weights[0],
    }  # fmt: skip
    found, text = run(root, rows=rows, paper=f"{root}/printed.yml/2", sets=["toy"])
    numbers = found.measurements.numbers
    assert numbers("Single") == numbers("Same")
    assert set(numbers("One")) == {"toy/task_0000/psnr", "toy/task_0001/psnr"}
    assert numbers("One")["toy/task_0000/psnr"] == numbers("Single")["toy/task_0000/psnr"]
    assert "(paper 31.00)" in text


def test_networks_by_set_and_sets_of_the_options(root, weights):
    """Each group's own network on its own group; a set of `datasets.val` that the paper prints is measured, too."""
    rows = {"Base": {"Group0": weights[0], "Group1": weights[1]}, "Theirs": weights[0]}
    options = {**toy_options(root)["datasets"], "val": {"Group1": toy_options(root)["datasets"]["val"]["toy"]}}
    stage = {"type": "PaperTable", "paper": f"{root}/printed.yml/1", "sets": [str(root / "sets" / "Group0")]}
    plain = toy_options(root, name="sg", datasets=options, run={**stage, "rows": rows, "processes": 1})
    assert run_stage(load_options(write_options(root, plain)), Context.create(device="cpu"))
    numbers = TableFile.load(root / "results" / "sg" / "table.json").measurements.numbers
    assert set(numbers("Theirs")) == {"Group0/psnr", "Group1/psnr"}
    assert numbers("Base")["Group0/psnr"] == numbers("Theirs")["Group0/psnr"]
    assert numbers("Base")["Group1/psnr"] != numbers("Theirs")["Group1/psnr"]


def test_sets_of_a_mapping_get_its_names(root, weights):
    sets = {"_4k": str(root / "sets"), "plain": "toy", "one": str(root / "sets" / "Group1")}
    bound = load(root, "x", rows={"a": "bicubic"}, sets=sets)
    options, names = with_sets(bound, bound.run.kwargs["sets"])
    assert names == ["Group0_4k", "Group1_4k", "Group10_4k", "random_4k", "one", "plain"]
    assert options.datasets.val["one"].kwargs["dataroot_lq"] == root / "sets" / "Group1"
    found, _ = run(root, rows={"Base": weights[0]}, sets=["toy", str(root / "sets" / "Group1")], num_images=2)
    assert set(found.measurements.numbers("Base")) == {"toy/psnr", "Group1/psnr"}
    assert {r.num_images for r in found.measurements.records} == {2}


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"rows": {"a": {"wieghts": "x.pth"}}}, r"run.rows.a: a run has no 'wieghts'; did you mean 'weights'"),
        ({"rows": {"a": {"weights": "x.pth", "images": "y"}}}, "a row has weights and images; give one"),
        ({"rows": {"a#0": "x.pth", "a": ["y.pth"]}}, "there are two runs 'a#0'"),
        ({"rows": {"a": {"network": {"type": "MSRResNet"}}}}, "a row without weights, images or results"),
        ({"rows": {"a": "x.pth"}, "gain_over": "b"}, "there is no row 'b'"),
        ({"rows": {"a": "x.pth"}, "paper": "tgsr/99"}, "'tgsr' prints no table 99"),
        ({"rows": {"a": 3}}, "table.yml:.*rows.a: expected"),
    ],
)
def test_wrong_options(root, run, message):
    with pytest.raises(ConfigError, match=message):
        make_runner(load(root, "table", **run), Context.create(device="cpu"))


def test_wrong_sets(root, weights):
    options = load(root, "table", rows={"Base": "no.pth"}, sets=str(root / "nowhere"))
    (problem,) = make_runner(options, Context.create(device="cpu")).missing_files()
    assert "no such set or folder" in str(problem)
    assert make_runner(options, Context.create(device="cpu")).missing_files([root / "nowhere"]) == []
    manifest = root / "sets" / "Group1" / "benchmark.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "complete": False}))
    with pytest.raises(DataError, match="Group1: the benchmark is not finished"):
        run(root, rows={"Base": weights[0]})
    for image in (root / "val").glob("*.png"):
        image.rename(root / image.name)
    with pytest.raises(DataError, match="Group0: its ground truth is not at .*val any more"):
        run(root, rows={"Base": weights[0]})
