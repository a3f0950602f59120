"""Time the indicator sweep of TGSR against the plain loop: 100 iterations in fp32 on new patches for each task.

    python train.py -opt options/mini/tgsr.yml --expand stages
    python benchmarks/indicator_sweep.py stages/tgsr_mini/z-32-1.yml --tasks 4

Both forms run in one process, alternating task by task, on one thread; seconds are CPU seconds of this process, so
that other work on the machine changes little.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch

import tgsr.methods  # noqa: F401 - registers the stages
from tgsr.config.options import load_options
from tgsr.config.schema import Options
from tgsr.engine.context import Context
from tgsr.engine.runner import make_runner
from tgsr.methods.tgsr.sweep import IndicatorSweep, IndicatorWork
from tgsr.tasks.artefacts import load_tasks


def plain_form(options: Options, iters: int = 100) -> Options:
    """The text's definition without any of our savings."""
    run = replace(options.run, kwargs={"tasks": options.run.kwargs["tasks"], "mode": "paper"})
    train = replace(options.train, total_iter=iters)
    return replace(options, run=run, train=train, precision="fp32", channels_last=False)


def sweep_work(options: Options, context: Context, iters: int | None) -> IndicatorWork:
    """What a form does to each task."""
    sweep = make_runner(options, context)
    assert isinstance(sweep, IndicatorSweep)
    tasks = load_tasks(sweep.path)
    return IndicatorWork(options, tasks, sweep.settings, iters or sweep.settings.probe_iters[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("option_file")
    parser.add_argument("--tasks", type=int, default=4, help="tasks of each form, after one to warm up")
    parser.add_argument("--iters", type=int, default=10, help="where the paired form stops (see the sweep's header)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = load_options(args.option_file)
    context = Context.create(device=options.device, launcher="none")
    forms = {
        "plain fp32, 100 iterations": sweep_work(plain_form(options), context, None).open(context),
        f"paired, {args.iters} iterations": sweep_work(options, context, args.iters).open(context),
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    names = sweep_work(options, context, None).tasks.names
    for index in range(args.tasks + 1):
        for name, measure in forms.items():
            start = time.process_time()
            measure(names[index])
            if index:
                seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        spread = ", ".join(f"{v:.2f}" for v in seconds[name])
        print(f"{name}: {median:.2f} s per task ({spread}), {3600 / median:.0f} tasks per hour and core")
    first, second = medians.values()
    print(f"ratio {first / second:.1f}")


if __name__ == "__main__":
    main()
