"""The sharing map: which tensor each linear reads, who owns it, and how large it is.

    rows     layers, the first on top
    columns  the adapted linears of a layer, once for A, once for B, once for vectors of their own
    a cell   one band per branch, as wide as its rank
    colour   the scope of sharing; light and dark alternate from one owner to the next

So a chequered field is a tensor per linear, rows of stripes a tensor per layer, columns of stripes a
tensor per projection type, and a plain field one tensor for the model. All numbers are those of the
plan (`bslora_kit.plan`); the tables hold the same ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.colors import find_intermediate_color, hex_to_rgb, label_rgb
from plotly.subplots import make_subplots

from bslora_kit.figures.style import SCOPE_PATTERNS, SCOPES

if TYPE_CHECKING:
    import pandas

    from bslora_kit.plan import Plan, Tensor
    from bslora_kit.shapes import Linear

FACTORS = ("A", "B")
VECTORS = "vectors"  # gates, Kronecker vectors and gains: one linear reads them
_GAP = 0.6  # columns between the fields
_FEW_ROWS = 12  # layers up to which every row is labelled


@dataclass
class _Bands:
    """Bands of one look: what a horizontal bar trace needs, one entry a band."""

    start: list[float] = field(default_factory=list)
    width: list[float] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Grid:
    """Where the linears of a plan stand: layer -> row, path inside the layer -> column."""

    rows: dict[str, int]
    columns: dict[str, int]
    kinds: dict[str, int]
    fields: tuple[str, ...]

    def cell(self, linear: Linear) -> tuple[int, int]:
        return self.rows[linear.layer], self.columns[_path_in_layer(linear)]

    def start(self, name: str) -> float:
        """Left edge of a field."""
        return self.fields.index(name) * (len(self.columns) + _GAP)


def sharing_map(plan: Plan, label: str) -> go.Figure:
    """Who owns what one adapter's linears read.

    Args:
        plan: of the adapter on a model.
        label: name of the method, for the title.

    Returns:
        Horizontal bars, a band each; hovering one gives the tensor's owner, shape, users and parameters.
    """
    owned = sum(t.size for t in plan.tensors.values() if t.trainable and len(t.users) == 1)
    title = (
        f"{label}: {len(plan.tensors):,} tensors for {len(plan.linears):,} linears,<br>"
        f"{1 - owned / plan.trainable:.0%} of {plan.trainable:,} trainable parameters are shared"
    )
    return _drawn({"": plan}, title, columns=1)


def sharing_maps(plans: Mapping[str, Plan], columns: int = 2) -> go.Figure:
    """The maps of several methods on one model, side by side; bands are scaled within each map.

    Args:
        plans: label of the method -> plan.
        columns: maps in a row.

    Raises:
        ValueError: if there is no plan.
    """
    if not plans:
        raise ValueError("no plan to draw; give at least one label and its plan")
    most, fewest = (pick(plans, key=lambda x: plans[x].trainable) for pick in (max, min))
    title = (
        f"From {plans[most].trainable:,} parameters ({most}) "
        f"to {plans[fewest].trainable:,} ({fewest}):<br>what differs is who owns the tensors"
    )
    return _drawn(plans, title, columns)


def sharing_table(plan: Plan) -> pandas.DataFrame:
    """The numbers of a sharing map, one row per tensor.

    Returns:
        Columns tensor (its key), scope, owner, shape, users (how many linears read it), first_user,
        trainable and parameters, in the plan's order.
    """
    import pandas

    rows = [
        (t.key, t.scope, t.owner, _shape(t), len(t.users), t.users[0], t.trainable, t.size)
        for t in plan.tensors.values()
    ]
    columns = ["tensor", "scope", "owner", "shape", "users", "first_user", "trainable", "parameters"]
    return pandas.DataFrame(rows, columns=columns)


def sharing_summary(plans: Mapping[str, Plan]) -> pandas.DataFrame:
    """How many tensors, and how many parameters in them, each method keeps in each scope.

    Args:
        plans: label of the method -> plan.

    Returns:
        One row per method: tensors, then the parameters (frozen ones included) of each scope that
        occurs, then trainable.
    """
    import pandas

    rows = {}
    for label, plan in plans.items():
        sums = dict.fromkeys(SCOPES, 0)
        for tensor in plan.tensors.values():
            sums[tensor.scope] += tensor.size
        rows[label] = {"tensors": len(plan.tensors), **sums, "trainable": plan.trainable}
    frame = pandas.DataFrame.from_dict(rows, orient="index")
    return frame.drop(columns=[scope for scope in SCOPES if not frame[scope].any()])


def _drawn(plans: Mapping[str, Plan], title: str, columns: int) -> go.Figure:
    """One map per plan, in a grid of subplots with one legend."""
    lines = -(-len(plans) // columns)
    grids = {label: _grid(plan) for label, plan in plans.items()}
    layers = max(len(grid.rows) for grid in grids.values())
    height = lines * (layers * (24 if layers <= _FEW_ROWS else 13) + 85)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        horizontal_spacing=0.09,
        vertical_spacing=75 / height if lines > 1 else 0,
    )
    seen: set[str] = set()
    for number, (label, plan) in enumerate(plans.items()):
        at = {"row": number // columns + 1, "col": number % columns + 1}
        grid = grids[label]
        for (scope, trainable, dark), bands in _bands(plan, grid).items():
            trace = _trace(bands, scope, trainable, dark)
            trace.showlegend = trace.legendgroup not in seen and dark
            seen.update([trace.legendgroup] if trace.showlegend else [])
            figure.add_trace(trace, **at)
        _label_axes(figure, grid, at)
        heading = f"<b>{label}</b>, {plan.trainable:,} parameters" if label else ""
        _label_fields(figure, grid, heading, at)
    height += 145
    figure.update_layout(
        title={"text": title, "font": {"size": 15}, "y": 1 - 24 / height, "yanchor": "top"},
        barmode="overlay",
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 110 if any(plans) else 90, "b": 65},
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
    )
    return figure


def _grid(plan: Plan) -> _Grid:
    layers = dict.fromkeys(linear.layer for linear in plan.linears)
    paths = dict.fromkeys(_path_in_layer(linear) for linear in plan.linears)
    kinds = dict.fromkeys(linear.kind for linear in plan.linears)
    has_vectors = any(tensor.role not in FACTORS for tensor in plan.tensors.values())
    numbered = ({name: n for n, name in enumerate(names)} for names in (layers, paths, kinds))
    return _Grid(*numbered, FACTORS + (VECTORS,) * has_vectors)


def _path_in_layer(linear: Linear) -> str:
    return linear.name.removeprefix(f"{linear.layer}.") if linear.layer else linear.name


def _bands(plan: Plan, grid: _Grid) -> dict[tuple[str, bool, bool], _Bands]:
    """(scope, trainable, dark) -> its bands."""
    found: defaultdict[tuple[str, bool, bool], _Bands] = defaultdict(_Bands)
    for linear in plan.linears:
        row, column = grid.cell(linear)
        for name, start, width, tensors in _cell(plan, linear):
            tensor = tensors[0]
            shade = {
                "module": row + column,
                "layer": row,
                "type": grid.kinds[linear.kind],
                "model": 0,
            }[tensor.scope]
            bands = found[tensor.scope, tensor.trainable, shade % 2 == 0]
            bands.start.append(grid.start(name) + column + 0.04 + 0.92 * start)
            bands.width.append(0.92 * width)
            bands.row.append(row)
            bands.text.append(f"{linear.name} reads<br>" + "<br>".join(map(_hover, tensors)))
    return found


def _cell(plan: Plan, linear: Linear) -> Iterator[tuple[str, float, float, list[Tensor]]]:
    """(field, start, width, tensors) of the bands of one linear, as fractions of its cell."""
    uses = plan.uses[linear.name]
    total, before = sum(branch.rank for branch in plan.branches), 0
    fitted = []
    for branch, keys in uses:
        for role in FACTORS:
            yield role, before / total, branch.rank / total, [plan.tensors[keys[role]]]
        before += branch.rank
        vectors = [plan.tensors[key] for role, key in keys.items() if role not in FACTORS]
        fitted += [vectors] if vectors else []
    for number, vectors in enumerate(fitted):
        yield VECTORS, number / len(fitted), 1 / len(fitted), vectors


def _hover(tensor: Tensor) -> str:
    others = f"{len(tensor.users):,} linears" if len(tensor.users) > 1 else "this linear only"
    frozen = "" if tensor.trainable else ", frozen"
    return (
        f"{tensor.branch} {tensor.role} [{_shape(tensor)}] of {tensor.owner}: "
        f"{tensor.size:,} parameters{frozen}, used by {others}"
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _trace(bands: _Bands, scope: str, trainable: bool, dark: bool) -> go.Bar:
    colour, words = SCOPES[scope]
    name = words if trainable else f"{words}, frozen"
    return go.Bar(
        orientation="h",
        base=bands.start,
        x=bands.width,
        y=bands.row,
        width=0.9,
        name=name,
        legendgroup=name,
        marker={
            "color": colour if dark else _lighter(colour),
            "opacity": 1 if trainable else 0.45,
            "line_width": 0,
            "pattern": {"shape": SCOPE_PATTERNS[scope], "fgcolor": "white", "size": 5, "solidity": 0.2},
        },
        hovertext=bands.text,
        hoverinfo="text",
    )


def _lighter(colour: str) -> str:
    """Halfway to white."""
    return label_rgb(find_intermediate_color(hex_to_rgb(colour), (255, 255, 255), 0.5))


def _label_axes(figure: go.Figure, grid: _Grid, at: Mapping[str, int]) -> None:
    """Names the columns of each field below it and the layers beside the rows."""
    names = _short(list(grid.columns))
    centres = [grid.start(name) + n + 0.5 for name in grid.fields for n in range(len(names))]
    figure.update_xaxes(
        tickvals=centres,
        ticktext=names * len(grid.fields),
        tickfont_size=10,
        tickangle=0 if max(map(len, names)) <= 4 else -60,
        showgrid=False,
        zeroline=False,
        range=[-0.1, grid.start(grid.fields[-1]) + len(names) + 0.1],
        **at,
    )
    step = 1 if len(grid.rows) <= _FEW_ROWS else 4
    figure.update_yaxes(
        title="layer" if at["col"] == 1 else None,
        tickvals=list(range(len(grid.rows)))[::step],
        ticktext=_layer_names(list(grid.rows))[::step],
        range=[len(grid.rows) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
        **at,
    )


def _label_fields(figure: go.Figure, grid: _Grid, heading: str, at: Mapping[str, int]) -> None:
    """Writes what a field shows above it, and the name of the method above the first."""
    for name in grid.fields:
        text = name if name == VECTORS else f"factor {name}"
        figure.add_annotation(_above(grid.start(name), text, 1), **at)
    if heading:
        figure.add_annotation(_above(0, heading, 17), **at)


def _above(x: float, text: str, shift: int) -> dict[str, Any]:
    return {
        "x": x,
        "y": -0.5,
        "text": text,
        "yshift": shift,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font_size": 12,
    }


def _short(paths: Sequence[str]) -> list[str]:
    """Column names: the kind without "_proj" where that is enough to tell columns apart."""
    kinds = [path.rpartition(".")[2].removesuffix("_proj") for path in paths]
    return kinds if len(set(kinds)) == len(kinds) else list(paths)


def _layer_names(layers: Sequence[str]) -> list[str]:
    """Row names: the layer's number where that is enough to tell rows apart."""
    numbers = [layer.rpartition(".")[2] or "none" for layer in layers]
    return numbers if len(set(numbers)) == len(numbers) else [layer or "none" for layer in layers]
