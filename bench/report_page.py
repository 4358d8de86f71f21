"""A report as one HTML file: figures inline, nothing fetched from anywhere, no script."""

from __future__ import annotations

import base64
import re
from html import escape

from .report import Report, ReportFigure, Section
from .report_tables import Table

_OPEN_RUNS = 3
"""With more runs than this, their sections are folded."""
_NUMBER = re.compile(r"[+-]?[\d.,]+( ?(%|ms|FPS))?")
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a;
  background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin-bottom: .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 1.2rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { background: #f4f4f4; } td.number { text-align: right; white-space: nowrap; }
td.missing { color: #666; font-style: italic; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; height: auto; border: 1px solid #eee; }
figcaption { font-size: .85rem; color: #444; max-width: 50rem; }
summary { font-size: 1.15rem; font-weight: 600; cursor: pointer; margin: 1rem 0 .3rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
"""


def to_html(report: Report) -> str:
    """The whole page."""
    parts = [_section(section) for section in report.sections]
    is_open = " open" if len(report.runs) <= _OPEN_RUNS else ""
    for run in report.runs:
        parts.append(f"<details{is_open}><summary>{escape(run.title)}</summary>{_content(run)}</details>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(report.title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _section(section: Section) -> str:
    return f"<section><h2>{escape(section.title)}</h2>{_content(section)}</section>"


def _content(section: Section) -> str:
    sentences = [f"<p>{escape(sentence)}</p>" for sentence in section.sentences]
    tables = [_table(table) for table in section.tables]
    return "\n".join([*sentences, *tables, *(_figure(figure) for figure in section.figures)])


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(header)}</th>" for header in table.headers)
    rows = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: str) -> str:
    if cell in ("not measured", "too few frames"):
        return f'<td class="missing">{escape(cell)}</td>'
    look = ' class="number"' if _NUMBER.fullmatch(cell) else ""
    return f"<td{look}>{escape(cell)}</td>"


def _figure(figure: ReportFigure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    return (
        f'<figure><h3>{escape(figure.title)}</h3><img alt="{escape(figure.title)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(figure.caption)}</figcaption></figure>'
    )
