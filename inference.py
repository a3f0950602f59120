"""`python inference.py -i FILE_OR_FOLDER -o FOLDER -w WEIGHTS`: the same as `tgsr infer`."""

import sys

from tgsr.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["infer", *sys.argv[1:]]))
