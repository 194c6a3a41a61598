"""Notebook 21 in JupyterLab: the results browser by keyboard, against the result files themselves."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

import pytest

from bslora_kit.paths import RUNS

GRIDS = ("similar_budget", "fair", "placement", "tied_lora", "range")  # the notebook shows the first
TASK = "mini_boolq"


@pytest.fixture(scope="module")
def rows():
    """Row of the first grid that has run -> parameters, ratio and score in percent."""
    found = (sorted((RUNS / "reference" / grid).glob("*/result.json")) for grid in GRIDS)
    runs = defaultdict(list)
    for path in next(paths for paths in found if paths):
        result = json.loads(path.read_text(encoding="utf-8"))
        runs[result["run"]["row"]].append(result)
    return {
        row: (
            results[0]["budget"]["trainable"],
            100 * results[0]["budget"]["ratio"],
            100 * mean(result["eval"]["tasks"][TASK]["value"] for result in results),
        )
        for row, results in runs.items()
    }


def points(plot):
    """(x, y) of the points as drawn, in rising order."""
    drawn = plot.evaluate(
        """plot => plot._fullData.filter(trace => trace.mode === 'markers')
            .flatMap(trace => [...trace.x].map((x, number) => [x, trace.y[number]]))"""
    )
    return sorted(map(tuple, drawn))


def test_axes_filter_and_table_by_keyboard(open_notebook, rows):
    notebook = open_notebook("21_read_the_tables.ipynb")
    notebook.run_all()
    page = notebook.page
    plot = page.locator(".jupyter-widgets .js-plotly-plot")
    plot.locator(".gtitle").wait_for()
    assert plot.locator(".xtitle, .ytitle").all_text_contents() == ["parameters", "mean"]
    trained = {row: values for row, values in rows.items() if values[0]}  # a log axis has no 0
    assert [x for x, _ in points(plot)] == sorted(count for count, _, _ in trained.values())

    page.get_by_label("across (x)").focus()
    page.keyboard.press("ArrowDown")
    plot.locator(".xtitle", has_text="ratio").wait_for()
    up = page.get_by_label("up (y)")
    up.focus()
    options = up.locator("option").all_text_contents()
    steps = options.index(TASK) - options.index("mean")
    for _ in range(abs(steps)):
        page.keyboard.press("ArrowDown" if steps > 0 else "ArrowUp")
    plot.locator(".ytitle", has_text=TASK).wait_for()
    expected = sorted((ratio, score) for _, ratio, score in trained.values())
    assert points(plot) == [pytest.approx(point) for point in expected]

    page.get_by_label("logarithmic x").focus()
    page.keyboard.press("Space")
    page.get_by_text(f"{len(rows)} of {len(rows)} rows are shown.").wait_for()
    table = page.locator(".jupyter-widgets table")
    assert table.locator("th").all_text_contents()[:2] == ["row", "ratio"]
    scores = sorted(f"{score:.4g}" for _, _, score in rows.values())
    at = table.locator("th").all_text_contents().index(TASK)
    assert sorted(table.locator(f"td:nth-child({at + 1})").all_text_contents()) == scores

    page.get_by_label("row contains").fill("base")
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="Save these 1 rows as CSV")
    link.focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    saved = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
    assert [float(row[TASK]) for row in saved] == [pytest.approx(rows["base"][2])]
    assert len(points(plot)) == 1

    assert notebook.unnamed_controls() == []
    assert notebook.errors() == []
    assert notebook.foreign_requests() == []
