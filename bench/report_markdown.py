"""A report as Markdown: its sentences and tables, and its figures where they are written as files."""

from __future__ import annotations

from .report import Report, Section
from .report_tables import Table


def to_markdown(report: Report, figures: str | None = None) -> str:
    """The text. `figures` is the folder of the figures' files relative to it, None where they are not written."""
    parts = [f"# {_escape(report.title)}"]
    for section in [*report.sections, *report.runs]:
        parts += [f"## {_escape(section.title)}", *_content(section, figures)]
    return "\n\n".join(parts) + "\n"


def _content(section: Section, figures: str | None) -> list[str]:
    parts = ["\n".join(f"- {_escape(sentence)}" for sentence in section.sentences)] if section.sentences else []
    parts += [_table(table) for table in section.tables]
    if figures is not None:
        parts += [
            f"![{_escape(figure.title)}]({figures}/{figure.name}.png)\n\n*{_escape(figure.title)}.* {_escape(figure.caption)}"
            for figure in section.figures
        ]
    return parts


def _table(table: Table) -> str:
    lines = [table.headers, tuple("---" for _ in table.headers), *table.rows]
    rows = "\n".join(
        "| " + " | ".join(_escape(cell) if cell != "---" else cell for cell in line) + " |" for line in lines
    )
    return f"**{_escape(table.title)}**\n\n{rows}"


def _escape(text: str) -> str:
    for character in "\\|*_<>`[]":
        text = text.replace(character, "\\" + character)
    return text
