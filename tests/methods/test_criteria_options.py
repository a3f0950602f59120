"""Option files of Cria-CL: rows differ as Table V says, and what is wrong is refused by its place."""

from pathlib import Path

import pytest

from tgsr.config.options import load_options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.study.printed import printed
from tgsr.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ROWS = {  # row of Table V -> of the mini study, losses besides pixel, whether there are masks
    "Plain model": ("plain", [], False),
    "L_pixel + L_perc + L_adv": ("weighted_sum", ["perceptual"], False),
    "+ L_align": ("align", ["align", "perceptual"], False),
    "+ L_unif": ("unif", ["perceptual", "unif"], False),
    "+ L_align + L_unif": ("align_unif", ["align", "perceptual", "unif"], False),
    "Spatial view": ("spatial_view", ["perceptual"], True),
    "Full": ("full", ["align", "perceptual", "unif"], True),
}


def stages(file):
    study = make_runner(load_options(ROOT / "options" / file), Context.create(device="cpu", launcher="none"))
    options = study.stages
    return {branch.key: o for branch, o in zip(study.branches, options, strict=True)}


@pytest.fixture(scope="module", params=["cria_cl/table5.yml", "mini/cria_cl.yml"])
def table5(request):
    """Row -> options of its training."""
    found = {}
    for key, options in stages(request.param).items():
        labels = dict(key.labels)
        if key.stage == "rows" and labels.get("seed", "0") == "0":
            found[labels["row"]] = options
        if key.stage == "ours":
            found["Full"] = options
    return found


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_table_5_differ_as_stated(table5, row):
    mini, losses, has_masks = ROWS[row]
    options = table5.get(row) or table5[mini]
    assert sorted(options.train.losses) == sorted(["pixel", *losses])
    assert options.network_g.kwargs.get("spatial_view", True) == has_masks
    assert (options.model == "AdversarialModel") == (row != "Plain model")
    if row != "Plain model":
        assert options.train.gan.kwargs["loss_weight"] == 5e-3
        assert options.train.losses["pixel"].kwargs["loss_weight"] == 1e-2
        assert options.train.losses["perceptual"].kwargs["loss_weight"] == 1.0
    for name in set(losses) & {"align", "unif"}:
        assert options.train.losses[name].kwargs["loss_weight"] == 1e-2


def test_every_table_has_its_file_and_equal_trainings_are_one():
    whole = {k.name for k in stages("cria_cl/paper.yml")}
    for name in [*(f"table{i}" for i in range(1, 8)), "figure_masks"]:
        keys = stages(f"cria_cl/{name}.yml")
        assert name in {k.stage for k in keys}
        assert {k.name for k in keys} <= whole
    trainings = [n for n in whole if "/ours-" in n or "/rows-" in n]
    assert len(trainings) == 4 + 7 + 2  # data sets; rows of Table V without the full one; further anchors


def test_schedule_of_the_paper():
    options = {k.name: o for k, o in stages("cria_cl/table3.yml").items()}["cria_cl/ours-NTIRE2020"]
    assert options.train.total_iter == 1_000_000
    assert options.datasets.train.batch_size == 16
    lr_at = options.train.scheduler.build().lr_at
    assert [lr_at(i, 1e-4) for i in (0, 199_999, 200_000, 999_999)] == pytest.approx([1e-4, 1e-4, 5e-5, 6.25e-6])
    assert tuple(options.train.optim_g.kwargs["betas"]) == (0.9, 0.999)
    assert options.degradation.space.kwargs["noise"] == Path("experiments/cria_cl/noise/noise.npy")


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
    text = (ROOT / "options/cria_cl/paper.yml").read_text()
    text = text[: text.index("\nrun:")]
    assert old in text
    file = tmp_path / "wrong.yml"
    file.write_text(text.replace(old, new, 1))
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
    assert "n/a (paper 26.21)" in paper.table(5).beside({}).to_markdown()
