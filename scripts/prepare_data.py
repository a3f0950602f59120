"""Get a known data set and lay it out below datasets/: python scripts/prepare_data.py --dataset demo."""

import argparse
from pathlib import Path

from _common import bytes_progress, run

from tgsr.data.prepare import NAMES, prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="one of: " + ", ".join(NAMES))
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", help="where the data lie already")
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="folder of all data sets")
    parser.add_argument("--copy", action="store_true", help="copy images instead of linking folders")
    args = parser.parse_args()
    prepare(args.dataset, args.root, source=args.source, copy=args.copy, say=print, progress=bytes_progress())


if __name__ == "__main__":
    run(main)
