"""Notebook 08 in JupyterLab: training draws itself, Stop ends it while the cell runs, the rest works."""

from __future__ import annotations

import re

STEPS = 1000  # more than a machine does before the page is there and the button pressed
WAIT = 180_000  # milliseconds, beside other tests

SET_STEPS_AND_RUN = """steps => {
    const cells = window.jupyterapp.shell.currentWidget.content.widgets
    const source = cells.map(cell => cell.model.sharedModel).find(cell => /^steps = /.test(cell.source))
    source.setSource(source.source.replace(/^steps = \\d+/, `steps = ${steps}`))
    window.jupyterapp.commands.execute('notebook:run-all-cells')
}"""


def test_stop_ends_training_and_the_notebook_goes_on(open_notebook):
    notebook = open_notebook("08_train_an_adapter.ipynb")
    page = notebook.page
    page.evaluate(SET_STEPS_AND_RUN, STEPS)
    stop = page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for(timeout=WAIT)
    page.get_by_text(re.compile(r"^loss \d+\.\d+, [\d,]+ tokens/s, about \d+ s left$")).wait_for(
        timeout=WAIT
    )
    page.locator(".jupyter-widgets .gtitle", has_text=f"of {STEPS}").wait_for(timeout=WAIT)
    assert notebook.unnamed_controls() == []
    stop.focus()
    page.keyboard.press("Enter")
    stop.wait_for(state="detached", timeout=WAIT)  # a still picture takes the panel's place
    title = page.get_by_text(re.compile(rf"Step \d+ of {STEPS}: the loss goes from")).first
    done = int(re.search(r"Step (\d+) of", title.text_content()).group(1))
    assert 1 <= done < STEPS
    page.get_by_text(f"in {done} steps,").wait_for(timeout=WAIT)
    page.get_by_text("rank 22 in every linear").wait_for(timeout=WAIT)
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []
