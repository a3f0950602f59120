"""Blocks of a report as one HTML file without outside references, and as Markdown."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tgsr.report.tables import Table


@dataclass(frozen=True)
class Text:
    """Paragraphs parted by blank lines, `- ` lists, `code`, **bold** and links to files beside the page."""

    text: str


@dataclass(frozen=True)
class Tiles:
    """A few figures set large, or facts in a box when `is_small`: (value, what it is)."""

    items: Sequence[tuple[str, str]]
    is_small: bool = False


@dataclass(frozen=True)
class TableBlock:
    """A table, saved as `tables/<name>.csv` and `.md`; folded away when `is_folded`."""

    name: str
    table: Table
    is_folded: bool = False
    title: str = ""

    @property
    def heading(self) -> str:
        return self.title or self.name.replace("_", " ")

    @property
    def html(self) -> Markup:
        """The table, with a class for each status of a claim."""
        text = re.sub(
            r"<td>(reproduced|differs|not run)</td>",
            lambda m: f'<td class="status-{m[1].split()[0]}">{m[1]}</td>',
            self.table.to_html(),
        )
        return Markup(text)  # noqa: S704 - tables escape their cells


@dataclass(frozen=True)
class Image:
    """A PNG, saved as `figures/<name>.png`. `is_wide` images stand alone; others share rows."""

    name: str
    png: bytes
    caption: str
    alt: str
    is_wide: bool = False


@dataclass(frozen=True)
class Drawing:
    """An SVG element, saved as `figures/<name>.svg`; neighbours share rows."""

    name: str
    svg: str
    caption: str
    alt: str

    @property
    def inline(self) -> Markup:
        """As a part of the page."""
        label = f'role="img" aria-label="{html.escape(self.alt)}"'
        return Markup(self.svg.replace('xmlns="http://www.w3.org/2000/svg"', label, 1))  # noqa: S704 - ours


@dataclass(frozen=True)
class Slider:
    """Two pictures of equal size over each other, parted by a line that moves; saved as `figures/<name>_<side>.jpg`."""

    name: str
    left: tuple[str, bytes]
    right: tuple[str, bytes]
    caption: str


@dataclass(frozen=True)
class Code:
    """Text as it is, e.g. an option file; folded away."""

    title: str
    text: str


Block = Text | Tiles | TableBlock | Drawing | Image | Slider | Code


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("tgsr.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"data_uri": _data_uri, "prose": _text_html}
    found.tests["image"] = lambda block: isinstance(block, Drawing) or (isinstance(block, Image) and not block.is_wide)
    return found


def fill(template: str, **values: Any) -> str:
    """A page from a template of `templates/`: one HTML document without a reference to a file or an address."""
    return _environment().get_template(template).render(**values)


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """A report as one HTML document: style, images and the few lines of script inside."""
    named = list(zip(_anchors(sections), sections, strict=True))
    return fill("report.html", title=title, subtitle=subtitle, sections=named)


def _data_uri(image: bytes) -> str:
    kind = "jpeg" if image[:2] == b"\xff\xd8" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _anchors(sections: Sequence[Section]) -> list[str]:
    seen: dict[str, int] = {}
    anchors = []
    for section in sections:
        anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "top"
        seen[anchor] = seen.get(anchor, 0) + 1
        anchors.append(anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}")
    return anchors


def _text_html(text: str) -> Markup:
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if lines and all(line.startswith("- ") for line in lines):
            parts.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            parts.append(f"<p>{_inline(' '.join(lines))}</p>")
    return Markup("\n".join(parts))  # noqa: S704 - escaped by `_inline`


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([^\]]+)\]\(([\w./-]+)\)", r'<a href="\2">\1</a>', text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def to_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The same as Markdown; images are referred to as `figures/<name>.png` and `.svg`."""
    lines = [f"# {title}", ""]
    if subtitle:
        lines += [subtitle, ""]
    for section in sections:
        if section.title:
            lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [_block_markdown(block).rstrip("\n"), ""]
    return "\n".join(lines)


def _block_markdown(block: Block) -> str:
    if isinstance(block, Text):
        return block.text.strip()
    if isinstance(block, Tiles):
        return "\n".join(f"- {name}: **{value}**" for value, name in block.items)
    if isinstance(block, Code):
        fence = "`" * max(3, 1 + max((len(m) for m in re.findall(r"`+", block.text)), default=0))
        return f"{block.title}\n\n{fence}\n{block.text.rstrip()}\n{fence}"
    if isinstance(block, Slider):
        sides = (("left", block.left[0]), ("right", block.right[0]))
        images = "\n".join(f"![{label}](figures/{block.name}_{side}.jpg)" for side, label in sides)
        return f"{images}\n\n{block.caption}"
    if isinstance(block, (Drawing, Image)):
        alt = block.alt.replace("[", "(").replace("]", ")")
        return f"![{alt}](figures/{block.name}.{'svg' if isinstance(block, Drawing) else 'png'})\n\n{block.caption}"
    return (f"**{block.title}**\n\n" if block.title else "") + block.table.to_markdown()
