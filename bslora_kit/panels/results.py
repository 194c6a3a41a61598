"""The results browser: any two columns of a table against each other, with error bars and Pareto front.

    ResultsBrowser(of_results("papermill_runs/similar_budget"))     a grid's runs
    ResultsBrowser(of_published())                                  the published tables

The controls only collect a `View`; what is shown follows from it by `select`, a pure function.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import ipywidgets as widgets
import pandas
import plotly.graph_objects as go

from bslora_kit import published
from bslora_kit.figures import scatter_with_front
from bslora_kit.figures.fronts import pareto_front
from bslora_kit.grid.file import read_grid
from bslora_kit.panels.live_figure import LiveFigure
from bslora_kit.panels.parts import WIDE_NAME, html_table, with_static
from bslora_kit.paths import RUNS
from bslora_kit.published.scores import mean_of_row
from bslora_kit.tables import Finished, read_results

ANY = "all methods"
COSTS = ("parameters", "ratio", "lr", "seeds")  # columns of which less is better, or cheaper


@dataclass(frozen=True)
class View:
    """What the controls say.

    Attributes:
        x, y: names of number columns; more of y is better.
        method: the only method shown, or `ANY`.
        contains: text that label, row or ranks have to hold; case does not count.
        least, most: bounds of y; None for none.
        log: whether x is drawn on a logarithmic scale.
    """

    x: str = "parameters"
    y: str = "mean"
    method: str = ANY
    contains: str = ""
    least: float | None = None
    most: float | None = None
    log: bool = True


def of_results(folder: Path | str, grid: Mapping[str, Any] | None = None) -> pandas.DataFrame:
    """The table of a results folder, as the browser takes it.

    Args:
        folder: papermill_runs/<grid>, with the run folders.
        grid: its grid file; by default papermill_runs/grids/<name of the folder>.yaml.

    Returns:
        The columns of `tables.table` plus label and "mean error"; rows without a score are left out.

    Raises:
        FileNotFoundError: if the folder or its grid file is missing.
        ValueError: if no run is finished.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; run its grid first")
    if grid is None:
        path = RUNS / "grids" / f"{folder.name}.yaml"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; pass the grid of {folder} as a mapping")
        grid = {"rows": read_grid(path).rows}
    runs = read_results(folder)
    if not runs:
        raise ValueError(f"{folder} holds no finished run; run its grid first")
    return of_table(Finished.of(folder.name, grid, runs).table)


