"""The examples in the documentation run."""

import re
from pathlib import Path

import pytest
import torch

from tgsr.config.options import load_options, missing_files
from tgsr.degradations.classical import BicubicSpace
from tgsr.tasks.samplers import Feedback
from tgsr.tasks.task import Task, TaskSet

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.DOTALL)


def test_extending_examples_work_together():
    names: dict = {"__name__": "examples"}
    for block in BLOCKS:
        exec(block, names)  # noqa: S102
    assert names["TinySR"](num_feat=4)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    same = torch.rand(2, 3, 4, 4)
    assert names["LogCoshLoss"]().compare(same, same).tolist() == [0, 0]
    assert names["MAE"]()(torch.ones(3, 2, 2), torch.zeros(3, 2, 2)) == pytest.approx(255)

    tasks = TaskSet([Task(name, BicubicSpace()) for name in ("often", "seldom", "never")])
    sampler = names["HardFirst"](tasks, seed=0)
    sampler.update(Feedback(iteration=1000, losses={"often": 1.0, "seldom": 3.0}))
    assert sampler.weights.tolist() == pytest.approx([1 / 7, 3 / 7, 3 / 7])
    resumed = names["HardFirst"](tasks, seed=0)
    resumed.load_state_dict(sampler.state_dict())
    assert resumed.weights.tolist() == sampler.weights.tolist()
    resumed.update(Feedback(iteration=2000, losses={"often": 2.0}))  # no sample of the others: their losses stay
    assert resumed.weights.tolist() == pytest.approx([2 / 8, 3 / 8, 3 / 8])


def test_the_recipe_is_an_option_file_that_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # weights and photos of one's own are not these
    (text,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "recipe.md").read_text(), re.DOTALL)
    file = tmp_path / "photos.yml"
    file.write_text(text.replace("[options/", f"[{DOCS.parent}/options/"))
    options = load_options(file)
    assert list(options.datasets.val) == ["photos"]
    assert options.train.optim_g.kwargs["lr"] == options.train.optim_d.kwargs["lr"] == 5e-5
    space = options.degradation.space.build()
    assert space.pipeline.scale == 4
    missing = {problem.place.rsplit(" = ")[-1] for problem in missing_files(options)}
    assert missing == {
        "photos/train", "photos/val", "weights/RealESRGAN_x4plus.pth", "weights/RealESRGAN_x4plus_netD.pth"
    }  # fmt: skip


def test_links_lead_somewhere():
    root = DOCS.parent
    broken = []
    for page in [root / "README.md", *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(root)} -> {target}")
    assert not broken, broken
