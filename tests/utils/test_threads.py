"""Threads by the CPUs that a container or a scheduler grants."""

import os

import pytest

from tgsr.utils.threads import usable_cpus

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
