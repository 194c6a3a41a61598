"""Plotly figures of the kit, drawn from plain data; every title states what the data show.

Colours are those of Okabe & Ito (2008), which people with any colour vision tell apart; a method has a
symbol besides. They are fixed here for the whole kit. Scores are in percent, losses in nats per answer
token, error bars 1.96 standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

if TYPE_CHECKING:
    import pandas

    from bslora_kit.budget import Budget

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"  # the untouched base, and methods without a style of their own

BRANCH_COLOURS = {"local": BLUE, "intra": ORANGE, "inter": GREEN, "shared": PURPLE}
SCOPES = {  # scope -> (colour, words): a scope has the colour of the BSLoRA branch that lives on it
    "module": (BRANCH_COLOURS["local"], "own to one linear"),
    "layer": (BRANCH_COLOURS["intra"], "shared in a layer"),
    "type": (BRANCH_COLOURS["shared"], "shared by a projection type"),
    "model": (BRANCH_COLOURS["inter"], "shared by the model"),
}
METHOD_STYLES = {  # label of a grid row -> (colour, symbol)
    "LoRA": (BLACK, "circle"),
    "ShareLoRA": (VERMILION, "square"),
    "BSLoRA (SS)": (BLUE, "diamond"),
    "BSLoRA (GT)": (ORANGE, "triangle-up"),
    "BSLoRA (KE)": (GREEN, "cross"),
    "Tied-LoRA (TL5)": (PURPLE, "x"),
    "Tied-LoRA (TL6)": (SKY, "star"),
    "VeRA": (YELLOW, "hexagon"),
}
ERROR_BAR = 1.96  # standard errors: a 95 % interval


def loss_curve(history: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Training and held-out loss over the steps.

    Args:
        history: the entries of history.jsonl: step, loss and, at some steps, eval_loss.

    Raises:
        ValueError: if the history is empty.
    """
    if not history:
        raise ValueError("the history is empty; train at least one step before drawing its loss")
    held_out = [entry for entry in history if entry.get("eval_loss") is not None]
    first, last = history[0], history[-1]
    title = f"The loss goes from {first['loss']:.2f} to {last['loss']:.2f} in {last['step']} steps"
    if held_out:
        title += f"; {held_out[-1]['eval_loss']:.2f} on held-out examples"
    figure = _figure(title, "step", "loss (nats per answer token)")
    figure.add_scatter(
        x=[entry["step"] for entry in history],
        y=[entry["loss"] for entry in history],
        mode="lines",
        name="training",
        line={"color": BLUE},
    )
    if held_out:
        figure.add_scatter(
            x=[entry["step"] for entry in held_out],
            y=[entry["eval_loss"] for entry in held_out],
            mode="lines+markers",
            name="held out",
            line={"color": VERMILION, "dash": "dash"},
        )
    return figure


def scores_by_task(scores: pandas.DataFrame) -> go.Figure:
    """One point per task with its error bar.

    Args:
        scores: `Evaluation.scores`: task, metric, value and stderr (fractions), n.

    Raises:
        ValueError: if there is no task.
    """
    if not len(scores):
        raise ValueError("the scores hold no task; evaluate at least one")
    best, worst = scores.loc[scores["value"].idxmax()], scores.loc[scores["value"].idxmin()]
    title = f"Best on {best['task']} ({100 * best['value']:.1f} %)"
    if len(scores) > 1:
        title += f", worst on {worst['task']} ({100 * worst['value']:.1f} %)"
    figure = _figure(title, "score (%), bars: 95 % interval", None)
    figure.add_scatter(
        x=100 * scores["value"],
        y=scores["task"],
        mode="markers",
        marker={"color": BLUE, "size": 10},
        error_x={"array": 100 * ERROR_BAR * scores["stderr"].fillna(0)},
        customdata=scores[["metric", "n"]],
        hovertemplate="%{y}: %{x:.1f} % (%{customdata[0]}, %{customdata[1]} items)<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(range=[0, 100])
    figure.update_yaxes(autorange="reversed")
    return figure


def score_against_parameters(table: pandas.DataFrame, base: float | None = None) -> go.Figure:
    """Mean score of each row against its trainable parameters, one trace per method.

    Args:
        table: from `tables.table`; rows without a score or without parameters are left out.
        base: mean score of the untouched base in percent, drawn as a line.
    """
    rows = table.dropna(subset=["mean", "parameters"])
    rows = rows[rows["parameters"] > 0]
    figure = _figure(
        _leader(rows, base), "trainable parameters (log scale)", "mean of the eight tasks (%)"
    )
    for method, group in rows.groupby("method", sort=False):
        colour, symbol = METHOD_STYLES.get(method, (GREY, "circle-open"))
        figure.add_scatter(
            x=group["parameters"].astype(int),
            y=group["mean"],
            error_y={"array": ERROR_BAR * group["stderr"].fillna(0)},
            mode="markers",
            name=method,
            marker={
                "color": colour,
                "symbol": symbol,
                "size": 11,
                "line": {"color": BLACK, "width": 0.5},
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
            annotation_position="bottom right",
        )
    figure.update_xaxes(type="log", minor={"ticks": "outside"})
    return figure


def budget_by_scope(budget: Budget) -> go.Figure:
    """What the trainable parameters of an adapter are shared over, as one bar."""
    shares = sorted(budget.by_scope.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{count / budget.trainable:.0%} {SCOPES[scope][1]}" for scope, count in shares)
    title = f"{budget.trainable:,} trainable parameters: {parts}"
    figure = _figure(title, "trainable parameters", None)
    for scope in (scope for scope in SCOPES if scope in budget.by_scope):
        colour, words = SCOPES[scope]
        figure.add_bar(
            x=[budget.by_scope[scope]],
            y=["adapter"],
            orientation="h",
            name=words,
            marker_color=colour,
            hovertemplate="%{fullData.name}: %{x:,}<extra></extra>",
        )
    figure.update_layout(barmode="stack", height=240)
    figure.update_yaxes(showticklabels=False)
    return figure


def _leader(rows: pandas.DataFrame, base: float | None) -> str:
    """The finding of a table: who leads, how clearly, and by how much over the base."""
    if not len(rows):
        return "No row has a score yet"
    best = rows.loc[rows["mean"].idxmax()]
    title = f"{best['method']} {best['ranks']} leads with {best['mean']:.1f} %".replace("  ", " ")
    if base is not None:
        title += f", {best['mean'] - base:+.1f} points from the base"
    others = rows.drop(best.name)
    if len(others) and rows["stderr"].notna().all():
        # Unpaired, so wide: whoever lies inside may be as good.
        noise = ERROR_BAR * (others["stderr"] ** 2 + best["stderr"] ** 2) ** 0.5
        level = int((best["mean"] - others["mean"] <= noise).sum())
        title += f"; rows within its noise: {level} of {len(others)}"
    return title


def _figure(title: str, x: str, y: str | None) -> go.Figure:
    """An empty figure in the kit's style."""
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis_title=x,
        yaxis_title=y,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.25},
        margin={"l": 70, "r": 30, "t": 60, "b": 60},
    )
    return figure
