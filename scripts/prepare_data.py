"""Get known data sets and weights and lay them out: by name, or all that an option file needs."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from _common import bytes_progress, count_progress, run

from tgsr.data.prepare import NAMES, Work, prepare, prepare_paths
from tgsr.data.recipes import recipe_for


def prepare_for(files: Sequence[str], overrides: Sequence[str], work: Work) -> list[str]:
    """All that the option files' stages read and do not make; returns what could not be got."""
    import tgsr.methods  # noqa: F401 - the rooms register their stages
    from tgsr.config.options import load_options
    from tgsr.engine.context import Context
    from tgsr.engine.needs import inputs_of
    from tgsr.engine.runner import make_runner
    from tgsr.models import zoo

    context = Context.create(device="cpu")
    runners = [make_runner(load_options(file, overrides), context) for file in files]
    paths = list(dict.fromkeys(path for runner in runners for path in inputs_of(runner)))
    problems = prepare_paths(paths, work)
    problems += map(str, zoo.fetch_paths(paths, say=work.say, progress=work.bytes_progress))
    missing = [path for path in paths if not path.exists()]
    work.say(f"{len(paths) - len(missing)} of {len(paths)} files and folders are there")
    for path in missing:
        if recipe_for(path, work.root) is None and zoo.name_of(path) is None:
            problems.append(f"{path}: no recipe makes it; run the stage that does, or correct the path")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", nargs="+", metavar="NAME", help="of: " + ", ".join(NAMES))
    what.add_argument("--for", dest="files", nargs="+", metavar="FILE.yml", help="all that these option files need")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:SUB=VALUE", help="options to override")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="where the data lie already")
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="folder of all data sets")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking folders")
    parser.add_argument("--n_thread", type=int, default=min(8, os.cpu_count() or 1), help="processes that cut images")
    args = parser.parse_args()
    work = Work(
        args.root,
        source=args.source,
        copy=args.copy,
        num_workers=args.n_thread,
        say=print,
        bytes_progress=bytes_progress(),
        count_progress=count_progress("images"),
    )
    problems = prepare_for(args.files, args.force_yml, work) if args.files else []
    for name in args.dataset or []:
        prepare(name, work)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(2 if problems else 0)


if __name__ == "__main__":
    run(main)
