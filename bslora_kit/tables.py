"""The table of a grid as text, Markdown, CSV, LaTeX and a self-contained page; numbers: `results`.

    results = read_results("papermill_runs/similar_budget")
    pairs = comparisons(results, grid)
    frame = with_places(table(results, grid), pairs)
    print(to_text(frame, about(results, frame)))

Every form names profile, base model, seeds and items, and keeps the published columns apart, so that a
demo's table is not taken for the paper's. With the columns of `with_places` it prints ranks as sets, and
which rows are not distinguishable from the best.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from bslora_kit.comparisons import against, comparisons, in_words, seed_scores, with_places
from bslora_kit.figures import forest_plot, seed_dots
from bslora_kit.files import write_text
from bslora_kit.published import TASKS
from bslora_kit.results import about, base_score, differences, read_results, short_name, table

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "about",
    "base_score",
    "comparisons",
    "differences",
    "in_words",
    "read_results",
    "seed_scores",
    "table",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_text",
    "with_places",
    "write_tables",
]

WIDTH = 120  # columns of the terminal that `to_text` writes for
PUBLISHED = "as published, Llama 3-8B, one run"  # heading of the columns that are not this grid's
RUN = "this grid"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1rem;
  color: #111; background: #fff; }
div.wide { overflow-x: auto; }
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
    view.columns = [f"published {name}" if group == PUBLISHED else name for group, name in view.columns]
    align = ["left" if column in ("method", "ranks") else "right" for column in view]
    body = view.to_markdown(index=False, colalign=align, disable_numparse=True)
    return "\n".join([*(f"- {line}" for line in lines), "", body]) + "\n"


def to_csv(frame: pandas.DataFrame) -> str:
    """The table with unrounded numbers."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_latex(title: str, frame: pandas.DataFrame, lines: Sequence[str] = ()) -> str:
    r"""The table for a paper, with the rules of booktabs; the sentences of `about` are its notes.

    The document needs \\usepackage{booktabs} and \\usepackage{graphicx}.
    """
    view = _view(frame, short=False).rename(columns=short_name, level=1)
    style = view.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    align = "".join("l" if name in ("method", "ranks") else "r" for _, name in view.columns)
    tabular = style.to_latex(hrules=True, column_format=align, multicol_align="c")
    notes = [_latex(line) for line in lines]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(title)}}}",
            r"\resizebox{\linewidth}{!}{%",
            tabular.replace("±", r"$\pm$").rstrip() + "}",
            *([r"\par\footnotesize", " ".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def to_html(
    title: str,
    frame: pandas.DataFrame,
    lines: Sequence[str],
    figure: Figure,
    gains: pandas.DataFrame | None = None,
    pairs: pandas.DataFrame | None = None,
    seeds: pandas.DataFrame | None = None,
) -> str:
    """A page that needs no network: title, figures, table, and the paired differences where given.

    Args:
        title: heading of the page.
        frame: from `table`, perhaps with `with_places`.
        lines: from `about`.
        figure: drawn above the table; its script is part of the page.
        gains: from `differences`.
        pairs: from `comparisons`.
        seeds: from `seed_scores`.
    """
    sentences = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    parts = [f"<h1>{html.escape(title)}</h1>", f"<ul>{sentences}</ul>"]
    parts.append(figure.to_html(full_html=False, include_plotlyjs=True))
    parts.append(_main_table(frame))
    if seeds is not None and seeds["mean"].notna().any():
        parts.append("<h2>Every run</h2>")
        parts.append(seed_dots(seeds).to_html(full_html=False, include_plotlyjs=False))
    if gains is not None and len(gains):
        parts.append("<h2>Points over the base, paired by item, 95 % intervals clustered by fact</h2>")
        told = None
        if pairs is not None and len(pairs):
            over = against(pairs, "base").set_index("row")
            told = gains["row"].map(over["distinguishable"])
        parts.append(
            forest_plot(gains, "the base", told).to_html(full_html=False, include_plotlyjs=False)
        )
        parts.append(_plain_table(_gains_view(gains)))
    if pairs is not None and len(pairs):
        parts += _pair_sections(frame, pairs)
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
    pairs: pandas.DataFrame | None = None,
    seeds: pandas.DataFrame | None = None,
) -> list[Path]:
    """Writes table.md, .csv, .tex and .html into `folder`, each moved into place; returns the paths.

    Arguments as in `to_html`.
    """
    contents = {
        "table.md": f"# {title}\n\n{to_markdown(frame, lines)}",
        "table.csv": to_csv(frame),
        "table.tex": to_latex(title, frame, lines),
        "table.html": to_html(title, frame, lines, figure, gains, pairs, seeds),
    }
    paths = {name: Path(folder) / name for name in contents}
    for name, path in paths.items():
        write_text(path, contents[name])
    return list(paths.values())


def _view(frame: pandas.DataFrame, short: bool) -> pandas.DataFrame:
    """The columns that people read, as text; `short` for a terminal, else in two groups of columns."""
    tasks = [column for column in frame if column.removeprefix("mini_") in (*TASKS, "mmlu")]
    if short and len(tasks) > len(TASKS):  # no room for MMLU beside all eight
        tasks = [task for task in tasks if task.removeprefix("mini_") in TASKS]
    columns = {
        "method": frame["method"],
        "ranks": frame["ranks"],
        "params": _texts(frame["parameters"], "{:,}"),
        **({} if short else {"ratio": _texts(frame["ratio"], "{:.2f}%")}),
        **({"8B params": _texts(frame["published_parameters"], "{:,}")} if short else {}),
        **{short_name(task) if short else task: _texts(frame[task], "{:.1f}") for task in tasks},
        "mean": _texts(frame["mean"], "{:.2f}"),
        "±": _texts(frame["stderr"], "{:.2f}"),
    }
    if "places" in frame:
        columns["place"] = _texts(frame["places"], "{}")
    columns["lr"] = _texts(frame["lr"], "{:g}")
    if short:
        return pandas.DataFrame(columns)
    columns["seeds"] = _texts(frame["seeds"], "{}")
    columns["share size"] = _texts(frame["share_size"], "{}")
    if "against_best" in frame:
        columns["against the best"] = _texts(frame["against_best"], "{}")
    published = {
        "params": _texts(frame["published_parameters"], "{:,}"),
        "ratio": _texts(frame["published_ratio"], "{}"),
        "score": _texts(frame["published_score"], "{:.2f}"),
        "±": _texts(frame["published_stderr"], "{:.2f}"),
    }
    grouped = {(RUN, name): values for name, values in columns.items()}
    grouped |= {(PUBLISHED, name): values for name, values in published.items()}
    return pandas.DataFrame(grouped)


def _main_table(frame: pandas.DataFrame) -> str:
    """The table as HTML, the published columns shaded."""
    view = _view(frame, short=False).rename(columns=short_name, level=1)
    shade = [{"selector": "", "props": "background: #f4efe2; border-color: #cbbf9f"}]
    style = view.style.hide(axis="index").format(escape="html").format_index(escape="html", axis=1)
    style = style.set_table_styles({x: shade for x in view.columns if x[0] == PUBLISHED}, axis=0)
    return f'<div class="wide">{style.set_uuid("table").to_html()}</div>'


def _pair_sections(frame: pandas.DataFrame, pairs: pandas.DataFrame) -> list[str]:
    """The rows against the one with the highest mean, and all pairs, folded."""
    parts = []
    if frame["mean"].notna().any():
        best = frame.loc[frame["mean"].idxmax()]
        name = f"{best['method']} {best['ranks']}".strip()
        parts.append(f"<h2>Against the highest mean, {html.escape(name)}; Holm over all pairs</h2>")
        others = against(pairs, best["row"])
        drawn = forest_plot(others, name, others["distinguishable"])
        parts.append(drawn.to_html(full_html=False, include_plotlyjs=False))
    count = int((~pairs["distinguishable"]).sum())
    parts.append(f"<details><summary>All pairs ({len(pairs)}), {count} not distinguishable</summary>")
    return [*parts, _plain_table(_pairs_view(pairs)), "</details>"]


def _plain_table(view: pandas.DataFrame) -> str:
    return f'<div class="wide">{view.to_html(index=False, border=0)}</div>'


def _pairs_view(pairs: pandas.DataFrame) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "row": pairs["method_a"],
            "less row": pairs["method_b"],
            "difference": _texts(pairs["difference"], "{:+.2f}"),
            "95 % interval": _intervals(pairs),
            "± of items": _texts(pairs["stderr_items"], "{:.2f}"),
            "± of seeds": _texts(pairs["stderr_seeds"], "{:.2f}"),
            "p, Holm": _texts(pairs["p_holm"], "{:.2g}"),
            "smallest visible": _texts(pairs["smallest"], "{:.1f}"),
            "seeds": pairs["seeds"],
            "": ["" if told else "not distinguishable" for told in pairs["distinguishable"]],
        }
    )


def _gains_view(gains: pandas.DataFrame) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "row": gains["row"],
            "method": gains["method"],
            "difference": _texts(gains["difference"], "{:+.2f}"),
            "95 % interval": _intervals(gains),
            "p": _texts(gains["p_value"], "{:.2g}"),
            "seeds": gains["seeds"],
        }
    )


def _intervals(frame: pandas.DataFrame) -> list[str]:
    return [f"{low:+.2f} to {high:+.2f}" for low, high in zip(frame["low"], frame["high"], strict=True)]


def _latex(text: str) -> str:
    """Plain text with LaTeX's special characters escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = (special.get(x, f"\\{x}" if x in "&%$#_{}" else x) for x in text)
    return "".join(escaped).replace("±", r"$\pm$")


def _texts(values: pandas.Series, form: str) -> list[str]:
    return ["" if pandas.isna(value) else form.format(value) for value in values]
