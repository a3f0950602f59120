"""Option files of TGSR: all load, every fine-tuning has a start, stages read what other stages write."""

from pathlib import Path

import pytest

import tgsr.methods  # noqa: F401 - registers the stages
from tgsr.config.options import input_paths, load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.study.study import Chain

ROOT = Path(__file__).resolve().parents[2]
FULL = sorted((ROOT / "options" / "tgsr").glob("*.yml"))
FILES = [*FULL, *sorted((ROOT / "options" / "mini").glob("tgsr*.yml"))]
SHARED = {"base", "stage_pixel", "stage_adversarial"}
STAGES = {"IndicatorSweep", "SingleTaskGains", "GroupTasks"}
"""Stages that fine-tune."""


def stem(path):
    return f"{path.parent.name}/{path.stem}"


def fine_tunes(options):
    if options.run is not None:
        return options.run.type in STAGES and options.run.kwargs.get("random_like") is None
    return options.train is not None and (options.tasks.set is not None or options.name.endswith("_whole"))


@pytest.mark.parametrize("path", FILES, ids=stem)
def test_option_files_bind_and_fine_tuning_has_a_start(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = load_options(path)
    stages = [options]
    if options.run is not None:
        runner = make_runner(options, Context.create(device="cpu"))
        stages = runner.load() if isinstance(runner, Chain) else stages
        for stage in stages if isinstance(runner, Chain) else []:
            make_runner(stage, Context.create(device="cpu"))
        names = [stage.name for stage in stages]
        assert len(set(names)) == len(names)
    for stage in stages:
        if fine_tunes(stage):
            assert stage.path.pretrain_network_g is not None, stage.name


def test_full_scale_stages_read_what_others_write(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = {load_options(path).name for path in FULL if path.stem not in SHARED}
    elsewhere = {"realhat_mse", "realsrresnet", "realsrgan"}  # trained as baselines
    made |= elsewhere | {f"tgsr_train_esrgan_sg{k}" for k in (2, 3, 4)}  # the header of 5_train_esrgan_group.yml
    for path in FULL:
        for _, file in input_paths(load_options(path)):
            if file.parts[0] == "experiments":
                assert file.parts[1] in made, f"{path.name}: {file}"


def test_the_papers_indicators_are_grouped(monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep, groups = (load_options(f"options/tgsr/{n}.yml") for n in ("2_indicators_paper", "3_groups_paper"))
    assert groups.run.kwargs["indicators"] == Path("experiments") / sweep.name / "indicators.jsonl"
    assert groups.path.pretrain_network_g == sweep.path.pretrain_network_g
    assert sweep.run.kwargs["mode"] == "paper"
