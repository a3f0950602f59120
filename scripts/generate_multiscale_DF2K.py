"""Write downscaled copies of a folder of images: factors 0.75, 0.5, 1/3, and one with a shortest edge of 400."""

import argparse
from pathlib import Path

from _common import count_progress, run

from tgsr.data.subimages import DF2K_SCALES, DF2K_SHORTEST_EDGE, generate_multiscale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="folder of images, at any depth")
    parser.add_argument("--output", type=Path, required=True, help="folder for the copies")
    parser.add_argument("--scales", type=float, nargs="+", default=list(DF2K_SCALES), help="factors")
    parser.add_argument("--shortest_edge", type=int, default=DF2K_SHORTEST_EDGE, help="of the last copy; 0: none")
    parser.add_argument("--n_thread", type=int, default=4, help="processes")
    args = parser.parse_args()
    count = generate_multiscale(
        args.input,
        args.output,
        scales=args.scales,
        shortest_edge=args.shortest_edge or None,
        num_workers=args.n_thread,
        progress=count_progress("images"),
    )
    print(f"{args.output}: {count} images")


if __name__ == "__main__":
    run(main)
