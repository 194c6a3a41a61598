"""The picture of the weight explorer: a matrix before and after training, and its singular values."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bslora_kit.figures.style import BLACK, GREY

LARGEST_PICTURE = 160  # cells of a heat map, each way


def weight_view(
    matrices: tuple[np.ndarray, np.ndarray],
    values: tuple[np.ndarray, np.ndarray],
    axes: tuple[str, str],
    title: str,
) -> go.Figure:
    """A matrix before and after training as heat maps, and its singular values below.

    Args:
        matrices: before and after, of one shape.
        values: their singular values, largest first.
        axes: what the columns and the rows are.
        title: the finding.
    """
    figure = go.Figure(
        make_subplots(
            rows=2,
            cols=2,
            specs=[[{}, {}], [{"colspan": 2}, None]],
            subplot_titles=("before training", "after training", ""),
            row_heights=[0.62, 0.38],
            vertical_spacing=0.2,
            horizontal_spacing=0.14,
        )
    )
    for column in (1, 2):
        figure.add_heatmap(coloraxis="coloraxis", row=1, col=column)
    lines = (("before", GREY, "circle-open", "dash"), ("after", BLACK, "circle", "solid"))
    for name, colour, symbol, dash in lines:
        figure.add_scatter(
            name=f"singular values {name}",
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            marker={"symbol": symbol, "size": 8},
            row=2,
            col=1,
        )
    figure.update_layout(
        template="plotly_white",
        height=580,
        margin={"l": 75, "r": 20, "t": 90, "b": 90},
        title={"font": {"size": 15}, "y": 0.98, "yanchor": "top"},
        coloraxis={"colorscale": "RdBu_r", "colorbar": {"title": "value", "len": 0.6, "y": 0.72}},
        legend={"orientation": "h", "y": -0.14, "yanchor": "top"},
    )
    figure.update_xaxes(title="number of the singular value", row=2, col=1)
    figure.update_yaxes(title="singular value", rangemode="tozero", row=2, col=1)
    redraw_weight_view(figure, matrices, values, axes, title)
    return figure


def redraw_weight_view(
    figure: go.Figure,
    matrices: tuple[np.ndarray, np.ndarray],
    values: tuple[np.ndarray, np.ndarray],
    axes: tuple[str, str],
    title: str,
) -> None:
    """Gives a figure of `weight_view` another matrix in one update."""
    largest = max(float(np.abs(matrix).max()) for matrix in matrices) or 1.0
    with figure.batch_update():
        figure.layout.title.text = title
        figure.layout.coloraxis.update(cmin=-largest, cmax=largest)
        across, down = (
            {"title": name, "dtick": _whole_ticks(size) if name == "rank" else None}
            for name, size in zip(axes, reversed(matrices[0].shape), strict=True)
        )
        for column in (1, 2):
            figure.update_xaxes(**across, row=1, col=column)
            figure.update_yaxes(**down, autorange="reversed", row=1, col=column)
        figure.update_xaxes(dtick=_whole_ticks(len(values[0])), row=2, col=1)
        for trace, matrix in zip(figure.data[:2], matrices, strict=True):
            cells, (rows, columns) = condensed(matrix)
            trace.update(z=cells, x0=(columns - 1) / 2, dx=columns, y0=(rows - 1) / 2, dy=rows)
        for trace, found in zip(figure.data[2:], values, strict=True):
            trace.update(x=np.arange(1, len(found) + 1), y=found)


def condensed(matrix: np.ndarray, largest: int = LARGEST_PICTURE) -> tuple[np.ndarray, tuple[int, int]]:
    """A matrix with at most `largest` rows and columns, for a picture: each cell is a block's extreme.

    A mean would hide what a heat map is read for, single large weights.

    Args:
        matrix: [rows, columns].
        largest: cells each way.

    Returns:
        The cells, each the value of largest magnitude in its block with its sign, and the block's
        (rows, columns); blocks at the end may be smaller.
    """
    rows, columns = (-(-size // largest) for size in matrix.shape)
    padded = np.pad(matrix, ((0, -matrix.shape[0] % rows), (0, -matrix.shape[1] % columns)))
    blocks = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    high, low = blocks.max(axis=(1, 3)), blocks.min(axis=(1, 3))
    return np.where(high >= -low, high, low), (rows, columns)


def _whole_ticks(count: int) -> int:
    """A distance of ticks that leaves at most eight, all of them on whole numbers."""
    return -(-count // 8)
