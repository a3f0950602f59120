"""Figures and strips: data in the figure, sizes in pixels, the place of the crop."""

import struct

import cv2
import numpy as np
import pytest
import torch

from tgsr.report import plots, strips
from tgsr.report.artefacts import RunLog
from tgsr.report.tables import Number
from tgsr.utils.image_io import decode_image, save_image

PNG = b"\x89PNG\r\n\x1a\n"


def png_size(png: bytes) -> tuple[int, int]:
    assert png[:8] == PNG
    return struct.unpack(">II", png[16:24])


def lines(figure) -> dict:
    return {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}


def test_curves_hold_the_series_and_the_reference():
    figure = plots.curves({"a": ([1, 2], [3.0, 4.0])}, reference={"bicubic": 2.0}, is_log=True)
    assert lines(figure)["a"].get_ydata().tolist() == [3.0, 4.0]
    assert lines(figure)["bicubic"].get_ydata() == [2.0, 2.0]
    assert figure.axes[0].get_yscale() == "log"
    assert plots.curves({"a": ([1, 2], [0.0, 4.0])}, is_log=True).axes[0].get_yscale() == "linear"
    assert 'viewBox="0 0 460.8 244.8"' in plots.figure_svg(figure)


def test_svg_is_deterministic_and_global_state_untouched():
    import matplotlib

    before = matplotlib.rcParams["axes.spines.top"]
    first, second = (plots.figure_svg(plots.histogram(np.arange(50.0)), "a") for _ in range(2))
    assert first == second
    assert matplotlib.rcParams["axes.spines.top"] == before


def test_many_curves_become_a_band_with_extremes():
    series = {f"t{i}": ([0, 1], [float(i), float(i)]) for i in range(12)}
    shown = lines(plots.curves(series))
    assert set(shown) == {"mean", "t0", "t11"}
    assert shown["mean"].get_ydata().tolist() == [5.5, 5.5]


def test_histogram_ignores_what_is_not_finite_and_states_shares():
    figure = plots.histogram([0.0, 1.0, 2.0, 3.0, np.nan], thresholds={"t": 2.0})
    assert "n = 4" in figure.axes[0].get_ylabel()
    assert "t = 2 (50% ≥)" in lines(figure)
    assert plots.figure_svg(plots.histogram([])).startswith("<svg")


