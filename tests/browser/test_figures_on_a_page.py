"""Figures of panels on a slow page, and figures of both kinds on a dark one."""

from __future__ import annotations

import re

FIGURES = 6
TOO_LATE = 3_000  # milliseconds that Plotly.js takes at least; anywidget gives a widget 2 s to start
LIBRARY_BYTES = 1_600_000  # Plotly.js, compressed
SLOW_LIBRARY = """() => {
    const Fast = DecompressionStream
    const may_come = new Promise(done => { globalThis.letLibraryCome = done })
    globalThis.DecompressionStream = function (format) {
        const { readable, writable } = new Fast(format)
        const held = new TransformStream({ start: () => may_come })
        return { readable: readable.pipeThrough(held), writable }
    }
}"""
MAKE_FIGURES = f"""
import ipywidgets, plotly.graph_objects as go
from bslora_kit.figures.style import blank
from bslora_kit.panels.live_figure import LiveFigure
figures = [blank(f"figure {{n}}", "x", "y").add_bar(x=["a", "b"], y=[1, n]) for n in range({FIGURES})]
live = [LiveFigure(figure) for figure in figures]
ipywidgets.VBox(live)
"""
MOVE_THEM = """
for n, figure in enumerate(figures):
    figure.data[0].y = [2, 10 + n]
    live[n].draw(figure)
"""
ONE_OF_EACH = """
from bslora_kit.figures import follow_theme
from bslora_kit.figures.style import blank
from bslora_kit.panels.live_figure import LiveFigure
follow_theme()
figure = blank("a title", "x", "y").add_scatter(x=[1, 2], y=[1, 2], mode="lines", line_color="#000000")
figure.show("plotly_mimetype")
LiveFigure(figure)
"""
COLOURS = """plot => {
    const of = (selector, property) => getComputedStyle(plot.querySelector(selector))[property]
    return {
        paper: of('.main-svg', 'backgroundColor'), title: of('.gtitle', 'fill'),
        tick: of('.xtick text', 'fill'), line: of('.js-line', 'stroke'),
    }
}"""


def heights(page):
    """The bars of each figure, as drawn."""
    return page.evaluate(
        "() => [...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')]"
        ".map(plot => [...plot._fullData[0].y])"
    )


def test_figures_wait_for_a_slow_library_and_show_the_last_numbers(write_notebook, open_notebook):
    name = write_notebook("six_figures.ipynb", [MAKE_FIGURES, MOVE_THEM])
    notebook = open_notebook(name)
    page = notebook.page
    page.evaluate(SLOW_LIBRARY)
    notebook.run_all()
    waiting = page.get_by_text("The figure is loading.")
    waiting.nth(FIGURES - 1).wait_for()
    page.wait_for_timeout(TOO_LATE)
    assert waiting.count() == FIGURES  # and all have got the numbers of the second cell
    page.evaluate("() => globalThis.letLibraryCome()")
    page.locator(".jupyter-widgets .gtitle").nth(FIGURES - 1).wait_for(timeout=30_000)
    expected = [[2, 10 + n] for n in range(FIGURES)]
    assert heights(page) == expected
    assert page.get_by_role("img", name=re.compile(r"figure \d")).count() == FIGURES
    assert 1_000_000 < notebook.received < LIBRARY_BYTES + FIGURES * 50_000
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []


def brightness(colour):
    """Mean of red, green and blue."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_figures_follow_the_theme(write_notebook, open_notebook):
    notebook = open_notebook(write_notebook("theme.ipynb", [ONE_OF_EACH]))
    notebook.run_all()
    page = notebook.page
    plots = page.locator(".js-plotly-plot")
    plots.nth(1).locator(".gtitle").wait_for()
    plots.nth(0).locator(".gtitle").wait_for()
    for theme, dark in (("JupyterLab Dark", True), ("JupyterLab Light", False)):
        page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme
        )
        page.wait_for_selector(f"body[data-jp-theme-light='{str(not dark).lower()}']", state="attached")
        # Until this is gone JupyterLab still takes the other theme's sheets out, and fails on a change.
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        for plot in plots.all():
            found = plot.evaluate(COLOURS)
            for part in ("title", "tick", "line"):
                assert (brightness(found[part]) > 150) == dark, (theme, part, found)
            see_through = found["paper"] == "rgba(0, 0, 0, 0)"
            assert see_through if dark else brightness(found["paper"]) > 250, (theme, found)
    assert notebook.errors() == []
