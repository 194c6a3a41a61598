"""Figures of training and scoring: loss over steps, score by task.

Scores are in percent, losses in nats per answer token, error bars 1.96 standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from bslora_kit.figures.style import BLUE, ERROR_BAR, VERMILION, blank

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
        once = f", taken once, after step {held_out[0]['step']}" if len(held_out) == 1 else ""
        figure.add_scatter(
            x=[entry["step"] for entry in held_out],
            y=[entry["eval_loss"] for entry in held_out],
            mode="lines+markers",
            name=f"held out{once}",
            line={"color": VERMILION, "dash": "dash"},
            marker={"symbol": "diamond", "size": 9},
        )
    return figure


def scores_by_task(scores: pandas.DataFrame) -> go.Figure:
    """One point per task with its error bar.

    Args:
        scores: from `one_run.scores_of`: task, metric, value and stderr (fractions), n.

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
