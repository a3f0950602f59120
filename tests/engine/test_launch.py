"""Starting one run on several processes and nodes: SLURM's variables, two nodes on one machine, a rank that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.engine.test_trainer import assert_same, weights
from tests.engine.toy import toy_options, write_options
from tests.processes import ROOT, Run, as_ranks, free_port
from tgsr.cli import main, make_parser
from tgsr.config.options import load_options
from tgsr.engine.context import Context, first_host, slurm_environment
from tgsr.utils.errors import UserError

FAILING = '''
"""A loss that only rank 1 cannot compute."""
import os
from tgsr.losses.base import LOSSES
from tgsr.losses.pixel import L1Loss
from tgsr.utils.errors import UserError

@LOSSES.register()
class FailingLoss(L1Loss):
    def forward(self, context):
        if os.environ.get("RANK") == "1":
            raise UserError("the disk of this node is full", remedy="free space")
        return super().forward(context)
'''


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("login1", "login1"),
        ("a1,b[2-3]", "a1"),
        ("node[01-04,07]", "node01"),
        ("gpu-[007-009,12]-ib,cpu1", "gpu-007-ib"),
        ("rack-1-[3,5]", "rack-1-3"),
        ("n[12]", "n12"),
    ],
)
def test_first_host_of_a_node_list(nodes, host):
    assert first_host(nodes) == host


SRUN = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[3-4]",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def test_srun_variables_become_torchruns():
    found = slurm_environment(SRUN)
    port = found.pop("MASTER_PORT")
    assert 20000 <= int(port) < 40000
    assert found == {
        "RANK": "5", "WORLD_SIZE": "7", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "gpu3",
    }  # fmt: skip
    assert slurm_environment({**SRUN, "SLURM_PROCID": "0"})["MASTER_PORT"] == port  # all ranks meet at one port
    assert slurm_environment({**SRUN, "SLURM_STEP_ID": "1"})["MASTER_PORT"] != port
    assert slurm_environment({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4"})["MASTER_PORT"] == "4"
    even = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    assert slurm_environment(even)["LOCAL_WORLD_SIZE"] == "4"


def test_who_was_not_started_by_the_launcher_is_told(monkeypatch):
    for name in [k for k in os.environ if k.startswith("SLURM_") or k in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    with pytest.raises(UserError, match=r"not started by srun.*srun --ntasks=N python train.py"):
        Context.create(device="cpu", launcher="slurm")
    with pytest.raises(UserError, match="torchrun --nproc_per_node=N"):
        Context.create(device="cpu", launcher="pytorch")
    monkeypatch.setenv("SLURM_NTASKS", "4")  # inside a batch script, but not a step of it
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu1")
    for step in (None, "4294967290"):  # a batch script; salloc's shell, which SLURM counts as a step
        if step is not None:
            monkeypatch.setenv("SLURM_STEP_ID", step)
        assert Context.create(device="cpu").world_size == 1
        with pytest.raises(UserError, match="not started by srun"):
            Context.create(device="cpu", launcher="slurm")


@pytest.mark.parametrize("spelling", ["--local_rank=1", "--local-rank=1"])
def test_both_spellings_of_local_rank(spelling):
    arguments = make_parser().parse_args(["train", spelling, "-opt", "x.yml", "--launcher", "pytorch"])
    assert (arguments.opt, arguments.local_rank, arguments.launcher) == ("x.yml", 1, "pytorch")


def prepare(root: Path, **sections) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    base = {"datasets": {"train": {**toy_options(root)["datasets"]["train"], "batch_size_per_gpu": 2}, "val": {}}}
    return write_options(root, toy_options(root, **{**base, **sections}))


def start(command: list[str], **env: str) -> subprocess.Popen:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return subprocess.Popen(
        command, env={**clean, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env},
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(*processes: subprocess.Popen | Run) -> list[str]:
    """Outputs of all; whoever is still there after the time is over is ended."""
    outputs = []
    try:
        for process in processes:
            outputs.append(process.communicate(timeout=400)[0].decode())
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return outputs


def on_two_nodes(option_file: Path) -> list[Run]:
    """With the environments that torchrun gives to one process on each of two nodes."""
    ranks = [{**rank, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} for rank in as_ranks(2)]
    return [Run(["-opt", str(option_file), "--launcher", "pytorch"], option_file.parent / "output.txt", ranks)]


def under_srun(option_file: Path) -> list[Run]:
    common = {
        "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "MASTER_PORT": str(free_port()), "SLURM_LOCALID": "0",
    }  # fmt: skip
    ranks = [{**common, "SLURM_PROCID": str(k), "SLURM_NODEID": str(k)} for k in range(2)]
    return [Run(["-opt", str(option_file), "--launcher", "slurm"], option_file.parent / "output.txt", ranks)]


def by_one_word(option_file: Path) -> list[subprocess.Popen]:
    return [start([sys.executable, str(ROOT / "train.py"), "--gpus", "2", "-opt", str(option_file)])]


@pytest.mark.slow
def test_two_nodes_two_srun_tasks_and_two_gpus_by_one_word_train_alike(tmp_path):
    nodes, tasks, gpus = (prepare(tmp_path / name) for name in ("nodes", "tasks", "gpus"))
    for launch, option_file in ((on_two_nodes, nodes), (under_srun, tasks), (by_one_word, gpus)):
        processes = launch(option_file)
        outputs = finish(*processes)
        assert {p.returncode for p in processes} == {0}, "\n".join(outputs)[-3000:]
        assert sum("iter 6/6" in text for text in outputs) == 1  # one rank speaks for all
    assert "torchrun --standalone --nproc_per_node=2 -m tgsr.cli train -opt" in outputs[0]
    assert_same(weights(nodes.parent), weights(tasks.parent))
    assert_same(weights(nodes.parent), weights(gpus.parent))


def test_gpus_by_one_word(tmp_path, monkeypatch, capsys):
    option_file = str(prepare(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    started = []
    monkeypatch.setattr("torch.distributed.run.run", started.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    on_gpus = ["train", "-opt", option_file, "--force_yml", "device=auto"]
    assert main([*on_gpus, "--gpus", "all", "--check"]) == 0
    (arguments,) = started
    assert (arguments.nproc_per_node, arguments.nnodes, arguments.standalone) == ("4", "1:1", True)
    assert [arguments.training_script, *arguments.training_script_args] == ["tgsr.cli", *on_gpus, "--check"]
    capsys.readouterr()
    for wrong, text in (("8", "this machine shows 4; --gpus 4, or all"), ("0", "neither a number of GPUs nor 'all'")):
        with pytest.raises(SystemExit) if wrong == "0" else nullcontext():
            assert main([*on_gpus, f"--gpus={wrong}"]) == 2
        assert text in capsys.readouterr().err
    assert main([*on_gpus, "scale=x", "--gpus", "2"]) == 2  # the mistake is told once, before anything starts
    assert capsys.readouterr().err.count("error:") == 1
    monkeypatch.setenv("RANK", "0")
    assert main([*on_gpus, "--gpus", "2"]) == 2
    assert "leave it out under torchrun" in capsys.readouterr().err
    assert len(started) == 1


@pytest.mark.parametrize(("num", "num_gpus", "text"), [(4, 0, "sees no GPU"), (4, 8, "add --gpus 4"), (1, 8, None)])
def test_num_gpu_of_a_published_file_is_answered(tmp_path, monkeypatch, num, num_gpus, text):
    for name in ("WORLD_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    notes: list[str] = []
    load_options(prepare(tmp_path), [f"num_gpu={num}"], notes=notes)
    assert [text in note for note in notes] == ([] if text is None else [True])
    if num_gpus:
        monkeypatch.setenv("WORLD_SIZE", str(num))
        notes.clear()
        load_options(prepare(tmp_path), [f"num_gpu={num}"], notes=notes)
        assert notes == []


@pytest.mark.slow
def test_a_rank_that_fails_alone_ends_all_with_its_message(tmp_path):
    (tmp_path / "plugin.py").write_text(FAILING)
    option_file = prepare(
        tmp_path,
        import_modules=[str(tmp_path / "plugin.py")],
        train={**toy_options(tmp_path)["train"], "losses": {"pixel": {"type": "FailingLoss"}}},
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    started = time.monotonic()
    process = start([*command, str(ROOT / "train.py"), "-opt", str(option_file)])
    (output,) = finish(process)
    assert process.returncode != 0
    assert "[rank 1] error: the disk of this node is full; free space" in output
    assert time.monotonic() - started < 900  # not the half hour of a collective operation's patience
