"""List pairs of images in a meta-info file, `gt, lq`: images at the same place of their sorted folders."""

import argparse
from pathlib import Path

from _common import run

from tgsr.data.subimages import write_meta_info_pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, nargs=2, required=True, metavar=("GT", "LQ"), help="the two folders")
    parser.add_argument(
        "--root", type=Path, nargs=2, metavar=("GT", "LQ"), help="paths are relative to these; default: the two folders"
    )
    parser.add_argument("--meta_info", type=Path, required=True, help="the text file")
    args = parser.parse_args()
    gt, lq = (p.absolute() for p in args.input)
    roots = tuple(p.absolute() for p in (args.root or args.input))
    count = write_meta_info_pairs([gt], [lq], (roots[0], roots[1]), args.meta_info)
    print(f"{args.meta_info}: {count} pairs")


if __name__ == "__main__":
    run(main)
