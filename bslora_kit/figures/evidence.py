"""Figures of what a table's numbers can carry: differences with intervals, seeds, trade-offs.

All numbers are in percent or points; intervals and error bars are 95 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from bslora_kit.figures.style import BLACK, BLUE, ERROR_BAR, GREY, METHOD_STYLES, VERMILION, blank

if TYPE_CHECKING:
    import pandas

ROW_HEIGHT = 24  # pixels of one row of a plot with a row per line


def forest_plot(
    differences: pandas.DataFrame, against: str, distinguishable: pandas.Series | None = None
) -> go.Figure:
    """One interval a row: how far it lies from another row, and whether that exceeds the noise.

    Args:
        differences: columns method, difference, low, high (points).
        against: what the differences are measured from, for the title.
        distinguishable: whether each difference exceeds the noise, by a test that takes the whole table
            into account; by default where its own interval excludes 0.

    Raises:
        ValueError: if there is no difference.
    """
    if not len(differences):
        raise ValueError("there is no difference to draw; compare at least two rows")
    told = (differences["low"] > 0) | (differences["high"] < 0)
    if distinguishable is not None:
        told = distinguishable.astype(bool)
    title = f"Distinguishable from {against}: {int(told.sum())} of {len(told)} rows"
    figure = blank(title, f"points above or below {against} (bars: 95 % interval)", None)
    for words, rows, colour, symbol in (
        ("distinguishable", differences[told], BLUE, "circle"),
        ("not distinguishable", differences[~told], GREY, "circle-open"),
    ):
        figure.add_scatter(
            x=rows["difference"],
            y=rows["method"],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["difference"],
                "arrayminus": rows["difference"] - rows["low"],
            },
            mode="markers",
            name=words,
            marker={"color": colour, "symbol": symbol, "size": 10},
            hovertemplate="%{y}: %{x:+.2f} points<extra>" + words + "</extra>",
        )
    figure.add_vline(x=0, line={"color": BLACK, "width": 1})
    return _one_line_each(figure, list(differences["method"]))


def seed_dots(seeds: pandas.DataFrame) -> go.Figure:
    """Every run as a dot on its row's line, with the row's mean over seeds.

    Args:
        seeds: columns method, seed, mean (percent); rows without a mean are left out.

    Raises:
        ValueError: if no run has a mean.
    """
    runs = seeds.dropna(subset=["mean"])
    if not len(runs):
        raise ValueError("no run has a mean score; score all eight tasks")
    groups = runs.groupby("method", sort=False)["mean"]
    several = groups.count() > 1
    spread = (groups.max() - groups.min())[several]
    gap = groups.mean().max() - groups.mean().min()
    title = f"One run a row: nothing is known of other seeds; rows span {gap:.1f} points"
    if len(spread):
        title = f"Seeds of one row span up to {spread.max():.1f} points, the rows' means {gap:.1f}"
    figure = blank(title, "mean of the eight tasks (%)", None)
    figure.add_scatter(
        x=runs["mean"],
        y=runs["method"],
        mode="markers",
        name="one run",
        marker={"color": BLUE, "size": 9, "opacity": 0.65},
        customdata=runs["seed"],
        hovertemplate="%{y}, seed %{customdata}: %{x:.2f} %<extra></extra>",
    )
    figure.add_scatter(
        x=groups.mean(),
        y=list(groups.groups),
        mode="markers",
        name="mean over seeds",
        marker={"color": BLACK, "symbol": "line-ns-open", "size": 16, "line": {"width": 2}},
        hovertemplate="%{y}: mean %{x:.2f} %<extra></extra>",
    )
    return _one_line_each(figure, list(groups.groups))


def one_run_noise(
    rows: pandas.DataFrame, title: str, score: str = "mean of the eight tasks"
) -> go.Figure:
    """Printed scores with the interval that one run of so many items leaves, on a shared axis.

    Args:
        rows: columns label, mean, stderr (percent), and method, whose rows are coloured alike.
        title: what is seen.
        score: what the column mean holds.
    """
    figure = blank(title, f"printed {score} (%), bars: 95 % interval of one run", None)
    for group, part in rows.groupby("method", sort=False):
        colour, symbol = METHOD_STYLES.get(group, (GREY, "circle-open"))
        figure.add_scatter(
            x=part["mean"],
            y=part["label"],
            error_x={"array": ERROR_BAR * part["stderr"]},
            mode="markers",
            name=group,
            marker={"color": colour, "symbol": symbol, "size": 10},
            hovertemplate="%{y}: %{x:.2f} %<extra></extra>",
        )
    return _one_line_each(figure, list(rows["label"]))


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


def _bars(rows: pandas.DataFrame, column: str) -> dict | None:
    """Error bars of a column; None where no row has one."""
    name = f"{column} error"
    if name not in rows or rows[name].isna().all():
        return None
    return {"array": ERROR_BAR * rows[name].fillna(0)}


def _one_line_each(figure: go.Figure, labels: list[str]) -> go.Figure:
    """Rows from top to bottom in the order given, in a figure that grows with their number."""
    figure.update_yaxes(
        categoryorder="array", categoryarray=list(dict.fromkeys(labels)), autorange="reversed"
    )
    figure.update_yaxes(automargin=True, tickmode="linear")
    height = 190 + ROW_HEIGHT * len(set(labels))
    figure.update_layout(height=height, legend={"y": -80 / height, "yanchor": "top"})
    return figure
