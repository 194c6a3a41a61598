"""Notebook 02 in JupyterLab: its maps are drawn, band by band, and tell owners when pointed at."""

from __future__ import annotations

LINEARS = 6 * 5  # of the shipped base
# Of 2,2,4 every linear reads a band of each branch in each factor; GT adds vectors of two branches.
SS_BANDS, GT_BANDS = 2 * 3 * LINEARS, (2 * 3 + 2) * LINEARS
LARGE_BANDS = 2 * 3 * 32 * 5  # Llama 3-8B


def check_bands(plot, count):
    """Waits for so many bars, and sees that each has an area on the screen."""
    bars = plot.locator(".barlayer .point path")
    bars.nth(count - 1).wait_for(state="attached")
    boxes = bars.evaluate_all(
        "paths => paths.map(path => path.getBoundingClientRect()).map(box => box.width * box.height)"
    )
    assert len(boxes) == count
    assert min(boxes) > 0


def test_maps_are_drawn_and_name_the_owners(open_notebook):
    notebook = open_notebook("02_what_can_be_shared.ipynb")
    notebook.run_all()
    first = notebook.pictures("BSLoRA (SS) 2,2,4: 74 tensors for 30 linears")
    check_bands(first, SS_BANDS)
    check_bands(notebook.pictures("BSLoRA (GT) 2,2,4: 314 tensors"), GT_BANDS)
    check_bands(notebook.pictures("on Llama-3-8B: 386 tensors"), LARGE_BANDS)
    several = notebook.pictures("what differs is who owns the tensors")
    headings = several.locator(".annotation-text", has_text="parameters")
    headings.nth(5).wait_for()
    assert headings.count() == several.locator(".cartesianlayer .subplot").count() == 6  # methods

    # The inter band of q_proj in the first layer: one tensor for all linears.
    first.scroll_into_view_if_needed()
    middle = first.evaluate(
        """plot => {
            const trace = plot._fullData.find(trace => trace.name === 'shared by the model')
            const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect()
            return [box.x + xaxis._offset + xaxis.d2p(trace.base[0] + trace.x[0] / 2),
                    box.y + yaxis._offset + yaxis.d2p(trace.y[0])]
        }"""
    )
    notebook.page.mouse.move(*middle)
    hover = first.locator(".hovertext")
    hover.wait_for()
    said = hover.text_content()
    assert "self_attn.q_proj reads" in said
    assert "inter A [4 x 448] of model: 1,792 parameters, used by 30 linears" in said
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []
