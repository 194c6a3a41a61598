"""Every cell of a table with its errors, against numbers worked out by hand.

`write_run` gives each task ten items and five facts of its own, two items each; the first so many are
right.
"""

import io
import json
import math

import pandas
import pytest
from test_tables import GRID, ITEMS, TASKS, write_run

from bslora_kit import tables
from bslora_kit.tables.answers import ALL
from bslora_kit.tables.cells import cells_printed


@pytest.fixture
def folder(tmp_path):
    """ShareLoRA answers 6 or 8 of 10 in each task, GT 5 but 9 in one, with one seed."""
    write_run(tmp_path, "share-b-8", 0, 6)
    write_run(tmp_path, "share-b-8", 1, 8)
    write_run(tmp_path, "gt-2-4-16", 0, dict.fromkeys(TASKS, 5) | {"openbookqa": 9})
    return tmp_path


@pytest.fixture
def run(folder):
    return tables.Finished.of("Rows & runs", GRID, tables.read_results(folder))


def without_items(folder):
    for path in folder.glob("*/items.parquet"):
        path.unlink()
    return tables.Finished.of("Rows & runs", GRID, tables.read_results(folder))


def of_facts(*right: float, tasks: int = 1) -> float:
    """Error in points, of a mean over tasks, from the right items (0 to 2) in each of five facts.

    An item adds (correct - mean) / 10 to its task; a fact adds its two; few facts: 5 / (5 - 1).
    """
    mean = sum(right) / ITEMS
    squares = sum(((facts - 2 * mean) / ITEMS) ** 2 for facts in right) * 5 / 4
    return 100 * math.sqrt(squares / tasks)


def independent(right: int) -> float:
    """Error in points of a task of which so many of ten independent items are right."""
    return 100 * math.sqrt(right * (ITEMS - right) / ITEMS / (ITEMS - 1) / ITEMS)


def test_a_fact_counts_once_and_seeds_stand_apart(run):
    cell = run.cells.set_index(["row", "task"]).loc[("share-b-8", "mini_boolq")]
    assert (cell["mean"], cell["seeds"], cell["items"]) == (70, 2, ITEMS)
    # Over both seeds facts 0 to 2 have two right, fact 3 one, fact 4 none.
    assert cell["stderr_items"] == pytest.approx(of_facts(2, 2, 2, 1, 0))
    assert cell["stderr_seeds"] == pytest.approx(10)  # 60 and 80: sd 14.14 / root 2
    # The seeds differ in fact 3 alone: by 2, which is 1 on either side of their mean.
    own = [(0.0, 0.0, 0.0, 2.0, 0.0), (0.0, 0.0, 0.0, -2.0, 0.0)]
    spread = sum((x - sum(one) / 5) ** 2 for one in own for x in one) / 4 / ITEMS**2
    interaction = 100**2 * 5 / 4 * spread / 2
    both = of_facts(2, 2, 2, 1, 0) ** 2 + 10**2 - interaction
    assert cell["stderr"] == pytest.approx(math.sqrt(both))
    assert cell["stderr"] < math.hypot(cell["stderr_items"], cell["stderr_seeds"])


def test_one_seed_has_the_error_of_its_items(run):
    cell = run.cells.set_index(["row", "task"]).loc[("gt-2-4-16", "mini_openbookqa")]
    assert (cell["mean"], cell["seeds"]) == (90, 1) and math.isnan(cell["stderr_seeds"])
    assert cell["stderr"] == cell["stderr_items"] == pytest.approx(of_facts(2, 2, 2, 2, 1))
    table = run.table.set_index("row")
    # Seven tasks with 2, 2, 1, 0, 0 right and one with 2, 2, 2, 2, 1, of facts of their own: 40 facts
    # in 8 tasks, so 40 / (40 - 8) in place of 5 / 4, which is the same.
    squares = 7 * of_facts(2, 2, 1, 0, 0) ** 2 + of_facts(2, 2, 2, 2, 1) ** 2
    assert table.loc["gt-2-4-16", "stderr"] == pytest.approx(math.sqrt(squares) / 8)


def test_facts_that_span_tasks_count_once_over_all(folder):
    """Ten items of eight tasks that ask for the same five facts are five, not forty."""
    for path in folder.glob("*/items.parquet"):
        items = pandas.read_parquet(path)
        items.assign(fact=items["fact"].str.rpartition("-")[2]).to_parquet(path)
    with pytest.raises(ValueError, match="5 clusters in 8 tasks"):  # too few to say anything
        tables.comparisons(tables.read_results(folder), GRID)
    for path in folder.glob("*/items.parquet"):
        items = pandas.read_parquet(path)
        kept = items["task"].isin(["mini_boolq", "mini_piqa"])
        items.assign(fact=items["fact"].where(kept, items["task"] + items["fact"])).to_parquet(path)
    run = tables.Finished.of("Rows", GRID, tables.read_results(folder))
    row = run.table.set_index("row").loc["share-b-8"]
    one = of_facts(2, 2, 2, 1, 0) ** 2 * 4 / 5  # without the factor for few facts
    facts = 5 + 6 * 5
    assert row["stderr_items"] == pytest.approx(
        math.sqrt((6 * one + 2**2 * one) * facts / (facts - 8)) / 8
    )


def test_a_task_of_one_fact_has_a_score_and_no_error(folder):
    for path in folder.glob("*/items.parquet"):
        items = pandas.read_parquet(path)
        one = items["task"] == "mini_boolq"
        items.assign(fact=items["fact"].mask(one, "the only one")).to_parquet(path)
    found = tables.Finished.of("Rows", GRID, tables.read_results(folder)).cells
    cell = found.set_index(["row", "task"]).loc[("share-b-8", "mini_boolq")]
    assert cell["mean"] == pytest.approx(70)
    assert cell[["stderr", "stderr_items", "stderr_seeds"]].isna().all()
    assert found.loc[found["task"] != "mini_boolq", "stderr"].notna().all()


def test_the_eight_together_are_the_tables_mean(run):
    frame = run.table.set_index("row")
    together = run.cells[run.cells["task"] == ALL].set_index("row")
    columns = ["mean", "stderr", "stderr_items", "stderr_seeds"]
    pandas.testing.assert_frame_equal(together[columns], frame.loc[together.index, columns])
    assert together["items"].tolist() == [8 * ITEMS] * 2
    tasks = [f"mini_{task}" for task in TASKS]
    assert run.cells["task"].tolist() == 2 * [*tasks, ALL]
    assert run.cells["method"].tolist() == ["ShareLoRA 8"] * 9 + ["BSLoRA (GT) 2,4,16"] * 9
    for row in together.index:  # the cells are those of the table
        means = run.cells.loc[run.cells["row"] == row, "mean"].tolist()[:8]
        assert means == pytest.approx(frame.loc[row, tasks].tolist())


def test_without_items_errors_take_them_as_independent_and_say_so(folder):
    run = without_items(folder)
    assert run.pairs is run.answers is None and "items.parquet is missing" in run.problem
    cell = run.cells.set_index(["row", "task"]).loc[("share-b-8", "mini_boolq")]
    of_items = (independent(6) + independent(8)) / 2
    assert cell["stderr_items"] == pytest.approx(of_items)
    assert cell["stderr"] == pytest.approx(math.hypot(of_items, 10))
    assert "as if they were independent" in " ".join(run.lines)
    assert "as if each were independent" in " ".join(cells_printed(run.cells, False).notes)


def test_mmlu_alone_is_one_cell(folder):
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["eval"]["tasks"] = {"mini_mmlu": result["eval"]["tasks"]["mini_piqa"]}
        result["eval"]["mean"] = result["eval"]["mean_stderr"] = None
        path.write_text(json.dumps(result))
        items = pandas.read_parquet(path.parent / "items.parquet")
        items = items[items["task"] == "mini_piqa"].assign(task="mini_mmlu")
        items.to_parquet(path.parent / "items.parquet")
    run = tables.Finished.of("MMLU", GRID, tables.read_results(folder))
    assert run.cells["task"].tolist() == ["mini_mmlu"] * 2 and run.cells["mean"].tolist() == [70, 50]
    errors = ["stderr", "stderr_items", "stderr_seeds"]
    done = run.table[run.table["seeds"] > 0]
    assert done[errors].to_numpy() == pytest.approx(run.cells[errors].to_numpy(), nan_ok=True)
    assert run.cells["stderr_items"].tolist() == pytest.approx(
        [of_facts(2, 2, 2, 1, 0), of_facts(2, 2, 1, 0, 0)]
    )


def test_cells_are_written_in_every_form(folder, run):
    found = run.cells
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
        assert "items that ask for one fact stand or fall together" in text
    assert "Every score with its errors of items and of seeds (18)" in written["table.html"]


def test_rows_of_one_method_and_ranks_go_by_their_names(folder):
    rows = [{**row, "label": "One | two", "ranks": [8]} for row in GRID["rows"]]
    run = tables.Finished.of("Alike", {"rows": rows}, tables.read_results(folder))
    assert set(run.cells["method"]) == {"share-b-8", "gt-2-4-16"}
    assert set(run.seeds["method"]) == {"share-b-8", "gt-2-4-16"}
    assert run.pairs[["method_a", "method_b"]].to_numpy().tolist() == [["share-b-8", "gt-2-4-16"]]
    rows[0]["ranks"] = rows[1]["ranks"] = [4]  # share-b-8 and the base are alike, GT is not
    run = tables.Finished.of("Alike", {"rows": rows}, tables.read_results(folder))
    lines = tables.write_tables(folder, run)
    text = next(path for path in lines if path.name == "cells.md").read_text()
    assert text.count(r"| One \| two 8 ") == 9 and text.count("| share-b-8 ") == 9
    table = next(path for path in lines if path.name == "table.md").read_text()
    lines = [line.replace(r"\|", "") for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_a_grid_without_results_has_no_cells():
    found = tables.cells([], GRID)
    assert len(found) == 0 and len(cells_printed(found, True).view) == 0
