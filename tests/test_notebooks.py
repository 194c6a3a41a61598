"""Notebooks: clean as committed, readable, and the job's notebook runs as it is.

Static checks need no kernel; the one run takes three steps and two items a task of the shipped default.
"""

from __future__ import annotations

import ast
import io
import json
import math
from pathlib import Path

import nbformat
import pandas
import pytest

from bslora_kit.jobs.parameters import DEFAULTS
from bslora_kit.jobs.run_job import NOTEBOOK, run_job
from bslora_kit.paths import NOTEBOOKS

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def parameter_cells(path: Path) -> list:
    return [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_committed_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in cells(path, "code"):
        assert cell.outputs == [] and cell.execution_count is None
        ast.parse(cell.source)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_notebook_opens_with_a_question_and_tells_more_than_it_computes(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "?" in first.source
    prose = sum(len(cell.source) for cell in cells(path, "markdown"))
    code = [cell.source for cell in cells(path, "code") if cell not in parameter_cells(path)]
    assert prose > sum(map(len, code))
    assert max(len(source.splitlines()) for source in code) <= 14


def test_the_jobs_parameters_are_plain_and_complete():
    (cell,) = parameter_cells(NOTEBOOK)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}
    assert list(values) == list(DEFAULTS)
    assert json.loads(json.dumps(values)) == values


def test_the_jobs_notebook_shows_pictures_and_numbers(tmp_path):
    folder = tmp_path / "run"
    result = run_job({"steps": 3, "limit": 2, "out_dir": str(folder)})
    assert result["run"]["profile"] == "demo" and result["run"]["method"] == "bslora"
    executed = nbformat.read(folder / "run.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    figures = [o for o in outputs if "application/vnd.plotly.v1+json" in o.get("data", {})]
    tables = [o for o in outputs if "<table" in "".join(o.get("data", {}).get("text/html", ""))]
    assert (len(figures), len(tables)) == (3, 4)
    _, history, _, kinds = (
        pandas.read_html(io.StringIO("".join(table["data"]["text/html"])), index_col=0)[0]
        for table in tables
    )
    kinds.columns = kinds.columns.get_level_values(0)  # below them stands the name of the index
    assert kinds["items"].sum() == 16  # two of each of the eight tasks
    for row in kinds[kinds["items"] > 1].itertuples():
        error = math.sqrt(row.percent * (100 - row.percent) / (row.items - 1))
        assert row.stderr == pytest.approx(error, abs=0.06)
    assert history["step"].iloc[-1] == 3 and history["eval_loss"].iloc[-1] > 0
    assert [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"] == []
    assert "widgets" not in executed.metadata
    assert (folder / "run.ipynb").stat().st_size < 300_000
    # A picture within the first three code cells, the parameters among them.
    first = [cell for cell in executed.cells if cell.cell_type == "code"][:4]  # one was injected
    assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for c in first for o in c.outputs)