def of_table(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A table as the browser takes it; columns as in `of_results`.

    Args:
        frame: from `tables.table`, perhaps with places.
    """
    frame = frame[frame["seeds"] > 0].rename(columns={"stderr": "mean error"})
    unread = ["stderr_items", "stderr_seeds", "places", "against_best"]
    return _labelled(frame.drop(columns=unread, errors="ignore"))


def of_published() -> pandas.DataFrame:
    """The 22 published runs with parameter counts: columns as in `of_results`, and model.

    "mean error" is the binomial standard error of the one run behind a row.
    """
    similar = published.similar_budget().assign(model="Llama 3-8B")
    tied = published.tied_lora().rename(columns={"rank": "ranks"}).astype({"ranks": str})
    frame = pandas.concat([similar, tied], ignore_index=True).drop(columns="bold")
    frame["ratio"] = frame["ratio"].str.rstrip("%").astype(float)
    frame["mean error"] = [mean_of_row(row).stderr for row in frame.to_dict("records")]
    return _labelled(frame)


def number_columns(frame: pandas.DataFrame) -> list[str]:
    """Columns that can be an axis: numbers that are there, errors left out."""
    numbers = frame.select_dtypes("number").dropna(axis=1, how="all")
    return [column for column in numbers if not column.endswith(" error")]


def select(frame: pandas.DataFrame, view: View) -> pandas.DataFrame:
    """The rows that a view shows, the best y first, with the column on_front.

    Raises:
        ValueError: for a column that cannot be an axis, or bounds that exclude each other.
    """
    for name in (view.x, view.y):
        if name not in number_columns(frame):
            raise ValueError(
                f"{name!r} is no number column; use one of {', '.join(number_columns(frame))}"
            )
    if view.least is not None and view.most is not None and view.least > view.most:
        raise ValueError(
            f"least {view.y} {view.least:g} is above most {view.most:g}; nothing lies between"
        )
    rows = frame.dropna(subset=[view.x, view.y])
    if view.method != ANY:
        rows = rows[rows["method"] == view.method]
    if view.contains:
        rows = rows[rows["label"].str.contains(view.contains.strip(), case=False, regex=False)]
    if view.least is not None:
        rows = rows[rows[view.y] >= view.least]
    if view.most is not None:
        rows = rows[rows[view.y] <= view.most]
    if view.log:
        rows = rows[rows[view.x] > 0]
    rows = rows.assign(on_front=pareto_front(rows[view.x], rows[view.y], view.x in COSTS))
    return rows.sort_values(view.y, ascending=False, ignore_index=True)


def columns_shown(rows: pandas.DataFrame, view: View) -> pandas.DataFrame:
    """The table beside the picture: label, both columns with their errors, and the front; as text."""
    shown = {"row": rows["label"]}
    for name in dict.fromkeys((view.x, view.y)):
        shown[name] = [_number(value) for value in rows[name]]
        if f"{name} error" in rows:
            shown[f"{name} ±"] = [_number(value) for value in rows[f"{name} error"]]
    shown["Pareto front"] = ["on it" if front else "" for front in rows["on_front"]]
    return pandas.DataFrame(shown)


class ResultsBrowser:
    """Controls, figure, sentence, table and CSV of a table of results.

    Args:
        frame: from `of_results` or `of_published`: columns label, method, and numbers; standard errors
            in columns named "<column> error".

    Attributes:
        rows: what is shown, from `select`.
        figure: what is shown; `live` draws it in the page.
        controls: name -> widget.
    """

    def __init__(self, frame: pandas.DataFrame) -> None:
        if not len(frame):
            raise ValueError("the table has no row; run a grid first or take of_published()")
        self._lock = RLock()
        self.frame = frame
        self.controls = _make_controls(frame)
        self.words, self.download = widgets.HTML(), widgets.HTML()
        self._shown = self.view  # the last one that worked
        self.rows = select(frame, self._shown)
        self.figure = self.picture
        self.live = LiveFigure(self.figure)
        self._redraw()
        for control in self.controls.values():
            control.observe(lambda _: self._changed(), "value")
        names = list(self.controls.values())
        self.box = widgets.VBox(
            [
                widgets.HBox(names[:3], layout=widgets.Layout(flex_flow="row wrap")),
                widgets.HBox(names[3:], layout=widgets.Layout(flex_flow="row wrap")),
                self.live,
                self.words,
                self.download,
            ]
        )

    @property
    def view(self) -> View:
        """What the controls say."""
        values = {name: control.value for name, control in self.controls.items()}
        for name in ("least", "most"):
            text = values[name].strip()
            try:
                values[name] = float(text) if text else None
            except ValueError:
                raise ValueError(f"{name} is {text!r}; type a number such as 69, or nothing") from None
        return View(**values)

    @property
    def csv(self) -> str:
        """The shown rows with all columns, unrounded."""
        return self.rows.to_csv(index=False, lineterminator="\n")

    @property
    def picture(self) -> go.Figure:
        """The figure of the shown rows, without a widget."""
        view = self._shown
        figure = scatter_with_front(self.rows, view.x, view.y, view.x in COSTS)
        # Without a format Plotly labels what lies between powers of ten by a digit alone.
        labels = "~s" if self.rows[view.x].max() >= 1000 else "~g"
        figure.update_xaxes(
            type="log" if view.log else "linear", tickformat=labels if view.log else None
        )
        return figure

    def _repr_mimebundle_(self, **arguments: Any) -> Any:
        return with_static(self.box, self.words.value, **arguments)

    def _changed(self) -> None:
        with self._lock:
            try:
                view = self.view
                self.rows, self._shown = select(self.frame, view), view
            except ValueError as error:
                self._redraw(f"{error}. Shown is the last choice that worked.")
                return
            self.figure = self.picture
            self.live.draw(self.figure)
            self._redraw()

    def _redraw(self, problem: str = "") -> None:
        said = [f"{len(self.rows)} of {len(self.frame)} rows are shown."]
        front = self.rows.loc[self.rows["on_front"], "label"]
        if len(front):
            said.append(f"On the Pareto front: {', '.join(front)}.")
        if any(f"{name} error" in self.rows for name in (self._shown.x, self._shown.y)):
            said.append("Bars are 95 % intervals; ± is one standard error.")
        self.words.value = html_table(columns_shown(self.rows, self._shown), said, problem)
        data = base64.b64encode(self.csv.encode()).decode()
        self.download.value = (
            '<a style="text-decoration: underline; color: var(--jp-content-link-color)" '
            f'download="results.csv" href="data:text/csv;base64,{data}">'
            f"Save these {len(self.rows)} rows as CSV</a>"
        )


def _make_controls(frame: pandas.DataFrame) -> dict[str, widgets.Widget]:
    """Name of a field of `View` -> its control; every control is announced by its description."""
    columns, start = number_columns(frame), View()
    fitting = widgets.Layout(width="auto")
    methods = list(dict.fromkeys(frame["method"]))
    x = start.x if start.x in columns else columns[0]
    y = start.y if start.y in columns else columns[-1]
    return {
        "x": widgets.Dropdown(
            description="across (x)", options=columns, value=x, style=WIDE_NAME, layout=fitting
        ),
        "y": widgets.Dropdown(
            description="up (y)", options=columns, value=y, style=WIDE_NAME, layout=fitting
        ),
        "log": widgets.Checkbox(description="logarithmic x", value=True, indent=False, layout=fitting),
        "method": widgets.Dropdown(
            description="method", options=[ANY, *methods], style=WIDE_NAME, layout=fitting
        ),
        "contains": _field("row contains", "220px"),
        "least": _field("least y", "150px"),
        "most": _field("most y", "150px"),
    }


def _field(name: str, width: str) -> widgets.Text:
    """A field that answers when it is left or Enter is pressed."""
    layout = widgets.Layout(width=width)
    return widgets.Text(description=name, style=WIDE_NAME, layout=layout, continuous_update=False)


def _labelled(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Adds the column label: model where there are several, method and ranks."""
    words = [column for column in ("model", "method", "ranks") if column in frame]
    labels = [" ".join(str(row[word]) for word in words).strip() for row in frame.to_dict("records")]
    return frame.assign(label=labels)


def _number(value: Any) -> str:
    """A number as people read it: counts whole with separators, others with two to four digits."""
    if pandas.isna(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.4g}"
