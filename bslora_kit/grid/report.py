"""The end of a grid: its table in all forms."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bslora_kit.grid.file import Grid

if TYPE_CHECKING:
    from bslora_kit.tables import Finished


def report(grid: Grid, folder: Path, kept: dict[str, Finished] | None = None) -> bool:
    """Prints the table of what is there, and writes it in every form (`tables.write_tables`).

    Args:
        grid: the grid.
        folder: holds its run folders.
        kept: takes what was computed, by the grid's name, for who goes on with it.

    Returns:
        False where runs are there that one table cannot hold; why is printed.
    """
    from bslora_kit import tables  # pandas and plotly take seconds

    results = tables.read_results(folder)
    if not results:
        print("no run is done, so there is no table")
        return True
    try:
        run = tables.Finished.of(grid.title, {"rows": grid.rows}, results)
    except ValueError as error:  # rows of several lengths, or seeds of a row with several rates
        print(f"\nno table: {error}")
        _print_best(grid, results)
        return False
    if kept is not None:
        kept[grid.name] = run
    written = tables.write_tables(folder, run)
    print(f"\n{grid.title}\n\n{tables.to_text(run.table, run.lines)}")
    _print_best(grid, results)
    print("page: " + next(str(path) for path in written if path.suffix == ".html"))
    return True


def best_values(
    grid: Grid, results: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """For each row that `vary` stands in: (mean score over seeds, values), the best first.

    The score of a run is its mean over the eight tasks, or over those that it was scored on where they
    are others.

    Args:
        grid: with rows made by `vary`.
        results: from `tables.read_results`.
    """
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for row in grid.rows:
        scores = [_score(x["eval"]) for x in results if x["run"]["row"] == row["row"]]
        if scores and "varied" in row:
            tried = found.setdefault(row["varied"]["of"], [])
            tried.append((statistics.fmean(scores), row["varied"]["values"]))
    return {of: sorted(tried, key=lambda pair: -pair[0]) for of, tried in found.items()}


def best_lines(grid: Grid, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outcome of `best_values` in words, one line a row."""
    best = best_values(grid, results)
    if not best:
        return []
    width = max(map(len, best))
    lines = ["Best of the values that were tried, by mean score:"]
    for of, tried in best.items():
        texts = [
            f"{', '.join(f'{name} {_text(x)}' for name, x in values.items())} ({100 * mean:.2f} %)"
            for mean, values in tried
        ]
        lines.append(f"  {of:{width}}  {texts[0]}; then {', '.join(texts[1:]) or 'none'}")
    return lines


def _print_best(grid: Grid, results: Sequence[Mapping[str, Any]]) -> None:
    for line in best_lines(grid, results):
        print(line)


def _score(scored: Mapping[str, Any]) -> float:
    """The mean of a run, 0 to 1."""
    if scored["mean"] is not None:
        return scored["mean"]
    return statistics.fmean(task["value"] for task in scored["tasks"].values())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
