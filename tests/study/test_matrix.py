"""Study files: what a stage becomes, in which order, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.engine.toy import make_images, toy_options
from tgsr.config.options import load_options, to_plain
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.utils.errors import ConfigError

STUDY = """
_base_: toy_base.yml
name: toy
run:
  type: Study
  axes:
    net:
      small: {network_g: {num_feat: 4}, $start: "@pre[small]"}
      large: {_base_: large.yml, $start: weights/large.pth}
    seed: [0, 1]
  stages:
    pre: {over: {net: [small]}, train: {total_iter: 3}}
    tasks: {run: {type: MakeTasks, num_tasks: 4}}
    tuned:
      over: [net, seed]
      _base_: more_iterations.yml
      path: {pretrain_network_g: $start}
      tasks: {set: {type: File, path: "@tasks"}}
    tests:
      run:
        type: CompareOnBenchmarks
        checkpoints: {"{net}": $start, "{net}-TG#{seed}": "@tuned"}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val")
    base = toy_options(Path())
    del base["name"]
    base["path"] = {}
    (tmp_path / "toy_base.yml").write_text(yaml.safe_dump(base))
    (tmp_path / "large.yml").write_text("network_g: {num_feat: 8}\ntrain: {total_iter: 7}\n")
    (tmp_path / "more_iterations.yml").write_text("train: {total_iter: 5}\nmanual_seed: 9\n")
    return tmp_path


def study(text=STUDY, *overrides):
    Path("toy.yml").write_text(text)
    return make_runner(load_options("toy.yml", overrides), Context.create(device="cpu"))


def stages(text=STUDY, *overrides):
    return {options.name: options for options in study(text, *overrides).stages}


def test_axes_multiply_and_references_become_paths(folder):
    found = stages()
    assert list(found) == [
        "toy/pre-small", "toy/tasks", "toy/tuned-small-0", "toy/tuned-small-1", "toy/tuned-large-0",
        "toy/tuned-large-1", "toy/tests",
    ]  # fmt: skip
    tuned = found["toy/tuned-small-1"]
    assert (tuned.manual_seed, tuned.train.total_iter, tuned.network_g.kwargs["num_feat"]) == (1, 5, 4)
    assert tuned.path.pretrain_network_g == Path("experiments/toy/pre-small/models/net_g_latest.pth")
    assert tuned.tasks.set.kwargs["path"] == Path("experiments/toy/tasks/tasks.json")
    large = found["toy/tuned-large-0"]  # an axis is laid over the files that the stage names
    assert (large.train.total_iter, large.network_g.kwargs["num_feat"]) == (7, 8)
    assert large.path.pretrain_network_g == Path("weights/large.pth")


def test_a_stage_without_an_axis_sees_its_branches(folder):
    rows = stages()["toy/tests"].run.kwargs["checkpoints"]
    assert {label: str(path) for label, path in rows.items()} == {
        "small": "experiments/toy/pre-small/models/net_g_latest.pth",
        "large": "weights/large.pth",
        "small-TG#0": "experiments/toy/tuned-small-0/models/net_g_latest.pth",
        "small-TG#1": "experiments/toy/tuned-small-1/models/net_g_latest.pth",
        "large-TG#0": "experiments/toy/tuned-large-0/models/net_g_latest.pth",
        "large-TG#1": "experiments/toy/tuned-large-1/models/net_g_latest.pth",
    }
    whole = STUDY.replace('{"{net}": $start, "{net}-TG#{seed}": "@tuned"}', '"@tuned"')
    assert list(stages(whole)["toy/tests"].run.kwargs["checkpoints"]) == ["small#0", "small#1", "large#0", "large#1"]
    one = STUDY.replace('{"{net}": $start, "{net}-TG#{seed}": "@tuned"}', '{a: "@tuned[large,1]/models/x.pth"}')
    assert str(stages(one)["toy/tests"].run.kwargs["checkpoints"]["a"]) == "experiments/toy/tuned-large-1/models/x.pth"
    results = STUDY.replace('{"{net}": $start, "{net}-TG#{seed}": "@tuned"}', '{a: "@tuned[large,1]/results"}')
    assert str(stages(results)["toy/tests"].run.kwargs["checkpoints"]["a"]) == "results/toy/tuned-large-1"
    seeds = STUDY.replace('{"{net}": $start, "{net}-TG#{seed}": "@tuned"}', '"@tuned[large]"')
    assert list(stages(seeds)["toy/tests"].run.kwargs["checkpoints"]) == ["0", "1"]
    some = STUDY.replace('"{net}": $start', '"{net} alone": "@pre"')
    assert "small alone" in stages(some)["toy/tests"].run.kwargs["checkpoints"]
    assert "large alone" not in stages(some)["toy/tests"].run.kwargs["checkpoints"]


