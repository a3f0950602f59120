"""Degrade a folder of ground truth once and for all: LQ images, their parameters and a manifest.

The tasks come from a task set (--tasks tasks.json), or from the sections `degradation` and `tasks` of an option file
(-opt). With --groups, every group of a groups.json gets a folder of its own.
"""

import argparse
from pathlib import Path

from _common import count_progress, run

from tgsr.data.benchmark import PAIRS, build_benchmark, build_group_benchmarks, verify_benchmark
from tgsr.tasks.artefacts import read_groups
from tgsr.tasks.sets import build_task_set
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gt", type=Path, help="folder of ground truth")
    parser.add_argument("--output", type=Path, required=True, help="folder of the benchmark")
    parser.add_argument("--tasks", type=Path, help="a tasks.json")
    parser.add_argument("-opt", type=Path, help="an option file with the space and the tasks")
    parser.add_argument("--groups", type=Path, help="a groups.json: one benchmark for each group")
    parser.add_argument("--task", help="name of the one task that degrades all images")
    parser.add_argument("--pairing", choices=("one", "cycle", "all"), default="cycle", help="which image by which task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_images", type=int)
    parser.add_argument("--n_thread", type=int, default=1, help="processes")
    parser.add_argument("--verify", action="store_true", help="compare the images of a finished benchmark instead")
    args = parser.parse_args()
    if args.verify:
        wrong = verify_benchmark(args.output)
        if wrong:
            raise DataError(f"{len(wrong)} images differ: {', '.join(wrong[:5])}", place=str(args.output))
        print(f"{args.output}: all images as recorded")
        return
    if args.gt is None:
        raise ConfigError("--gt is missing", remedy="name the folder of ground truth")
    tasks = _tasks(args)
    settings = {
        "seed": args.seed,
        "max_images": args.max_images,
        "num_workers": args.n_thread,
        "progress": count_progress("images"),
    }
    if args.groups:
        groups = {f"group_{i}": names for i, names in enumerate(read_groups(args.groups, tasks))}
        made = build_group_benchmarks(args.gt, tasks, groups, args.output, **settings)
    else:
        pairing = "one" if args.task else args.pairing
        made = {"": build_benchmark(args.gt, tasks, args.output, pairing=pairing, task=args.task, **settings)}
    for folder in made.values():
        roots = f"dataroot_gt: {args.gt}, dataroot_lq: {folder.parent}"
        print(f"dataset: {{type: PairedDataset, {roots}, meta_info: {folder.parent / PAIRS}}}")


def _tasks(args: argparse.Namespace) -> TaskSet:
    if args.tasks:
        return TaskSet.load(args.tasks)
    if not args.opt:
        raise ConfigError("there are no tasks", remedy="name --tasks tasks.json or -opt FILE.yml")
    from tgsr.config.options import load_options

    options = load_options(args.opt)
    space = None if options.degradation is None else options.degradation.space.build()
    tasks = build_task_set(options.tasks.set, space)
    if tasks is None:
        raise ConfigError("the option file has no degradation", place=str(args.opt))
    return tasks


if __name__ == "__main__":
    run(main)
