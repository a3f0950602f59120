"""List the images of folders in a meta-info file: `path (h,w,c)`, one a line."""

import argparse
import os
from pathlib import Path

from _common import run

from tgsr.data.subimages import write_meta_info


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--root", type=Path, help="what paths are relative to, the later dataroot_gt")
    parser.add_argument("--meta_info", type=Path, required=True, help="the text file")
    parser.add_argument("--check", action="store_true", help="decode every image and leave out those that fail")
    args = parser.parse_args()
    root = args.root or Path(os.path.commonpath([p.absolute().parent for p in args.input]))
    count = write_meta_info([p.absolute() for p in args.input], root.absolute(), args.meta_info, check=args.check)
    print(f"{args.meta_info}: {count} images below {root}")


if __name__ == "__main__":
    run(main)
