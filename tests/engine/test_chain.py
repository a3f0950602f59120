"""Chains: what is wrong with any stage is told at once, with its place, before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import tgsr.methods  # noqa: F401 - registers the stages
from tests.engine.toy import make_images, toy_options, write_options
from tgsr.cli import main
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.engine.stages import Train
from tgsr.study.study import Stages
from tgsr.utils.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with images in `images/` and a training `toy.yml` in `my/`."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    (tmp_path / "my").mkdir()
    raw = toy_options(Path())
    raw["datasets"]["train"]["dataset"].update(dataroot_gt="images", gt_size=32)
    raw["datasets"]["val"]["toy"]["dataroot_gt"] = "images"
    (tmp_path / "my" / "toy.yml").write_text(yaml.safe_dump(raw))
    return tmp_path


def write_chain(*stages, name="chain"):
    """`my/chain.yml`, whose stages stand in line 5."""
    lines = [f"name: {name}", "scale: 4", "run:", "  type: Chain", "  stages:", *(f"  - {s!r}" for s in stages)]
    Path(f"my/{name}.yml").write_text("\n".join(lines) + "\n")
    return f"my/{name}.yml"


def load(*stages):
    options = load_options(write_chain(*stages))
    return make_runner(options, Context.create(device="cpu")).load()


def problems(*stages):
    """The lines of the error, without the chain's place."""
    with pytest.raises(ConfigError) as caught:
        load(*stages)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("my/chain.yml:5: run.stages[") for line in lines)
    return [line.removeprefix("my/chain.yml:5: run.stages") for line in lines]


def test_mistakes_of_all_stages_are_told_with_their_places(folder):
    (folder / "my" / "wrong.yml").write_text("name: wrong\nscale: 0\n")
    assert problems(
        "toy.yml train.totl_iter=3", "toy.yml name=good", "wrong.yml", "toy.yml total", "toy.yml name='a", " "
    ) == [
        "[0]: train.totl_iter: there is no option 'totl_iter' here; did you mean 'total_iter' or 'net_d_iters'?",
        "[2]: my/wrong.yml:2: scale: expected a whole number >= 1, got 0",
        "[3]: 'total' is not of the form key:sub=value; for example train:total_iter=1000",
        "[4]: 'toy.yml name='a': No closing quotation; quote values with spaces, 'key=a b'",
        "[5]: there is no option file here; give FILE.yml key=value ...",
    ]


def test_a_stage_may_not_write_over_another(folder):
    assert problems("toy.yml", "toy.yml manual_seed=1", "my/toy.yml name=other") == [
        "[1]: 'my/toy.yml' under the name 'toy' is a stage already (my/chain.yml:5: run.stages[0]); "
        "remove one, or add name=OTHER"
    ]
    assert problems("my/chain.yml") == ["[0]: a chain cannot be a stage of itself"]


def test_values_with_spaces(folder):
    first, second = load(
        'toy.yml "train.losses={pixel: {type: L1Loss, loss_weight: 2}}" name=a', "toy.yml 'train.optim_g.lr= 2e-3'"
    )
    assert first.train.losses["pixel"].kwargs == {"loss_weight": 2}
    assert second.train.optim_g.kwargs["lr"] == 2e-3


def test_stage_files_are_looked_up_in_the_working_folder_and_beside_the_chain(folder):
    assert [o.name for o in load("toy.yml")] == ["toy"]
    text = (folder / "my" / "toy.yml").read_text()
    (folder / "toy.yml").write_text(text.replace("name: toy", "name: here"))
    assert [o.name for o in load("toy.yml", "my/toy.yml", str(folder / "toy.yml") + " name=x")] == ["here", "toy", "x"]
    assert problems("sub/none.yml", "/none.yml") == [
        "[0]: no such option file: sub/none.yml or my/sub/none.yml",
        "[1]: no such option file: /none.yml",
    ]


def check(capsys, *stages):
    """Exit code and lines of `--check`, without the chain's place."""
    capsys.readouterr()
    code = main(["train", "-opt", write_chain(*stages), "--check"])
    captured = capsys.readouterr()
    lines = [x for x in captured.err.splitlines() if " INFO " not in x]
    assert captured.out == f"chain: {len(lines) or 'no'} problem{'' if len(lines) == 1 else 's'}\n"
    assert not Path("experiments").exists()
    return code, [line.removeprefix("my/chain.yml:5: run.stages") for line in lines]


def test_check_tells_what_no_earlier_stage_makes(folder, capsys, monkeypatch):
    monkeypatch.setattr(Train, "check", lambda self: pytest.fail("later stages are not built"))
    pack = {"name": "pack", "scale": 4, "run": {"type": "PackImages", "source": "images", "output": "packed/images"}}
    (folder / "my" / "pack.yml").write_text(yaml.safe_dump(pack))
    train = "toy.yml datasets.train.dataset.dataroot_gt=packed/images/a"
    tune = "toy.yml name=b path.pretrain_network_g=experiments/toy/models/net_g_latest.pth"
    made = "path.pretrain_network_g=experiments/b/x.pth datasets.val.toy.dataroot_gt=results/b/y"
    test = f"toy.yml name=c run=Test {made}"
    assert check(capsys, "pack.yml", train, tune, test) == (0, [])

    wrong = "no such file or folder; correct the path"
    other = "toy.yml name=d datasets.val.toy.dataroot_gt=gone"
    code, lines = check(capsys, "pack.yml run.source=away", train, test, tune, other)  # the test before its training
    assert code == 2
    assert lines == [
        f"[0]: run.source = away: {wrong}",
        f"[2]: datasets.val.toy.dataroot_gt = results/b/y: {wrong}",
        f"[2]: path.pretrain_network_g = experiments/b/x.pth: {wrong}",
        f"[4]: datasets.val.toy.dataroot_gt = gone: {wrong}",
    ]

    text = (folder / "my" / "toy.yml").read_text()
    (folder / "my" / "toy.yml").write_text(text.replace("dataroot_gt: images", "dataroot_gt: gone"))
    code, lines = check(capsys, "pack.yml", "toy.yml", "toy.yml name=b", "toy.yml name=c")
    assert code == 2
    assert [re.sub(r"yml:\d+", "yml:N", line) for line in lines] == [
        f"[1] and 2 more: my/toy.yml:N: datasets.train.dataset.dataroot_gt = gone: {wrong}",
        f"[1] and 2 more: my/toy.yml:N: datasets.val.toy.dataroot_gt = gone: {wrong}",
    ]


def test_check_of_a_chain_asks_its_first_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Train, "check", lambda self: ["asked"])
    write_options(tmp_path, toy_options(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    assert check(capsys, "toy.yml", "toy.yml name=b") == (2, ["asked"])


@pytest.mark.parametrize("name", ["rebalancing", "cria_cl", "grids", "tgsr"])
def test_the_mini_chains_need_nothing_but_bsds500(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    runner = make_runner(load_options(f"options/mini/{name}.yml"), Context.create(device="cpu"))
    assert isinstance(runner, Stages)
    for problem in runner.missing_files():
        assert re.search(r" = datasets/bsds500/(train|val|test): no such file or folder", str(problem))