def test_only_what_is_asked_for_and_what_it_needs(folder):
    assert list(stages(STUDY, "run.only=['tuned[large]']")) == ["toy/tasks", "toy/tuned-large-0", "toy/tuned-large-1"]
    assert list(stages(STUDY, "run.only=['tuned[small,0]']")) == ["toy/pre-small", "toy/tasks", "toy/tuned-small-0"]
    Path("table.yml").write_text("_base_: [toy.yml]\nrun: {only: [tasks]}\n")
    options = load_options("table.yml")
    assert [o.name for o in make_runner(options, Context.create(device="cpu")).stages] == ["toy/tasks"]


def test_the_command_line_has_the_last_word(folder):
    found = stages(STUDY, "train:total_iter=2", "run:stages:pre:train:ema_decay=0.25")
    assert {o.train.total_iter for o in found.values()} == {2}
    assert found["toy/pre-small"].train.ema_decay == 0.25
    assert found["toy/tuned-small-0"].train.ema_decay == 0.5


def test_products_of_another_study(folder):
    Path("nets").mkdir()
    text = "_base_: ../toy_base.yml\nname: nets\nrun: {type: Study, stages: {a: {}, b: {}}}\n"
    Path("nets/paper.yml").write_text(text)
    found = stages(STUDY.replace("weights/large.pth", '"@nets:b"'), "run.only=['tuned[large,0]']")
    assert list(found) == ["nets/b", "toy/tasks", "toy/tuned-large-0"]
    assert str(found["toy/tuned-large-0"].path.pretrain_network_g) == "experiments/nets/b/models/net_g_latest.pth"


