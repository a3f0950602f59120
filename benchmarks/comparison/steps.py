"""The training step: forward, losses, backward, Adam, EMA and what the log needs, on given batches."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from comparison.measure import Settings, alternate, compare, peak_memory_mib, row, run_child
from comparison.sides import basicsr_model, copy_weights, free_gpu, our_model, our_options, tuned
from tgsr.data.batch import Batch
from tgsr.models.base import RestorationModel

OUR_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("fp32", {}),
    "bf16": ("bf16", {}),
    "bf16 + compile": ("bf16", {"compile": True}),
    "bf16 + checkpointing": ("bf16", {"activation_checkpointing": True}),
}


@dataclass(frozen=True)
class Case:
    """A network and its batch.

    Attributes:
        network: `msrresnet`, `rrdbnet`, `swinir` or `hat`.
        num_block: of the generator.
        batch: samples.
        lq: edge of the input.
        is_adversarial: with discriminator and perceptual loss.
        rounds: usual number of timed rounds.
    """

    network: str
    num_block: int
    batch: int
    lq: int
    is_adversarial: bool = False
    rounds: int = 7

    @property
    def name(self) -> str:
        title = {"msrresnet": "MSRResNet", "rrdbnet": "RRDBNet", "swinir": "SwinIR", "hat": "HAT"}[self.network]
        kind = " + UNet-D + VGG19" if self.is_adversarial else ""
        return f"{title}-{self.num_block}{kind}, batch {self.batch}, {self.lq} px"

    def images(self, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        edges = (self.lq, 4 * self.lq)
        lq, gt = (torch.rand(self.batch, 3, edge, edge, generator=generator).to(device) for edge in edges)
        return lq, gt

    def forms(self, *, on_gpu: bool) -> list[str]:
        """Ours that are worth a line."""
        more = ["bf16 + compile"] if on_gpu else []
        if self.network == "rrdbnet" and not self.is_adversarial:
            more.append("bf16 + checkpointing")
        return ["fp32", "bf16", *more]


TIMED = [
    Case("msrresnet", 16, 4, 48),
    Case("rrdbnet", 23, 2, 48, rounds=4),
    Case("rrdbnet", 6, 2, 32, is_adversarial=True, rounds=4),
]
TIMED_QUICKLY = [
    Case("msrresnet", 16, 2, 32),
    Case("rrdbnet", 6, 1, 32),
    Case("rrdbnet", 2, 1, 32, is_adversarial=True),
]
TIMED_ON_GPU = [
    Case("msrresnet", 16, 12, 64),
    Case("rrdbnet", 23, 12, 64),
    Case("rrdbnet", 23, 12, 64, is_adversarial=True),
]
MEMORY = [
    Case("rrdbnet", 23, 4, 64),
    Case("msrresnet", 16, 4, 64),
    Case("msrresnet", 16, 16, 64),
    Case("rrdbnet", 6, 2, 32, is_adversarial=True),
    Case("rrdbnet", 6, 2, 64, is_adversarial=True),
]
MEMORY_QUICKLY = [Case("rrdbnet", 6, 2, 48)]


def their_step(case: Case, device: str = "cpu") -> tuple[Any, Callable[[int], float]]:
    """basicsr's model and its step, which returns the generator's pixel loss."""
    torch.manual_seed(0)
    model = basicsr_model(case.network, case.num_block, is_adversarial=case.is_adversarial, device=device)
    model.lq, model.gt = case.images(device)
    model.gt_usm = model.gt

    def step(i: int) -> float:
        model.optimize_parameters(i + 1)
        log = model.get_current_log()
        return log.get("l_pix", log.get("l_g_pix"))

    return model, tuned(step)


def our_parts(case: Case, form: str, theirs: Any = None, device: str = "cpu") -> tuple[RestorationModel, Batch]:
    """Our model, with the weights of `theirs` if given, and its batch on the device."""
    precision, training = OUR_FORMS[form]
    with tempfile.TemporaryDirectory() as folder:
        options = our_options(
            Path(folder), case.network, case.num_block, precision=precision, is_adversarial=case.is_adversarial,
            training=training,
        )  # fmt: skip
    model = our_model(options, device)
    if theirs is not None:
        copy_weights(theirs, model)
    lq, gt = case.images(device)
    return model, Batch(gt=gt, lq=lq, gt_usm=gt)


def our_step(case: Case, form: str, theirs: Any = None, device: str = "cpu") -> Callable[[int], torch.Tensor]:
    """Our step on the same batch; its pixel loss stays on the device."""
    model, batch = our_parts(case, form, theirs, device)

    def step(i: int) -> torch.Tensor:
        on_device = batch.to(torch.device(device), channels_last=True)
        return model.step([on_device], i).losses["pixel"].mean()

    return step


def measure(settings: Settings) -> list[dict[str, Any]]:
    """Time of a step; on a GPU also its share of the arithmetic floor."""
    rows = []
    cases = TIMED_QUICKLY if settings.is_quick else TIMED_ON_GPU if settings.on_gpu else TIMED
    peak = matmul_flops(settings) if settings.on_gpu else None
    for case in cases:
        theirs, step = their_step(case, settings.device)
        forms: dict[str, Callable[[int], Any]] = {"basicsr": step}
        wanted = case.forms(on_gpu=settings.on_gpu)
        for form in wanted:
            forms[form] = our_step(case, form, theirs, settings.device)
        first = {name: float(form(0)) for name, form in forms.items()}
        needed = flops(forms["fp32"])
        seconds = alternate(forms, settings, settings.num_rounds(case.rounds), warm_up=int(settings.on_gpu))
        for form in wanted:
            more: dict[str, Any] = {"first_loss_difference": abs(first[form] - first["basicsr"]), "flop": needed}
            values = compare(seconds["basicsr"], seconds[form])
            if peak is not None:
                more["share_of_floor"] = needed / peak / values["ours"]
                print(f"{case.name}, ours {form}: {more['share_of_floor']:.1%} of the arithmetic floor", flush=True)
            rows.append(row(f"{case.name}: ours {form}", "s", 1, values, **more))
        del forms, theirs, step
        free_gpu()
    return rows


def flops(step: Callable[[int], Any]) -> int:
    """Floating-point operations of one step's convolutions and products."""
    with FlopCounterMode(display=False) as counter:
        step(1)
    return counter.get_total_flops()


def matmul_flops(settings: Settings, size: int = 8192) -> float:
    """bf16 operations a second that one large product reaches here: the floor's measure."""
    a, b = (torch.randn(size, size, device=settings.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = alternate({"matmul": lambda i: a @ b}, settings, 5, warm_up=2)["matmul"]
    return 2 * size**3 / min(seconds)


class SavedForBackward:
    """Bytes that autograd holds for the backward pass, at most; each storage counts once, parameters do not."""

    def __init__(self) -> None:
        self.peak = self._now = 0
        self._owners: dict[int, int] = {}

    def __enter__(self) -> SavedForBackward:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: _Held(self, t), lambda held: held.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def add(self, tensor: torch.Tensor, change: int) -> None:
        if isinstance(tensor, torch.nn.Parameter):
            return
        storage = tensor.untyped_storage()
        owners = self._owners[storage.data_ptr()] = self._owners.get(storage.data_ptr(), 0) + change
        if owners == max(change, 0):  # the first one came, or the last one left
            self._now += change * storage.nbytes()
            self.peak = max(self.peak, self._now)


class _Held:
    def __init__(self, counter: SavedForBackward, tensor: torch.Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.add(tensor, 1)

    def __del__(self) -> None:
        self.counter.add(self.tensor, -1)


def constant_mib() -> float:
    """Weights, gradients, Adam's averages, EMA and all else that lives between steps."""
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None:
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values()) / 2**20


def measure_memory(settings: Settings) -> list[dict[str, Any]]:
    """Peak memory of two steps (the second has Adam's averages) over that before the model, each form in a process.

    Beside it what explains it, from a third step: bytes saved for the backward pass, and what lives between steps.
    """
    rows = []
    for case in MEMORY_QUICKLY if settings.is_quick else MEMORY:
        found: dict[str, dict[str, float]] = {}
        wanted = ["basicsr", *case.forms(on_gpu=settings.on_gpu)]
        for form in wanted:
            argument = {"case": asdict(case), "form": form, "threads": settings.threads, "device": settings.device}
            found[form] = run_child("steps", argument)
        for form in wanted[1:]:
            ours, theirs = found[form], found["basicsr"]
            rows.append(
                {
                    "name": f"memory, {case.name}: ours {form}", "unit": "MiB", "basicsr": theirs["mib"],
                    "ours": ours["mib"], "share": ours["mib"] / theirs["mib"], "rounds": 1,
                    "saved": (theirs["saved_mib"], ours["saved_mib"]),
                    "constant": (theirs["constant_mib"], ours["constant_mib"]),
                }
            )  # fmt: skip
            logged = "; ".join(f"{k} {rows[-1][k][0]:.0f} and {rows[-1][k][1]:.0f} MiB" for k in ("saved", "constant"))
            print(f"{rows[-1]['name']}: basicsr and ours: {logged}", flush=True)
    return rows


def main() -> None:
    """The memory of one form, for `run_child`."""
    argument = json.loads(sys.argv[1])
    torch.set_num_threads(argument["threads"])
    case, device = Case(**argument["case"]), argument["device"]
    before = 0.0
    if argument["form"] == "basicsr":
        from comparison.sides import load_basicsr

        load_basicsr()
        before = peak_memory_mib(device)
        _, step = their_step(case, device)
    else:
        before = peak_memory_mib(device)
        step = our_step(case, argument["form"], device=device)
    for i in range(2):
        step(i)
    peak = peak_memory_mib(device) - before
    with SavedForBackward() as saved:
        step(2)
    result = {"mib": peak, "before_mib": before, "saved_mib": saved.peak / 2**20, "constant_mib": constant_mib()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
