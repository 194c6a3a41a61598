"""Runs a walkthrough notebook once and reads what it displayed.

The tests compare displayed numbers with computations of their own, so all that is read here comes from
the outputs of the executed notebook.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import numpy
import pandas
import papermill
import plotly.graph_objects as go
from jupyter_client import AsyncKernelManager
from nbformat import NotebookNode

PLOTLY = "application/vnd.plotly.v1+json"
START_TIMEOUT = 180  # seconds; a kernel starts slowly beside other tests
LAYERS = 6  # of the shipped base
SIZES = {  # kind -> in, out of the shipped base's targets
    "q_proj": (128, 128),
    "k_proj": (128, 32),
    "v_proj": (128, 32),
    "up_proj": (128, 448),
    "down_proj": (448, 128),
}


def executed(path: Path, tmp_path: Path, parameters: Mapping[str, Any] | None = None) -> NotebookNode:
    """Runs a notebook from top to bottom in a fresh kernel, in an empty current directory.

    Args:
        path: the notebook.
        tmp_path: where the executed copy is written; also the kernel's current directory.
        parameters: values for the cell tagged "parameters"; each name has to be there.

    Raises:
        AssertionError: for a parameter that the notebook does not have.
        papermill.PapermillExecutionError: if a cell fails.
    """
    parameters = dict(parameters or {})
    unknown = set(parameters) - set(papermill.inspect_notebook(path))
    assert not unknown, f"{path.name} has no parameter {sorted(unknown)}"
    output = tmp_path / path.name
    # Kernels of parallel tests race for TCP ports; sockets of its own folder do not.
    with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
        papermill.execute_notebook(
            path,
            output,
            parameters,
            kernel_name="python3",
            cwd=tmp_path,
            start_timeout=START_TIMEOUT,
            iopub_timeout=START_TIMEOUT,
            progress_bar=False,
            store_widget_state=False,
            kernel_manager_class=_manager_with_sockets_in(sockets),
        )
    return nbformat.read(output, as_version=4)


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    """All outputs, in the order of the cells."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def figures(notebook: NotebookNode) -> list[go.Figure]:
    """The Plotly figures that were shown, in order."""
    found = [output.data[PLOTLY] for output in outputs(notebook) if PLOTLY in output.get("data", {})]
    return [go.Figure(_plain({"data": shown["data"], "layout": shown["layout"]})) for shown in found]


def tables(notebook: NotebookNode) -> list[pandas.DataFrame]:
    """The DataFrames that were displayed, in order, with the rounding of the display."""
    found = [output.get("data", {}).get("text/html", "") for output in outputs(notebook)]
    frames = [
        pandas.read_html(io.StringIO(html), index_col=0, thousands=",")[0]
        for html in found
        if "<table" in html
    ]
    for frame in frames:
        if frame.columns.nlevels > 1:  # the name of an index is displayed as a second header line
            frame.columns = frame.columns.get_level_values(0)
    return frames


def with_column(notebook: NotebookNode, name: str) -> pandas.DataFrame:
    """The first displayed DataFrame that has a column."""
    return next(table for table in tables(notebook) if name in table.columns)


def first_figures(notebook: NotebookNode) -> list[go.Figure]:
    """The Plotly figures of the first three cells."""
    return figures(NotebookNode(cells=notebook.cells[:3]))


def complaints(notebook: NotebookNode) -> list[str]:
    """What the cells wrote to stderr: warnings, progress bars."""
    return [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def words(notebook: NotebookNode) -> str:
    """What the cells printed or displayed as Markdown, in order."""
    said = [
        output.text
        if output.output_type == "stream"
        else output.get("data", {}).get("text/markdown", "")
        for output in outputs(notebook)
    ]
    return "\n".join(filter(None, said))


def _plain(shown: Any) -> Any:
    """A figure's JSON with its base64 arrays as numpy arrays."""
    if isinstance(shown, dict) and "bdata" in shown:
        values = numpy.frombuffer(base64.b64decode(shown["bdata"]), dtype=shown["dtype"])
        return values.reshape([int(n) for n in str(shown.get("shape", len(values))).split(",")])
    if isinstance(shown, dict):
        return {key: _plain(value) for key, value in shown.items()}
    return [_plain(value) for value in shown] if isinstance(shown, list) else shown


def _manager_with_sockets_in(folder: str) -> type[AsyncKernelManager]:
    class KernelManager(AsyncKernelManager):
        def __init__(self, **options: Any):
            super().__init__(transport="ipc", ip=f"{folder}/k", **options)

    return KernelManager
