"""Figures of parameter budgets: what the trainable parameters of an adapter are shared over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from bslora_kit.figures.style import SCOPES, blank

if TYPE_CHECKING:
    from bslora_kit.budget import Budget


def budget_by_scope(budget: Budget) -> go.Figure:
    """What the trainable parameters of an adapter are shared over, as one bar."""
    shares = sorted(budget.by_scope.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{count / budget.trainable:.0%} {SCOPES[scope][1]}" for scope, count in shares)
    title = f"{budget.trainable:,} trainable parameters: {parts}"
    figure = blank(title, "trainable parameters", None)
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
