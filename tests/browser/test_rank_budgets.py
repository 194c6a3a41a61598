"""Notebook 07 in JupyterLab: run it, move a slider by keyboard, lock the budget, read what changes."""

from __future__ import annotations

import pytest

SIDE = 2 * 14_336  # one inter rank of slice sharing on Llama 3-8B: the largest input and output


@pytest.fixture
def notebook(open_notebook):
    opened = open_notebook("07_rank_budgets.ipynb")
    opened.run_all()
    opened.page.locator(".jupyter-widgets .gtitle").wait_for()
    return opened


def drawn(page, name):
    """Sum of the heights of one trace of the picker's figure, as drawn."""
    return page.evaluate(
        """name => document.querySelector('.jupyter-widgets .js-plotly-plot')._fullData
            .find(trace => trace.name === name).y.reduce((sum, y) => sum + y, 0)""",
        name,
    )


def value_of(page, label):
    return int(page.get_by_label(label, exact=True).input_value())


def test_the_picker_by_keyboard(notebook):
    page = notebook.page
    status = page.locator(".jupyter-widgets [role=status]")
    assert "BSLoRA (SS) 2,4,16 trains 7,667,712 parameters" in status.inner_text()
    assert drawn(page, "shared by the model") == 16 * SIDE

    slider = page.get_by_role("slider", name="inter, slider", exact=True)
    slider.focus()
    slider.press("ArrowRight")
    page.get_by_text(f"BSLoRA (SS) 2,4,17 trains {7_667_712 + SIDE:,} parameters").first.wait_for()
    assert drawn(page, "shared by the model") == 17 * SIDE
    assert value_of(page, "inter") == 17

    page.get_by_label("Lock the budget").check()
    page.get_by_text(f"The budget is locked at {7_667_712 + SIDE:,}; 0 unused.").wait_for()
    field = page.get_by_label("intra", exact=True)
    field.fill("3")
    field.press("Enter")
    # 32 layers less of one intra rank pay for 32 inter ranks more. The config is what changes last.
    page.wait_for_function(
        "begin => [...document.querySelectorAll('textarea')].some(one => one.value.startsWith(begin))",
        arg="bslora(2, 3, 49, fit='slice')\n- {row:",
    )
    assert page.get_by_label("Copy the config").input_value().startswith("bslora(2, 3, 49, fit='slice')")
    page.get_by_text("BSLoRA (SS) 2,3,49 trains").first.wait_for()
    assert value_of(page, "inter") == 49

    page.get_by_label("Method", exact=True).select_option("LoRA")
    page.get_by_text("LoRA 2 trains 3,538,944 parameters").first.wait_for()
    assert page.get_by_role("slider").count() == 1  # hidden ones have no role

    assert notebook.unnamed_controls() == []
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []
