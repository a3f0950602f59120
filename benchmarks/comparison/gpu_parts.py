"""The parts of `gpu_hour.py`. torch is imported where it is needed: the process that starts the parts does without."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.measure import ROOT, Settings

BF16_FLOPS, BYTES = 790e12, 4.3e12
"""Of an H200, for shares of the limits where the part `ceilings` has not measured them."""
TESTS = ["tests/engine/test_devices.py", "tests/degradations/test_named_degradations.py"]


@dataclass
class Run:
    """One part being measured.

    Attributes:
        device: `cuda` or `cpu`.
        is_tiny: the smallest sizes, to see that all of it runs.
        workers: of loaders.
        end: `time.monotonic()` at which nothing new should begin.
        path: takes the rows.
    """

    device: str
    is_tiny: bool
    workers: int
    end: float
    path: Path

    def row(self, **values: Any) -> None:
        """Write one line of the part's table at once."""
        print(values, flush=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(values) + "\n")

    def has(self, seconds: float) -> bool:
        """Whether so much time is left; always in a rehearsal."""
        return self.is_tiny or time.monotonic() + seconds < self.end

    def settings(self, folder: str) -> Settings:
        return Settings("wall", 1, 2, self.is_tiny, None, Path(folder), self.device, self.workers)

    def sync(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def time(self, forms: Mapping[str, Callable[[int], Any]], *, rounds: int = 3) -> dict[str, float]:
        """Median seconds of a call of each form: several calls at a time, the forms in turn."""
        repeats, seconds = {}, {name: [] for name in forms}
        for name, form in forms.items():
            form(0)
            self.sync()
            start = time.perf_counter()
            form(1)
            self.sync()
            repeats[name] = 1 if self.is_tiny else max(1, min(50, int(0.4 / (time.perf_counter() - start))))
        for _ in range(1 if self.is_tiny else rounds):
            for name, form in forms.items():
                start = time.perf_counter()
                for k in range(repeats[name]):
                    form(k)
                self.sync()
                seconds[name].append((time.perf_counter() - start) / repeats[name])
        return {name: statistics.median(values) for name, values in seconds.items()}

    def ceiling(self, name: str, otherwise: float) -> float:
        """A rate that the part `ceilings` measured here."""
        with suppress(OSError, ValueError):
            for line in (self.path.parent / "ceilings.jsonl").read_text().splitlines():
                if json.loads(line)["what"] == name:
                    return json.loads(line)["per second"]
        return otherwise


def ceilings(run: Run) -> None:
    """What the card can do: bytes copied, bf16 products, launches."""
    import torch

    where = torch.cuda.get_device_name() if run.device == "cuda" else "cpu"
    run.row(what=where, value=f"torch {torch.__version__}")
    large, edge = (1 << 16, 128) if run.is_tiny else (1 << 31, 8192)
    a, b = torch.empty(2, large, dtype=torch.int16, device=run.device).random_()
    seconds = run.time({"copy": lambda i: b.copy_(a)})["copy"]
    run.row(what="copy", **{"per second": 4 * large / seconds}, value=f"{4 * large / seconds / 1e12:.2f} TB/s")
    x, y = torch.randn(2, edge, edge, device=run.device).bfloat16()
    seconds = run.time({"matmul": lambda i: x @ y})["matmul"]
    run.row(what="matmul", **{"per second": 2 * edge**3 / seconds}, value=f"{2 * edge**3 / seconds / 1e12:.0f} TFLOP/s")
    one = torch.zeros(1, device=run.device)
    start = time.perf_counter()
    for _ in range(1000):
        one.add_(1)
    run.row(what="launch", value=f"{(time.perf_counter() - start) * 1e3:.1f} us of the host for a small operation")


def tests(run: Run) -> None:
    """Tests that need a GPU (on a CPU: some of the same files)."""
    command = [sys.executable, "-m", "pytest", "-rfE", "-p", "no:cacheprovider", *TESTS]
    command += ["-k", "uploads or precision_of" if run.is_tiny else "cuda or gpu or first_losses or do_not_wait"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-20000:], done.stderr[-2000:])
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|deselected|error)", done.stdout)}
    run.row(**counts, code=done.returncode)
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            run.row(test=line[:300])
    if done.returncode:
        raise SystemExit(1)


def rehearsal(run: Run) -> None:
    """The quickstart from data to report, a few iterations."""
    from tgsr.cli import main

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        few = ["train:total_iter=2", "datasets:train:batch_size_per_gpu=2", "datasets:val:demo:max_images=2"]
        sets = [*(few if run.is_tiny else ["train:total_iter=20"]), f"device={run.device}"]
        sets += [f"path:experiments_root={folder}/e", f"path:results_root={folder}/r"]
        code = main(["train", "-opt", str(ROOT / "options/quickstart.yml"), "--debug", "--force_yml", *sets])
        made = sorted(p.name for p in Path(folder, "r").rglob("*") if p.name in ("metrics.json", "index.html"))
        run.row(code=code, seconds=time.perf_counter() - start, made=", ".join(made))
        assert code == 0
        assert made == ["index.html", "metrics.json"]


def _cases(run: Run) -> list[Any]:
    from comparison.steps import Case

    if run.is_tiny:
        return [Case("msrresnet", 1, 1, 8), Case("rrdbnet", 1, 1, 16, is_adversarial=True)]
    return [
        Case("rrdbnet", 23, 12, 64),
        Case("rrdbnet", 23, 12, 64, is_adversarial=True),
        Case("msrresnet", 16, 16, 64),
        Case("swinir", 6, 4, 48),
        Case("hat", 6, 4, 64),
    ]


def step(run: Run) -> None:
    """The training step at the papers' batch: basicsr in fp32 (TF32 convolutions, as torch ships), ours eager, with
    weights rounded once a step, and as one CUDA graph; its share of the bf16 rate, the memory it takes."""
    from comparison.sides import free_gpu
    from comparison.steps import flops, our_parts

    for case in _cases(run):
        if not run.has(20):
            run.row(step=case.name, form="not begun: the time is over")
            continue
        forms: dict[str, Callable[[int], Any]] = {}
        theirs = _basicsr_step(case, run, forms)
        for form in ("fp32", "bf16"):
            model, batch = our_parts(case, form, theirs, run.device)
            forms[form] = _stepper(model.step, batch.to(model.device, channels_last=True))
        for form in ("bf16, copies", "bf16, graph", "bf16, copies, graph"):
            forms[form] = _special(run, case, theirs, form)
        needed = flops(forms["bf16"])
        seconds = run.time({name: form for name, form in forms.items() if form is not None})
        for name, value in seconds.items():
            run.row(step=case.name, form=name, ms=value * 1e3, **_against(seconds, value),
                    share=needed / value / run.ceiling("matmul", BF16_FLOPS), **_memory(run, forms[name]))  # fmt: skip
        del forms, theirs, model, batch
        free_gpu()


def _basicsr_step(case: Any, run: Run, forms: dict[str, Callable[[int], Any]]) -> Any:
    """basicsr's model; adds its step to the forms. None where basicsr, or this network in it, is not there."""
    if case.network in ("swinir", "hat"):
        return None
    try:
        from comparison.steps import their_step

        theirs, forms["basicsr"] = their_step(case, run.device)
    except ImportError as error:
        run.row(step=case.name, form=f"basicsr: {error}")
        return None
    return theirs


def _stepper(step: Callable[..., Any], batch: Any) -> Callable[[int], Any]:
    return lambda i: step([batch], i)


def _special(run: Run, case: Any, theirs: Any, form: str) -> Callable[[int], Any] | None:
    """The step captured, with weights rounded once a step, or both; a row and None where that cannot be done."""
    from comparison.graphed import GraphedStep
    from comparison.rounded import round_once
    from comparison.steps import our_parts

    try:
        model, batch = our_parts(case, "bf16", theirs, run.device)
        batch = batch.to(model.device, channels_last=True)
        if "copies" in form:
            round_once(model)
        return _stepper(GraphedStep(model, batch) if "graph" in form else model.step, batch)
    except RuntimeError as error:
        run.row(step=case.name, form=f"{form}: {' '.join(str(error).split())[:200]}")
        return None


def _against(seconds: Mapping[str, float], value: float) -> dict[str, float]:
    return {"basicsr / this": seconds["basicsr"] / value} if "basicsr" in seconds else {}


def _memory(run: Run, form: Callable[[int], Any]) -> dict[str, float]:
    if run.device != "cuda":
        return {}
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    form(0)
    return {"GiB of a step": (torch.cuda.max_memory_allocated() - before) / 2**30}


