"""`--gpus N`: the ranks of one machine, started through torch's own launcher."""

from __future__ import annotations

import logging
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

import torch

import tgsr
from tgsr.utils.errors import EXIT_STOPPED, UserError
from tgsr.utils.threads import usable_cpus

logger = logging.getLogger("tgsr")


def num_ranks(wanted: str, device: str) -> int:
    """How many processes `--gpus N` or `--gpus all` means on this machine.

    Args:
        wanted: a whole number, or `all`.
        device: of the options; on a CPU, `N` processes share it.

    Raises:
        UserError: there are not so many GPUs, or a launcher has started this process already.
    """
    if "RANK" in os.environ:
        raise UserError("--gpus starts the processes itself", remedy="leave it out under torchrun and srun")
    num_gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    if wanted == "all":
        return max(1, num_gpus)
    if num_gpus and int(wanted) > num_gpus:
        raise UserError(f"--gpus {wanted}: this machine shows {num_gpus}", remedy=f"--gpus {num_gpus}, or all")
    if not num_gpus:
        logger.warning("--gpus %s without a GPU: as many processes share the CPU", wanted)
    return int(wanted)


def start_ranks(num: int, command: Sequence[str]) -> int:
    """Run `tgsr COMMAND` in `num` processes, as `torchrun --standalone` does.

    Returns:
        The exit code: that of the first process that failed.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = ["--standalone", f"--nproc_per_node={num}", "-m", "tgsr.cli", *command]
    logger.warning("starting %d processes, as does: torchrun %s", num, shlex.join(arguments))
    root = str(Path(tgsr.__file__).resolve().parents[1])  # tgsr may be a checkout that is not installed
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // num)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its traceback of ours says nothing
    handler = signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))  # torch leaves them
    try:
        run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException:  # it has ended the processes, which save
        return EXIT_STOPPED
    finally:
        signal.signal(signal.SIGUSR1, handler)
    return 0
