"""The weight explorer: A, B and the update of any branch on any linear, before and after training.

    before = weights_of(model); train(...); after = weights_of(model)
    WeightExplorer(before, after)       # the last line of a cell shows it

It works on copies as numpy arrays, so that a callback on another thread, which JupyterLab may run while
a cell trains, touches neither torch nor the model. What it shows is computed by `look`.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from bslora_kit.adapters.analysis import AdapterWeights, singular_values
from bslora_kit.figures.weight_view import redraw_weight_view, weight_view
from bslora_kit.figures.weights import layer_name
from bslora_kit.panels.live_figure import LiveFigure
from bslora_kit.panels.parts import WIDE_NAME, html_table, with_static
from bslora_kit.shapes import Linear

if TYPE_CHECKING:
    import pandas

MATRICES = {  # name -> what its columns and rows are
    "A": ("input feature", "rank"),
    "B": ("rank", "output feature"),
    "update": ("input feature", "output feature"),
}


@dataclass(frozen=True, eq=False)
class Look:
    """One matrix of an adapter at two moments.

    Attributes:
        matrices: before and after training.
        values: their singular values, largest first.
        axes: what columns and rows are.
        title: what is to be seen.
    """

    matrices: tuple[np.ndarray, np.ndarray]
    values: tuple[np.ndarray, np.ndarray]
    axes: tuple[str, str]
    title: str

    def table(self) -> pandas.DataFrame:
        """Size and singular values at both moments."""
        import pandas

        norms = [np.linalg.norm(matrix.astype(float)) for matrix in self.matrices]
        rows = [("Frobenius norm", *norms)]
        rows += [
            (f"singular value {number}", float(first), float(last))
            for number, (first, last) in enumerate(zip(*self.values, strict=True), start=1)
        ]
        return pandas.DataFrame(rows, columns=["quantity", "before", "after"]).round(4)


def look(
    before: AdapterWeights, after: AdapterWeights, linear: Linear, branch: str | None, matrix: str
) -> Look:
    """One matrix of an adapter before and after training.

    Args:
        before: the weights at one moment.
        after: those of the same adapter at a later one.
        linear: one of the adapted linears.
        branch: name of the branch; None stacks all branches.
        matrix: "A" [R, in], "B" [out, R] or "update" s B A [out, in].

    Raises:
        ValueError: for a matrix, branch or linear that is not there.
    """
    if matrix not in MATRICES:
        raise ValueError(f"matrix {matrix!r} is unknown; use one of {', '.join(MATRICES)}")
    found, values = [], []
    for weights in (before, after):
        A, B = weights.pair(linear.name, branch)
        if matrix == "update":
            found.append(weights.delta(linear.name, branch))
            values.append(weights.scaling * singular_values(A, B))
        else:
            found.append(A if matrix == "A" else B)
            values.append(np.linalg.svd(found[-1], compute_uv=False))
    first, last = found
    size, moved = float(np.linalg.norm(first)), float(np.linalg.norm(last - first))
    what = f"{matrix} of {branch or 'all branches'}, {layer_name(linear.layer)} {linear.kind}"
    how = f"moved by {moved / size:.0%} of its size" if size else f"grew from 0 to a norm of {moved:.3g}"
    return Look((first, last), (values[0], values[1]), MATRICES[matrix], f"{what}, {how}")


class WeightExplorer:
    """Four menus, two heat maps, singular values and their table.

    Args:
        before: the weights at one moment.
        after: those of the same adapter at a later one.

    Attributes:
        controls: "branch", "layer", "projection" and "matrix" -> menu.
        figure: what is shown, made once and given other numbers; `live` draws it in the page.
        look: what is shown.

    Raises:
        ValueError: if the two are not of the same adapter.
    """

    def __init__(self, before: AdapterWeights, after: AdapterWeights) -> None:
        if before.pairs.keys() != after.pairs.keys():
            raise ValueError(
                "before and after have other branches or linears; take both from one adapter with "
                "weights_of(model)"
            )
        self._lock, self._weights = RLock(), (before, after)
        # Within a layer the path tells linears apart where several are of one kind, as in BERT.
        self._linears = {
            (linear.layer, linear.name.removeprefix(f"{linear.layer}.")): linear
            for linear in after.plan.linears
        }
        layers = list(dict.fromkeys(layer for layer, _ in self._linears))
        branches = [branch.name for branch in after.plan.branches]
        self.controls = {
            "branch": _menu("Branch", [*((name, name) for name in branches), ("all branches", None)]),
            "layer": _menu("Layer", [(layer_name(layer), layer) for layer in layers]),
            "projection": _menu("Projection", self._projections(layers[0])),
            "matrix": _menu("Matrix", list(MATRICES)),
        }
        self.look = self._look()
        self.figure = weight_view(*self._shown())
        self.live = LiveFigure(self.figure)
        self.words = widgets.HTML()
        self._redraw()
        for control in self.controls.values():
            control.observe(lambda change: self._changed(change["owner"]), "value")
        line = widgets.HBox([*self.controls.values()], layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([line, self.live, self.words])

    @property
    def picture(self) -> go.Figure:
        """The figure as it stands, without a widget."""
        return weight_view(*self._shown())

    def _repr_mimebundle_(self, **arguments: Any) -> Any:
        return with_static(self.box, self.words.value, **arguments)

    def _projections(self, layer: str) -> list[str]:
        return [name for found, name in self._linears if found == layer]

    def _look(self) -> Look:
        chosen = {name: control.value for name, control in self.controls.items()}
        linear = self._linears[chosen["layer"], chosen["projection"]]
        return look(*self._weights, linear, chosen["branch"], chosen["matrix"])

    def _shown(self) -> tuple[Any, ...]:
        return self.look.matrices, self.look.values, self.look.axes, self.look.title

    def _changed(self, control: widgets.Dropdown) -> None:
        """A menu has another value."""
        with self._lock:
            projection = self.controls["projection"]
            names = self._projections(self.controls["layer"].value)
            if control is self.controls["layer"] and list(projection.options) != names:
                kept = projection.value
                projection.options = names  # sets the value to the first of them
                projection.value = kept if kept in names else names[0]
            self.look = self._look()
            self._redraw()

    def _redraw(self) -> None:
        redraw_weight_view(self.figure, *self._shown())
        self.live.draw(self.figure)
        self.words.value = html_table(self.look.table(), [self.look.title])


def _menu(name: str, options: list[Any]) -> widgets.Dropdown:
    layout = widgets.Layout(width="auto")
    return widgets.Dropdown(description=name, options=options, style=WIDE_NAME, layout=layout)
