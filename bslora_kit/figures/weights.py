"""Figures of what adapters have learned: energy, singular values, subspaces.

Drawn from the rows and arrays of `bslora_kit.adapters.analysis`. Energy is ||s B' A'||_F^2 of a branch
on a linear; an overlap is a mean squared cosine of principal angles, from 0 to 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from bslora_kit.figures.style import (
    BLACK,
    BRANCH_COLOURS,
    GREY,
    SCOPE_PATTERNS,
    SKY,
    VERMILION,
    YELLOW,
    blank,
)

if TYPE_CHECKING:
    import pandas

    from bslora_kit.adapters.analysis import Energy, Overlap

_SCOPE_OF = {"local": "module", "intra": "layer", "inter": "model", "shared": "type"}
_SYMBOLS = {"local": "circle", "intra": "square", "inter": "diamond", "shared": "cross"}
_CONDITIONS = ((GREY, ""), (SKY, "/"), (VERMILION, "."), (YELLOW, "x"))  # colour, pattern


def layer_name(layer: str) -> str:
    """A layer's path as people say it: "model.layers.3" is "layer 3"."""
    return f"layer {layer.rpartition('.')[2]}" if layer else "outside the layers"


def energy_shares(energies: Sequence[Energy]) -> go.Figure:
    """Which branch does the work: its share of the energy of each linear, as stacked bars.

    Args:
        energies: from `analysis.energies`.

    Raises:
        ValueError: if there is no energy, as before training.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    by_kind: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in energies:
        sums[row.branch] += row.energy
        by_kind[row.kind][row.branch] += row.energy
    whole = sum(sums.values())
    if not whole:
        raise ValueError("no branch has any energy; train the adapter before drawing its shares")
    first = max(sums, key=sums.get)
    shares = {kind: parts[first] / (sum(parts.values()) or 1) for kind, parts in by_kind.items()}
    most, least = max(shares, key=shares.get), min(shares, key=shares.get)
    title = f"The {first} branch holds {sums[first] / whole:.0%} of the energy"
    if len(sums) > 1 and most != least:
        title += f": {shares[most]:.0%} in {most}, {shares[least]:.0%} in {least}"
    figure = blank(title, None, "share of the linear's energy (%)")
    for branch in sums:
        rows = [row for row in energies if row.branch == branch]
        figure.add_bar(
            x=[[layer_name(row.layer) for row in rows], [row.kind for row in rows]],
            y=[100 * row.share for row in rows],
            name=branch,
            marker={
                "color": BRANCH_COLOURS.get(branch, GREY),
                "pattern": {"shape": _pattern(branch), "fgcolor": "white", "size": 6},
            },
            customdata=[row.energy for row in rows],
            hovertemplate="%{fullData.name}, %{x}: %{y:.0f} %, energy %{customdata:.3g}<extra></extra>",
        )
    figure.update_layout(barmode="stack", height=440)
    figure.update_layout(legend={"y": -0.5}, margin_b=120)
    return figure


def singular_value_lines(values: Mapping[str, Sequence[float]], where: str) -> go.Figure:
    """The singular values of each branch's update on one linear, largest first.

    Args:
        values: name of branch -> singular values of s B' A'.
        where: the linear, as the title names it.
    """
    first = max(values, key=lambda name: max(values[name]))
    needed = ", ".join(f"{name} {_directions(found)} of {len(found)}" for name, found in values.items())
    title = (
        f"{where}: the largest singular value is {first}'s, {max(values[first]):.2f}"
        f"<br>Directions that hold 90 % of the energy: {needed}"
    )
    figure = blank(title, "number of the singular value", "singular value")
    for name, found in values.items():
        figure.add_scatter(
            x=[*range(1, len(found) + 1)],
            y=list(found),
            mode="lines+markers",
            name=name,
            line={"color": BRANCH_COLOURS.get(name, BLACK)},
            marker={"symbol": _SYMBOLS.get(name, "x"), "size": 9},
        )
    figure.update_xaxes(dtick=1)
    figure.update_yaxes(rangemode="tozero")
    figure.update_layout(margin_t=80)
    return figure


def overlap_table(overlaps: Mapping[str, Sequence[Overlap]]) -> pandas.DataFrame:
    """Mean overlap of subspaces under several conditions: a row each, a last row for chance.

    Args:
        overlaps: name of the condition -> rows, all of the same kinds of projection.

    Returns:
        Indexed by condition, a column for each kind.
    """
    import pandas

    rows = pandas.concat({name: pandas.DataFrame(found) for name, found in overlaps.items()})
    by_kind = rows.groupby("kind", sort=False)
    means = rows.groupby([rows.index.get_level_values(0), "kind"], sort=False)["overlap"].mean()
    table = means.unstack("kind")[list(by_kind.groups)].rename_axis(index="compared", columns=None)
    table.loc["chance"] = by_kind["chance"].mean()
    return table


def overlap_bars(
    overlaps: Mapping[str, Sequence[Overlap]], what: str, comparable: Sequence[str]
) -> go.Figure:
    """The numbers of `overlap_table` as bars, kind by kind, with chance as a line across them.

    Args:
        overlaps: as for `overlap_table`; four conditions at most.
        what: what is compared, for the title: "A".
        comparable: kinds whose layers speak of the same directions; the means in the title are theirs.

    Raises:
        ValueError: if a comparable kind has no overlap.
    """
    table = overlap_table(overlaps)
    missing = [kind for kind in comparable if kind not in table]
    if missing or not comparable:
        raise ValueError(f"comparable kinds {list(comparable)}: name some of {list(table)}")
    means = table[list(comparable)].mean(axis=1)
    said = "; ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    kinds = ", ".join(kind.removesuffix("_proj") for kind in comparable)
    figure = blank(f"Overlap of {what} in {kinds}: {said}", None, "overlap (0 to 1)")
    *conditions, chance = table.index
    for name, (colour, pattern) in zip(conditions, _CONDITIONS, strict=False):
        figure.add_bar(
            x=list(table.columns),
            y=list(table.loc[name]),
            name=name,
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "black", "size": 6}},
        )
    figure.add_scatter(
        x=list(table.columns),
        y=list(table.loc[chance]),
        mode="markers",
        name="chance: random subspaces",
        marker={"symbol": "line-ew", "size": 60, "line": {"color": BLACK, "width": 2}},
    )
    figure.update_layout(barmode="group", height=400)
    figure.update_yaxes(range=[0, 1])
    return figure


def _directions(values: Sequence[float]) -> int:
    """How many of the largest singular values hold nine tenths of the energy."""
    squares = np.square(np.asarray(values, dtype=float))
    if not squares.any():
        return 0
    return int(np.searchsorted(np.cumsum(squares), 0.9 * squares.sum()) + 1)


def _pattern(branch: str) -> str:
    return SCOPE_PATTERNS[_SCOPE_OF[branch]] if branch in _SCOPE_OF else ""
