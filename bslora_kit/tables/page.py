"""The table of a grid as a page that needs no network, and all its forms as files."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas
from plotly.offline import get_plotlyjs

from bslora_kit.figures import forest_plot, seed_dots
from bslora_kit.files import write_text
from bslora_kit.tables.contrasts import ONE_SEED
from bslora_kit.tables.forms import RUN, texts, to_csv, to_latex, to_markdown, view_of
from bslora_kit.tables.pair_forms import (
    MODELS,
    intervals,
    pair_notes,
    pairs_to_latex,
    pairs_to_markdown,
    pairs_view,
)
from bslora_kit.tables.pairs import against, leaders, name_of
from bslora_kit.tables.results import short_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1rem;
  color: #111; background: #fff; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .2rem .45rem; text-align: right; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
"""


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
        figure: drawn above the table.
        gains: from `differences`.
        pairs: from `comparisons`.
        seeds: from `seed_scores`.
    """
    return page(title, section(title, "grid", frame, lines, figure, gains, pairs, seeds))


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


def section(
    title: str,
    name: str,
    frame: pandas.DataFrame,
    lines: Sequence[str],
    figure: Figure,
    gains: pandas.DataFrame | None = None,
    pairs: pandas.DataFrame | None = None,
    seeds: pandas.DataFrame | None = None,
    level: int = 1,
) -> str:
    """The part of a page that is about one grid; its figures are drawn by the page's script.

    Args:
        title: heading of the section.
        name: begins the ids of its elements: letters, digits, - and _.
        frame, lines, figure, gains, pairs, seeds: as in `to_html`.
        level: of the heading, from 1.
    """
    sentences = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    parts = [f"<h{level}>{html.escape(title)}</h{level}>", f"<ul>{sentences}</ul>"]
    parts += [drawn(figure, f"{name}-front"), _main_table(frame, name)]
    below = f"h{level + 1}"
    if seeds is not None and seeds["mean"].notna().any():
        parts.append(f"<{below}>Every run</{below}>")
        parts.append(drawn(seed_dots(seeds), f"{name}-seeds"))
    if gains is not None and len(gains):
        words = "Points over the base, paired by item, 95 % intervals clustered by fact"
        parts.append(f"<{below}>{words}</{below}>")
        parts += [] if pairs is None else _one_seed(pairs)
        told = None if pairs is None else _told(gains, pairs)
        parts.append(drawn(forest_plot(gains, "the base", told), f"{name}-gains"))
        parts.append(plain_table(_gains_view(gains)))
    if pairs is not None and len(pairs):
        parts += _pair_sections(frame, pairs, name, below)
    return "\n".join(parts)


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
    """Writes table.md, .csv, .tex, .html into `folder`, and pairs.md, .csv, .tex if there are pairs.

    Each is moved into place. Arguments as in `to_html`; returns the paths.
    """
    contents = {
        "table.md": f"# {title}\n\n{to_markdown(frame, lines)}",
        "table.csv": to_csv(frame),
        "table.tex": to_latex(title, frame, lines),
        "table.html": to_html(title, frame, lines, figure, gains, pairs, seeds),
    }
    if pairs is not None and len(pairs):
        contents |= {
            "pairs.md": pairs_to_markdown(title, pairs),
            "pairs.csv": to_csv(pairs),
            "pairs.tex": pairs_to_latex(title, pairs),
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
    parts.append(f"<details><summary>All pairs ({len(pairs)}), {count} not distinguishable</summary>")
    parts += [f"<p>{html.escape(note)}</p>" for note in pair_notes(pairs)]
    view = pairs_view(pairs)
    style = view.style.hide(axis="index").format(escape="html").format_index(escape="html", axis=1)
    shade = [{"selector": "", "props": "background: #eef2f4; border-color: #aebcc4"}]
    style = style.set_table_styles({x: shade for x in view.columns if x[0] == MODELS}, axis=0)
    return [*parts, f'<div class="wide">{style.set_uuid(f"{name}-pairs").to_html()}</div>', "</details>"]


def _one_seed(pairs: pandas.DataFrame) -> list[str]:
    """What has to be said above intervals that know nothing of other seeds."""
    return [f"<p>{ONE_SEED}</p>"] if pairs["stderr_seeds"].isna().any() else []


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


def _gains_view(gains: pandas.DataFrame) -> pandas.DataFrame:
    return pandas.DataFrame(
        {
            "row": gains["row"],
            "method": gains["method"],
            "difference": texts(gains["difference"], "{:+.2f}"),
            "95 % interval": intervals(gains),
            "p": texts(gains["p_value"], "{:.2g}"),
            "seeds": gains["seeds"],
        }
    )
