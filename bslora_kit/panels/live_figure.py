"""A Plotly figure of a panel: drawn anew in its place whenever its numbers change, as wide as the page.

    live = LiveFigure(figure)
    live.draw(figure)           # after its numbers have changed

Plotly's own FigureWidget brings all of Plotly.js in the source of each figure. anywidget gives a source
two seconds to start, which a slow page exceeds; and six figures weigh 30 MB. Here the source is short,
and Plotly.js travels once per kernel, compressed, and starts once per page. A figure is sent as a whole,
so whatever comes first, page, library or numbers, the last numbers are shown, also after a reload.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from bslora_kit.figures.theme import STYLES


class PlotlyLibrary(widgets.Widget):
    """Plotly.js as the installed plotly brings it, for all figures of a page.

    Attributes:
        version: of Plotly.js; a page starts each version once.
        packed: its source, gzip.
    """

    version = traitlets.Unicode(get_plotlyjs_version(), read_only=True).tag(sync=True)
    packed = traitlets.Bytes().tag(sync=True)

    _current: PlotlyLibrary | None = None

    @classmethod
    def of_kernel(cls) -> PlotlyLibrary:
        """The one library of this kernel; another one where the first was closed."""
        if cls._current is None or cls._current.comm is None:
            cls._current = cls(packed=_packed())
        return cls._current


class LiveFigure(anywidget.AnyWidget):
    """A figure that is drawn by the page, in the page's theme, and keeps the keys of its panel.

    JupyterLab otherwise takes arrows and letters on a panel's menus for commands on cells.

    Args:
        figure: what is drawn first.

    Attributes:
        drawing: what the page draws, as JSON.
    """

    _esm = Path(__file__).with_name("live_figure.js")
    _css = STYLES
    drawing = traitlets.Unicode().tag(sync=True)
    library = anywidget.WidgetTrait().tag(sync=True)

    def __init__(self, figure: go.Figure, **arguments: Any) -> None:
        super().__init__(
            drawing=figure.to_json(),
            library=PlotlyLibrary.of_kernel(),
            layout=widgets.Layout(width="100%"),
            **arguments,
        )

    def draw(self, figure: go.Figure) -> None:
        """Shows a figure in the place of the last one, in one message."""
        self.drawing = figure.to_json()


@cache
def _packed() -> bytes:
    return gzip.compress(get_plotlyjs().encode(), mtime=0)
