"""Tables over many tasks, by hand."""

import pytest

from tgsr.study.compare import summary_table, with_summary
from tgsr.study.measurements import Measurement, Measurements

VALUES = {
    "uniform#0": {"a": 0.4, "b": 0.3}, "uniform#1": {"a": 0.5, "b": 0.3}, "ours#0": {"a": 0.2, "b": 0.25},
    "ours#1": {"a": 0.2, "b": 0.35}, "bicubic": {"a": 0.9, "b": 0.9}, "own": {"a": 0.1, "b": 0.25}, "part": {"a": 0.0},
}  # fmt: skip


def measured(*, higher):
    records = [
        Measurement(*label.partition("#")[::2], "test", task, "lpips", value, 2)
        for label, values in VALUES.items()
        for task, value in values.items()
    ]
    return Measurements(records=records, metrics={"lpips": {"protocol": "", "higher_is_better": higher}})


def test_worst_and_lag_follow_the_metrics_direction():
    single = VALUES["own"]
    low = with_summary(VALUES["ours#0"], single, higher_is_better=False)
    assert (low["worst"], low["lag"]) == (0.25, pytest.approx(0.1))
    high = with_summary(VALUES["ours#0"], single)
    assert (high["worst"], high["lag"]) == (0.2, pytest.approx(0.0))
    assert "lag" not in with_summary(VALUES["ours#0"])


def test_table_of_values():
    table = summary_table(measured(higher=False), "lpips", own="own")
    assert [c.name for c in table.columns] == ["a", "b", "mean", "worst", "lag"]
    assert [c.higher_is_better for c in table.columns] == [False] * 5
    assert [r.label for r in table.rows] == ["uniform", "ours", "bicubic", "own"], "one that lacks a task is left out"
    cell = table.cell("ours", "worst")
    assert (cell.value, cell.spread, cell.num_runs) == (pytest.approx(0.3), pytest.approx(0.0707107), 2)
    assert table.cell("own", "lag").value == 0


def test_differences_are_of_equal_seeds():
    table = summary_table(measured(higher=False), "lpips", own="own", baseline="uniform")
    assert [r.label for r in table.rows] == ["ours"], "bicubic has no seed, the own networks are a bound"
    assert table.cell("ours", "a").value == pytest.approx((-0.2 - 0.3) / 2)
    assert table.cell("ours", "worst").value == pytest.approx((0.25 - 0.4 + 0.35 - 0.5) / 2)
    up = summary_table(measured(higher=True), "lpips", baseline="bicubic")
    assert up.cell("ours", "mean").value == pytest.approx((0.225 + 0.275) / 2 - 0.9)
    assert up.columns[0].higher_is_better
