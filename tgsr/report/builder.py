"""Report: collects text, tables, figures and strips; writes index.html, report.md, tables/ and figures/."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgsr.report import expectations as claims
from tgsr.report.plots import figure_svg
from tgsr.report.render import (
    Block,
    Code,
    Drawing,
    Image,
    Section,
    Slider,
    TableBlock,
    Text,
    Tiles,
    to_html,
    to_markdown,
)
from tgsr.report.tables import Number, Table
from tgsr.utils.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Report:
    """One report, built in reading order.

    Args:
        title: heading of the page.
        subtitle: one line below it.
    """

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.sections: list[Section] = []
        self._names: set[str] = set()

    def section(self, title: str) -> Report:
        """Start a section; what is added next stands in it."""
        self.sections.append(Section(title))
        return self

    def add_text(self, text: str) -> Report:
        """Paragraphs parted by blank lines; `- ` lists, `code` and **bold** are understood."""
        return self._add(Text(text))

    def add_numbers(self, items: Mapping[str, str]) -> Report:
        """A few figures set large: what it is -> value as text."""
        return self._add(Tiles([(value, name) for name, value in items.items()]))

    def add_facts(self, items: Mapping[str, str]) -> Report:
        """A box of facts: what it is -> value as text, of any length. Empty values are left out."""
        found = [(value, name) for name, value in items.items() if value]
        return self._add(Tiles(found, is_small=True)) if found else self

    def add_table(self, name: str, table: Table, *, title: str = "", is_folded: bool = False) -> Report:
        """A table; also `tables/<name>.csv` and `.md`."""
        return self._add(TableBlock(self._unique(name), table, is_folded, title))

    def add_plot(self, name: str, figure: Figure | bytes | None, *, caption: str, alt: str = "") -> Report:
        """A figure, also as `figures/<name>.svg`; or a PNG. None, from a plot without data, adds nothing.

        Args:
            alt: what it shows, for readers who do not see it; the caption when empty.
        """
        if figure is None:
            return self
        name, alt = self._unique(name), alt or caption
        if isinstance(figure, bytes):
            return self._add(Image(name, figure, caption, alt))
        return self._add(Drawing(name, figure_svg(figure, name), caption, alt))

    def add_strip(self, name: str, png: bytes | None, *, caption: str, alt: str = "") -> Report:
        """A strip of images over the whole width; also `figures/<name>.png`. None adds nothing."""
        if png is None:
            return self
        return self._add(Image(self._unique(name), png, caption, alt or caption, is_wide=True))

    def add_slider(self, name: str, left: tuple[str, bytes], right: tuple[str, bytes], *, caption: str) -> Report:
        """Two JPEGs of equal size, each with its label, over each other; also in `figures/`."""
        return self._add(Slider(self._unique(name), left, right, caption))

    def add_code(self, title: str, text: str) -> Report:
        """Text as it is, folded away."""
        return self._add(Code(title, text))

    def add_expectations(
        self,
        name: str,
        expectations: Sequence[claims.Expectation],
        measured: Mapping[str, Number | float],
        *,
        caption: str = "",
    ) -> Report:
        """What a paper states | ours | status, and a sentence that counts them."""
        table = claims.comparison_table(expectations, measured, caption=caption)
        return self.add_text(claims.summary(table) + ".").add_table(name, table)

    def write(self, folder: Path | str) -> Path:
        """Write everything below `folder`; files of an older report of the same names are replaced.

        Returns:
            The path of `index.html`.
        """
        folder = Path(folder)
        for block in (b for s in self.sections for b in s.blocks):
            if isinstance(block, Drawing):
                _write(folder / "figures" / f"{block.name}.svg", block.svg.encode())
            elif isinstance(block, Image):
                _write(folder / "figures" / f"{block.name}.png", block.png)
            elif isinstance(block, Slider):
                for side, (_, image) in (("left", block.left), ("right", block.right)):
                    _write(folder / "figures" / f"{block.name}_{side}.jpg", image)
            elif isinstance(block, TableBlock):
                _write(folder / "tables" / f"{block.name}.csv", block.table.to_csv().encode())
                _write(folder / "tables" / f"{block.name}.md", block.table.to_markdown().encode())
        _write(folder / "report.md", to_markdown(self.title, self.subtitle, self.sections).encode())
        page = folder / "index.html"
        _write(page, to_html(self.title, self.subtitle, self.sections).encode())
        return page

    def _add(self, block: Block) -> Report:
        if not self.sections:
            self.sections.append(Section(""))
        self.sections[-1].blocks.append(block)
        return self

    def _unique(self, name: str) -> str:
        """A file name that no other block of this report has."""
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "unnamed"
        candidate, number = base, 2
        while candidate.lower() in self._names:
            candidate, number = f"{base}_{number}", number + 1
        self._names.add(candidate.lower())
        return candidate


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, lambda file: file.write(data))
