"""What the scripts share: one-line errors and progress on a terminal."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run from a checkout that is not installed

from tgsr.utils.errors import UserError  # noqa: E402


def run(main: Callable[[], None]) -> None:
    """Call `main`; a user's error becomes one line and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def count_progress(what: str) -> Callable[[int, int], None]:
    """Shows `done/all what` on a terminal, in place."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done}/{total} {what}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def bytes_progress() -> Callable[[int, int | None], None]:
    """Shows megabytes on a terminal, in place."""

    def show(done: int, total: int | None) -> None:
        if sys.stderr.isatty():
            whole = f" of {total / 2**20:.0f}" if total else ""
            print(f"\r{done / 2**20:.0f}{whole} MB", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show
