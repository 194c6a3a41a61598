"""Every cell of a table with its errors, against numbers worked out by hand."""

import io
import json
import math

import pandas
import pytest
from test_tables import GRID, ITEMS, TASKS, write_run

from bslora_kit import tables
from bslora_kit.tables.cells import ALL, cells_printed


@pytest.fixture
def folder(tmp_path):
    """ShareLoRA answers 6 or 8 of 10 in each task, GT 5 but 9 in one, with one seed."""
    write_run(tmp_path, "share-b-8", 0, 6)
    write_run(tmp_path, "share-b-8", 1, 8)
    write_run(tmp_path, "gt-2-4-16", 0, dict.fromkeys(TASKS, 5) | {"openbookqa": 9})
    return tmp_path


@pytest.fixture
def found(folder):
    return tables.cells(tables.read_results(folder), GRID)


def of_items(right: int) -> float:
    """Standard error, in points, of a task of which so many of ten items are right."""
    return 100 * math.sqrt(right * (ITEMS - right) / ITEMS / (ITEMS - 1) / ITEMS)


def test_errors_of_items_and_of_seeds_stand_apart(found):
    cell = found.set_index(["row", "task"]).loc[("share-b-8", "mini_boolq")]
    assert (cell["mean"], cell["seeds"], cell["items"]) == (70, 2, ITEMS)
    assert cell["stderr_items"] == pytest.approx((of_items(6) + of_items(8)) / 2)
    assert cell["stderr_seeds"] == pytest.approx(10)  # 60 and 80: sd 14.14 / root 2
    assert cell["stderr"] == pytest.approx(math.hypot(cell["stderr_items"], 10))
    cell = found.set_index(["row", "task"]).loc[("gt-2-4-16", "mini_openbookqa")]
    assert (cell["mean"], cell["seeds"]) == (90, 1) and math.isnan(cell["stderr_seeds"])
    assert cell["stderr"] == cell["stderr_items"] == pytest.approx(of_items(9))


def test_the_eight_together_are_the_tables_mean(folder, found):
    frame = tables.table(tables.read_results(folder), GRID).set_index("row")
    together = found[found["task"] == ALL].set_index("row")
    columns = ["mean", "stderr", "stderr_items", "stderr_seeds"]
    pandas.testing.assert_frame_equal(together[columns], frame.loc[together.index, columns])
    assert together["items"].tolist() == [8 * ITEMS] * 2
    tasks = [f"mini_{task}" for task in TASKS]
    assert found["task"].tolist() == 2 * [*tasks, ALL]
    assert found["method"].tolist() == ["ShareLoRA 8"] * 9 + ["BSLoRA (GT) 2,4,16"] * 9
    for row in together.index:  # the cells are those of the table
        assert found.loc[found["row"] == row, "mean"].tolist()[:8] == frame.loc[row, tasks].tolist()


def test_a_task_that_only_some_runs_answered_has_no_cell(folder):
    path = folder / "share-b-8-s1" / "result.json"
    result = json.loads(path.read_text())
    del result["eval"]["tasks"]["mini_piqa"]
    result["eval"]["mean"] = result["eval"]["mean_stderr"] = None
    path.write_text(json.dumps(result))
    found = tables.cells(tables.read_results(folder), GRID).set_index("row")
    assert "mini_piqa" not in set(found.loc["share-b-8", "task"])


def test_mmlu_alone_is_one_cell(folder):
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["eval"]["tasks"] = {"mini_mmlu": result["eval"]["tasks"]["mini_piqa"]}
        result["eval"]["mean"] = result["eval"]["mean_stderr"] = None
        path.write_text(json.dumps(result))
    found = tables.cells(tables.read_results(folder), GRID)
    assert found["task"].tolist() == ["mini_mmlu"] * 2 and found["mean"].tolist() == [70, 50]


def test_cells_are_written_in_every_form(folder, found):
    run = tables.Finished.of("Rows & runs", GRID, tables.read_results(folder))
    written = {path.name: path.read_text() for path in tables.write_tables(folder, run)}
    back = pandas.read_csv(io.StringIO(written["cells.csv"]), keep_default_na=False, na_values=[""])
    pandas.testing.assert_frame_equal(back.assign(base=""), found, check_dtype=False)
    lines = [line for line in written["cells.md"].splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found)
    values = [value.strip() for value in lines[2].split("|")[1:-1]]
    assert values[:3] == ["ShareLoRA 8", "mini_openbookqa", "70.00"]
    errors = [f"{found[name][0]:.2f}" for name in ("stderr", "stderr_items")]
    assert values[3:] == [*errors, "10.00", "2", "10"]
    body = written["cells.tex"].split(r"\endlastfoot")[1].split(r"\end{longtable}")[0].strip()
    assert len(body.splitlines()) == len(found) and "±" not in written["cells.tex"]
    for text in (written["cells.md"], written["cells.tex"], written["table.html"]):
        assert "empty where there is one" in text
    assert "Every score with its errors of items and of seeds (18)" in written["table.html"]


def test_a_grid_without_results_has_no_cells():
    found = tables.cells([], GRID)
    assert len(found) == 0 and len(cells_printed(found).view) == 0
