"""`python test.py -opt FILE.yml`: the same as `tgsr test`."""

import sys

from tgsr.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["test", *sys.argv[1:]]))
