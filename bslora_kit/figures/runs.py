"""Figures of training and scoring: loss over steps, score by task, score against parameters.

Scores are in percent, losses in nats per answer token, error bars 1.96 standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from bslora_kit.figures.style import BLACK, BLUE, ERROR_BAR, GREY, METHOD_STYLES, VERMILION, blank

if TYPE_CHECKING:
    import pandas


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
    figure = blank(title, "step", "loss (nats per answer token)")
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
    figure = blank(title, "score (%), bars: 95 % interval", None)
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
    figure = blank(
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
