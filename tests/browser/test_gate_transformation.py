"""Notebook 04 in JupyterLab: its pictures are drawn; picture and words say that GT has rank 1."""

from __future__ import annotations

import re

FACTORS = 6  # four gates and the pair


def test_the_shared_branches_are_drawn_with_one_singular_value(open_notebook):
    notebook = open_notebook("04_gate_transformation.ipynb")
    notebook.run_all()
    equation = notebook.pictures("All that passes a gate is one number")
    images = equation.locator(".heatmaplayer image")
    images.nth(FACTORS - 1).wait_for(state="attached")
    assert images.count() == FACTORS

    spectrum = notebook.pictures("Measured rank: ")
    title = spectrum.locator(".gtitle").text_content()
    ranks = {name: int(rank) for name, rank in re.findall(r"(\w+) (\d+)", title.partition(":")[2])}
    assert ranks == {"local": 2, "intra": 1, "inter": 1, "all": 4}
    # The picture agrees: markers above the line of rounding error, which lies lower on the page.
    line = spectrum.locator(".shapelayer path").first.bounding_box()["y"]
    above = spectrum.evaluate(
        """(plot, line) => [...plot.querySelectorAll('.scatterlayer .trace')].map(trace =>
            [...trace.querySelectorAll('.point')].filter(point => {
                const box = point.getBoundingClientRect()
                return box.y + box.height / 2 < line
            }).length)""",
        line,
    )
    assert above == list(ranks.values())
    notebook.page.get_by_text("a gated branch has rank 1 for every rank of the pair").wait_for()
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []
