"""Everything that a GPU has to tell, in order of value, in less than eight minutes (`gpu_hour.sh` prepares a machine).

    python benchmarks/gpu_hour.py --out FOLDER [--only step,sweep] [--size full|tiny] [--device cuda|cpu] [--minutes N]

Each part is a process of its own with a limit of its own; it writes each number at once into `FOLDER/<part>.jsonl` and
what it prints into `FOLDER/<part>.log`, and `FOLDER/summary.md` is written again after it. A part that fails or runs
over its limit is named there, and the next begins. `--size tiny --device cpu` rehearses all of it without a GPU;
`--inline` stays in this process. basicsr is measured where it is installed. The parts: `comparison/gpu_parts.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from comparison import gpu_parts  # noqa: E402


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/gpu_hour"))
    parser.add_argument("--only", help=f"parts, with commas; default: {','.join(gpu_parts.PARTS)}")
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--workers", type=int, default=16, help="of the loaders in `iteration`")
    parser.add_argument("--minutes", type=float, default=7.5, help="for all parts together")
    parser.add_argument("--inline", action="store_true", help="no processes and no limits")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(given: list[str] | None = None) -> int:
    """0 when every part ended well."""
    arguments = parse_arguments(given)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.part:
        _run_part(arguments.part, arguments, arguments.seconds)
        return 0
    names = arguments.only.split(",") if arguments.only else list(gpu_parts.PARTS)
    end = time.monotonic() + arguments.minutes * 60
    outcomes: dict[str, str] = {}
    for name in names:
        start = time.monotonic()
        limit = min(gpu_parts.PARTS[name].seconds, end - start)
        for old in ("jsonl", "log"):
            (arguments.out / f"{name}.{old}").unlink(missing_ok=True)
        how = "not begun: the time is over" if limit < 5 else _attempt(name, arguments, limit)
        outcomes[name] = f"{how}, {time.monotonic() - start:.0f} s"
        print(f"{name}: {outcomes[name]}", flush=True)
        text = summary(arguments.out, outcomes, f"size {arguments.size}, device {arguments.device}")
        (arguments.out / "summary.md").write_text(text)
    print(text)
    return int(any(not how.startswith("done") for how in outcomes.values()))


def _attempt(name: str, arguments: argparse.Namespace, limit: float) -> str:
    log = arguments.out / f"{name}.log"
    if arguments.inline:
        try:
            _run_part(name, arguments, limit)
        except Exception:
            log.write_text(traceback.format_exc())
            return f"failed (see {log.name})"
        return "done"
    command = [sys.executable, __file__, "--part", name, "--seconds", f"{limit:.0f}", "--out", str(arguments.out)]
    command += ["--size", arguments.size, "--device", arguments.device, "--workers", str(arguments.workers)]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "stopped: it ran over its limit"
    return "done" if code == 0 else f"failed with code {code} (see {log.name})"


def _run_part(name: str, arguments: argparse.Namespace, seconds: float) -> None:
    run = gpu_parts.Run(
        device=arguments.device, is_tiny=arguments.size == "tiny", workers=arguments.workers,
        end=time.monotonic() + seconds - 3, path=arguments.out / f"{name}.jsonl",
    )  # fmt: skip
    gpu_parts.PARTS[name].function(run)


def summary(folder: Path, outcomes: Mapping[str, str], title: str) -> str:
    """All rows there are, a table for each part."""
    lines = [f"# One GPU, a few minutes: {title}", ""]
    for name, how in outcomes.items():
        lines += [f"## {name}: {how}", "", gpu_parts.PARTS[name].what, ""]
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(_cell(row.get(c)) for c in columns)} |" for row in rows] + [""]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "/")


if __name__ == "__main__":
    raise SystemExit(main())
