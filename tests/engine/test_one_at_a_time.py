"""Locks of experiments and results: who holds them, for how long, and what a second start is told."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.data.data_toys import task_set
from tests.engine.toy import make_images, run, toy_options, write_options
from tgsr.cli import main
from tgsr.data.benchmark import build_benchmark
from tgsr.report import page
from tgsr.utils import lock
from tgsr.utils.errors import UserError
from tgsr.utils.lock import hold, lock_file

HOLDER = """
import sys
from pathlib import Path
from tgsr.utils.lock import hold
with hold(*map(Path, sys.argv[2:]), roots=[Path(sys.argv[1])]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(root: Path, *folders: Path):
    """Holds the folders meanwhile; yields the process."""
    command = [sys.executable, "-c", HOLDER, str(root), *map(str, folders)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_every_second_start_is_one_line_and_touches_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page, "write_run_report", lambda *folders: None)
    run(tmp_path)
    option_file = str(write_options(tmp_path, toy_options(tmp_path)))
    chain = tmp_path / "chain.yml"
    roots = {"experiments_root": str(tmp_path / "experiments"), "results_root": str(tmp_path / "results")}
    stages = {"type": "Chain", "stages": [option_file]}
    chain.write_text(yaml.safe_dump({"name": "chain", "scale": 4, "path": roots, "run": stages}))
    weights = str(tmp_path / "experiments" / "toy" / "models" / "net_g_latest.pth")
    starts = [
        ("experiments/toy", ["train", "-opt", option_file]),
        ("experiments/toy", ["train", "-opt", option_file, "--auto_resume"]),
        ("experiments/toy", ["train", "-opt", str(chain)]),
        ("experiments/chain", ["train", "-opt", str(chain)]),
        ("results/toy", ["test", "-opt", option_file, "--force_yml", f"path:pretrain_network_g={weights}"]),
    ]
    for folder, arguments in starts:
        (tmp_path / "experiments" / "toy" / "stage.json").unlink(missing_ok=True)  # a done stage needs no lock
        with another_process((tmp_path / folder).parent, tmp_path / folder) as holder:
            before = snapshot(tmp_path)
            assert main(arguments) == 2
            assert snapshot(tmp_path) == before
            (line,) = (t for t in capsys.readouterr().err.splitlines() if t.startswith("error: "))
            assert f"{folder}: in use by process {holder.pid} on " in line
        assert main(arguments) == 0  # its holder was killed, and the lock went with it
        assert not list(tmp_path.rglob(".*.lock"))


def test_a_benchmark_is_built_by_one(tmp_path):
    make_images(tmp_path / "gt")
    with another_process(tmp_path, tmp_path / "bench"), pytest.raises(UserError, match="bench: in use by process"):
        build_benchmark(tmp_path / "gt", task_set(1), tmp_path / "bench")
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize(
    ("theirs", "ours", "is_free"),
    [("a/b", "a/c", True), ("a/b", "a", False), ("a", "a/b", False), ("a/b", "a/b/c", False), ("a", "ab", True)],
)
def test_nested_names(tmp_path, theirs, ours, is_free):
    """`a` may be moved aside with all below it, so it must not run beside `a/b`."""
    with another_process(tmp_path, tmp_path / theirs), ExitStack() as stack:
        if not is_free:
            stack.enter_context(pytest.raises(UserError, match="in use by"))
        with hold(tmp_path / ours, roots=[tmp_path]):
            assert lock_file(tmp_path / ours).exists()


def test_a_stage_holds_what_its_chain_holds_until_the_chain_ends(tmp_path):
    with hold(tmp_path / "chain"):
        with hold(tmp_path / "chain", tmp_path / "stage", roots=[tmp_path]):
            pass
        with pytest.raises(AssertionError), another_process(tmp_path, tmp_path / "stage"):
            pass
    with another_process(tmp_path, tmp_path / "stage") as free:
        assert free.poll() is None


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with hold(tmp_path / "x"):
        assert "knows no locks" in caplog.text


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "experiments").write_text("a file")
    with pytest.raises(UserError, match="cannot be locked"), hold(tmp_path / "experiments" / "x"):
        pass
