"""Figures of how a shared pair meets a linear: slices, gates, Kronecker chunks, and what rank remains.

    slice_map             a shared factor with the span that each linear reads
    matrix_equation       the matrices of an equation, to scale, with their values as colours
    kronecker_chunks      a small factor, its vector, the extended factor and the end that is cut off
    singular_spectrum     singular values of updates, and the ranks they show
    gradient_by_column    which users move which column of a shared factor, as a heat map

Everything is drawn from plain arrays; equations are those of Zhou et al., BSLoRA, ICML 2025. In heat
maps blue is negative, red positive and white zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from bslora_kit.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, blank

_LINES = (  # colour, symbol and dash of the first, second, ... line of a figure
    (BLUE, "circle", "solid"),
    (ORANGE, "square", "dash"),
    (GREEN, "diamond", "dot"),
    (BLACK, "triangle-up", "dashdot"),
    (VERMILION, "x", "longdash"),
    (SKY, "star", "longdashdot"),
)
_SCALE = "RdBu_r"
_ZERO = 1e-17  # where an exact 0 stands on a logarithmic axis


class Matrix(NamedTuple):
    """A matrix in an equation.

    Attributes:
        name: as the equation writes it.
        values: [rows, columns].
    """

    name: str
    values: np.ndarray


def slice_map(factor: ArrayLike, spans: Mapping[str, tuple[int, int]], axis: str) -> go.Figure:
    """A shared factor as a heat map, with a bar over the columns that each linear reads.

    Args:
        factor: [rank, length]; a factor B [length, rank] is given transposed.
        spans: linear -> first column and the column after the last.
        axis: what the columns are, "column of A".

    Raises:
        ValueError: if a span leaves the factor.
    """
    factor = np.asarray(factor)
    rank, length = factor.shape
    for name, (start, stop) in spans.items():
        if not 0 <= start < stop <= length:
            raise ValueError(f"{name}: columns {start} to {stop} are not inside the {length} columns")
    narrowest = min(spans, key=lambda name: spans[name][1] - spans[name][0])
    start, stop = spans[narrowest]
    title = (
        f"{narrowest} reads {stop - start} of {length} columns ({start} to {stop - 1}), "
        f"{(stop - start) / length:.0%} of the factor"
    )
    figure = go.Figure(
        make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.45, 0.55], vertical_spacing=0.06)
    )
    for name, (start, stop) in spans.items():
        bar = go.Bar(
            base=[start - 0.5],
            x=[stop - start],
            y=[name],
            orientation="h",
            marker_color=GREY,
            textfont={"color": "white", "size": 11},
            insidetextanchor="middle",
            text=[f"{start} to {stop - 1}"],
            hovertemplate=f"{name}: {axis} {start} to {stop - 1}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(bar, row=1, col=1)
        figure.add_vline(x=start - 0.5, line={"color": BLACK, "dash": "dot", "width": 1}, row=2, col=1)
        figure.add_vline(x=stop - 0.5, line={"color": BLACK, "dash": "dot", "width": 1}, row=2, col=1)
    figure.add_trace(_heat(factor, "value", f"{axis} %{{x}}, rank %{{y}}"), row=2, col=1)
    figure.update_layout(template="plotly_white", title={"text": title, "font": {"size": 15}})
    figure.update_layout(
        height=190 + 26 * len(spans) + 8 * rank, margin={"l": 90, "r": 20, "t": 60, "b": 60}
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title="rank", row=2, col=1)
    figure.update_xaxes(title=axis, range=[-0.5, length - 0.5], row=2, col=1)
    return figure


def matrix_equation(parts: Sequence[Matrix | str], title: str) -> go.Figure:
    """The matrices of an equation side by side, one element the same size everywhere.

    Args:
        parts: matrices, and the signs between them, in the order of the equation.
        title: what the picture shows.

    Returns:
        A heat map per matrix, each coloured up to its own largest absolute value, so that small values
        show; the hover text gives the values themselves.

    Raises:
        ValueError: if there is no matrix.
    """
    matrices = [part for part in parts if isinstance(part, Matrix)]
    if not matrices:
        raise ValueError("an equation without a matrix cannot be drawn; give at least one Matrix")
    tallest = max(matrix.values.shape[0] for matrix in matrices)
    widest = sum(matrix.values.shape[1] for matrix in matrices)
    gap = max(0.16 * widest, 0.1 * tallest) / 2
    figure, left = blank(title, "", None), 0.0
    for part in parts:
        if isinstance(part, str):
            figure.add_annotation(
                x=left - gap / 2, y=0, text=part, showarrow=False, font={"size": 20, "color": BLACK}
            )
            left += gap / 2
            continue
        rows, columns = part.values.shape
        peak = np.abs(part.values).max() or 1.0
        heat = _heat(
            part.values / peak, "of its largest", f"{part.name}[%{{y:d}}, %{{x:d}}]", part.values
        )
        heat.update(x0=left + 0.5, dx=1, y0=(rows - 1) / 2, dy=-1, showscale=False, zmin=-1, zmax=1)
        figure.add_trace(heat)
        outline = {"x0": left, "x1": left + columns, "y0": -rows / 2, "y1": rows / 2}
        figure.add_shape(type="rect", line={"color": GREY, "width": 1}, **outline)
        figure.add_annotation(
            x=left + columns / 2,
            y=rows / 2,
            text=f"<b>{part.name}</b><br>{rows} x {columns}",
            showarrow=False,
            yanchor="bottom",
            font={"size": 12},
        )
        left += columns + gap
    figure.update_xaxes(visible=False, range=[-gap / 2, left - gap / 2])
    figure.update_yaxes(visible=False, range=[-0.53 * tallest, 0.72 * tallest], scaleanchor="x")
    figure.update_layout(height=380, plot_bgcolor="white", margin={"l": 10, "r": 10, "t": 50, "b": 10})
    return figure


def kronecker_chunks(block: ArrayLike, vector: ArrayLike, size: int) -> go.Figure:
    """A small factor and what the Kronecker product makes of it: scaled copies, the end cut off.

    Args:
        block: A [rank, k]; B [k, rank] is given transposed.
        vector: [chunks], one scale per copy.
        size: of the linear, in or out; at most chunks * k.

    Raises:
        ValueError: if the copies are too few for the linear.
    """
    block, vector = np.asarray(block), np.asarray(vector).reshape(-1)
    rank, k = block.shape
    total = k * len(vector)
    if size > total:
        raise ValueError(f"{len(vector)} copies of {k} columns do not cover {size}; give more scales")
    cut = total - size
    ending = f"{cut} columns are cut off" if cut else "nothing is cut off"
    copies = "copies" if len(vector) > 1 else "copy"
    title = f"{len(vector)} scaled {copies} of {k} columns make {size}: {ending}"
    figure = go.Figure(make_subplots(rows=2, cols=1, vertical_spacing=0.34, row_heights=[0.5, 0.5]))
    figure.add_trace(_heat(block, "value", "column %{x}, rank %{y}"), row=1, col=1)
    extended = np.kron(vector[None, :], block)
    figure.add_trace(_heat(extended, "value", "column %{x}, rank %{y}"), row=2, col=1)
    figure.update_traces(coloraxis="coloraxis")
    for number, scale in enumerate(vector):
        edge = k * number - 0.5
        figure.add_vline(x=edge, line={"color": BLACK, "width": 1}, row=2, col=1)
        label = {"text": f"{scale:+.2f}", "showarrow": False, "yanchor": "bottom", "font": {"size": 11}}
        figure.add_annotation(x=edge + k / 2, y=-0.5, **label, row=2, col=1)
    if cut:
        figure.add_vrect(
            x0=size - 0.5, x1=total - 0.5, fillcolor=GREY, opacity=0.93, line_width=0, row=2, col=1
        )
    peak = max(np.abs(block).max(), np.abs(extended).max())
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 15}},
        coloraxis={"colorscale": _SCALE, "cmin": -peak, "cmax": peak, "colorbar": {"title": "value"}},
        height=340,
        margin={"l": 70, "r": 20, "t": 60, "b": 50},
    )
    figure.update_xaxes(range=[-0.5, total - 0.5])
    figure.update_xaxes(title="column of the shared factor", row=1, col=1)
    figure.update_xaxes(title="column for the linear (scale of each copy above, grey: cut off)", row=2)
    figure.update_yaxes(title="rank", autorange="reversed")
    return figure


def singular_spectrum(spectra: Mapping[str, ArrayLike], threshold: float, shown: int) -> go.Figure:
    """Singular values of updates, each divided by its largest, and the ranks they show.

    Args:
        spectra: label -> singular values in falling order, not all 0.
        threshold: singular values above this part of the largest count towards the rank.
        shown: how many of each are drawn.

    Raises:
        ValueError: if an update is 0, which has no largest singular value to divide by.
    """
    spectra = {label: np.asarray(values, dtype=float) for label, values in spectra.items()}
    for label, values in spectra.items():
        if not values.max() > 0:
            raise ValueError(f"{label}: all singular values are 0; the update is 0 where B is 0")
    ranks = {label: measured_rank(values, threshold) for label, values in spectra.items()}
    title = "Measured rank: " + ", ".join(f"{label} {rank}" for label, rank in ranks.items())
    figure = blank(title, "number of the singular value", "part of the largest (log scale)")
    for (label, values), (colour, symbol, dash) in zip(
        spectra.items(), _cycle(len(spectra)), strict=True
    ):
        figure.add_scatter(
            x=np.arange(1, len(values[:shown]) + 1),
            y=np.maximum(values[:shown] / values.max(), _ZERO),
            mode="lines+markers",
            name=f"{label}: rank {ranks[label]}",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 8},
        )
    figure.add_hline(y=threshold, line={"color": GREY, "dash": "dot"})
    figure.add_annotation(
        x=1,
        xref="paper",
        xanchor="right",
        y=np.log10(threshold),
        yanchor="bottom",
        text="below this line: rounding error",
        showarrow=False,
        font={"color": GREY},
    )
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_xaxes(dtick=max(1, shown // 12))
    return figure


def measured_rank(singular_values: ArrayLike, threshold: float) -> int:
    """How many singular values are above `threshold` times the largest."""
    values = np.asarray(singular_values)
    return int((values > threshold * values.max()).sum())


def gradient_by_column(parts: Mapping[str, ArrayLike], axis: str) -> go.Figure:
    """The norm of the gradient that each kind of projection sends to each column of a shared factor.

    Args:
        parts: kind of projection -> gradient [rank, length], summed over its linears.
        axis: what the columns are, "column of A".
    """
    norms = {name: np.linalg.norm(np.asarray(part), axis=0) for name, part in parts.items()}
    readers = np.sum([norm > 0 for norm in norms.values()], axis=0)
    alone, everybody = int((readers == 1).sum()), int((readers == len(norms)).sum())
    title = (
        f"{everybody} of {len(readers)} columns get a gradient from all {len(norms)} kinds, "
        f"{alone} from one alone"
    )
    values = np.stack(list(norms.values()))
    read = np.where(values > 0, values, np.nan)  # what is not read stays blank
    figure = blank(title, axis, None)
    figure.add_heatmap(
        z=np.log10(read),
        y=list(norms),
        customdata=read,
        colorscale="Cividis",
        colorbar={"title": "norm of the<br>gradient", **_decades(read)},
        hovertemplate="%{y}, column %{x}: %{customdata:.2e}<extra></extra>",
        hoverongaps=False,
    )
    figure.update_xaxes(range=[-0.5, len(readers) - 0.5], showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(height=150 + 36 * len(norms), margin={"l": 90})
    return figure


def _decades(values: np.ndarray) -> dict[str, list]:
    """Ticks of a colour bar over log10 of some values: 1 and 3 of each power of ten that they reach."""
    low, high = np.log10(np.nanmin(values)), np.log10(np.nanmax(values))
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 3)]
    return {"tickvals": list(np.log10(ticks)), "ticktext": [f"{tick:.0e}" for tick in ticks]}


def _cycle(count: int) -> list[tuple[str, str, str]]:
    """Looks of `count` lines."""
    return [_LINES[number % len(_LINES)] for number in range(count)]


def _heat(
    values: np.ndarray, label: str, where: str, hover_values: np.ndarray | None = None
) -> go.Heatmap:
    """A heat map with white at 0."""
    peak = float(np.abs(values).max()) or 1.0
    shown = "%{z:.3g}" if hover_values is None else "%{customdata:.3g}"
    return go.Heatmap(
        z=values,
        customdata=hover_values,
        colorscale=_SCALE,
        zmin=-peak,
        zmax=peak,
        colorbar={"title": label, "len": 0.6, "y": 0.25},
        hovertemplate=f"{where}: {shown}<extra></extra>",
    )
