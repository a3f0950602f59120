"""Blocks of a report as one HTML file without outside references, and as Markdown."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tgsr.report.tables import Table

CSS = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5a626b; --paper: #ffffff; --card: #f6f7f9; --line: #d9dde2;
  --link: #0b5cad; --good: #0a6b3d; --bad: #9c3a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a3abb4; --paper: #15181c; --card: #1e2227;
  --line: #363c44; --link: #7db7f0; --good: #6fd3a0; --bad: #f0a36b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
p, ul { max-width: 46rem; }
.subtitle { color: var(--soft); margin: 0 0 1rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; font-size: .95rem; }
a { color: var(--link); }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0; padding: 0; list-style: none; max-width: none; }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem 1rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--soft); font-size: .85rem; padding-top: .5rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
thead th[scope=colgroup] { border-bottom: 1px solid var(--line); text-align: center; }
tbody th { font-weight: 500; }
td.number { text-align: right; }
tr.unranked { color: var(--soft); }
.paper { color: var(--soft); font-size: .85em; }
.status-reproduced { color: var(--good); } .status-differs { color: var(--bad); } .status-not { color: var(--soft); }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; max-width: 46rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.25rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem 1rem; overflow: auto;
  font: .82rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; max-height: 34rem; }
code { font: .9em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 500; }
@media print { body { max-width: none; } nav { display: none; } figure, table { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Text:
    """Paragraphs parted by blank lines, `- ` lists, `code` and **bold**; nothing else of Markdown."""

    text: str


@dataclass(frozen=True)
class Tiles:
    """A few figures set large: (value, what it is)."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class TableBlock:
    """A table, saved as `tables/<name>.csv` and `.md`; folded away when `is_folded`."""

    name: str
    table: Table
    is_folded: bool = False
    title: str = ""


@dataclass(frozen=True)
class Image:
    """A PNG, saved as `figures/<name>.png`. `is_wide` images stand alone; others share rows."""

    name: str
    png: bytes
    caption: str
    alt: str
    is_wide: bool = False


@dataclass(frozen=True)
class Code:
    """Text as it is, e.g. an option file; folded away."""

    title: str
    text: str


Block = Text | Tiles | TableBlock | Image | Code


@dataclass
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """One HTML document: style inlined, images as data URIs, no script, no reference to a file or an address."""
    anchors = _anchors(sections)
    lines = [
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>", f"<style>{CSS}</style>", "</head>", "<body>",
        f"<header><h1>{html.escape(title)}</h1>",
    ]  # fmt: skip
    if subtitle:
        lines.append(f'<p class="subtitle">{html.escape(subtitle)}</p>')
    titled = [(s, a) for s, a in zip(sections, anchors, strict=True) if s.title]
    if len(titled) > 1:
        links = "".join(f'<a href="#{a}">{html.escape(s.title)}</a>' for s, a in titled)
        lines.append(f'<nav aria-label="Sections">{links}</nav>')
    lines += ["</header>", "<main>"]
    for section, anchor in zip(sections, anchors, strict=True):
        lines.append(f'<section id="{anchor}">')
        if section.title:
            lines.append(f"<h2>{html.escape(section.title)}</h2>")
        lines += _section_html(section.blocks)
        lines.append("</section>")
    return "\n".join([*lines, "</main>", "</body>", "</html>", ""])


def _anchors(sections: Sequence[Section]) -> list[str]:
    seen: dict[str, int] = {}
    anchors = []
    for section in sections:
        anchor = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "top"
        seen[anchor] = seen.get(anchor, 0) + 1
        anchors.append(anchor if seen[anchor] == 1 else f"{anchor}-{seen[anchor]}")
    return anchors


def _section_html(blocks: Sequence[Block]) -> list[str]:
    lines: list[str] = []
    row: list[str] = []
    for block in blocks:
        if isinstance(block, Image) and not block.is_wide:
            row.append(_block_html(block))
            continue
        if row:
            lines.append(f'<div class="row">{"".join(row)}</div>')
            row = []
        lines.append(_block_html(block))
    return [*lines, *([f'<div class="row">{"".join(row)}</div>'] if row else [])]


def _block_html(block: Block) -> str:
    if isinstance(block, Text):
        return _text_html(block.text)
    if isinstance(block, Tiles):
        items = "".join(f"<li><b>{html.escape(v)}</b><span>{html.escape(k)}</span></li>" for v, k in block.items)
        return f'<ul class="tiles">{items}</ul>'
    if isinstance(block, Code):
        return f"<details><summary>{html.escape(block.title)}</summary><pre>{html.escape(block.text)}</pre></details>"
    if isinstance(block, Image):
        data = base64.b64encode(block.png).decode()
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(block.alt, quote=True)}">'
            f"<figcaption>{html.escape(block.caption)}</figcaption></figure>"
        )
    title = html.escape(block.title or block.name.replace("_", " "), quote=True)
    body = re.sub(
        r"<td>(reproduced|differs|not run)</td>",
        lambda m: f'<td class="status-{m[1].split()[0]}">{m[1]}</td>',
        block.table.to_html(),
    )
    table = f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">{body}</div>'
    return f"<details><summary>{title}</summary>{table}</details>" if block.is_folded else table


def _text_html(text: str) -> str:
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = paragraph.splitlines()
        if lines and all(line.startswith("- ") for line in lines):
            parts.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            parts.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(parts)


def _inline(text: str) -> str:
    text = html.escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


def to_markdown(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The same as Markdown; images are referred to as `figures/<name>.png`."""
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
    if isinstance(block, Image):
        alt = block.alt.replace("[", "(").replace("]", ")")
        return f"![{alt}](figures/{block.name}.png)\n\n{block.caption}"
    return (f"**{block.title}**\n\n" if block.title else "") + block.table.to_markdown()
