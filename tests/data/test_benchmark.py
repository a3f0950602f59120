"""The benchmark builder: same pixels for any number of workers, runs and stops."""

import filecmp
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.data_toys import photo, photo_folder, task_set
from tgsr.data.benchmark import build_benchmark, build_group_benchmarks, verify_benchmark
from tgsr.data.datasets import PairedDataset
from tgsr.degradations.params import DegradationParams
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import read_json, read_jsonl
from tgsr.utils.image_io import read_image, save_image, to_tensor, to_uint8

TASKS = task_set(3)
_KILLED = """
import sys
from pathlib import Path
from tgsr.data.benchmark import build_benchmark
from tgsr.tasks.task import TaskSet
build_benchmark(Path(sys.argv[1]), TaskSet.load(sys.argv[2]), Path(sys.argv[3]), seed=5)
"""


def same_tree(a: Path, b: Path) -> bool:
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    return all(filecmp.cmp(a / f, b / f, shallow=False) for f in files)


def test_identical_for_one_and_two_workers_and_from_its_params(tmp_path):
    gt = photo_folder(tmp_path / "gt", 6, height=75, width=98)
    for workers in (1, 2):
        build_benchmark(gt, TASKS, tmp_path / str(workers), seed=5, num_workers=workers)
    assert same_tree(tmp_path / "1", tmp_path / "2")
    records = list(read_jsonl(tmp_path / "1" / "params.jsonl"))
    assert [r["task"] for r in records] == [TASKS[i % 4].name for i in range(6)]
    for record in records:
        image = read_image(gt / f"{record['image']}.png")[:72, :96]
        params = DegradationParams.from_json([record["params"]])
        again = TASKS[TASKS.index(record["task"])].space.pipeline.apply(to_tensor(image)[None], params)
        assert np.array_equal(to_uint8(again), read_image(tmp_path / "1" / record["file"]))
    assert verify_benchmark(tmp_path / "1") == []
    paired = PairedDataset(dataroot_gt=gt, dataroot_lq=tmp_path / "1" / "LQ", scale=4)
    assert paired.val_sample(5).lq.shape == (1, 3, 18, 24)


def test_goes_on_after_a_kill(tmp_path):
    gt = photo_folder(tmp_path / "gt", 12, height=200, width=200)
    TASKS.save(tmp_path / "tasks.json")
    tasks = TaskSet.load(tmp_path / "tasks.json")
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(gt), str(tmp_path / "tasks.json"), str(out)])
    end = time.time() + 60
    while len(list(read_jsonl(out / "params.partial.jsonl"))) < 3 and time.time() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with open(out / "params.partial.jsonl", "a") as file:
        file.write('{"file": "LQ/img_9')  # a line cut by the kill
    survivors = {p.name: p.stat().st_mtime_ns for p in (out / "LQ").glob("img_*.png")}
    done = [Path(r["file"]).name for r in list(read_jsonl(out / "params.partial.jsonl"))]
    assert 3 <= len(done) < 12
    with pytest.raises(DataError, match="not finished"):
        verify_benchmark(out)
    build_benchmark(gt, tasks, out, seed=5, num_workers=2)
    build_benchmark(gt, tasks, tmp_path / "whole", seed=5)
    assert same_tree(out, tmp_path / "whole")
    assert all((out / "LQ" / n).stat().st_mtime_ns == survivors[n] for n in done)


def test_pairing_rules(tmp_path):
    gt = photo_folder(tmp_path / "gt", 4)
    build_benchmark(gt, TASKS, tmp_path / "one", pairing="one", task="task_0002")
    assert {r["task"] for r in read_jsonl(tmp_path / "one" / "params.jsonl")} == {"task_0002"}
    build_benchmark(gt, TASKS.subset(["whole_space"]), tmp_path / "whole", pairing="one")
    params = [r["params"] for r in read_jsonl(tmp_path / "whole" / "params.jsonl")]
    assert len({p["noise_seed"] for p in params}) == 4
    assert len({p["kernel1_size"] for p in params} | {p["resize1_scale"] for p in params}) > 2
    build_benchmark(gt, TASKS, tmp_path / "all", pairing="all", max_images=2)
    assert len(list((tmp_path / "all" / "LQ" / "task_0001").iterdir())) == 2
    made = build_group_benchmarks(gt, TASKS, {"g0": ["whole_space"], "g1": ["task_0000", "task_0001"]}, tmp_path / "g")
    records = read_jsonl(made["g1"].parent / "params.jsonl")
    assert [r["task"] for r in records] == ["task_0000", "task_0001"] * 2
    listed = PairedDataset(
        dataroot_gt=gt, dataroot_lq=tmp_path / "all", scale=4, meta_info=tmp_path / "all" / "pairs.txt"
    )
    assert len(listed) == 8
    with pytest.raises(ConfigError, match="name the task"):
        build_benchmark(gt, TASKS, tmp_path / "x", pairing="one")


def test_a_task_gives_an_image_the_same_whatever_stands_beside_it(tmp_path):
    gt = photo_folder(tmp_path / "gt", 4)
    build_benchmark(gt, TASKS, tmp_path / "all", pairing="all")
    build_benchmark(gt, TASKS.subset(["task_0001"]), tmp_path / "one", pairing="one", max_images=3)
    for i in range(3):
        a, b = tmp_path / "all" / "LQ" / "task_0001", tmp_path / "one" / "LQ"
        assert np.array_equal(read_image(a / f"img_{i}.png"), read_image(b / f"img_{i}.png"))


def test_refuses_to_mix_and_finds_damage(tmp_path):
    gt = photo_folder(tmp_path / "gt", 2)
    build_benchmark(gt, TASKS, tmp_path / "b", seed=1)
    with pytest.raises(DataError, match=r"holds another benchmark \(other seed\)"):
        build_benchmark(gt, TASKS, tmp_path / "b", seed=2)
    assert read_json(tmp_path / "b" / "benchmark.json")["complete"]
    save_image(tmp_path / "b" / "LQ" / "img_1.png", photo(3, 18, 24))
    assert verify_benchmark(tmp_path / "b") == ["LQ/img_1.png"]


def test_bad_ground_truth_is_named(tmp_path):
    gt = photo_folder(tmp_path / "gt", 3)
    (gt / "img_1.png").write_text("x")
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"img_1\.png: cannot be read"):
            build_benchmark(gt, TASKS, tmp_path / str(workers), num_workers=workers)
