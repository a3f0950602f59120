"""`python train.py -opt FILE.yml`: the same as `tgsr train`."""

import sys

from tgsr.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["train", *sys.argv[1:]]))
