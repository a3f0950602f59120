"""Threads by the CPUs that a container or a scheduler grants."""

import os
import subprocess
import sys

import pytest

from tgsr.utils.threads import crowding, usable_cpus

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def groups(tmp_path):
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    (root / "job" / "step").mkdir(parents=True)
    membership.write_text("0::/job/step\n")
    return root, membership


def test_no_quota(groups):
    root, membership = groups
    assert usable_cpus(root, membership) == AFFINITY
    (root / "job" / "cpu.max").write_text("max 100000\n")
    assert usable_cpus(root, membership) == AFFINITY
    assert usable_cpus(root, root / "absent") == AFFINITY


def test_the_smallest_quota_on_the_way_up_counts(groups):
    root, membership = groups
    (root / "job" / "cpu.max").write_text("100000 100000\n")
    (root / "job" / "step" / "cpu.max").write_text("9900000 100000\n")
    assert usable_cpus(root, membership) == 1


def test_parts_of_a_cpu_and_version_1(groups):
    root, membership = groups
    (root / "cpu").mkdir()
    (root / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (root / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(root, membership) == AFFINITY
    (root / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert usable_cpus(root, membership) == 1


def test_threads_that_take_turns_are_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: AFFINITY)
    load = tmp_path / "loadavg"

    def told(minute, now, num_threads=AFFINITY):
        load.write_text(f"{minute} 1.00 1.00 {now}/400 12345\n")
        return crowding(num_threads, load)

    assert told(0.5, 1) is None
    assert f"set num_threads (or OMP_NUM_THREADS) to {AFFINITY}" in told(0.5, 1, AFFINITY + 1)
    assert f"want {2 * AFFINITY} of this machine's {AFFINITY} CPUs" in told(2 * AFFINITY, 9 * AFFINITY)
    assert told(9.0, 1) is None  # what was busy has ended: often our own earlier work
    assert told(0.1, 9) is None  # a moment
    assert crowding(AFFINITY, tmp_path / "absent") is None


def test_threads_wait_without_spinning_unless_the_user_says_otherwise():
    code = "import tgsr, os; print(os.environ['OMP_WAIT_POLICY'])"
    clean = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    for env, policy in ((clean, "PASSIVE"), ({**clean, "OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        found = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
        assert found.stdout.strip() == policy
