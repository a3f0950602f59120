"""Pack a folder of images into one file of raw pixels, from which crops are read without decoding."""

import argparse
from pathlib import Path

from _common import count_progress, run

from tgsr.data.backends import open_source, read_meta_info
from tgsr.data.packed import pack_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="folder of images, at any depth")
    parser.add_argument("--output", type=Path, required=True, help="the packed folder (io_backend: packed)")
    parser.add_argument("--meta_info", type=Path, help="only the images that this file names")
    parser.add_argument("--crop_size", type=int, help="store squares of this edge; default: whole images")
    parser.add_argument("--step", type=int, help="distance of the squares; default: their edge")
    args = parser.parse_args()
    names = [e.gt for e in read_meta_info(args.meta_info)] if args.meta_info else None
    source = open_source(args.input, names=names)
    progress = count_progress("images")
    count = pack_images(source, args.output, crop_size=args.crop_size, step=args.step, progress=progress)
    print(f"{args.output}: {count} entries")


if __name__ == "__main__":
    run(main)