def test_heat_map_writes_values_and_checks_labels():
    figure = plots.heat_map(np.array([[1.0, -1.0], [np.nan, 0.5]]), row_labels=["a", "b"], centre=0.0)
    assert sorted(t.get_text() for t in figure.axes[0].texts) == ["-1.00", "0.50", "1.00"]
    image = figure.axes[0].get_images()[0]
    assert image.get_clim() == (-1.0, 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        plots.heat_map(np.zeros((2, 3)), row_labels=["a", "b"])


def test_weights_over_time_are_steps_or_a_heat_map():
    figure = plots.weights_over_time([0, 10], np.array([[0.5, 0.5], [0.9, 0.1]]), ["a", "b"])
    assert lines(figure)["a"].get_drawstyle() == "steps-post"
    many = plots.weights_over_time([0, 10], np.full((2, 10), 0.1), [f"t{i}" for i in range(10)])
    assert many.axes[0].get_images()[0].get_array().shape == (10, 2)
    with pytest.raises(ValueError, match="do not fit"):
        plots.weights_over_time([0], np.ones((2, 2)), ["a", "b"])


def test_grouped_bars_have_gaps_errors_and_paper_marks():
    series = {"a": [Number(1.0, 0.1, 3, paper=1.2), None], "b": [2.0, 3.0]}
    axes = plots.grouped_bars(["g", "h"], series).axes[0]
    heights = [p.get_height() for p in axes.patches]
    assert heights[0] == 1.0
    assert np.isnan(heights[1])
    assert heights[2:] == [2.0, 3.0]
    assert [c.get_label() for c in axes.collections].count("paper") == 1
    with pytest.raises(ValueError, match="1 values for 2 groups"):
        plots.grouped_bars(["g", "h"], {"a": [1.0]})


def test_spearman():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.normal(size=30)
    assert plots.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert plots.spearman([1, 2, 3, np.nan], [3, 5, 9, 0]) == pytest.approx(1.0)
    assert np.isnan(plots.spearman([1, 1, 1], [1, 2, 3]))
    assert "ρ = 1.00, n = 3" in plots.scatter([1, 2, 3], [1, 4, 9], title="T").axes[0].get_title(loc="left")


def test_plots_of_an_empty_log_are_absent():
    log = RunLog()
    assert plots.plot_losses(log) is None
    assert plots.plot_learning_rate(log) is None
    assert plots.plot_task_losses(log) is None
    assert plots.plot_speed(log) is None
    assert plots.plot_metrics(log) == {}


def test_crop_finds_the_difference_and_starts_on_lq_pixels():
    ours, base = torch.zeros(3, 64, 80), torch.zeros(3, 64, 80)
    ours[:, 30:40, 50:60] = 1.0
    top, left = strips.choose_crop(ours, base, size=16)
    assert top <= 30
    assert top + 16 >= 40
    assert left <= 50
    assert left + 16 >= 60
    top, left = strips.choose_crop(ours, base, size=16, multiple=4)
    assert (top % 4, left % 4) == (0, 0)
    assert strips.choose_crop(base, base, size=16) == (0, 0)
    assert strips.choose_crop(ours, base, size=64) == (0, 0)  # all windows of full height; the first that holds all
    with pytest.raises(ValueError, match="cannot be compared"):
        strips.choose_crop(ours, base[:, :32], size=16)


def test_strip_has_exact_size_and_shows_the_crop_pixel_by_pixel():
    gt = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    lq = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))
    png = strips.make_strip([strips.Panel("LQ", lq), strips.Panel("GT", gt, "note")], crop=(8, 12, 32), panel_width=96)
    width, height = png_size(png)
    view = 64
    assert width == 2 * (96 + strips.GAP) + strips.GAP
    assert height == 3 * strips.GAP + strips.LABEL_HEIGHT + view + 96 + strips.NOTE_HEIGHT
    pixels = decode_image(png, place="strip")[0]
    y, x = 2 * strips.GAP + strips.LABEL_HEIGHT + view, strips.GAP
    expected_lq = cv2.resize((lq[:, 2:10, 3:11].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8), (96, 96),
                             interpolation=cv2.INTER_NEAREST)  # fmt: skip
    np.testing.assert_array_equal(pixels[y : y + 96, x : x + 96], expected_lq)
    x += 96 + strips.GAP
    expected_gt = (gt[:, 8:40, 12:44].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(pixels[y : y + 96, x : x + 96][1::3, 1::3], expected_gt)


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (20, 20)])
def test_strip_of_any_shape_fits(shape):
    panel = strips.Panel("ours", torch.rand(3, *shape))
    png = strips.make_strip([panel], crop=(0, 0, min(64, *shape)), panel_width=100)
    assert png_size(png)[0] == 100 + 2 * strips.GAP


def test_strip_of_leaves_out_what_is_absent(tmp_path):
    files = {}
    for kind, size in {"lq": 16, "sr": 64, "bicubic": 64}.items():
        save_image(tmp_path / f"{kind}.png", torch.rand(3, size, size))
        files[kind] = f"{kind}.png"
    width = 64 + strips.GAP
    whole = strips.strip_of({"name": "a", "files": {**files, "gt": "no.png"}}, tmp_path, panel_width=64)
    assert png_size(whole)[0] == 3 * width + strips.GAP
    only = strips.strip_of({"name": "a", "files": {"sr": "sr.png"}}, tmp_path, panel_width=64)
    assert png_size(only)[0] == width + strips.GAP
    assert strips.strip_of({"name": "a", "files": {"lq": "lq.png"}}, tmp_path) is None
    assert strips.strip_of({"name": "a"}, tmp_path) is None


def test_chosen_images_span_the_gains_from_best_to_worst():
    images = [
        {"name": str(g), "metrics": {"p": 20.0 + g}, "baselines": {"b": {"p": 20.0}}, "files": {"sr": "x"}}
        for g in (3, 0, 5, 1, 4, 2, 6)
    ]
    names = [i["name"] for i in strips.choose_images(images, metric="p", baseline="b", num=3)]
    assert names == ["6", "3", "0"]
    lower = strips.choose_images(images, metric="p", baseline="b", num=3, is_higher_better=False)
    assert [i["name"] for i in lower] == ["0", "3", "6"]
    assert [i["name"] for i in strips.choose_images(images, metric="q", baseline="b", num=2)] == ["3", "0"]
    assert strips.choose_images([{"name": "a", "files": {}}], metric=None, baseline=None) == []
