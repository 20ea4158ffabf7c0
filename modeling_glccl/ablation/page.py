"""One HTML page with its figures inside, and every figure and table as a file beside it."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .outcomes import Spread
from .tables import Row, html_spread, html_table, write_csv

_STYLE = """
:root { --ink: #1f2933; --faint: #616e7c; --line: #e4e7eb; --accent: #1f5fa8; --tint: #eef4fb; --paper: #fff }
* { box-sizing: border-box }
body { margin: 0; background: #f5f7fa; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif }
header, main { max-width: 84rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 2.5rem }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem }
h2 { font-size: 1.3rem; margin: 0 0 .4rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 1.5rem; font-size: .9rem }
dt { color: var(--faint) } dd { margin: 0 }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin-bottom: 1.5rem }
.card { background: var(--paper); border: 1px solid var(--line); border-top: 3px solid var(--accent);
  border-radius: 6px; padding: .8rem 1.1rem; flex: 1 1 12rem }
.card strong { display: block; font-size: 1.7rem; font-variant-numeric: tabular-nums }
.card strong i, td i { font-style: normal; color: var(--faint); font-weight: normal }
.card strong i { font-size: 1rem } .card span { color: var(--faint); font-size: .9rem }
nav { font-size: .9rem; margin-bottom: 1.5rem } nav a { margin-right: 1rem; white-space: nowrap }
a { color: var(--accent); text-decoration: none } a:hover { text-decoration: underline }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 6px; padding: 1.3rem 1.5rem;
  margin-bottom: 1.5rem }
p { margin: 0 0 1rem; max-width: 62rem } p.note, .files { color: var(--faint); font-size: .85rem }
.wide { overflow-x: auto; margin-bottom: .8rem }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .32rem .6rem; text-align: right }
th { color: var(--faint); font-weight: 600; vertical-align: bottom }
th.group { text-align: center; border-bottom: 1px solid var(--line); font-weight: 500 } th.group:empty { border: 0 }
thead tr:last-child th { border-bottom: 2px solid var(--line) }
tbody tr + tr td { border-top: 1px solid var(--line) } td.name, th:first-child { text-align: left }
td:first-child { font-weight: 500 } tr.reference td { background: var(--tint) }
td i { font-size: .8rem }
figure { margin: 0 0 .4rem } img { max-width: 100%; height: auto; display: block }
details { margin-bottom: .6rem }
summary { cursor: pointer; color: var(--accent); font-size: .9rem; margin-bottom: .5rem }
@media print { body { background: #fff } nav { display: none }
  section { break-inside: avoid-page; border: 0; padding: 0 } }
"""


class Page:
    """A report under construction. Sections come in the order in which they are added, with what follows them.

    Args:
        folder: for `index.html`, the figures (`NAME.png`) and the tables (`NAME.csv`); made if it does not exist.
    """

    def __init__(self, folder: Path):
        self.folder, self.title = folder, ""
        self.facts: dict[str, str] = {}
        self.cards: list[str] = []
        self.sections: list[tuple[str, list[str]]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def card(self, label: str, value: Spread) -> None:
        """A key figure at the top."""
        self.cards.append(
            f"<div class=card><strong>{html_spread(value)}</strong><span>{html.escape(label)}</span></div>"
        )

    def section(self, title: str, text: str) -> None:
        """Starts a section with a paragraph."""
        self.sections.append((title, [f"<p>{html.escape(text)}</p>"]))

    def note(self, text: str) -> None:
        """A paragraph in small print."""
        self._add(f"<p class=note>{html.escape(text)}</p>")

    def table(
        self,
        rows: Sequence[Row],
        name: str,
        highlight: str | None = None,
        groups: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """A table, also written as `NAME.csv`.

        Args:
            rows: see [`write_csv`] and [`html_table`].
            name: of the file.
            highlight: see [`html_table`].
            groups: shows one table for each of these sets of column groups, where all would be too wide.
        """
        write_csv(rows, self.folder / f"{name}.csv")
        for shown in groups or [None]:
            self._add(html_table(rows, highlight, shown))
        self._add(f'<p class=files><a href="{name}.csv">{name}.csv</a></p>')

    def details(self, summary: str, rows: Sequence[Row], name: str, highlight: str | None = None) -> None:
        """A table that opens on a click."""
        self._add(f"<details><summary>{html.escape(summary)}</summary>")
        self.table(rows, name, highlight)
        self._add("</details>")

    def figure(self, figure: Figure, name: str, description: str) -> None:
        """A figure, also written as `NAME.png`."""
        path = self.folder / f"{name}.png"
        figure.savefig(path)
        data = base64.b64encode(path.read_bytes()).decode()
        size = f'style="width: {figure.get_figwidth():.2f}in"'
        self._add(f'<figure><img {size} alt="{html.escape(description)}" src="data:image/png;base64,{data}"></figure>')

    def write(self) -> Path:
        """Writes `index.html` and returns its path."""
        facts = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd>" for name, fact in self.facts.items()
        )
        links = "".join(
            f'<a href="#s{index}">{html.escape(title)}</a> ' for index, (title, _) in enumerate(self.sections)
        )
        body = "\n".join(
            f"<section id=s{index}><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"
            for index, (title, parts) in enumerate(self.sections)
        )
        path = self.folder / "index.html"
        path.write_text(
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
            f"<header><h1>{html.escape(self.title)}</h1><dl>{facts}</dl><div class=cards>{''.join(self.cards)}</div>"
            f"<nav>{links}</nav></header><main>{body}</main></body></html>\n",
            encoding="utf-8",
        )
        return path

    def _add(self, *parts: str) -> None:
        self.sections[-1][1].extend(parts)