def degrade(run: Run) -> None:
    """The second-order degradation of twelve 400-pixel crops, sharpening included; with basicsr's where it is there."""
    import numpy as np
    import torch

    from tgsr.degradations.second_order import SecondOrderSpace
    from tgsr.degradations.usm import sharpen

    batch, edge = (2, 64) if run.is_tiny else (12, 400)
    space, rng = SecondOrderSpace(), np.random.default_rng(0)
    drawn = [space.draw(rng.random((batch, space.num_uniforms))) for _ in range(8)]
    crops = torch.rand(batch, 3, edge, edge, device=run.device)
    noise = torch.Generator(run.device).manual_seed(0)
    pipeline = space.pipeline
    seconds = run.time(
        {"ours": lambda i: pipeline.apply(sharpen(crops), drawn[i % len(drawn)], noise, backend="torch")}
    )["ours"]
    run.row(degrade=f"ours, batch {batch}, {edge} px", **{"ms a sample": seconds / batch * 1e3})
    if run.is_tiny or not run.has(15):
        return
    with suppress(ImportError), tempfile.TemporaryDirectory() as folder:
        from comparison.degrading import measure

        for row in measure(run.settings(folder)):
            values = {"ms a sample": row["ours"], "basicsr": row["basicsr"], "ratio": row["ratio"]}
            run.row(degrade=row["name"], **values)


def iteration(run: Run) -> None:
    """A whole RealESRNet iteration with loader workers: the share of time waiting for data, that of the degradation."""
    import torch

    from comparison.iterations import _sections
    from comparison.photographs import make_folders
    from comparison.sides import our_model, our_options
    from tgsr.engine import build
    from tgsr.engine.context import Context

    network, blocks, batch, num = ("msrresnet", 1, 1, 3) if run.is_tiny else ("rrdbnet", 23, 12, 60)
    workers = 0 if run.is_tiny else run.workers
    with tempfile.TemporaryDirectory() as folder:
        paths = make_folders(Path(folder), None, num_large=1, num_sub=2 if run.is_tiny else 96)
        options = our_options(
            Path(folder), network, blocks, precision="bf16", **_sections(paths["sub"], batch, workers)
        )
        tasks = build.build_tasks(options)
        sampler = build.build_task_sampler(options, tasks)
        data = build.TrainData(options, Context(torch.device(run.device)), tasks, sampler)
        model, warm = our_model(options, run.device), 1 if run.is_tiny else 10
        batches = data.iterations(0, warm + num)
        for i in range(warm):
            kept = next(batches)
            model.step(kept, i)
        run.sync()
        start, waited = time.perf_counter(), 0.0
        for i in range(num):
            before = time.perf_counter()
            given = next(batches)
            waited += time.perf_counter() - before
            model.step(given, warm + i)
        run.sync()
        whole = (time.perf_counter() - start) / num
        alone = run.time({"step": lambda i: model.step(kept, i)})["step"]
        run.row(iteration=f"{network}-{blocks}, batch {batch}, {workers} workers", **{
            "ms": whole * 1e3, "step alone, ms": alone * 1e3, "share of data and degradation": 1 - alone / whole,
            "host's share in the loader": waited / num / whole, "images/s": batch / whole})  # fmt: skip
        data.close()
        if run.is_tiny or not run.has(25):
            return
        with suppress(ImportError):
            from comparison.iterations import measure

            for row in measure(run.settings(folder)):
                run.row(iteration=row["name"], ms=row["ours"] * 1e3, basicsr=row["basicsr"] * 1e3, ratio=row["ratio"])


def sweep(run: Run) -> None:
    """TGSR's indicator sweep: tasks an hour of the plain loop (100 iterations in fp32 on new patches), of ours, and of
    ours as one CUDA graph."""
    import torch
    from indicator_sweep import plain_form, sweep_work

    from comparison.graphed import GraphedStep
    from tgsr.engine.context import Context
    from tgsr.methods.tgsr.fine_tuning import FineTuner
    from tgsr.methods.tgsr.patches import TaskPatches

    with tempfile.TemporaryDirectory() as folder:
        options, tasks = _sweep_options(Path(folder), run)
        context = Context(torch.device(run.device))
        iters = 1 if run.is_tiny else 20
        work = sweep_work(options, context, iters)
        plain = sweep_work(plain_form(options, 10 if run.is_tiny else 100), context, None)
        ours = work.open(context)
        forms = {"paired, bf16": lambda i: ours(tasks.names[i % len(tasks)])}
        patches = TaskPatches(options, context.device, tasks)
        tuner = FineTuner(options, context, tasks)
        first = patches.of(0, range(work.settings.batch_size), keep=False)
        try:
            captured = GraphedStep(tuner.model, first)
            tuner.model.step, tuner.reset = captured, captured.reset
            forms["paired, bf16, graph"] = lambda i: work._measure(i % len(tasks), patches, tuner)
        except RuntimeError as error:
            run.row(sweep=f"graph: {' '.join(str(error).split())[:200]}")
        measure_plain = plain.open(context)
        forms["plain loop, fp32"] = lambda i: measure_plain(tasks.names[i % len(tasks)])
        for name, form in forms.items():
            if run.has(8):
                form(0)
                run.sync()
                start, count = time.perf_counter(), 0
                while count < (1 if run.is_tiny else 20) and run.has(3) and time.perf_counter() - start < 12:
                    count += 1
                    form(count)
                run.sync()
                each = (time.perf_counter() - start) / count
                run.row(sweep=name, **{"s a task": each, "tasks an hour": 3600 / each})


def _sweep_options(folder: Path, run: Run) -> tuple[Any, Any]:
    """Options of a sweep of RRDBNet-23, batch 4, over tasks drawn here, from weights made here."""
    import torch

    from comparison.photographs import make_folders
    from comparison.sides import network_options
    from tgsr.config.options import load_options
    from tgsr.degradations.second_order import SecondOrderSpace
    from tgsr.engine.build import build_network
    from tgsr.tasks.task import draw_point_tasks

    paths = make_folders(folder, None, num_large=1, num_sub=2 if run.is_tiny else 16)
    tasks = draw_point_tasks(SecondOrderSpace(), 4 if run.is_tiny else 24, seed=0)
    tasks.save(folder / "tasks.json")
    size = {"num_patches": 2, "num_probe": 2} if run.is_tiny else {}
    content: dict[str, Any] = {
        "name": "sweep", "scale": 4, "precision": "bf16", "manual_seed": 0, "device": run.device,
        "degradation": {"space": {"type": "SecondOrder", "preset": "x4plus", "scale": 4}},
        "network_g": network_options(*(("msrresnet", 1) if run.is_tiny else ("rrdbnet", 23)))[1],
        "datasets": {"train": {
            "dataset": {"type": "GTDataset", "dataroot_gt": str(paths["sub"]), "gt_size": 64 if run.is_tiny else 256},
            "batch_size_per_gpu": 1 if run.is_tiny else 4, "num_worker_per_gpu": 0, "preflight": False}},
        "train": {"total_iter": 1 if run.is_tiny else 20, "optim_g": {"type": "Adam", "lr": 1e-4},
                  "losses": {"pixel": {"type": "L1Loss"}}},
        "run": {"type": "IndicatorSweep", "tasks": str(folder / "tasks.json"), "processes": 1, **size},
        "path": {"pretrain_network_g": str(folder / "start.pth"), "experiments_root": str(folder / "e")},
    }  # fmt: skip
    file = folder / "sweep.yml"
    file.write_text(json.dumps({**content, "run": None, "path": {}}))
    torch.save({"params": build_network(load_options(file)).state_dict()}, folder / "start.pth")
    file.write_text(json.dumps(content))
    return load_options(file), tasks


def validation(run: Run) -> None:
    """A 2040x1356 image (510x339 before) restored by RRDBNet-23, and each metric of it; LPIPS also on the CPU."""
    import torch

    from comparison.sides import network_options
    from tgsr.archs import ARCHS
    from tgsr.metrics.base import METRICS
    from tgsr.metrics.measure import measure
    from tgsr.models.precision import Precision

    device = torch.device(run.device)
    blocks, height, width = (1, 64, 72) if run.is_tiny else (23, 339, 510)
    made = dict(network_options("rrdbnet", blocks)[1])
    net = ARCHS.get(made.pop("type"))(**made)
    precision = Precision("bf16", device)
    net = precision.place(net, channels_last=True).eval()
    lq = torch.rand(1, 3, height, width)
    seconds = run.time({"restore": lambda i: precision.restore(net, lq, channels_last=True).cpu()})["restore"]
    run.row(what=f"RRDBNet-{blocks}, {width}x{height}, bf16, channels_last", s=seconds)
    gt = torch.rand(3, 4 * height, 4 * width)
    restored = (gt + 0.05 * torch.randn_like(gt)).clamp(0, 1)
    metrics: dict[str, Any] = {name: METRICS.get(name)() for name in ("PSNR", "SSIM", "NIQE")}
    with suppress(ImportError):
        for kind in ("alex", "vgg")[: 1 if run.is_tiny else 2]:
            metrics[f"LPIPS {kind}, random weights"] = METRICS.get("LPIPS")(net=kind, pretrained=False)
    for name, metric in metrics.items():
        for place in dict.fromkeys((device, torch.device("cpu"))) if metric.is_network else (device,):
            if run.has(5) and (place == device or "alex" in name):
                value = run.time({"m": lambda i: measure({"m": metric}, restored, gt, place)}, rounds=1)["m"]  # noqa: B023
                run.row(what=f"{name}, {place.type if metric.is_network else 'cpu'}", s=value)


def profile(run: Run) -> None:
    """One training step of RRDBNet-23 in bf16: the kernels that take most, launches, shares of the two limits."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from comparison.launches import CountBytes
    from comparison.steps import Case, flops, our_parts

    case = Case("rrdbnet", 1, 1, 8) if run.is_tiny else Case("rrdbnet", 23, 12, 64)
    model, batch = our_parts(case, "bf16", None, run.device)
    step = _stepper(model.step, batch.to(model.device, channels_last=True))
    seconds = run.time({"step": step})["step"]
    with CountBytes() as counted:
        step(0)
    run.row(what=f"{case.name}: step", ms=seconds * 1e3)
    run.row(what="share of the bf16 rate", share=flops(step) / seconds / run.ceiling("matmul", BF16_FLOPS))
    bytes_share = counted.total / run.ceiling("copy", BYTES) / seconds
    run.row(what="share of the copy rate, if every operation reads and writes memory", share=bytes_share)
    on_gpu = run.device == "cuda"
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        step(0)
        run.sync()
    events = recorded.key_averages()
    launches = sum(e.count for e in events if "LaunchKernel" in e.key)
    run.row(what="launches of a step", count=launches if on_gpu else counted.operations)
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    total = sum(getattr(e, spent) for e in events) or 1
    for e in sorted(events, key=lambda e: -getattr(e, spent))[:15]:
        run.row(what=e.key[:90], ms=getattr(e, spent) / 1e3, share=getattr(e, spent) / total, count=e.count)


def compiled(run: Run) -> None:
    """torch.compile for the step, with the time it takes to compile: last, for it may take a minute a network."""
    from comparison.steps import our_parts

    for case in _cases(run)[:1] if run.is_tiny else [_cases(run)[i] for i in (2, 0)]:
        if run.has(40):
            forms = {}
            for form in ("bf16",) if run.is_tiny else ("bf16", "bf16 + compile"):
                model, batch = our_parts(case, form, None, run.device)
                forms[form] = _stepper(model.step, batch.to(model.device, channels_last=True))
                start = time.perf_counter()
                forms[form](0)
                run.sync()
                run.row(step=case.name, form=f"{form}: the first step", ms=(time.perf_counter() - start) * 1e3)
            for form, value in run.time(forms).items():
                run.row(step=case.name, form=form, ms=value * 1e3)


@dataclass(frozen=True)
class Part:
    """A function, the seconds that it may take, and what it says."""

    function: Callable[[Run], None]
    seconds: float

    @property
    def what(self) -> str:
        return " ".join((self.function.__doc__ or "").split())


PARTS = {
    "ceilings": Part(ceilings, 25),
    "tests": Part(tests, 100),
    "rehearsal": Part(rehearsal, 45),
    "step": Part(step, 120),
    "degrade": Part(degrade, 40),
    "iteration": Part(iteration, 60),
    "sweep": Part(sweep, 60),
    "validation": Part(validation, 40),
    "profile": Part(profile, 35),
    "compiled": Part(compiled, 120),
}
