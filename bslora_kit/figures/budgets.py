"""Figures of parameter budgets: what an adapter's parameters are shared over, what they cost and buy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import log10
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from bslora_kit.figures.style import (
    BLACK,
    BRANCH_COLOURS,
    GREY,
    SCOPE_PATTERNS,
    SCOPES,
    SKY,
    VERMILION,
    YELLOW,
    blank,
)

if TYPE_CHECKING:
    from bslora_kit.budget import Budget, Triple
    from bslora_kit.memory import Memory

SHARED = "shared"  # where tensors stand that several kinds of projections use
MEMORY_PARTS = {  # part -> (colour, pattern), in none of the colours that scopes have
    "weights": (GREY, ""),
    "adapters": (BLACK, ""),
    "gradients": (VERMILION, "/"),
    "optimizer": (YELLOW, ""),
    "activations": (SKY, ""),
    "logits": ("#C8C8C8", "x"),
}
_BRANCH_PATTERNS = {"local": "", "intra": "/", "inter": ".", "shared": "x"}


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
            marker={"color": colour, "pattern": {"shape": SCOPE_PATTERNS[scope], "fgcolor": "white"}},
            hovertemplate="%{fullData.name}: %{x:,}<extra></extra>",
        )
    figure.update_layout(barmode="stack", height=250, margin={"l": 30, "b": 90})
    figure.update_layout(legend={"y": 0, "yref": "container", "traceorder": "normal"})
    figure.update_yaxes(showticklabels=False)
    return figure


def rank_budget(budget: Budget, memories: Mapping[str, Memory], title: str) -> go.Figure:
    """Where an adapter's parameters are, what rank they give, and what memory they take.

    Args:
        budget: of the adapter.
        memories: label -> estimate, a bar each; may be empty.
        title: the finding.

    Returns:
        Three pictures: parameters by projection kind, stacked by scope; ranks as given and as one
        linear's update has them; bytes of training, stacked by part.
    """
    figure = go.Figure(
        make_subplots(
            rows=2,
            cols=2,
            specs=[[{"colspan": 2}, None], [{}, {}]],
            subplot_titles=("Trainable parameters", "Rank of one linear", "Training memory"),
            row_heights=[0.55, 0.45],
            column_widths=[0.42, 0.58],
            vertical_spacing=0.2,
            horizontal_spacing=0.17,
        )
    )
    for scope, (colour, words) in SCOPES.items():
        bar = _bar(words, colour, SCOPE_PATTERNS[scope], "legend", "%{x}: %{y:,}")
        figure.add_trace(bar, row=1, col=1)
    for branch, colour in BRANCH_COLOURS.items():
        bar = _bar(branch, colour, _BRANCH_PATTERNS[branch], "legend", "%{y}: %{x}", "h")
        figure.add_trace(
            bar.update(showlegend=False, textposition="inside", insidetextanchor="middle"), row=2, col=1
        )
    for part, (colour, pattern) in MEMORY_PARTS.items():
        bar = _bar(part, colour, pattern, "legend2", "%{y}: %{x:.2f} GiB", "h")
        figure.add_trace(bar, row=2, col=2)
    figure.update_layout(
        barmode="stack",
        template="plotly_white",
        uirevision="one picker",  # what is hidden stays so while ranks move
        height=580,
        margin={"l": 75, "r": 20, "t": 115, "b": 95},
        title={"font": {"size": 15}, "y": 0.95, "yanchor": "top"},
        legend={"orientation": "h", "y": 1.045, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        legend2={
            "orientation": "h",
            "y": -0.13,
            "yanchor": "top",
            "x": 1,
            "xanchor": "right",
            "traceorder": "normal",
        },
    )
    figure.update_annotations(font_size=13)
    figure.layout.annotations[0].update(x=1, xanchor="right")
    figure.update_yaxes(title="parameters", row=1, col=1)
    figure.update_xaxes(title="rank", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title={"text": "GiB", "standoff": 0}, row=2, col=2)
    figure.update_yaxes(autorange="reversed", row=2)
    redraw_rank_budget(figure, budget, memories, title)
    return figure


def redraw_rank_budget(
    figure: go.Figure, budget: Budget, memories: Mapping[str, Memory], title: str
) -> None:
    """Gives a figure of `rank_budget` other numbers in one update."""
    with figure.batch_update():
        figure.layout.title.text = title
        for trace, values in zip(figure.data, _values(budget, memories), strict=True):
            trace.update(values)


def cost_of_a_rank(costs: Mapping[str, int]) -> go.Figure:
    """What one more rank of each branch costs.

    Args:
        costs: branch ("local", "intra", "inter") -> trainable parameters of one rank.
    """
    dearest, cheapest = max(costs, key=costs.get), min(costs, key=costs.get)
    times = costs[dearest] / costs[cheapest]
    title = f"One {dearest} rank costs as much as {times:.0f} {cheapest} ranks"
    figure = blank(title, "parameters for one rank (log scale)", None)
    for name, cost in costs.items():
        bar = _bar(name, BRANCH_COLOURS[name], _BRANCH_PATTERNS[name], "legend", "%{x:,}", "h")
        figure.add_trace(bar.update(x=[cost], y=[name], text=[f"{cost:,}"], textposition="outside"))
    figure.update_layout(height=260, showlegend=False, barmode="overlay")
    figure.update_xaxes(type="log", range=[3, 0.6 + log10(max(costs.values()))])
    figure.update_yaxes(autorange="reversed")
    return figure


def equal_budget_triples(triples: Sequence[Triple], limit: int) -> go.Figure:
    """The rank that BSLoRA (SS, KE) triples of one budget give to each linear.

    Args:
        triples: from `budget.triples_within`.
        limit: the budget that they use up.

    Raises:
        ValueError: if there is no triple.
    """
    if not triples:
        raise ValueError(f"no triple uses {limit:,} parameters up; allow a larger tolerance")
    ranks = [triple.local + triple.intra + triple.inter for triple in triples]
    title = f"{len(triples)} triples for {limit:,} parameters: rank {min(ranks)} to {max(ranks)}"
    figure = blank(title, "local rank", "rank of one linear's update")
    figure.add_scatter(
        x=[triple.local for triple in triples],
        y=ranks,
        mode="markers",
        marker={
            "size": 9,
            "color": [triple.intra for triple in triples],
            "colorscale": sample_colorscale("Cividis", [0.35, 0.6, 0.85]),  # seen on white and black
            "colorbar": {"title": "intra rank"},
        },
        customdata=[(triple.intra, triple.inter, triple.trainable) for triple in triples],
        hovertemplate="%{x},%{customdata[0]},%{customdata[1]}: rank %{y}, "
        "%{customdata[2]:,} parameters<extra></extra>",
    )
    figure.update_xaxes(dtick=1)
    return figure


def floor_of_a_fit(counts: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """What the shared branches of each fit cost at rank 1: pairs, and vectors of each linear.

    Args:
        counts: fit -> {"pairs": parameters of A and B, "vectors": of gates or Kronecker vectors}.
    """
    totals = {fit: sum(parts.values()) for fit, parts in counts.items()}
    dearest, cheapest = max(totals, key=totals.get), min(totals, key=totals.get)
    title = (
        f"At rank 1 each, the shared branches of {dearest} cost "
        f"{totals[dearest] / totals[cheapest]:.0f} times those of {cheapest}"
    )
    figure = blank(title, "parameters", None)
    styles = (("pairs", BRANCH_COLOURS["intra"], "/"), ("vectors", BRANCH_COLOURS["local"], ""))
    words = {"pairs": "shared pairs A, B", "vectors": "vectors of one linear each"}
    for part, colour, pattern in styles:
        bar = _bar(words[part], colour, pattern, "legend", "%{y}: %{x:,}", "h")
        figure.add_trace(bar.update(x=[parts[part] for parts in counts.values()], y=list(counts)))
    figure.update_layout(height=300, barmode="stack")
    figure.update_yaxes(autorange="reversed")
    return figure


def _bar(
    name: str, colour: str, pattern: str, legend: str, hover: str, orientation: str = "v"
) -> go.Bar:
    """A bar without numbers; the pattern tells it apart where colours do not."""
    return go.Bar(
        name=name,
        orientation=orientation,
        marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "size": 7}},
        legend=legend,
        hovertemplate=f"%{{fullData.name}}, {hover}<extra></extra>",
    )


def _values(budget: Budget, memories: Mapping[str, Memory]) -> Iterator[dict[str, Sequence[Any]]]:
    """The coordinates of each trace, in the order of `rank_budget`."""
    counts, kinds = _scopes_and_kinds(budget)
    for scope in SCOPES:
        yield {
            "x": kinds,
            "y": [counts[scope, kind] for kind in kinds],
            "visible": scope in budget.by_scope,
        }
    branches = {branch.name: branch for branch in budget.plan.branches}
    for name in BRANCH_COLOURS:
        branch = branches.get(name)
        ranks = (branch.effective_rank, branch.rank) if branch else (0, 0)
        yield {
            "x": ranks,
            "y": ("update", "given"),
            "text": [f"{name} {rank}" if rank else "" for rank in ranks],
        }
    labels = [label.replace(" ", "<br>", 1) for label in memories]
    for part in MEMORY_PARTS:
        yield {"x": [found.parts[part] / 2**30 for found in memories.values()], "y": labels}


def _scopes_and_kinds(budget: Budget) -> tuple[dict[tuple[str, str], int], list[str]]:
    """Trainable elements by (scope, kind), and the kinds in the model's order."""
    kind_of = {linear.name: linear.kind for linear in budget.plan.linears}
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    for tensor in budget.plan.tensors.values():
        kinds = {kind_of[user] for user in tensor.users}
        if tensor.trainable:
            counts[tensor.scope, kinds.pop() if len(kinds) == 1 else SHARED] += tensor.size
    order = [*dict.fromkeys(kind_of.values()), SHARED]
    used = {kind for _, kind in counts}
    return counts, [kind for kind in order if kind in used]
