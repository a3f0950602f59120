"""Option files of Cria-CL: all load, rows differ as Table V says, and what is wrong is refused by its place."""

from pathlib import Path

import pytest

import tgsr.methods  # noqa: F401 - registers networks, losses and stages
from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.study.paper import beside_results
from tgsr.study.printed import printed
from tgsr.study.study import Chain
from tgsr.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "options" / "cria_cl").glob("*.yml"), *(ROOT / "options" / "mini").glob("cria*.yml")])
ROWS = {  # losses besides pixel, and whether there are masks
    "plain": ([], False),
    "weighted_sum": (["perceptual"], False),
    "align": (["align", "perceptual"], False),
    "unif": (["perceptual", "unif"], False),
    "align_unif": (["align", "perceptual", "unif"], False),
    "spatial_view": (["perceptual"], True),
    "full": (["align", "perceptual", "unif"], True),
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_option_files_load(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = load_options(path)
    runner = make_runner(options, Context.create(device="cpu")) if options.run is not None else None
    if isinstance(runner, Chain):
        names = [o.name for o in runner.load()]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("folder", ["cria_cl", "mini"])
@pytest.mark.parametrize("row", ROWS)
def test_rows_of_table_5_differ_as_stated(folder, row, monkeypatch):
    monkeypatch.chdir(ROOT)
    stem = f"table5_{list(ROWS).index(row) + 1}_{row}" if folder == "cria_cl" else f"cria_3_{row}"
    path = ROOT / "options" / folder / f"{stem}.yml"
    options = load_options(path)
    losses, has_masks = ROWS[row]
    assert sorted(options.train.losses) == sorted(["pixel", *losses])
    assert options.network_g.kwargs.get("spatial_view", True) == has_masks
    assert (options.model == "AdversarialModel") == (row != "plain")
    assert len([line for line in path.read_text().splitlines() if not line.startswith("#")]) <= 12
    if row != "plain":
        assert options.train.gan.kwargs["loss_weight"] == 5e-3
        assert options.train.losses["pixel"].kwargs["loss_weight"] == 1e-2
        assert options.train.losses["perceptual"].kwargs["loss_weight"] == 1.0
    for name in set(losses) & {"align", "unif"}:
        assert options.train.losses[name].kwargs["loss_weight"] == 1e-2


def test_schedule_of_the_paper(monkeypatch):
    monkeypatch.chdir(ROOT)
    options = load_options("options/cria_cl/table5_7_full.yml")
    assert options.train.total_iter == 1_000_000
    assert options.datasets.train.batch_size_per_gpu == 16
    lr_at = options.train.scheduler.build().lr_at
    assert [lr_at(i, 1e-4) for i in (0, 199_999, 200_000, 999_999)] == pytest.approx([1e-4, 1e-4, 5e-5, 6.25e-6])
    assert tuple(options.train.optim_g.kwargs["betas"]) == (0.9, 0.999)


def test_mini_chain_makes_what_it_reports(monkeypatch):
    monkeypatch.chdir(ROOT)
    stages = make_runner(load_options("options/mini/cria.yml"), Context.create(device="cpu")).load()
    made = {o.name for o in stages}
    report = make_runner(stages[-1], Context.create(device="cpu"))
    for paths in report.rows.values():
        assert {p.parts[1] for p in paths} <= made
    for paths in report.masks.values():
        assert {p.parts[1] for p in paths} <= made
    seen = set()
    for options in stages:
        weights = options.path.pretrain_network_g
        assert weights is None or weights.parts[1] in seen | {"cria_mini_pretrain"}
        seen.add(options.name)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("anchor: pixel, positives: [ssim", "anchor: pixl, positives: [ssim", "there is no criterion 'pixl'.*pixel"),
        ("positives: [ssim", "positives: [sim", "there is no criterion 'sim'"),
        ("eta: 2", "eta: 0", "eta: expected a number >= 1"),
        ("t: 2", "temperature: 2", "UniformityLoss takes no 'temperature'"),
    ],
)
def test_wrong_options_are_refused_by_their_place(old, new, problem, tmp_path):
    text = (ROOT / "options/cria_cl/_base_/cria_cl.yml").read_text()
    assert old in text
    file = tmp_path / "wrong.yml"
    file.write_text("name: wrong\n" + text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=r"wrong\.yml:\d+.*" + problem):
        load_options(file)


def test_tables_hold_the_papers_values():
    paper = printed("cria_cl")
    full = paper.table(5).rows["Full"]
    assert paper.table(3).rows["Ours"] == full
    assert paper.table(6).rows["C_pix"]["NTIRE2020/psnr"] == full["NTIRE2020/psnr"]
    rows = paper.table(2).rows
    gain = rows["Ours"]["RealSR/psnr"] - rows["Real-ESRGAN"]["RealSR/psnr"]
    assert gain == pytest.approx(1.38)  # as its text says
    markdown = beside_results(paper.table(5), {}).to_markdown()
    assert "n/a (paper 26.21)" in markdown
    with pytest.raises(ConfigError, match="no row 'Ful'.*Full"):
        beside_results(paper.table(5), {"Ful": []})
