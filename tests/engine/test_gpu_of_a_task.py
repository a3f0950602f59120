"""Which GPU a process takes, with the GPUs that torch sees and SLURM's variables made up."""

import os

import pytest
import torch

from tgsr.engine.context import resolve_device
from tgsr.utils.errors import ConfigError

TASK = {"SLURM_PROCID": "11", "SLURM_LOCALID": "3"}


@pytest.fixture
def machine(monkeypatch):
    """Sets the number of GPUs and the environment."""

    def set_up(num_gpus: int, env: dict[str, str]) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
        for name in [k for k in os.environ if k.startswith("SLURM_") or k == "CUDA_VISIBLE_DEVICES"]:
            monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)

    return set_up


@pytest.mark.parametrize(
    "env",
    [
        {"SLURM_GPUS_PER_TASK": "1"},
        {"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"},
        {"SLURM_STEP_GPUS": "3"},
        {"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"},
    ],
)
def test_a_task_with_one_gpu_of_its_own_takes_it(machine, env):
    machine(1, {**TASK, **env})
    assert resolve_device("auto", 3) == resolve_device("cuda", 3) == torch.device("cuda", 0)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"CUDA_VISIBLE_DEVICES": "0"},
        {"SLURM_GPUS_PER_TASK": "1"},
        TASK,
        {**TASK, "SLURM_STEP_GPUS": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"},
        {**TASK, "SLURM_LOCALID": "0", "SLURM_GPUS_PER_TASK": "1"},  # torchrun started more processes inside the task
    ],
)
def test_who_shares_the_only_gpu_is_told(machine, env):
    machine(1, env)
    with pytest.raises(ConfigError, match="local rank 3 has no GPU of its own: this machine shows 1"):
        resolve_device("auto", 3)


def test_a_task_that_sees_several_takes_that_of_its_rank(machine):
    machine(4, {**TASK, "SLURM_GPUS_PER_TASK": "1"})
    assert resolve_device("auto", 3) == torch.device("cuda", 3)
    machine(2, {**TASK, "SLURM_GPUS_PER_TASK": "2"})
    with pytest.raises(ConfigError, match="start 2 processes per node"):
        resolve_device("auto", 3)
