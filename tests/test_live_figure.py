"""The figure of a panel without a browser: what travels to the page, and how much of it."""

from __future__ import annotations

import gzip
import json

import plotly.graph_objects as go
import pytest
from ipywidgets import Widget
from plotly.offline import get_plotlyjs

from bslora_kit.figures.style import blank
from bslora_kit.panels.live_figure import LiveFigure, PlotlyLibrary

SOURCE_BYTES = 10_000  # of one figure's JavaScript, which anywidget has to start within two seconds


@pytest.fixture
def figure():
    drawn = blank("two points", "x", "y")
    return drawn.add_scatter(x=[1, 2], y=[3, 4])


def points(live):
    (trace,) = json.loads(live.drawing)["data"]
    return trace["x"], trace["y"]


def test_the_page_gets_the_last_numbers(figure):
    live, seen = LiveFigure(figure), []
    live.observe(lambda change: seen.append(change["name"]), "drawing")
    assert points(live) == ([1, 2], [3, 4])
    with figure.batch_update():
        figure.data[0].y = [5, 6]
        figure.layout.title.text = "two others"
    live.draw(figure)
    assert points(live) == ([1, 2], [5, 6])
    assert seen == ["drawing"]  # in one message, although trace and title differ
    # What a page gets that is loaded now.
    state = live.get_state()
    assert json.loads(state["drawing"])["layout"]["title"]["text"] == "two others"


def test_plotly_travels_once_for_all_figures(figure):
    first, second = (LiveFigure(figure).get_state() for _ in range(2))
    assert first["library"] == second["library"]
    library = PlotlyLibrary.of_kernel()
    assert first["library"] == f"anywidget:{library.model_id}"
    assert gzip.decompress(library.packed).decode() == get_plotlyjs()
    assert len(library.packed) < len(get_plotlyjs()) / 3
    assert len(str(first["_esm"])) < SOURCE_BYTES
    assert len(get_plotlyjs()) > 100 * SOURCE_BYTES


def test_a_closed_library_is_replaced(figure):
    before = PlotlyLibrary.of_kernel().model_id
    Widget.close_all()
    state = LiveFigure(figure).get_state()
    assert state["library"] == f"anywidget:{PlotlyLibrary.of_kernel().model_id}"
    assert PlotlyLibrary.of_kernel().model_id != before


def test_arrays_travel_as_plotly_reads_them(figure):
    live = LiveFigure(go.Figure(go.Heatmap(z=[[1.0, 2.0], [3.0, 4.0]])))
    (trace,) = json.loads(live.drawing)["data"]
    assert trace["z"] == [[1.0, 2.0], [3.0, 4.0]]
