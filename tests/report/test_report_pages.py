"""Artefacts to pages: reading logs and metrics, the run report, the comparison over seeds, self-containment."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tgsr.report.artefacts import Metrics, RunLog, results_table
from tgsr.report.builder import Report
from tgsr.report.expectations import Expectation
from tgsr.report.page import write_comparison, write_run_report
from tgsr.report.plots import curves
from tgsr.report.tables import Column, Row, Table
from tgsr.utils.errors import DataError
from tgsr.utils.files import append_jsonl, write_json
from tgsr.utils.image_io import save_image

PROTOCOL = "Y (BT.601), crop 4, 8-bit"


def train_event(iteration: int, loss: float, **extra) -> dict:
    tasks = {"mild": {"loss": loss, "count": 3}, "hard": {"loss": 2 * loss, "count": 5}}
    return {"event": "train", "iter": iteration, "lr": 1e-4, "losses": {"pixel": loss}, "tasks": tasks, **extra}


def val_event(iteration: int, value: float) -> dict:
    return {"event": "val", "iter": iteration, "dataset": "Set5", "metrics": {"psnr_y": value}}


def metrics_content(value: float = 28.31, *, protocol: str = PROTOCOL, images: list | None = None) -> dict:
    return {
        "schema": "tgsr.metrics", "version": 1, "name": "run", "options": "abc", "weights": "w.pth", "iteration": 7,
        "datasets": {
            "Set5": {
                "metrics": {"psnr_y": {"mean": value, "protocol": protocol, "num_images": 2, "higher_is_better": True}},
                "baselines": {"bicubic": {"psnr_y": {"mean": 26.7}}},
                "images": images or [],
            }
        },
    }  # fmt: skip


class Checker(HTMLParser):
    """Collects tags that are left open and every attribute that could load something."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.images_without_alt = 0

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "poster")]
        self.images_without_alt += tag == "img" and not attributes.get("alt")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(page: Path) -> str:
    """The page is well formed and needs no network and no other file."""
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.images_without_alt == 0
    assert not checker.tags & {"link", "iframe", "object"}
    assert all(v.startswith(("data:image/png;base64,", "data:image/jpeg;base64,", "#")) for v in checker.loads)
    anchors = {v[1:] for v in checker.loads if v.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', text))
    assert not re.search(r"https?://|file:|url\((?!#)|@import", text)
    return text


def test_log_curves(tmp_path):
    for event in (train_event(1, 0.5), val_event(1, 26.0), train_event(2, 0.25), val_event(2, 27.0)):
        append_jsonl(tmp_path / "log.jsonl", event)
    log = RunLog.read(tmp_path / "log.jsonl")
    assert log.losses() == {"pixel": ([1.0, 2.0], [0.5, 0.25])}
    assert log.metrics() == {"psnr_y": {"Set5": ([1.0, 2.0], [26.0, 27.0])}}
    assert log.task_losses()["hard"] == ([1.0, 2.0], [1.0, 0.5])
    assert log.task_counts() == {"mild": 6, "hard": 10}
    assert log.scalar("grad_norm") == ([], [])
    assert log


def test_log_skips_cut_lines_and_keeps_the_resumed_values(tmp_path):
    path = tmp_path / "log.jsonl"
    for event in (train_event(10, 0.5), train_event(20, 0.4), val_event(20, 26.0), train_event(30, 0.3)):
        append_jsonl(path, event)
    with open(path, "a") as file:
        file.write('{"event": "train", "it')  # killed while writing; the resumed run goes on in the same line
    for event in (train_event(15, 9.0), train_event(20, 0.41), val_event(20, 26.5), train_event(30, 0.31)):
        append_jsonl(path, event)
    with open(path, "a") as file:
        file.write("[1, 2]\n" + '{"event": "val"')
    log = RunLog.read(path)
    assert log.losses()["pixel"] == ([10.0, 20.0, 30.0], [0.5, 0.41, 0.31])
    assert log.metrics()["psnr_y"]["Set5"] == ([20.0], [26.5])
    assert log.num_damaged == 3
    assert not RunLog.read(tmp_path / "absent.jsonl")


def test_metrics_file_is_checked(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(DataError, match="no such file"):
        Metrics.read(path)
    write_json(path, {"schema": "other"})
    with pytest.raises(DataError, match=r"not a tgsr\.metrics file"):
        Metrics.read(path)
    write_json(path, {**metrics_content(), "version": 2})
    with pytest.raises(DataError, match="version 2"):
        Metrics.read(tmp_path)
    write_json(path, metrics_content())
    assert Metrics.read(tmp_path).protocols() == {"psnr_y": PROTOCOL}


def read_runs(folder: Path, values: list[float], **kwargs) -> list[Metrics]:
    runs = []
    for i, value in enumerate(values):
        write_json(folder / f"{i}" / "metrics.json", metrics_content(value, **kwargs))
        runs.append(Metrics.read(folder / f"{i}"))
    return runs


def test_results_table_of_one_run_has_the_gain(tmp_path):
    table = results_table({"ours": read_runs(tmp_path, [28.31])})
    assert [r.label for r in table.rows] == ["bicubic", "ours", "difference to bicubic"]
    assert table.best(table.columns[0]) == {"ours"}
    assert "| difference to bicubic | +1.61 |" in table.to_markdown()
    assert table.caption == f"psnr_y: {PROTOCOL}. Set5: 2 images."


def test_results_table_over_seeds(tmp_path):
    methods = {"a": read_runs(tmp_path / "a", [28.0, 29.0, 30.0]), "b": read_runs(tmp_path / "b", [29.5])}
    table = results_table(methods, paper={"a": {"Set5/psnr_y": 29.2}})
    number = table.cell("a", "Set5/psnr_y")
    assert (number.value, number.spread, number.num_runs, number.paper) == (29.0, 1.0, 3, 29.2)
    assert [r.label for r in table.rows] == ["bicubic", "a", "b"]
    assert "over 1 to 3 runs" in table.caption


def test_numbers_of_two_protocols_are_not_compared(tmp_path):
    runs = read_runs(tmp_path / "a", [28.0]) + read_runs(tmp_path / "b", [28.0], protocol="RGB")
    with pytest.raises(DataError, match="do not compare"):
        results_table({"ours": runs})


def make_run(root: Path, *, with_gt: bool = True) -> tuple[Path, Path]:
    experiment, results = root / "experiments" / "run", root / "results" / "run"
    for i in range(1, 4):
        append_jsonl(experiment / "log.jsonl", train_event(i * 10, 0.5 / i, images_per_s=9.0, data_share=0.1))
        append_jsonl(experiment / "log.jsonl", val_event(i * 10, 25.0 + i))
    (experiment / "run.yml").write_text("name: run\nscale: 4  # <secret & more>\n")
    images = []
    for i in range(6):
        files = {}
        for kind, size in {"lq": 12, "sr": 48, "bicubic": 48, "gt": 48}.items():
            if kind != "gt" or with_gt:
                files[kind] = f"images/{i}_{kind}.png"
                save_image(results / files[kind], torch.rand(3, size, size))
        images.append({"name": f"im/{i}", "metrics": {"psnr_y": 27.0 + i}, "files": files,
                       "baselines": {"bicubic": {"psnr_y": 26.0}}})  # fmt: skip
    write_json(results / "metrics.json", metrics_content(images=images))
    return experiment, results


def test_run_report_is_whole_and_self_contained(tmp_path):
    experiment, results = make_run(tmp_path)
    claims = [Expectation("Set5/psnr_y", 28.4, 0.1), Expectation("Set14/psnr_y", 25.0)]
    page = write_run_report(experiment, results, expectations=claims)
    assert page == results / "report" / "index.html"
    text = check_page(page)
    assert "+1.61 to bicubic" in text
    assert PROTOCOL in text
    assert "1 of 2 reproduced, 0 differ, 1 not run" in text
    assert "&lt;secret &amp; more&gt;" in text
    strips = sorted((results / "report" / "figures").glob("strip_*.png"))
    assert [p.name for p in strips] == [f"strip_Set5_im_{i}.png" for i in (0, 3, 5)]
    assert text.count('<input type="range"') == 1  # bicubic and ours over each other, of the greatest gain
    assert text.count('class="row"') == 1
    names = {p.stem for p in (results / "report" / "figures").iterdir()}
    assert {"slider_Set5_left", "slider_Set5_right"} <= names
    assert {"losses", "val_psnr_y", "task_losses", "speed"} <= names
    tables = {p.name for p in (results / "report" / "tables").iterdir()}
    assert {"results.csv", "results.md", "expectations.csv", "images_Set5.csv", "tasks.md"} <= tables
    markdown = (results / "report" / "report.md").read_text()
    for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown):
        assert (results / "report" / target).exists()


def test_facts_and_curves_of_a_run_with_a_discriminator(tmp_path):
    experiment, results = make_run(tmp_path)
    log = experiment / "log.jsonl"
    log.unlink()
    for start in (100.0, 1000.0):  # killed after 50 s; trained on for 200 s
        facts = {"networks": "LightSR with 5k parameters", "revision": "0.1, abc", "command": "train.py -opt <x>.yml"}
        append_jsonl(experiment / "starts.jsonl", {"iter": 0, "time": start, "device": "CPU, bf16", **facts})
    for iteration, stamp in ((10, 150.0), (20, 1200.0)):
        more = {"d_real": 0.5, "d_fake": -0.5, "grad_norm": 1.0, "grad_norm_d": 2.0, "time": stamp}
        append_jsonl(log, train_event(iteration, 0.5, **more))
    text = check_page(write_run_report(experiment, results))
    box = re.search(r'<ul class="facts">(.*?)</ul>', text, re.DOTALL)[1]
    facts = re.findall(r"<b>(.*?)</b><span>(.*?)</span>", box)
    assert {name: value for value, name in facts} == {
        "Network": "LightSR with 5k parameters", "Time of the training": "4 min, 2 starts", "Device": "CPU, bf16",
        "Revision": "0.1, abc", "Command": "train.py -opt &lt;x&gt;.yml",
    }  # fmt: skip
    names = {p.stem for p in (results / "report" / "figures").glob("*.svg")}
    assert {"discriminator", "gradients"} <= names
    assert "learning_rate" not in names  # it never changed


def test_curves_are_drawn_in_the_colours_of_the_page(tmp_path):
    experiment, results = make_run(tmp_path)
    text = check_page(write_run_report(experiment, results))
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == len([*(results / "report" / "figures").glob("*.svg")]) >= 4
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))  # a figure that uses the markers of another would draw them
    curve = next(s for s in svgs if "Validation: psnr_y" in s)
    assert "bicubic, Set5" in curve
    assert "var(--plot-0, #0072B2)" in curve
    assert "currentColor" in curve
    assert not re.search(r"(?<!, )#(333333|555555|0072b2)|background|#ffffff|<style", curve)


