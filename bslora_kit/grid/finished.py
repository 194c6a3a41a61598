"""A grid that has run, read back from its folder: for notebooks that ask it questions.

run = read_finished("similar_budget")      papermill_runs/reference/similar_budget, None if not there
how_to_run("similar_budget")               the command that makes it
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from bslora_kit.grid.file import read_grid
from bslora_kit.paths import REFERENCE, ROOT, RUNS, of_checkout
from bslora_kit.tables import Finished, read_results

_SEEDS = 5


def read_finished(name: str, folder: Path | str = REFERENCE) -> Finished | None:
    """The finished runs of a grid of papermill_runs/grids; None where there is none.

    Args:
        name: of the grid.
        folder: holds a folder for each grid; relative to the checkout or absolute.

    Raises:
        ValueError: for a grid file or results that cannot be read, or rows that cannot be compared.
    """
    results = read_results(ROOT / folder / name)
    if not results:
        return None
    grid = read_grid(RUNS / "grids" / f"{name}.yaml")
    run = Finished.of(grid.title, {"rows": grid.rows}, results)
    if run.problem:
        raise ValueError(run.problem)
    return run


def read_all(names: Sequence[str], folder: Path | str = REFERENCE) -> dict[str, Finished]:
    """Those of several grids that have finished runs, by name; warns of those that cannot be read.

    Args:
        names: of grids, in the order wanted.
        folder: as in `read_finished`.

    Raises:
        ValueError: if none has.
    """
    runs = {}
    for name in names:
        try:
            runs[name] = read_finished(name, folder)
        except ValueError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=2)
    if not any(runs.values()):
        raise ValueError(
            f"{ROOT / folder} holds no finished run of {', '.join(names)}. "
            f"{how_to_run(names[0], folder)}"
        )
    return {name: run for name, run in runs.items() if run}


def how_to_run(name: str, folder: Path | str = REFERENCE) -> str:
    """Says that a grid has not run in a folder of grids, and which command runs it there."""
    out = of_checkout(ROOT / folder)
    return (
        f"`{out}/{name}` holds no finished run. This makes it, and goes on where it was stopped: "
        f"`python -m bslora_kit.grid papermill_runs/grids/{name}.yaml --seeds {_SEEDS} --out {out}`"
    )
