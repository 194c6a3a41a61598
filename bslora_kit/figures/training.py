"""The figure of a training run: loss above, gradient norm of each sharing scope below.

Drawn from the entries of history.jsonl (see `bslora_kit.training.result.history_entry`); losses in nats
per answer token, gradient norms before clipping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bslora_kit.figures.style import BLACK, GREY, SCOPES, VERMILION

_DASHES = {"module": "solid", "layer": "dash", "type": "dashdot", "model": "dot"}  # beside the colour
_WHOLE = (GREY, "all parameters")  # of a run whose scopes were not given

History = Sequence[Mapping[str, Any]]


def training_curves(history: History, scopes: Sequence[str], steps: int) -> go.Figure:
    """Loss and gradient norms over the steps, of a run that may not have started yet.

    Args:
        history: an entry a step: step, loss, at some steps eval_loss, and grad_norm_<scope>.
        scopes: names of the scopes whose gradient norms are drawn; "all" for the whole.
        steps: of the whole run; the axis ends there.
    """
    figure = go.Figure(
        make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.55, 0.45])
    )
    figure.add_scatter(name="training loss", mode="lines", line={"color": BLACK}, row=1, col=1)
    held_out = {"name": "held-out loss", "mode": "lines+markers"}
    figure.add_scatter(**held_out, line={"color": VERMILION, "dash": "dash"}, row=1, col=1)
    for scope in scopes:
        colour, words = SCOPES.get(scope, _WHOLE)
        line = {"color": colour, "dash": _DASHES.get(scope, "solid")}
        figure.add_scatter(name=f"gradient, {words}", mode="lines", line=line, row=2, col=1)
    figure.update_layout(
        template="plotly_white",
        uirevision="one run",  # what is zoomed or hidden stays so while the run goes on
        height=480,
        margin={"l": 75, "r": 20, "t": 80, "b": 60},
        title={"font": {"size": 15}, "y": 0.95, "yanchor": "top"},
        legend={"orientation": "h", "y": -0.14, "yanchor": "top"},
    )
    figure.update_xaxes(range=[0, steps + 1])
    figure.update_xaxes(title="step", row=2, col=1)
    figure.update_yaxes(title="loss (nats / token)", row=1, col=1)
    figure.update_yaxes(title="gradient norm", rangemode="tozero", row=2, col=1)
    redraw_training_curves(figure, history, scopes, steps)
    return figure


def redraw_training_curves(
    figure: go.Figure, history: History, scopes: Sequence[str], steps: int
) -> None:
    """Gives a figure of `training_curves` more steps in one update."""
    held_out = [entry for entry in history if entry.get("eval_loss") is not None]
    lines = [(history, "loss"), (held_out, "eval_loss")]
    lines += [(history, f"grad_norm_{scope}") for scope in scopes]
    with figure.batch_update():
        figure.layout.title.text = _finding(history, scopes, steps)
        for trace, (entries, name) in zip(figure.data, lines, strict=True):
            trace.x = [entry["step"] for entry in entries]
            trace.y = [entry[name] for entry in entries]


def _finding(history: History, scopes: Sequence[str], steps: int) -> str:
    """How far the loss has come, and which scope has the largest gradient on average."""
    if not history:
        return f"No step of {steps} is done yet"
    first, last = history[0], history[-1]
    title = (
        f"Step {last['step']} of {steps}: the loss goes from {first['loss']:.2f} to {last['loss']:.2f}"
    )
    held_out = [entry["eval_loss"] for entry in history if entry.get("eval_loss") is not None]
    if held_out:
        title += f", {held_out[-1]:.2f} on held-out examples"
    norms = {scope: _mean(entry[f"grad_norm_{scope}"] for entry in history) for scope in scopes}
    if len(norms) > 1 and all(norms.values()):
        largest, least = max(norms, key=norms.get), min(norms, key=norms.get)
        title += (
            f"<br>The gradient of what is {SCOPES[largest][1]} is the longest, "
            f"{norms[largest] / norms[least]:.1f} times that of what is {SCOPES[least][1]}"
        )
    return title


def _mean(values: Any) -> float:
    """The mean of those that are known: an fp16 step that the loss scaler skipped has no norm."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0