def test_report_can_be_written_again(tmp_path):
    experiment, results = make_run(tmp_path)
    first = write_run_report(experiment, results).read_bytes()
    assert write_run_report(experiment, results).read_bytes() == first


def test_run_report_without_log_images_or_ground_truth(tmp_path):
    experiment, results = make_run(tmp_path, with_gt=False)
    (experiment / "log.jsonl").unlink()
    text = check_page(write_run_report(experiment, results))
    assert "Training" not in text
    bare = tmp_path / "results" / "bare"
    content = metrics_content()
    content["datasets"]["Set5"]["baselines"] = {}
    content["datasets"]["real"] = {"metrics": {}, "images": [{"name": "a", "metrics": {}, "files": {}}]}
    write_json(bare / "metrics.json", content)
    text = check_page(write_run_report(tmp_path / "experiments" / "none", bare))
    assert "28.31" in text
    assert "to bicubic" not in text


def test_run_report_without_metrics_says_so(tmp_path):
    experiment, _ = make_run(tmp_path)
    text = check_page(write_run_report(experiment, tmp_path / "results" / "untested"))
    assert "not tested yet" in text
    assert 'id="training"' in text
    with pytest.raises(DataError, match="nothing to report"):
        write_run_report(tmp_path / "no", tmp_path / "neither")


