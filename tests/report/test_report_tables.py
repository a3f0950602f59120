"""Tables, aggregation over seeds and comparison with the paper: values, bold, signs, formats."""

import csv
import io
import math
import statistics

import pytest

from tgsr.report.expectations import Expectation, comparison_table, parse_expectations, summary
from tgsr.report.tables import Column, Number, Row, Table, aggregate, difference_row, format_value
from tgsr.utils.errors import ConfigError

PSNR = Column("Set5/psnr_y", "psnr_y", "Set5", True)
LPIPS = Column("Set5/lpips", "lpips", "Set5", False)


def make_table() -> Table:
    rows = [
        Row("bicubic", {PSNR.name: Number(26.7), LPIPS.name: Number(0.41)}),
        Row("a|b", {PSNR.name: Number(28.314, 0.02, 3, paper=28.4), LPIPS.name: Number(0.2)}),
        Row("ours", {PSNR.name: Number(28.309), LPIPS.name: Number(0.3)}),
        Row("bound", {PSNR.name: Number(40.0), LPIPS.name: Number(0.0)}, is_ranked=False),
    ]
    return Table([PSNR, LPIPS], rows, caption="psnr_y: Y, crop 4 <8-bit>")


def test_best_is_by_direction_and_by_what_is_printed():
    table = make_table()
    assert table.best(PSNR) == {"a|b", "ours"}  # 28.31 both; the unranked bound is left out
    assert table.best(LPIPS) == {"a|b"}
    assert table.best(Column("Set5/psnr_y", "psnr_y", "Set5", None)) == frozenset()


def test_nan_and_single_rows_are_never_best():
    column = Column("m", higher_is_better=True)
    assert (
        Table([column], [Row("a", {"m": Number(math.nan)}), Row("b", {"m": Number(1.0)})]).best(column) == frozenset()
    )
    infinite = Table([column], [Row("a", {"m": Number(math.inf)}), Row("b", {"m": Number(1.0)})])
    assert infinite.best(column) == {"a"}
    assert "∞" in infinite.to_markdown()


def test_markdown_has_bold_spread_paper_and_caption():
    lines = make_table().to_markdown().splitlines()
    assert lines[0] == "| Method | Set5 psnr_y ↑ | Set5 lpips ↓ |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert lines[3] == "| a\\|b | **28.31 ± 0.02** (paper 28.40) | **0.2000** |"
    assert lines[-1] == "psnr_y: Y, crop 4 <8-bit>"


def test_csv_keeps_full_precision_and_adds_columns_only_where_needed():
    rows = list(csv.reader(io.StringIO(make_table().to_csv())))
    assert rows[0] == ["Method", PSNR.name, f"{PSNR.name} std", f"{PSNR.name} runs", f"{PSNR.name} paper", LPIPS.name]
    assert rows[2] == ["a|b", "28.314", "0.02", "3", "28.4", "0.2"]
    assert rows[1] == ["bicubic", "26.7", "", "1", "", "0.41"]


def test_html_escapes_and_marks_the_best():
    text = make_table().to_html()
    assert "<caption>psnr_y: Y, crop 4 &lt;8-bit&gt;</caption>" in text
    assert "<strong>28.31 ± 0.02</strong>" in text
    assert "<strong>40.00" not in text
    assert '<th scope="colgroup" colspan=2>Set5</th>' in text
    assert text.count("<tr") == 2 + 4
    hostile = Table([Column("<b>")], [Row("<script>", {"<b>": "<i>"})]).to_html()
    assert "<script>" not in hostile
    assert "<i>" not in hostile


def test_missing_cells_and_words():
    table = Table([Column("a"), Column("b")], [Row("r", {"a": "yes"})])
    assert "| r | yes | – |" in table.to_markdown()
    assert table.to_csv().splitlines()[1] == "r,yes,"


def test_stray_cells_are_refused():
    with pytest.raises(AssertionError, match="no column"):
        Table([Column("a")], [Row("r", {"b": "x"})])


def test_aggregate_is_mean_and_sample_deviation():
    values = [28.1, 28.4, 28.2]
    number = aggregate(values, paper=28.5)
    assert number.value == pytest.approx(statistics.mean(values))
    assert number.spread == pytest.approx(statistics.stdev(values))
    assert (number.num_runs, number.paper) == (3, 28.5)
    assert aggregate([1.0]).spread is None
    with pytest.raises(ValueError, match="at least one"):
        aggregate([])


def test_difference_row_is_signed_and_unranked():
    ours, other = Row("o", {"p": Number(27.0, 0.1, 3), "q": Number(1.0)}), Row("b", {"p": Number(27.4)})
    row = difference_row("difference", ours, other)
    assert set(row.cells) == {"p"}
    assert not row.is_ranked
    assert "| difference | −0.40 | – |" in Table([Column("p", digits=2), Column("q")], [ours, row]).to_markdown()


@pytest.mark.parametrize(
    ("value", "is_signed", "text"),
    [
        (-0.001, False, "0.00"),
        (0.126, True, "+0.13"),
        (-1.5, True, "−1.50"),
        (math.nan, True, "n/a"),
        (0.0, True, "0.00"),
    ],
)
def test_format_value(value, is_signed, text):
    assert format_value(value, 2, is_signed=is_signed) == text


@pytest.mark.parametrize(
    ("claim", "value", "status"),
    [
        (Expectation("x", 28.4, 0.1), 28.31, "reproduced"),
        (Expectation("x", 28.4, 0.1), 28.5, "reproduced"),
        (Expectation("x", 28.4, 0.1), 28.29, "differs"),
        (Expectation("x", 0.3, 0.0, kind="at_least"), 0.31, "reproduced"),
        (Expectation("x", 0.3, 0.0, kind="at_least"), 0.29, "differs"),
        (Expectation("x", 0.3, 0.1, kind="at_most"), 0.35, "reproduced"),
        (Expectation("x", 0.3, 0.1, kind="at_most"), 0.5, "differs"),
        (Expectation("x", 0.3), None, "not run"),
        (Expectation("x", 0.3), math.nan, "not run"),
    ],
)
def test_expectation_status(claim, value, status):
    assert claim.status(None if value is None else Number(value)) == status


def test_comparison_table_and_summary():
    claims = [
        Expectation("a", 1.0, 0.1, source="Table 2"),
        Expectation("b", 2.0),
        Expectation("c", 3.0, kind="at_least"),
    ]
    table = comparison_table(claims, {"a": Number(1.05, 0.01, 3), "b": 2.5})
    assert [table.cell(r, "status") for r in "abc"] == ["reproduced", "differs", "not run"]
    assert table.cell("a", "ours") == "1.05 ± 0.01"
    assert table.cell("b", "difference") == "+0.50"
    assert table.cell("c", "ours") is None
    assert table.cell("c", "paper") == "≥ 3.00"
    assert summary(table) == "1 of 3 reproduced, 1 differs, 1 not run"
    assert [c.name for c in comparison_table(claims[1:], {}).columns] == ["paper", "ours", "difference", "status"]


def test_parse_expectations():
    claims = parse_expectations({"a": 1, "b": {"value": 0.3, "kind": "at_least", "source": "Fig. 3"}})
    assert claims == [Expectation("a", 1), Expectation("b", 0.3, kind="at_least", source="Fig. 3")]
    for bad, message in [
        ({"a": {"value": 1, "tolerence": 2}}, "did you mean 'tolerance'"),
        ({"a": {"tolerance": 1}}, "value is None"),
        ({"a": {"value": 1, "kind": "about"}}, "near, at_least or at_most"),
        ({"a": True}, "not a number"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_expectations(bad, place="x.yml")
