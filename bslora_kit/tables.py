"""The table of a grid as text, Markdown, CSV and a self-contained page; numbers: `bslora_kit.results`.

    results = read_results("papermill_runs/similar_budget")
    frame = table(results, grid)
    print(to_text(frame, about(results, frame)))

Every form names profile, base model, seeds and items, so that a demo's table is not taken for the
paper's.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from bslora_kit.files import write_text
from bslora_kit.published import TASKS
from bslora_kit.results import about, base_score, differences, read_results, short_name, table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "about",
    "base_score",
    "differences",
    "read_results",
    "table",
    "to_csv",
    "to_html",
    "to_markdown",
    "to_text",
    "write_tables",
]

WIDTH = 120  # columns of the terminal that `to_text` writes for

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: right; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
"""


def to_text(frame: pandas.DataFrame, lines: Sequence[str] = ()) -> str:
    """The table for a terminal of 120 columns, the sentences of `about` below it."""
    view = _view(frame, short=True).set_index("method").rename_axis(None)
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]
    return "\n".join([view.to_string(), "", *wrapped]) + "\n"


def to_markdown(frame: pandas.DataFrame, lines: Sequence[str] = ()) -> str:
    """The table in GitHub's Markdown, the sentences of `about` above it."""
    view = _view(frame, short=False)
    align = ["left" if column in ("method", "ranks") else "right" for column in view]
    body = view.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n".join([*(f"- {line}" for line in lines), "", body]) + "\n"


def to_csv(frame: pandas.DataFrame) -> str:
    """The table with unrounded numbers."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_html(
    title: str,
    frame: pandas.DataFrame,
    lines: Sequence[str],
    figure: Figure,
    gains: pandas.DataFrame | None = None,
) -> str:
    """A page that needs no network: title, figure, table, and the paired differences where given.

    Args:
        title: heading of the page.
        frame: from `table`.
        lines: from `about`.
        figure: drawn above the table; its script is part of the page.
        gains: from `differences`.
    """
    sentences = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    parts = [f"<h1>{html.escape(title)}</h1>", f"<ul>{sentences}</ul>"]
    parts.append(figure.to_html(full_html=False, include_plotlyjs=True))
    parts.append(_view(frame, short=False).to_html(index=False, border=0))
    if gains is not None and len(gains):
        parts.append("<h2>Points over the base, paired by item, 95 % intervals clustered by fact</h2>")
        parts.append(_gains_view(gains).to_html(index=False, border=0))
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def write_tables(
    folder: Path | str,
    title: str,
    frame: pandas.DataFrame,
    lines: Sequence[str],
    figure: Figure,
    gains: pandas.DataFrame | None = None,
) -> list[Path]:
    """Writes table.md, table.csv and table.html into `folder`, each moved into place; returns the paths.

    Arguments as in `to_html`.
    """
    contents = {
        "table.md": f"# {title}\n\n{to_markdown(frame, lines)}",
        "table.csv": to_csv(frame),
        "table.html": to_html(title, frame, lines, figure, gains),
    }
    paths = {name: Path(folder) / name for name in contents}
    for name, path in paths.items():
        write_text(path, contents[name])
    return list(paths.values())


def _view(frame: pandas.DataFrame, short: bool) -> pandas.DataFrame:
    """The columns that people read, as text; `short` for a terminal."""
    tasks = [column for column in frame if column.removeprefix("mini_") in TASKS]
    columns = {
        "method": frame["method"],
        "ranks": frame["ranks"],
        "params": _texts(frame["parameters"], "{:,}"),
        "ratio": _texts(frame["ratio"], "{:.2f}%"),
        "8B params" if short else "published params (Llama 3-8B)": _texts(
            frame["published_parameters"], "{:,}"
        ),
        **({} if short else {"published ratio": _texts(frame["published_ratio"], "{}")}),
        **{short_name(task) if short else task: _texts(frame[task], "{:.1f}") for task in tasks},
        "mean": _texts(frame["mean"], "{:.2f}"),
        "±": _texts(frame["stderr"], "{:.2f}"),
        **({} if short else {"seeds": _texts(frame["seeds"], "{}")}),
        "lr": _texts(frame["lr"], "{:g}"),
        **({} if short else {"share size": _texts(frame["share_size"], "{}")}),
    }
    return pandas.DataFrame(columns)


def _gains_view(gains: pandas.DataFrame) -> pandas.DataFrame:
    interval = [
        f"{low:+.2f} to {high:+.2f}" for low, high in zip(gains["low"], gains["high"], strict=True)
    ]
    return pandas.DataFrame(
        {
            "row": gains["row"],
            "method": gains["method"],
            "difference": _texts(gains["difference"], "{:+.2f}"),
            "95 % interval": interval,
            "p": _texts(gains["p_value"], "{:.2g}"),
            "seeds": gains["seeds"],
        }
    )


def _texts(values: pandas.Series, form: str) -> list[str]:
    return ["" if pandas.isna(value) else form.format(value) for value in values]
