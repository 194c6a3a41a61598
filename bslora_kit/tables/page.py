"""The table of a grid as a page that needs no network, and all its forms as files."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

import pandas
from plotly.offline import get_plotlyjs

from bslora_kit.figures import forest_plot, score_against_parameters, seed_dots
from bslora_kit.files import write_text
from bslora_kit.tables.cells import cells_printed
from bslora_kit.tables.contrasts import one_seed
from bslora_kit.tables.finished import Finished
from bslora_kit.tables.forms import RUN, texts, to_csv, to_latex, to_markdown, view_of
from bslora_kit.tables.long_forms import long_to_html, long_to_latex, long_to_markdown
from bslora_kit.tables.pair_forms import intervals, pairs_printed
from bslora_kit.tables.pairs import against, leaders, name_of
from bslora_kit.tables.results import base_score, short_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1rem;
  color: #111; background: #fff; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .2rem .3rem; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
"""


def to_html(run: Finished) -> str:
    """A page that needs no network: figures, table, every score with its errors, all comparisons.

    Args:
        run: the finished runs of a grid.
    """
    return page(run.title, section(run, "grid"))


def page(title: str, body: str) -> str:
    """A page whose figures need no network: their script is part of it.

    Args:
        title: shown in the browser's title bar.
        body: HTML; figures as `drawn` writes them.
    """
    head = [
        f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>',
        f"<script>window.PlotlyConfig = {{MathJaxConfig: 'local'}};\n{get_plotlyjs()}</script>",
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head>',
            *head,
            f"</head>\n<body>\n{body}\n</body></html>\n",
        ]
    )


def drawn(figure: Figure, name: str) -> str:
    """A figure as part of a `page`, the same text for the same figure.

    Args:
        figure: the figure.
        name: its id, of which a page has one each: letters, digits, - and _.
    """
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name)


def section(run: Finished, name: str, level: int = 1) -> str:
    """The part of a page that is about one grid; its figures are drawn by the page's script.

    Args:
        run: the finished runs of the grid.
        name: begins the ids of its elements: letters, digits, - and _.
        level: of the heading, from 1.
    """
    sentences = "".join(f"<li>{html.escape(line)}</li>" for line in run.lines)
    parts = [f"<h{level}>{html.escape(run.title)}</h{level}>", f"<ul>{sentences}</ul>"]
    front = score_against_parameters(run.table, base_score(run.table))
    parts += [drawn(front, f"{name}-front"), _main_table(run.table, name)]
    summary = f"Every score with its errors of items and of seeds ({len(run.cells)})"
    scores = cells_printed(run.cells, run.answers is not None)
    parts.append(long_to_html(f"{name}-cells", summary, scores))
    below = f"h{level + 1}"
    if run.seeds["mean"].notna().any():
        parts.append(f"<{below}>Every run</{below}>")
        parts.append(drawn(seed_dots(run.seeds), f"{name}-seeds"))
    if run.pairs is not None and len(run.gains):
        words = "Points over the base, paired by item, 95 % intervals clustered by fact"
        parts += [f"<{below}>{words}</{below}>", *_one_seed(run.pairs)]
        told = _told(run.gains, run.pairs)
        parts.append(drawn(forest_plot(run.gains, "the base", told), f"{name}-gains"))
        parts.append(plain_table(_gains_view(run.gains, told)))
    if run.pairs is not None and len(run.pairs):
        parts += _pair_sections(run.table, run.pairs, name, below)
    return "\n".join(parts)


def write_tables(folder: Path | str, run: Finished) -> list[Path]:
    """Writes table.md, .csv, .tex, .html and cells.md, .csv, .tex, and pairs.* if rows were compared.

    Each is moved into place.

    Args:
        folder: takes the files.
        run: the finished runs of a grid.

    Returns:
        The paths.
    """
    contents = {
        "table.md": f"# {run.title}\n\n{to_markdown(run.table, run.lines)}",
        "table.csv": to_csv(run.table),
        "table.tex": to_latex(run.title, run.table, run.lines),
        "table.html": to_html(run),
    }
    long = {"cells": (cells_printed(run.cells, run.answers is not None), run.cells)}
    if run.pairs is not None and len(run.pairs):
        long["pairs"] = (pairs_printed(run.pairs), run.pairs)
    for name, (printed, frame) in long.items():
        contents |= {
            f"{name}.md": long_to_markdown(run.title, printed),
            f"{name}.csv": to_csv(frame),
            f"{name}.tex": long_to_latex(run.title, printed),
        }
    paths = {name: Path(folder) / name for name in contents}
    for name, path in paths.items():
        write_text(path, contents[name])
    return list(paths.values())


def _main_table(frame: pandas.DataFrame, name: str) -> str:
    """The table as HTML, the published columns shaded."""
    view = view_of(frame, short=False).rename(columns=short_name, level=1)
    shade = [{"selector": "", "props": "background: #f4efe2; border-color: #cbbf9f"}]
    style = view.style.hide(axis="index").format(escape="html").format_index(escape="html", axis=1)
    style = style.set_table_styles({x: shade for x in view.columns if x[0] != RUN}, axis=0)
    return f'<div class="wide">{style.set_uuid(f"{name}-table").to_html()}</div>'


def _pair_sections(
    frame: pandas.DataFrame, pairs: pandas.DataFrame, name: str, heading: str
) -> list[str]:
    """The rows against the one with the highest mean on their base, and all pairs, folded."""
    parts = []
    for number, best in enumerate(leaders(frame)):
        others = against(pairs, best["row"])
        if not len(others):
            continue
        words = f"Against the highest mean, {html.escape(name_of(best))}; Holm over all pairs"
        parts.append(f"<{heading}>{words}</{heading}>")
        parts += _one_seed(pairs)
        figure = forest_plot(others, name_of(best), others["distinguishable"])
        parts.append(drawn(figure, f"{name}-against-{number}"))
    count = int((~pairs["distinguishable"]).sum())
    summary = f"All pairs ({len(pairs)}), {count} not distinguishable"
    return [*parts, long_to_html(f"{name}-pairs", summary, pairs_printed(pairs))]


def _one_seed(pairs: pandas.DataFrame) -> list[str]:
    """What has to be said above intervals that know nothing of other seeds."""
    return [f"<p>{html.escape(line)}</p>" for line in one_seed(pairs)]


def _told(gains: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.Series:
    """Whether each gain is distinguishable by the test over all pairs."""
    verdicts = pairs.set_index(["a", "b"])["distinguishable"].to_dict()
    ways = zip(gains["row"], gains["against"], strict=True)
    told = [verdicts.get(way, verdicts.get(way[::-1], False)) for way in ways]
    return pandas.Series(told, gains.index, dtype=bool)


def plain_table(view: pandas.DataFrame) -> str:
    """A table as HTML, without its index and as wide as it is.

    Args:
        view: printed as it is, so numbers are better texts.
    """
    return f'<div class="wide">{view.to_html(index=False, border=0)}</div>'


def _gains_view(gains: pandas.DataFrame, told: pandas.Series) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "row": gains["row"],
            "method": gains["method"],
            "difference": texts(gains["difference"], "{:+.2f}"),
            "95 % interval": intervals(gains),
            "p, of this gain alone": texts(gains["p_value"], "{:.2g}"),
            "verdict, Holm over all pairs": [
                "distinguishable" if one else "not distinguishable" for one in told
            ],
            "seeds": gains["seeds"],
        }
    )