def test_an_expanded_stage_is_an_ordinary_option_file(folder):
    runner = study()
    for options, path in zip(runner.stages, runner.expand(folder / "out"), strict=True):
        assert to_plain(load_options(path)) == to_plain(options)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"@tasks"', '"@task"', "toy.yml:18: there is no stage 'task'; did you mean 'tasks'?"),
        ('"@tasks"', '"@tuned[small,1]"',
         "toy.yml:14: run.stages.tuned: stages wait for each other: toy/tuned-small-1 -> toy/tuned-small-1"),
        ("seed: [0, 1]", "seed: []", "toy.yml:10: run.axes.seed: an axis needs values: a list, or labels with options"),
        ("seed: [0, 1]", "seed: [0, 0]", "toy.yml:10: run.axes.seed: two branches have one name; give each value once"),
        ("small: {network_g: {num_feat: 4}", "small: {network_g: {num_fea: 4}",
         "toy.yml:8: network_g.num_fea: MSRResNet takes no 'num_fea'; did you mean 'num_feat'?"),
        ("over: [net, seed]", "over: 3",
         "toy.yml:15: run.stages.tuned.over: expected names of axes; [axis, ...] or {axis: [label, ...]}"),
        ("over: [net, seed]", "over: [{net: small}]",
         "toy.yml:15: run.stages.tuned.over: expected names of axes; [axis, ...] or {axis: [label, ...]}"),
        ("over: [net, seed]", "over: {net: []}",
         "toy.yml:15: run.stages.tuned.over: no label of axis net is named; null stands for all"),
        ("seed: [0, 1]", "seed: [{train: {}}]", "toy.yml:10: run.axes.seed: values with entries of their own need "
         "labels; write seed: {LABEL: {manual_seed: ...}, ...}"),
        ("weights/large.pth", "$start", "toy.yml:14: run.stages.tuned: its $names stand for each other in a circle"),
        ("tasks: {run: {type: MakeTasks, num_tasks: 4}}", "tasks: {run: {type: Chain, stages: [a.yml]}}",
         "toy.yml:13: run.stages.tasks.run: a stage of a study runs no stages itself; "
         "refer to the other study, @study:stage"),
        ("tasks: {run:", "tasks: {name: other, run:",
         "toy.yml:13: run.stages.tasks.name: a stage is called as its entry; remove it"),
        ("$start}", "$stat}", "toy.yml:17: no axis gives '$stat'; did you mean 'start'?"),
        ("over: [net, seed]", "over: [net, sed]",
         "toy.yml:15: run.stages.tuned.over: there is no axis 'sed'; did you mean 'seed'?"),
        ("over: [net, seed]", "over: {net: [smal]}",
         "toy.yml:15: run.stages.tuned.over: axis net has no 'smal'; did you mean 'small'?"),
        ("    tasks: {run", "    pre-small: {}\n    tasks: {run",
         "toy.yml:13: run.stages.pre-small: this stage and pre would both lie in 'toy/pre-small'; "
         "give the stage or a label another name"),
        ("_base_: large.yml", "_base_: lage.yml", "toy.yml:9: _base_: no such option file 'lage.yml'"),
        ("num_tasks: 4", "num_task: 4",
         "toy.yml:13: run.num_task: MakeTasks takes no 'num_task'; did you mean 'num_tasks'?"),
        ("type: MakeTasks", "type: MakeTask", "toy.yml:13: run.stages.tasks.run: there is no stage 'MakeTask'; "
         "did you mean 'MakeTasks' or 'CompareOnTasks'?"),
        ("@pre[small]", "@net:pre",
         "toy.yml:8: there is no study 'net'; looked for net.yml, net/paper.yml, ../net.yml, ../net/paper.yml"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_with_their_place(folder, old, new, message):
    assert old in STUDY
    with pytest.raises(ConfigError) as caught:
        stages(STUDY.replace(old, new, 1))
    assert str(caught.value).splitlines()[0] == message


def test_labels_that_are_no_words(folder):
    axis = "datasets.train.dataset.use_hflip"
    text = STUDY.replace("seed: [0, 1]", f"{axis}: [true, false]").replace(
        "[net, seed]", f"{{net: [small], {axis}: [true]}}"
    )
    assert "toy/tuned-small-true" in stages(text, "run.only=[tuned]")
    equals = STUDY.replace("large: {", "'a=b': {").replace('"{net}": $start, "{net}-TG#{seed}"', "x")
    found = stages(equals.replace('x: "@tuned"', 'x: "@tuned[a=b,1]"'))["toy/tests"].run.kwargs["checkpoints"]
    assert str(found["x"]) == "experiments/toy/tuned-a_b-1/models/net_g_latest.pth"
    with pytest.raises(ConfigError, match="is too long for a folder"):
        stages(STUDY.replace("large: {", f"{'x' * 300}: {{"))


def test_a_misspelt_stage_on_the_command_line_is_no_new_one(folder):
    with pytest.raises(ConfigError, match=r"command line: run.stages.pree: the file has no stage 'pree'; did you mean"):
        stages(STUDY, "run.stages.pree.train.total_iter=2")


def test_an_only_that_nothing_matches(folder):
    with pytest.raises(ConfigError, match=r"run.only: there is no stage 'table9'"):
        stages(STUDY, "run.only=[table9]")
    with pytest.raises(ConfigError, match=r"run.only: stage 'tuned' has no branch 'hat'"):
        stages(STUDY, "run.only=['tuned[hat]']")
