"""The stage of strips: which images, which rows, on any number of ranks."""

import json

import pytest
import torch

from tests.engine.toy import make_images, toy_options, write_options
from tests.ranks import in_threads
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner, run_stage
from tgsr.study.strips import draw
from tgsr.utils.errors import ConfigError
from tgsr.utils.image_io import list_images, read_image, save_image, to_tensor


@pytest.fixture
def options(tmp_path):
    make_images(tmp_path / "gt")
    make_images(tmp_path / "val", num=3, seed=1)
    for path in list_images(tmp_path / "val"):
        save_image(tmp_path / "restored" / "toy" / path.name, to_tensor(read_image(path)) * 0.5)

    def make(**run):
        rows = {
            "elsewhere": {"images": str(tmp_path / "restored")},
            "absent": str(tmp_path / "no.pth"),
            "bicubic": "bicubic",
        }
        raw = toy_options(tmp_path, name="strips", run={"type": "Strips", "rows": rows, **run})
        return load_options(write_options(tmp_path, raw))

    return make


def test_strips_of_rows_that_are_there(options, tmp_path):
    names = sorted(p.stem for p in list_images(tmp_path / "val"))
    assert run_stage(options(images={"toy": [names[2]]}, crop_size=16), Context.create(device="cpu"))
    found = json.loads((tmp_path / "results/strips/strips.json").read_text())
    assert found["not_shown"] == ["absent"]
    assert [(s["set"], s["image"], s["rows"]) for s in found["strips"]] == [("toy", names[2], ["bicubic", "elsewhere"])]
    assert (tmp_path / "results/strips" / found["strips"][0]["file"]).stat().st_size > 1000
    assert "absent" in (tmp_path / "results/strips/report/index.html").read_text()
    with pytest.raises(ConfigError, match="run.images.toy: the set has no image 'nobody'"):
        make_runner(options(images={"toy": ["nobody"]}), Context.create(device="cpu")).work()


def test_ranks_share_the_images(options, tmp_path):
    def work(context):
        make_runner(options(num_images=3), context).work()

    in_threads(2, work)
    found = json.loads((tmp_path / "results/strips/strips.json").read_text())["strips"]
    assert [s["image"] for s in found] == sorted(p.stem for p in list_images(tmp_path / "val"))
    assert all((tmp_path / "results/strips" / s["file"]).is_file() for s in found)


def test_the_enlarged_part_is_where_the_last_row_differs(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "tgsr.study.strips.make_strip", lambda panels, crop: seen.update(panels=panels, crop=crop) or b""
    )
    one, two, ours = (torch.zeros(3, 32, 48) for _ in range(3))
    ours[:, 8:16, 24:32] = 1.0
    draw(torch.zeros(3, 8, 12), {"one": one, "two": two, "ours": ours}, torch.ones(3, 32, 48), 8)
    assert seen["crop"] == (8, 24, 8)
    assert [p.label for p in seen["panels"]] == ["LQ", "one", "two", "ours", "GT"]
    assert [p.note for p in seen["panels"]][1] == "1.32 dB"  # white is 235 of BT.601, black 16
