"""Figures of low-rank updates: what a pair costs, what rank an update has, how alike layers are.

All are drawn from plain numbers; the notebooks 01 and 06 measure them on the shipped model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bslora_kit.figures.style import BLACK, BLUE, GREY, SKY, VERMILION, YELLOW, blank

if TYPE_CHECKING:
    from bslora_kit.shapes import Linear

_VARIANTS = {  # none of the colours that scopes have
    "A": (SKY, "circle-open"),
    "B": (VERMILION, "diamond-open"),
    "AB": (GREY, "square-open"),
}
_LINES = ((GREY, "dot"), (BLUE, "solid"), (VERMILION, "dash"), (YELLOW, "dashdot"))


def weight_against_pair(linears: Iterable[Linear], rank: int) -> go.Figure:
    """Elements of the weights of each projection kind beside those of its LoRA pairs.

    Args:
        linears: the adapted ones; those of one kind are summed.
        rank: of a pair A [rank, in], B [out, rank].
    """
    weights: dict[str, int] = {}
    pairs: dict[str, int] = {}
    for linear in linears:
        size = linear.in_features * linear.out_features
        weights[linear.kind] = weights.get(linear.kind, 0) + size
        pair = rank * (linear.in_features + linear.out_features)
        pairs[linear.kind] = pairs.get(linear.kind, 0) + pair
    part = sum(pairs.values()) / sum(weights.values())
    title = f"A pair of rank {rank} holds {part:.1%} of the elements of the weights that it updates"
    figure = blank(title, "projection kind, all layers together", "elements")
    figure.add_bar(x=list(weights), y=list(weights.values()), name="weight W, frozen", marker_color=GREY)
    figure.add_bar(
        x=list(pairs),
        y=list(pairs.values()),
        name="pair A, B, trained",
        marker={"color": BLUE, "pattern": {"shape": "/", "fgcolor": "white"}},
    )
    figure.update_traces(texttemplate="%{y:,}", textposition="outside", cliponaxis=False)
    return figure.update_layout(height=400, barmode="group")


def singular_values(values: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """Singular values of some matrices, largest first, each relative to the largest of its matrix.

    Args:
        values: label -> singular values in falling order; at most four matrices.
        title: the finding.

    Raises:
        ValueError: for more matrices than there are line styles.
    """
    if len(values) > len(_LINES):
        raise ValueError(f"{len(values)} matrices in one figure; give at most {len(_LINES)}")
    figure = blank(title, "index of the singular value", "singular value / largest")
    for (label, found), (colour, dash) in zip(values.items(), _LINES, strict=False):
        relative = numpy.asarray(found) / found[0]
        figure.add_scatter(
            x=numpy.arange(1, len(relative) + 1),
            y=relative,
            name=label,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": colour, "dash": dash},
        )
    figure.update_yaxes(type="log", range=[-9.2, 0.2], exponentformat="power", dtick=2)
    return figure.update_layout(height=400)


def layer_cosines(cosines: Mapping[str, numpy.ndarray]) -> go.Figure:
    """How alike the updates of the layers are: a heat map for each method.

    Args:
        cosines: label -> cosines between the updates of two layers, [layers, layers].
    """
    figure = make_subplots(rows=1, cols=len(cosines), subplot_titles=list(cosines))
    for column, found in enumerate(cosines.values(), 1):
        figure.add_heatmap(
            z=found,
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            texttemplate="%{z:.1f}",
            textfont_size=9,
            hovertemplate="layers %{y} and %{x}: %{z:.3f}<extra></extra>",
            showscale=column == len(cosines),
            colorbar={"title": "cosine"},
            row=1,
            col=column,
        )
        figure.update_xaxes(title="layer", dtick=1, row=1, col=column)
    least = "; ".join(f"{label} {numpy.min(found):.2f}" for label, found in cosines.items())
    figure.update_yaxes(autorange="reversed", dtick=1)
    figure.update_yaxes(title="layer", col=1)
    figure.update_annotations(font_size=13)
    return figure.update_layout(
        title={"text": f"Cosine of the two least alike layers:<br>{least}", "font": {"size": 15}},
        template="plotly_white",
        height=350,
        margin={"l": 60, "r": 20, "t": 110, "b": 50},
    )


def counts_against_printed(
    printed: Mapping[str, int], computed: Mapping[str, Sequence[int]]
) -> go.Figure:
    """Printed parameter counts of ShareLoRA and those of its three variants.

    Args:
        printed: rank -> count as published.
        computed: variant A, B or AB -> counts, in the order of `printed`.
    """
    values = list(printed.values())
    equal = [name for name, counts in computed.items() if list(counts) == values]
    title = f"The printed counts are those of ShareLoRA {' and '.join(equal) or '(none of the three)'}"
    figure = blank(title, "rank", "trainable parameters")
    ranks = list(printed)
    for name, counts in computed.items():
        colour, symbol = _VARIANTS[name]
        figure.add_scatter(
            x=ranks,
            y=list(counts),
            name=f"ShareLoRA {name}, computed",
            mode="lines+markers",
            line={"color": colour, "width": 1},
            marker={"symbol": symbol, "size": 12},
        )
    figure.add_scatter(
        x=ranks,
        y=values,
        name="printed",
        mode="markers",
        marker={"symbol": "x", "size": 8, "color": BLACK},
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="log", dtick=1)
    return figure.update_layout(height=420)
