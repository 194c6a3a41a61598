"""Notebook 09 in JupyterLab: the weight explorer by keyboard, after a training of few steps."""

from __future__ import annotations

STEPS = 2  # the explorer is the same after many

RUN_UP_TO_THE_EXPLORER = """async steps => {
    const { content } = window.jupyterapp.shell.currentWidget
    const sources = content.widgets.map(cell => cell.model.sharedModel)
    const first = sources.find(cell => /^steps = /.test(cell.source))
    first.setSource(first.source.replace(/^steps = \\d+/, `steps = ${steps}`))
    content.activeCellIndex = sources.findIndex(cell => /^explorer$/m.test(cell.source))
    await window.jupyterapp.commands.execute('notebook:run-all-above')
    await window.jupyterapp.commands.execute('notebook:run-cell')
}"""


def test_the_explorer_by_keyboard(open_notebook):
    notebook = open_notebook("09_what_was_learned.ipynb")
    page = notebook.page
    page.evaluate(RUN_UP_TO_THE_EXPLORER, STEPS)
    plot = page.locator(".jupyter-widgets .js-plotly-plot")
    plot.locator(".gtitle", has_text="A of local, layer 0 q_proj").wait_for()
    assert plot.locator(".heatmaplayer image").count() == 2  # before and after

    page.get_by_label("Layer", exact=True).focus()
    page.keyboard.press("ArrowDown")
    plot.locator(".gtitle", has_text="A of local, layer 1 q_proj").wait_for()
    page.get_by_label("Branch", exact=True).focus()
    page.keyboard.press("ArrowDown")
    plot.locator(".gtitle", has_text="A of intra, layer 1 q_proj").wait_for()
    page.keyboard.press("ArrowDown")
    plot.locator(".gtitle", has_text="A of inter, layer 1 q_proj").wait_for()
    page.get_by_label("Matrix", exact=True).focus()
    page.keyboard.press("End")
    plot.locator(".gtitle", has_text="update of inter, layer 1 q_proj").wait_for()
    page.get_by_label("Projection", exact=True).focus()
    page.keyboard.press("End")
    plot.locator(".gtitle", has_text="update of inter, layer 1 down_proj").wait_for()
    said = page.locator(".jupyter-widgets [role=status]", has_text="update of inter, layer 1 down_proj")
    assert said.inner_text() == plot.locator(".gtitle").text_content()
    assert page.locator(".jupyter-widgets tr", has_text="singular value 16").count() == 1  # inter rank

    assert notebook.unnamed_controls() == []
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []
