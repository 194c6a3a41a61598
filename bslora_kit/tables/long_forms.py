r"""Tables with many lines as Markdown, LaTeX and HTML: all pairs of rows, all cells.

Columns that are named by two texts stand in groups, the second of which is another question's.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import pandas

from bslora_kit.tables.forms import latex_text, markdown_of

_SHADE = [{"selector": "", "props": "background: #eef2f4; border-color: #aebcc4"}]


class LongTable(NamedTuple):
    """What is printed of a long table.

    Attributes:
        heading: what it holds.
        notes: sentences that a reader must know.
        view: its columns as text; named (group, name) where there are two groups.
        left: how many columns are aligned to the left.
        second: what the columns of the second group are called in one word.
    """

    heading: str
    notes: Sequence[str]
    view: pandas.DataFrame
    left: int = 2
    second: str = ""


def long_to_markdown(title: str, table: LongTable) -> str:
    """In GitHub's Markdown, the notes above."""
    view = table.view.copy()
    if view.columns.nlevels > 1:
        first = view.columns[0][0]
        names = [name if group == first else f"{table.second}: {name}" for group, name in view.columns]
        view.columns = names
    align = ["left" if number < table.left else "right" for number in range(view.shape[1])]
    body = markdown_of(view, align)
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"# {title}: {table.heading}", "", *notes, "", body]) + "\n"


def long_to_latex(title: str, table: LongTable) -> str:
    r"""For a paper's appendix; the table breaks over pages.

    The document needs \\usepackage{booktabs} and \\usepackage{longtable}; the pairs fit on A4 turned
    sideways with margins of 1.5 cm.
    """
    style = table.view.style.hide(axis="index").format(escape="latex")
    style = style.format_index(escape="latex", axis=1)
    align = "".join("l" if number < table.left else "r" for number in range(table.view.shape[1]))
    tabular = style.to_latex(
        hrules=True,
        column_format=align,
        multicol_align="c",
        environment="longtable",
        caption=f"{latex_text(title)}: {table.heading}",
    )
    small = r"\begingroup\scriptsize\setlength{\tabcolsep}{2pt}"
    notes = latex_text(" ".join(table.notes))
    lines = [small, tabular.replace("±", r"$\pm$").rstrip(), notes, r"\par\endgroup", ""]
    return "\n".join(lines)


def long_to_html(name: str, summary: str, table: LongTable) -> str:
    """Folded, the columns of the second group shaded.

    Args:
        name: begins the ids of its cells.
        summary: what is read while it is folded.
        table: the table.
    """
    view = table.view
    style = view.style.hide(axis="index").format(escape="html").format_index(escape="html", axis=1)
    if view.columns.nlevels > 1:
        first = view.columns[0][0]
        style = style.set_table_styles({x: _SHADE for x in view.columns if x[0] != first}, axis=0)
    parts = [f"<details><summary>{html.escape(summary)}</summary>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in table.notes]
    return "\n".join([*parts, f'<div class="wide">{style.set_uuid(name).to_html()}</div>', "</details>"])
