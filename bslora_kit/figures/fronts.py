"""Figures of scores against costs, with the rows that no other row beats.

Scores are in percent, error bars 1.96 standard errors.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy
import plotly.graph_objects as go

from bslora_kit.figures.style import (
    BLACK,
    BLUE,
    ERROR_BAR,
    GREY,
    METHOD_STYLES,
    VERMILION,
    blank,
    style_name,
)

if TYPE_CHECKING:
    import pandas

_VARIANTS = ("{own}", "{own}-open", "{other}", "{other}-open")  # methods that share a style
_OTHER = {  # symbol -> one that is like it and told from it at a glance
    "circle": "octagon",
    "square": "square-cross",
    "diamond": "diamond-tall",
    "triangle-up": "triangle-down",
    "cross": "hourglass",
    "x": "bowtie",
    "star": "hexagram",
    "hexagon": "pentagon",
}
_FAR = 5.0  # points below the base from which a row is named at the figure's edge


def score_against_parameters(table: pandas.DataFrame, base: float | None = None) -> go.Figure:
    """Mean score of each row against its trainable parameters, one trace per method, and the front.

    Args:
        table: from `tables.table`; rows without a score or without parameters are left out. Rows on
            different base models have a Pareto front each. With the places of `tables.with_places` the
            title says how many rows are not distinguishable from the best.
        base: mean score of the untouched base in percent, drawn as a line; no row below it is on the
            front.
    """
    rows = table.dropna(subset=["mean", "parameters"])
    rows = rows[rows["parameters"] > 0]
    figure = blank(
        _leader(rows, base), "trainable parameters (log scale)", "mean score of the tasks (%)"
    )
    figure.update_layout(height=520)
    for number, (_, block) in enumerate(rows.groupby("base", sort=False)):
        front = block[pareto_front(block["parameters"], block["mean"], less_is_better=True)]
        if base is not None:  # which costs nothing
            front = front[front["mean"] > base]
        front = front.sort_values("parameters")
        figure.add_scatter(
            x=[*front["parameters"].astype(int), *([int(block["parameters"].max())] * bool(len(front)))],
            y=[*front["mean"], *front["mean"].tail(1)],
            mode="lines",
            name="Pareto front: no row scores more with fewer parameters",
            line={"color": GREY, "dash": "dot", "shape": "hv", "width": 1.5},
            hoverinfo="skip",
            showlegend=number == 0,
        )
    drawn: dict[str | None, int] = {}  # a style -> methods that have it
    for method, group in rows.groupby("method", sort=False):
        known = style_name(method)
        colour, symbol = METHOD_STYLES.get(known, (GREY, "circle"))
        variant = _VARIANTS[drawn.get(known, 0) % len(_VARIANTS)]
        symbol = variant.format(own=symbol, other=_OTHER[symbol])
        drawn[known] = drawn.get(known, 0) + 1
        figure.add_scatter(
            x=group["parameters"].astype(int),
            y=group["mean"],
            error_y={"array": ERROR_BAR * group["stderr"].fillna(0), "thickness": 1},
            mode="markers",
            name=method,
            marker={
                "color": colour,
                "symbol": symbol,
                "size": 11,
                "line": {"color": colour if "open" in symbol else BLACK, "width": 1},
            },
            customdata=group[["ranks", "stderr", "seeds"]],
            hovertemplate="%{fullData.name} %{customdata[0]}: %{y:.2f} ± %{customdata[1]:.2f} %, "
            "%{x:,} parameters, seeds: %{customdata[2]}<extra></extra>",
        )
    if base is not None:
        figure.add_hline(
            y=base,
            line={"color": GREY, "dash": "dot"},
            annotation_text=f"untouched base, {base:.1f} %",
            annotation_position="bottom left",
        )
        _name_far_rows(figure, rows, base)
    narrow = len(rows) and rows["parameters"].max() < 6 * rows["parameters"].min()
    figure.update_xaxes(type="log", dtick="D1" if narrow else "D2", tickformat="~s")
    return figure


def _name_far_rows(figure: go.Figure, rows: pandas.DataFrame, base: float) -> None:
    """Cuts the axis above rows far below the base, which would press all others together."""
    far = rows["mean"] < base - _FAR
    if not far.any() or far.all():
        return
    near = rows[~far]
    bars = ERROR_BAR * near["stderr"].fillna(0)
    bottom = min(float((near["mean"] - bars).min()), base) - 2  # room for the name of the base
    figure.update_yaxes(range=[bottom, max(float((near["mean"] + bars).max()), base) + 1])
    for row in rows[far].to_dict("records"):
        figure.add_annotation(
            x=math.log10(row["parameters"]),
            y=bottom,
            text=f"{row['method']} {row['ranks']}: {row['mean']:.1f} %, below the axis",
            arrowhead=2,
            ax=0,
            ay=-36,
            xanchor="right",
        )


def scatter_with_front(frame: pandas.DataFrame, x: str, y: str, less_is_better: bool) -> go.Figure:
    """Any column against any other, with error bars where they are known, and the Pareto front.

    Args:
        frame: columns label, x, y, on_front (bool), and perhaps "<x> error" and "<y> error", which hold
            standard errors; rows without x or y are left out.
        x, y: names of columns; more of y is better.
        less_is_better: whether less of x is better (a cost) or more (a score).
    """
    rows = frame.dropna(subset=[x, y])
    front = rows[rows["on_front"]].sort_values(x)
    wanted = "lower" if less_is_better else "higher"
    title = f"{len(front)} of {len(rows)} rows are on the Pareto front: higher {y}, {wanted} {x}"
    figure = blank(title if len(rows) else f"No row has both {x} and {y}", x, y)
    figure.add_scatter(
        x=front[x],
        y=front[y],
        mode="lines",
        name="Pareto front",
        line={"color": VERMILION, "dash": "dot", "shape": "hv" if less_is_better else "vh"},
        hoverinfo="skip",
    )
    for words, part, symbol in (
        ("on the front", front, "diamond"),
        ("behind it", rows.drop(front.index), "circle-open"),
    ):
        figure.add_scatter(
            x=part[x],
            y=part[y],
            error_x=_bars(part, x),
            error_y=_bars(part, y),
            mode="markers",
            name=words,
            text=part["label"],
            marker={"color": BLUE if words == "on the front" else GREY, "symbol": symbol, "size": 10},
            hovertemplate="%{text}<br>" + f"{x} %{{x}}, {y} %{{y:.2f}}<extra></extra>",
        )
    return figure


def pareto_front(x: pandas.Series, y: pandas.Series, less_is_better: bool) -> numpy.ndarray:
    """Which rows no other row beats: at least as good in both columns and better in one.

    Args:
        x: less is better, or more.
        y: more is better.
        less_is_better: of x.

    Returns:
        bool [rows].
    """
    cost = x.to_numpy(float) * (1 if less_is_better else -1)
    gain = y.to_numpy(float)
    no_worse = (cost[:, None] <= cost) & (gain[:, None] >= gain)  # [row, than row]
    better = (cost[:, None] < cost) | (gain[:, None] > gain)
    return ~(no_worse & better).any(axis=0)


def _bars(rows: pandas.DataFrame, column: str) -> dict | None:
    """Error bars of a column; None where no row has one."""
    name = f"{column} error"
    if name not in rows or rows[name].isna().all():
        return None
    return {"array": ERROR_BAR * rows[name].fillna(0)}


def _leader(rows: pandas.DataFrame, base: float | None) -> str:
    """The finding of a table: who leads, how clearly, and by how much over the base."""
    if not len(rows):
        return "No row has a score yet"
    best = rows.loc[rows["mean"].idxmax()]
    if rows["base"].nunique() > 1:
        return f"{len(rows)} rows on {rows['base'].nunique()} base models"
    title = f"{best['method']} {best['ranks']} leads with {best['mean']:.1f} %".replace("  ", " ")
    if base is not None:
        title += f", {best['mean'] - base:+.1f} points from the base"
    others = rows.drop(best.name)
    if len(others) and "against_best" in rows and rows["against_best"].notna().all():
        level = int((others["against_best"] == "not distinguishable").sum())
        title += f"; not distinguishable from it: {level} of {len(others)}"
        apart = int((others["against_best"] == "not compared").sum())
        title += f", not compared: {apart}" if apart else ""
    return title
