"""Figures of what a table's numbers can carry: differences with intervals, seeds, trade-offs.

All numbers are in percent or points; intervals and error bars are 95 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from bslora_kit.figures.style import (
    BLACK,
    BLUE,
    ERROR_BAR,
    GREY,
    METHOD_STYLES,
    blank,
)

if TYPE_CHECKING:
    import pandas

ROW_HEIGHT = 24  # pixels of one row of a plot with a row per line
_VERDICTS = ("distinguishable", "not distinguishable")  # of a test over a whole table


def forest_plot(
    differences: pandas.DataFrame, against: str, distinguishable: pandas.Series | None = None
) -> go.Figure:
    """One interval a row: how far it lies from another row, and whether that exceeds the noise.

    Without a test over the whole table nothing is called distinguishable: an interval that excludes 0
    is then beyond the noise of one comparison, which among many comparisons happens by chance.

    Args:
        differences: columns method, difference, low, high (points).
        against: what the differences are measured from, for the title.
        distinguishable: whether each difference exceeds the noise, by a test that takes the whole table
            into account; by default rows are marked where their own interval excludes 0.

    Raises:
        ValueError: if there is no difference.
    """
    if not len(differences):
        raise ValueError("there is no difference to draw; compare at least two rows")
    if distinguishable is None:
        told = (differences["low"] > 0) | (differences["high"] < 0)
        title = f"Beyond the noise of one comparison with {against}"
        names = ("beyond the noise of one comparison", "within it")
    else:
        told = distinguishable.astype(bool)
        title, names = f"Distinguishable from {against}", _VERDICTS
    title += f": {int(told.sum())} of {len(told)} rows"
    figure = blank(title, f"points above or below {against} (bars: 95 % interval)", None)
    _draw_intervals(figure, differences, told, differences["method"], names)
    return _one_line_each(figure, list(differences["method"]))


def contrast_plot(contrasts: pandas.DataFrame) -> go.Figure:
    """Each contrast as the interval of a less b, and whether it is distinguishable.

    Args:
        contrasts: columns a, b, difference, low, high (points), distinguishable, and stderr_seeds,
            missing where nothing is known of other seeds.

    Raises:
        ValueError: if there is no contrast.
    """
    if not len(contrasts):
        raise ValueError("there is no contrast to draw; both sides need runs of a common seed")
    told = contrasts["distinguishable"].astype(bool)
    labels = contrasts["a"] + "<br>less " + contrasts["b"]
    title = f"{int(told.sum())} of {len(told)} planned comparisons are distinguishable (Holm)"
    if contrasts["stderr_seeds"].isna().any():
        title += "; one seed"
    figure = blank(title, "difference in points (bars: 95 % interval)", None)
    _draw_intervals(figure, contrasts, told, labels)
    return _one_line_each(figure, list(labels), lines=2)


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
    means = groups.mean()[several] if several.sum() > 1 else groups.mean()  # the base has one run
    gap = means.max() - means.min()
    title = f"One run a row: nothing is known of other seeds; rows span {gap:.1f} points"
    if len(spread):
        title = f"Seeds of one row span up to {spread.max():.1f} points, the rows' means {gap:.1f}"
    figure = blank(title, "mean score of the tasks (%)", None)
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


def _draw_intervals(
    figure: go.Figure,
    rows: pandas.DataFrame,
    told: pandas.Series,
    labels: pandas.Series,
    names: tuple[str, str] = _VERDICTS,
) -> None:
    """Differences with their intervals, what is told apart from what is not, under these names."""
    for words, chosen, colour, symbol in (
        (names[0], told, BLUE, "circle"),
        (names[1], ~told, GREY, "circle-open"),
    ):
        part = rows[chosen]
        figure.add_scatter(
            x=part["difference"],
            y=labels[chosen],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": part["high"] - part["difference"],
                "arrayminus": part["difference"] - part["low"],
            },
            mode="markers",
            name=words,
            marker={"color": colour, "symbol": symbol, "size": 10},
            hovertemplate="%{y}: %{x:+.2f} points<extra>" + words + "</extra>",
        )
    figure.add_vline(x=0, line={"color": BLACK, "width": 1})


def _one_line_each(figure: go.Figure, labels: list[str], lines: int = 1) -> go.Figure:
    """Rows from top to bottom in the order given, in a figure that grows with their number."""
    figure.update_yaxes(
        categoryorder="array", categoryarray=list(dict.fromkeys(labels)), autorange="reversed"
    )
    figure.update_yaxes(automargin=True, tickmode="linear")
    height = 190 + ROW_HEIGHT * lines * len(set(labels))
    figure.update_layout(height=height, legend={"y": -80 / height, "yanchor": "top"})
    return figure
