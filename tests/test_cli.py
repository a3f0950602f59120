"""What the user sees: exit codes, one line for a mistake, files where the README says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import tgsr
from tests.engine.toy import make_images, toy_options, write_options
from tgsr.cli import main


def test_misspelt_key_is_one_line_and_exit_code_2(tmp_path, capsys):
    options = toy_options(tmp_path, network_g={"type": "MSRResNet", "num_fea": 4})
    options["network_g"].pop("num_feat")
    path = write_options(tmp_path, options)
    assert main(["train", "-opt", str(path)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert f"{path.name}:" in error[0]
    assert "MSRResNet takes no 'num_fea'; did you mean 'num_feat'?" in error[0]
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("datasets:train:dataset:dataroot_gt=/nowhere", "/nowhere"),
        ("datasets:train:dataset:gt_size=64", "smaller"),
        ("device=cuda", "no CUDA device"),
        ("path:pretrain_network_g=/nowhere.pth", "/nowhere.pth"),
        ("train:total_iter=many", "total_iter"),
        ("train.lr=1e-4", "did you mean train.optim_g.lr?"),
        ("train:losses:pixel:type=L1Los", "did you mean 'L1Loss'"),
    ],
)
def test_bad_input(tmp_path, capsys, override, text):
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["train", "-opt", str(path), "--force_yml", override]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("override", "key", "text"),
    [
        ("network_g.num_feat=-3", "network_g", "MSRResNet(num_block=1, num_feat=-3, upscale=4): RuntimeError: Trying"),
        ("datasets.train.dataset.gt_size=66", "datasets.train.dataset", "gt_size 66 must be a multiple of the scale 4"),
        ("train.optim_g.lr=-1", "train.optim_g", "lr is -1.0; choose a learning rate >= 0"),
    ],
)
def test_what_a_constructor_refuses_has_a_place(tmp_path, capsys, override, key, text):
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["train", "-opt", str(path), "--force_yml", override]) == 2
    (line,) = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error: ")]
    assert re.match(rf"error: {re.escape(str(path))}:\d+: {key}: {re.escape(text)}", line), line


def test_debug_shows_where_a_constructor_failed(tmp_path, capsys):
    path = write_options(tmp_path, toy_options(tmp_path))
    override = ["--force_yml", "network_g.num_feat=-3"]
    for more, shown in (([], False), (["--debug"], True)):
        assert main(["train", "-opt", str(path), *override, *more]) == 2
        assert ("Traceback" in capsys.readouterr().err) == shown


def test_truncated_image_is_named_before_training(tmp_path, capsys):
    path = write_options(tmp_path, toy_options(tmp_path))
    image = tmp_path / "gt" / "03.png"
    image.write_bytes(image.read_bytes()[:500])
    assert main(["train", "-opt", str(path)]) == 2
    assert "03.png" in capsys.readouterr().err
    assert not (tmp_path / "experiments" / "toy" / "models").exists()


def test_check_trains_nothing(tmp_path, capsys):
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["train", "-opt", str(path), "--check"]) == 0
    assert "toy: no problem" in capsys.readouterr().out
    assert not (tmp_path / "experiments").exists()


def test_train_then_test_then_infer_then_evaluate(tmp_path, capsys, monkeypatch):
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["train", "-opt", str(path)]) == 0
    trained = json.loads((tmp_path / "results" / "toy" / "metrics.json").read_text())
    entry = trained["datasets"]["toy"]
    assert entry["metrics"]["psnr"]["num_images"] == 2
    assert "crop 4" in entry["metrics"]["psnr"]["protocol"]
    assert entry["baselines"]["bicubic"]["psnr"]["mean"] > 5
    assert (tmp_path / "results" / "toy" / "report" / "index.html").exists()

    weights = tmp_path / "experiments" / "toy" / "models" / "net_g_latest.pth"
    arguments = ["-opt", str(path), "--force_yml", f"path:pretrain_network_g={weights}", "name=tested"]
    assert main(["test", *arguments]) == 0
    tested = json.loads((tmp_path / "results" / "tested" / "metrics.json").read_text())
    assert tested["datasets"]["toy"]["metrics"]["psnr"]["mean"] == entry["metrics"]["psnr"]["mean"]

    inputs = make_images(tmp_path / "in", num=2, size=16)
    cv2.imwrite(str(inputs / "grey.png"), np.full((16, 20), 128, np.uint8))
    cv2.imwrite(str(inputs / "alpha16.png"), np.full((16, 20, 4), 40000, np.uint16))
    (inputs / "broken.png").write_bytes(b"not an image")
    capsys.readouterr()
    assert main(["infer", "-i", str(inputs), "-o", str(tmp_path / "out"), "-w", str(weights)]) == 1
    assert "4 restored, 1 failed" in capsys.readouterr().out
    out = {p.name: cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (tmp_path / "out").iterdir()}
    assert out["00.png"].shape == (64, 64, 3)
    assert out["grey.png"].shape == (64, 80)
    assert out["alpha16.png"].shape == (64, 80, 4)
    assert out["alpha16.png"].dtype == np.uint16
    assert "broken.png" not in out

    gt = make_images(tmp_path / "gt_for_folder", num=2, size=64)
    (tmp_path / "elsewhere").mkdir()
    for p in gt.iterdir():
        cv2.imwrite(str(tmp_path / "elsewhere" / f"{p.stem}_x.png"), cv2.imread(str(p)) // 2)
    monkeypatch.chdir(tmp_path)
    arguments = ["-i", "elsewhere", "--gt", "gt_for_folder"]
    assert main(["evaluate", *arguments]) == 2
    assert "--suffix" in capsys.readouterr().err


def test_check_of_a_test_measures_nothing(tmp_path, capsys):
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["train", "-opt", str(path)]) == 0
    weights = tmp_path / "experiments" / "toy" / "models" / "net_g_latest.pth"
    (tmp_path / "gt").rename(tmp_path / "elsewhere")  # what only the training reads

    def check(*overrides):
        capsys.readouterr()
        arguments = [f"path:pretrain_network_g={weights}", "name=tested", *overrides]
        code = main(["test", "-opt", str(path), "--check", "--force_yml", *arguments])
        assert not (tmp_path / "results" / "tested").exists()
        assert not (tmp_path / "experiments" / "tested").exists()
        return code, "".join(capsys.readouterr())

    code, text = check()
    assert code == 0
    assert "tested: no problems" in text
    for overrides, problem in (
        (["path:pretrain_network_g=/nowhere.pth", "datasets:val:toy:dataroot_gt=/away"], "tested: 2 problems"),
        (["network_g:num_feat=8"], "net_g_latest.pth"),
        (["path:pretrain_network_g=~"], "testing needs weights"),
        (["datasets:val=~"], "there is no data set to test on"),
    ):
        code, text = check(*overrides)
        assert code == 2
        assert problem in text
    (tmp_path / "val" / "00.png").write_bytes(b"not an image")
    code, text = check()
    assert code == 2
    assert "00.png" in text


def test_preview_has_no_switches_without_effect(tmp_path, capsys):
    for switch in ("--check", "--debug", "--launcher=none"):
        with pytest.raises(SystemExit):
            main(["preview", "-opt", "x.yml", switch])
        assert f"unrecognized arguments: {switch}" in capsys.readouterr().err
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["preview", "-opt", str(path), "-n", "2", "-o", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").exists()


def test_numbers_of_other_weights_are_moved_aside(tmp_path, capsys):
    path = write_options(tmp_path, toy_options(tmp_path))
    assert main(["train", "-opt", str(path)]) == 0
    models, results = tmp_path / "experiments" / "toy" / "models", tmp_path / "results"

    def test(weights):
        capsys.readouterr()
        assert main(["test", "-opt", str(path), "--force_yml", f"path:pretrain_network_g={models / weights}"]) == 0
        return capsys.readouterr().err

    assert "moved" not in test("net_g_6.pth")  # the latest ones by another name
    assert "moved" not in test("net_g_latest.pth")
    numbers = (results / "toy" / "metrics.json").read_bytes()
    assert f"{results / 'toy'} existed and was moved to {results / 'toy_archived_'}" in test("net_g_2.pth")
    archived = next(results.glob("toy_archived_*"))
    assert (archived / "metrics.json").read_bytes() == numbers
    assert (archived / "report" / "index.html").exists()
    report = (results / "toy" / "report" / "report.md").read_text()
    assert "weights of iteration 2; trained to iteration 6; tested on toy" in report

    found = json.loads((results / "toy" / "metrics.json").read_text())
    del found["weights_digest"]  # as older versions wrote it
    (results / "toy" / "metrics.json").write_text(json.dumps(found))
    assert "moved" not in test("net_g_2.pth")
    (results / "toy" / "metrics.json").write_text(json.dumps(found))
    assert "moved" in test("net_g_4.pth")


def test_a_fine_tuning_is_measured_with_its_own_weights_beside_its_start(tmp_path, capsys):
    options = toy_options(tmp_path)
    assert main(["train", "-opt", str(write_options(tmp_path, options))]) == 0
    start = tmp_path / "experiments" / "toy" / "models" / "net_g_latest.pth"
    begun = json.loads((tmp_path / "results" / "toy" / "metrics.json").read_text())["datasets"]["toy"]["metrics"]
    tuned = {**options, "name": "tuned", "path": {**options["path"], "pretrain_network_g": str(start)}}
    tuned["logger"] = {**options["logger"], "best": {"toy": "psnr"}}
    path, results = write_options(tmp_path, tuned), tmp_path / "results" / "tuned"
    assert main(["test", "-opt", str(path)]) == 0  # nothing but the start is there yet
    assert "has not been trained yet: measuring what it starts from" in capsys.readouterr().err
    assert main(["train", "-opt", str(path)]) == 0
    trained = json.loads((results / "metrics.json").read_text())
    entry = trained["datasets"]["toy"]
    assert trained["iteration"] == 6
    assert entry["baselines"]["start"]["psnr"]["mean"] == begun["psnr"]["mean"] != entry["metrics"]["psnr"]["mean"]
    assert (results / entry["images"][0]["files"]["start"]).exists()
    report = (results / "report" / "report.md").read_text()
    assert "to start)" in report
    assert "difference to start" in report

    archived = len([*results.parent.glob("tuned_archived_*")])
    capsys.readouterr()
    assert main(["test", "-opt", str(path)]) == 0
    assert "net_g_latest.pth (iteration 6)" in capsys.readouterr().err
    tested = json.loads((results / "metrics.json").read_text())
    assert tested["datasets"] == trained["datasets"]
    assert len([*results.parent.glob("tuned_archived_*")]) == archived
    start.unlink()  # the weights of a run do not need what they came from
    for named, iteration in (("2", 2), ("best", None)):
        assert main(["test", "-opt", str(path), "-w", named]) == 0
        content = json.loads((results / "metrics.json").read_text())
        assert (Path(content["weights"]).name, content["iteration"]) == (
            f"net_g_{'best_psnr' if named == 'best' else named}.pth", iteration
        )  # fmt: skip
    capsys.readouterr()
    assert main(["test", "-opt", str(path), "-w", "3"]) == 2
    assert "no weights '3'; -w FILE, or one of: 2, 4, 6, best_psnr, latest" in capsys.readouterr().err


def test_report_of_a_run_that_was_not_measured(tmp_path, capsys):
    options = toy_options(tmp_path)
    options["datasets"]["val"] = {}
    assert main(["train", "-opt", str(write_options(tmp_path, options))]) == 0
    folders = ["--experiments", str(tmp_path / "experiments"), "--results", str(tmp_path / "results")]
    assert main(["report", "toy", *folders]) == 0
    page = tmp_path / "results" / "toy" / "report" / "index.html"
    assert "not tested yet" in page.read_text()
    capsys.readouterr()
    assert main(["report", "other", *folders]) == 2
    assert "no metrics.json here, no log.jsonl in" in capsys.readouterr().err


def test_env_tells_opencv_whatever_package_it_is_from(capsys):
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"OpenCV {cv2.__version__}" in lines
    assert not any(line.startswith("opencv") for line in lines)


def test_a_reader_that_has_seen_enough_of_the_schema_is_no_error():
    command = [sys.executable, "-m", "tgsr.cli", "schema"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(10) == b'{\n "$schema'[:10]
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0


def test_foreign_weights_are_explained(tmp_path, capsys):
    path = write_options(tmp_path, toy_options(tmp_path))
    torch.save({"params": {"conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    arguments = ["--force_yml", f"path:pretrain_network_g={tmp_path / 'other.pth'}"]
    assert main(["train", "-opt", str(path), *arguments]) == 2
    assert "other.pth" in capsys.readouterr().err


def test_a_start_tells_what_it_is_and_all_of_it_is_in_train_log(tmp_path, capsys):
    options = toy_options(tmp_path, num_threads=1)
    path = str(write_options(tmp_path, options))
    assert main(["train", "-opt", path, "--force_yml", "num_gpu=0"]) == 0
    printed = [line[9:].split(" ", 1)[1] for line in capsys.readouterr().err.splitlines() if re.match(r"\d\d:", line)]
    folder = tmp_path / "experiments" / "toy"
    assert printed[:4] == [
        "toy: x4, MSRResNet with 1.85k parameters from scratch",
        "data: 6 images; 4 an iteration; 6 iterations are 4 epochs",
        "device: CPU, 1 thread, fp32, 0 loader workers",
        f"folder: {folder}; a checkpoint every 2 iterations, the last 5 are kept; "
        "validation of toy (2 images) after the last iteration",
    ]
    log = folder / "train.log"
    assert [line.split(" ", 3)[3] for line in log.read_text().splitlines()] == printed  # the report's line, too
    override = f"path.pretrain_network_g={tmp_path / 'nothing.pth'}"
    assert main(["train", "-opt", path, "--auto_resume", "--force_yml", "train.total_iter=8", override]) == 2
    override = f"path.pretrain_network_g={folder / 'models' / 'net_g_2.pth'}"
    assert main(["train", "-opt", path, "--auto_resume", "--force_yml", "train.total_iter=8", override]) == 0
    first, second = (json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines())
    assert (first["iter"], second["iter"]) == (0, 6)
    assert first["networks"] == "MSRResNet with 1.85k parameters from scratch"
    assert (first["precision"], first["device"]) == ("fp32", "CPU, 1 thread, fp32, 0 loader workers")
    assert first["revision"].startswith(tgsr.__version__)
    page = (tmp_path / "results" / "toy" / "report" / "index.html").read_text()
    assert f"<b>{first['revision']}</b><span>Revision</span>" in page
    text = log.read_text()
    assert "resuming toy at iteration 6" in text
    assert "option changed since the checkpoint: train.total_iter: 6 -> 8" in text


def test_a_run_that_fails_says_why_in_its_log(tmp_path):
    path = str(write_options(tmp_path, toy_options(tmp_path)))
    assert main(["train", "-opt", path, "--force_yml", "train.optim_g.lr=1e30", "val.metrics=~"]) == 2
    log = (tmp_path / "experiments" / "toy" / "train.log").read_text()
    assert "error: toy: not finite at iteration" in log.splitlines()[-1]


def test_check_tells_memory_and_cost_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = toy_options(tmp_path)
    demo = {"type": "GTDataset", "dataroot_gt": "datasets/demo/train", "prepare": "demo", "gt_size": 32}
    options["datasets"]["train"]["dataset"] = demo
    options["train"]["total_iter"] = 400_000
    path = str(write_options(tmp_path, options))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert main(["train", "-opt", path, "--check"]) == 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    text = capsys.readouterr().err
    assert re.search(r"memory: \d+\.\d\d GiB at the process's peak", text)
    assert re.search(r"cost: a step takes [\d.]+ s here, 400000 of them [\d.]+ (min|h \d+ min)", text)
    assert "a checkpoint takes 0.0" in text


def test_check_all_builds_every_stage(tmp_path, capsys):
    first = toy_options(tmp_path)
    start = str(tmp_path / "experiments" / "toy" / "models" / "net_g_latest.pth")
    torch.save({"params": {"conv.weight": torch.zeros(3)}}, tmp_path / "generator.pth")
    second = toy_options(
        tmp_path, name="gan", model="AdversarialModel",
        network_d={"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},
        path={**first["path"], "pretrain_network_g": start, "pretrain_network_d": str(tmp_path / "generator.pth")},
    )  # fmt: skip
    second["train"] |= {"gan": {"type": "GANLoss", "gan_type": "vanilla"}, "optim_d": {"type": "Adam", "lr": 1e-4}}
    stages = [str(write_options(tmp_path, options)) for options in (first, second)]
    chain = tmp_path / "chain.yml"
    chain.write_text(json.dumps({"name": "chain", "scale": 4, "run": {"type": "Chain", "stages": stages}}))
    assert main(["train", "-opt", str(chain), "--check"]) == 0
    capsys.readouterr()
    assert main(["train", "-opt", str(chain), "--check", "all"]) == 2
    assert re.search(r"run.stages\[1\]: .*generator.pth", capsys.readouterr().err)
    assert not (tmp_path / "experiments").exists()


def test_pictures_and_a_report_while_it_trains(tmp_path, monkeypatch):
    from tgsr.report import page

    reports, write = [], page.write_run_report

    def write_and_remember(experiment, results):
        reports.append((results / "metrics.json").exists())
        return write(experiment, results)

    monkeypatch.setattr(page, "write_run_report", write_and_remember)
    options = toy_options(tmp_path, val={"val_freq": 3, "metrics": toy_options(tmp_path)["val"]["metrics"]})
    options["logger"]["use_tb_logger"] = True
    assert main(["train", "-opt", str(write_options(tmp_path, options))]) == 0
    assert reports == [False, True]  # the first one before the last validation
    experiment, results = tmp_path / "experiments" / "toy", tmp_path / "results" / "toy"
    seen = experiment / "visualization" / "toy"
    kinds = ("3", "6", "gt", "lq")
    assert sorted(p.name for p in seen.iterdir()) == [f"{name}_{kind}.png" for name in ("00", "01") for kind in kinds]
    read = lambda path: cv2.imread(str(path))  # noqa: E731
    assert np.array_equal(read(seen / "00_6.png"), read(results / "images" / "toy" / "00.png"))  # 40 pixels: all of it
    assert not np.array_equal(read(seen / "00_6.png"), read(seen / "00_3.png"))
    assert read(seen / "00_lq.png").shape == (10, 10, 3)
    assert len([*(results / "report" / "figures").glob("time_toy_0*.png")]) == 2

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(experiment / "tb_logger"))
    curves.Reload()
    (first, last) = curves.Images("val/toy/00")
    assert (first.step, last.step, last.width, last.height) == (3, 6, 120, 40)
