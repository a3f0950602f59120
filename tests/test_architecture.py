"""Imports go one way, and importing the command line is cheap."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tgsr"
LAYERS = [
    {"utils"},
    {"config"},
    {"archs", "degradations", "losses", "metrics"},
    {"tasks"},
    {"data"},
    {"models"},
    {"engine"},
    {"report"},
    {"study"},
    {"methods"},
    {"cli"},
]
LEVEL = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}


def imports(path: Path) -> set[str]:
    """`tgsr` modules that a file imports when it runs (imports under TYPE_CHECKING do not count)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
    return {m for m in found if m.startswith("tgsr.")}


FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.name == "cli.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_upward(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    room = parts[0]
    for module in imports(path):
        other = module.split(".")[1]
        if other == room == "methods" and len(parts) > 2 and len(module.split(".")) > 2:
            assert module.split(".")[2] == parts[1], f"{path} imports {module}: rooms never import each other"
        elif other != room:
            assert LEVEL[other] < LEVEL[room], f"{path} imports {module}"


def test_help_is_fast():
    code = "import sys, tgsr.cli as c; c.make_parser(); assert not {'torch', 'cv2'} & set(sys.modules)"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
    assert time.perf_counter() - start < 2  # about 0.1 s; the rest is for a busy machine
