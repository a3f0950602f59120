"""The page of tables and figures names every file and no other; what the papers print has a file."""

import re
from pathlib import Path

import pytest

from tgsr.study.printed import printed

ROOT = Path(__file__).parents[1]
PAPERS = ("tgsr", "rebalancing", "grids", "cria_cl")


def named(paper):
    text = (ROOT / "docs/papers.md").read_text()
    section = re.search(rf"`options/{paper}/`\n(.*?)(?:\n## |\Z)", text, re.S)
    return set(re.findall(r"`(\w+\.yml)`", section[1]))


@pytest.mark.parametrize("paper", PAPERS)
def test_every_file_of_a_paper_is_on_the_page(paper):
    files = {p.name for p in (ROOT / "options" / paper).glob("*.yml")} - {"paper.yml"}
    assert named(paper) == files


@pytest.mark.parametrize("paper", PAPERS)
def test_every_printed_table_has_its_file(paper):
    for number in printed(paper).tables:
        assert (ROOT / "options" / paper / f"table{number}.yml").exists()
