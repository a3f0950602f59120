"""Cut a folder of large images into overlapping sub-images, for faster reading."""

import argparse
from pathlib import Path

from _common import count_progress, run

from tgsr.data.subimages import extract_subimages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of images, at any depth")
    parser.add_argument("--output", type=Path, required=True, help="folder for the sub-images")
    parser.add_argument("--crop_size", type=int, default=480, help="edge of a sub-image")
    parser.add_argument("--step", type=int, default=240, help="distance between neighbours")
    parser.add_argument("--thresh_size", type=int, default=0, help="a rest at the edge wider than this is cut out too")
    parser.add_argument("--compression_level", type=int, default=3, help="of the PNG files, 0 to 9")
    parser.add_argument("--n_thread", type=int, default=4, help="processes")
    args = parser.parse_args()
    count = extract_subimages(
        args.input,
        args.output,
        crop_size=args.crop_size,
        step=args.step,
        thresh_size=args.thresh_size,
        png_level=args.compression_level,
        num_workers=args.n_thread,
        progress=count_progress("images"),
    )
    print(f"{args.output}: {count} sub-images")


if __name__ == "__main__":
    run(main)