def test_weights_of_an_unknown_iteration_are_named(tmp_path):
    experiment, results = make_run(tmp_path)
    assert "weights of iteration 7; trained to iteration 30" in write_run_report(experiment, results).read_text()
    write_json(results / "metrics.json", {**metrics_content(), "weights": "other/net.pth", "iteration": None})
    text = write_run_report(experiment, results).read_text()
    assert "weights other/net.pth; tested on Set5" in text
    assert "trained to" not in text


def test_damaged_log_line_is_told(tmp_path):
    experiment, results = make_run(tmp_path)
    with open(experiment / "log.jsonl", "a") as file:
        file.write('{"event": "tr')
    assert "1 damaged line of" in check_page(write_run_report(experiment, results))


def test_comparison_over_seeds(tmp_path):
    for name, value in {"a0": 28.0, "a1": 29.0, "b0": 30.0}.items():
        write_json(tmp_path / name / "metrics.json", metrics_content(value))
    runs = {"base": [tmp_path / "a0", tmp_path / "a1"], "ours": [tmp_path / "b0"]}
    page = write_comparison(runs, tmp_path / "report", title="Seeds", expectations=[Expectation("Set5/psnr_y", 30.0)])
    text = check_page(page)
    assert "28.50 ± 0.71" in text
    assert "1 of 1 reproduced" in text
    assert (tmp_path / "report" / "figures" / "compare_psnr_y.svg").exists()
    with pytest.raises(DataError, match="no runs"):
        write_comparison({}, tmp_path, title="x")


def test_builder_names_files_uniquely_and_escapes(tmp_path):
    report = Report("A <title>", subtitle="50 % & more")
    report.add_text("First `code` and **bold** <i>.\n\n- one\n- two")
    report.add_text("See [the other](../other/index.html), not [this](javascript:x).")
    figure = curves({"a": ([1, 2], [1.0, 2.0])})
    report.section("Part").section("Part").add_plot("a b/..", figure, caption="one").add_plot(
        "a_b", None, caption="none"
    )
    report.add_plot("A_b", figure, caption="two", alt='says "two"')
    report.add_table("../../escape", Table([Column("x")], [Row("r", {"x": "y"})])).add_code("Options", "```\nx: 1\n```")
    report.add_numbers({"PSNR": "28.31"})
    text = report.write(tmp_path / "out").read_text()
    assert '<a href="../other/index.html">the other</a>, not [this](javascript:x).' in text
    assert "A &lt;title&gt;" in text
    assert "<code>code</code> and <strong>bold</strong> &lt;i&gt;." in text
    assert "<ul><li>one</li><li>two</li></ul>" in text
    assert 'id="part-2"' in text
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == [
        "out/figures/A_b_2.svg", "out/figures/a_b.svg", "out/index.html", "out/report.md", "out/tables/escape.csv",
        "out/tables/escape.md",
    ]  # fmt: skip
    assert "````" in (tmp_path / "out" / "report.md").read_text()
