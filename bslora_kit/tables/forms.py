"""The table of a grid as text, Markdown, CSV and LaTeX.

Every form names profile, base model, seeds and items, and keeps the published columns apart, so that a
demo's table is not taken for the paper's. With the columns of `pairs.with_places` it prints ranks
as sets, and which rows are not distinguishable from the best.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas

from bslora_kit.published import TASKS
from bslora_kit.published.scores import MODEL
from bslora_kit.tables.results import short_name

TEXTS = ("method", "ranks")  # columns that are aligned to the left
WIDTH = 120  # columns of the terminal that `to_text` writes for
PUBLISHED = "as published{}, one run"  # heading of the columns that are not this grid's
COUNTS = "printed"  # the same for the counts of the narrow table
RUN = "this grid"


def to_text(frame: pandas.DataFrame, lines: Sequence[str] = ()) -> str:
    """The table for a terminal of 120 columns, the sentences of `about` below it."""
    view = view_of(frame, short=True).set_index("method").rename_axis(None)
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]
    return "\n".join([view.to_string(), "", *wrapped]) + "\n"


def to_markdown(frame: pandas.DataFrame, lines: Sequence[str] = ()) -> str:
    """The table in GitHub's Markdown, the sentences of `about` above it."""
    view = view_of(frame, short=False)
    view.columns = [name if group == RUN else f"published {name}" for group, name in view.columns]
    align = ["left" if column in TEXTS else "right" for column in view]
    return "\n".join([*(f"- {line}" for line in lines), "", markdown_of(view, align)]) + "\n"


def markdown_of(view: pandas.DataFrame, align: Sequence[str]) -> str:
    """A table of texts in GitHub's Markdown, what would end a cell escaped.

    Args:
        view: its columns as text.
        align: left or right, of each column.
    """
    escaped = view.map(lambda text: text.replace("|", r"\|"))
    return escaped.to_markdown(index=False, colalign=align, disable_numparse=True)


def to_csv(frame: pandas.DataFrame) -> str:
    """The table with unrounded numbers."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_latex(title: str, frame: pandas.DataFrame, lines: Sequence[str] = ()) -> str:
    r"""The table for a paper, with the rules of booktabs; the sentences of `about` are its notes.

    The document needs \\usepackage{booktabs} and \\usepackage{graphicx}.
    """
    view = view_of(frame, short=False).rename(columns=short_name, level=1)
    style = view.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    align = "".join("l" if name in TEXTS else "r" for _, name in view.columns)
    tabular = style.to_latex(hrules=True, column_format=align, multicol_align="c")
    notes = [latex_text(line) for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex_text(title)}}}",
            r"\resizebox{\linewidth}{!}{%",
            tabular.replace("±", r"$\pm$").rstrip() + "}",
            *([r"\par\footnotesize", " ".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def view_of(frame: pandas.DataFrame, short: bool) -> pandas.DataFrame:
    """The columns that people read, as text; `short` for a terminal, else in two groups of columns."""
    tasks = [column for column in frame if column.removeprefix("mini_") in (*TASKS, "mmlu")]
    if short and len(tasks) > len(TASKS):  # no room for MMLU beside all eight
        tasks = [task for task in tasks if task.removeprefix("mini_") in TASKS]
    several = frame["base"].nunique() > 1
    printed = frame[[x for x in frame if x.startswith("published_")]].notna().any(axis=None)
    columns = {
        "method": frame["method"],
        "ranks": frame["ranks"],
        "params": texts(frame["parameters"], "{:,}"),
        **({} if short else {"ratio": texts(frame["ratio"], "{:.2f}%")}),
        **({COUNTS: texts(frame["published_parameters"], "{:,}")} if short and printed else {}),
        **{short_name(task) if short else task: texts(frame[task], "{:.1f}") for task in tasks},
        "mean": texts(frame["mean"], "{:.2f}"),
        "±": texts(frame["stderr"], "{:.2f}"),
    }
    if "places" in frame:
        columns["place"] = texts(frame["places"], "{}")
    columns["lr"] = texts(frame["lr"], "{:g}")
    if short:
        return pandas.DataFrame(columns)
    columns["seeds"] = texts(frame["seeds"], "{}")
    if "against_best" in frame:
        columns["against the best"] = texts(frame["against_best"], "{}")
    published = {
        "params": texts(frame["published_parameters"], "{:,}"),
        "ratio": texts(frame["published_ratio"], "{}"),
        "score": texts(frame["published_score"], "{:.2f}"),
        "±": texts(frame["published_stderr"], "{:.2f}"),
    }
    grouped = {(RUN, name): values for name, values in columns.items()}
    if printed:
        heading = PUBLISHED.format("" if several else f", {MODEL}")
        grouped |= {(heading, name): values for name, values in published.items()}
    return pandas.DataFrame(grouped)


def latex_text(text: str) -> str:
    """Plain text with LaTeX's special characters escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = (special.get(x, f"\\{x}" if x in "&%$#_{}" else x) for x in text)
    return "".join(escaped).replace("±", r"$\pm$")


def texts(values: pandas.Series, form: str) -> list[str]:
    """Values as text, missing ones empty."""
    return ["" if pandas.isna(value) else form.format(value) for value in values]
