"""The printed values: every digit, the layout of a table beside measured ones, and files that are wrong."""

import math

import pytest

from tgsr.report.tables import Number
from tgsr.study.printed import find_table, printed
from tgsr.tasks.artefacts import json_digest
from tgsr.utils.errors import ConfigError, DataError

PAPERS = {  # digest of all values as they stood in Python modules and were compared with the papers' text, their number
    "tgsr": ("baea18d2d464", 677),
    "rebalancing": ("1462237438dc", 308),
    "grids": ("23d0b4d42d9c", 177),
    "cria_cl": ("7898500fa45e", 106),
}


@pytest.mark.parametrize("name", PAPERS)
def test_no_digit_changes(name):
    paper = printed(name)
    values = {"tables": {k: t.rows for k, t in paper.tables.items()}, "stated": paper.stated}
    num = sum(len(row) for t in paper.tables.values() for row in t.rows.values())
    assert (json_digest(values), num) == PAPERS[name]


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [
        ("tgsr/1", "RealHAT-TG", "Group4/lpips", 0.3674),
        ("tgsr/5", "RealESRGAN-TG_10k", "Group4_10k/psnr", 24.93),
        ("tgsr/6", "Deg.5", "loop 3", 0.72),
        ("tgsr/7", "RealESRGAN-TG", "Group9/lpips", 0.4209),
        ("rebalancing/2", "Ours", "DRealSR/ssim", 0.8393),
        ("rebalancing/5", "re-weighting, 4 tasks", "RealSRset-Canon/lpips", 0.3597),
        ("grids/1", "Restormer grouped", "DIV2K-Valid/salt_pepper/psnr", 46.57),
        ("grids/2b", "6 far: gaussian_blur, ringing, defocus", "distance", 4.42),
        ("cria_cl/1", "Ours", "RealSR-Zero/mos", 3.05),
        ("cria_cl/7", "Ours", "parameters", 14.8),
    ],
)
def test_values_read_off_the_pages(table, row, column, value):
    assert find_table(table).rows[row][column] == value


def test_what_the_papers_do_not_print_is_left_out():
    assert set(find_table("cria_cl/2").rows["ADL"]) == {"RealSR/psnr"}
    assert set(find_table("tgsr/6").rows["Deg.2"]) == {"loop 1"}


def test_numbers_of_the_text_follow_from_the_tables():
    rows, stated = find_table("grids/1").rows, printed("grids").stated
    for net in ("SRResNet", "Restormer"):
        drops = [a - b for a, b in zip(rows[f"{net} single"].values(), rows[f"{net} mixed"].values(), strict=True)]
        said = stated["table_1"][f"{net} mixed under single"]
        assert max(drops) == pytest.approx(said["largest"], abs=0.0051)
        assert sum(drops) / len(drops) == pytest.approx(said["mean"], abs=0.0101)
    for model in stated["mix_models"]:
        assert len(model["group"]) == len(model["mixed"])


def test_measured_values_stand_beside():
    table = find_table("rebalancing/4")
    ours = {"RealSRset-Nikon/psnr": Number(26.5, 0.1, 3), "RealSRset-Nikon/ssim": Number(0.7)}
    page = table.beside({"Ours": ours, "bicubic": {"RealSRset-Nikon/psnr": Number(25.0)}}, caption="Y, crop 4.")
    assert [r.label for r in page.rows] == ["RLW", "DWA", "GLS", "Ours", "bicubic"]
    assert [c.name for c in page.columns][-1] == "RealSRset-Nikon/ssim"  # not in the paper, so behind its columns
    assert page.cell("Ours", "RealSRset-Nikon/psnr") == Number(26.5, 0.1, 3, 26.16)
    assert math.isnan(page.cell("RLW", "RealSRset-Nikon/psnr").value)
    assert page.cell("bicubic", "RealSRset-Canon/psnr") is None
    assert "26.50 ± 0.10** (paper 26.16)" in page.to_markdown()


def test_a_paper_of_ones_own(tmp_path):
    file = tmp_path / "printed.yml"
    head = "tables:\n  '1':\n    title: T\n    sets: [a, b]\n    metrics: [psnr]\n"
    file.write_text(head + "    rows:\n      x: [1.5, null]\n")
    assert printed(str(file)).table(1).rows == {"x": {"a/psnr": 1.5}}
    assert find_table(f"{tmp_path}/1").columns == ["a/psnr", "b/psnr"]
    other = tmp_path / "wrong.yml"
    other.write_text(file.read_text().replace("[1.5, null]", "[1.5]"))
    with pytest.raises(DataError, match=r"wrong.yml:7: tables.1.rows.x: 1 values for 2 columns"):
        printed(str(other))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tgsr/9", "'tgsr' prints no table 9; there are 1, 2"),
        ("tgrs/1", "no printed values of a paper 'tgrs'.*'tgsr'"),
        ("tgsr", "names no table.*NAME/NUMBER"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ConfigError, match=message):
        find_table(name)
