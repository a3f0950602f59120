"""Write a folder of images into an LMDB that BasicSR and tgsr read, verify it; run again to go on after a stop."""

import argparse
from pathlib import Path

from _common import count_progress, run

from tgsr.data.backends import open_source, read_meta_info
from tgsr.data.lmdb_store import write_lmdb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of images, at any depth")
    parser.add_argument("--output", type=Path, required=True, help="the LMDB folder, by custom NAME.lmdb")
    parser.add_argument("--meta_info", type=Path, help="only the images that this file names")
    parser.add_argument("--compression_level", type=int, default=1, help="of the PNG data, 0 to 9")
    parser.add_argument("--n_thread", type=int, default=4, help="threads")
    args = parser.parse_args()
    names = [e.gt for e in read_meta_info(args.meta_info)] if args.meta_info else None
    count = write_lmdb(
        open_source(args.input, names=names),
        args.output,
        png_level=args.compression_level,
        num_threads=args.n_thread,
        progress=count_progress("images"),
    )
    print(f"{args.output}: {count} images written now, all compared with their sources")


if __name__ == "__main__":
    run(main)
