"""The end of a grid, its table in all forms, and the plan that --dry-run prints."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bslora_kit.grid.file import Grid
from bslora_kit.grid.rows import Expected, Row
from bslora_kit.grid.status_lines import describe


def report(grid: Grid, folder: Path) -> None:
    """Prints the table of what is there, and writes table.md, table.csv, table.tex and table.html.

    Args:
        grid: the grid.
        folder: holds its run folders.
    """
    from bslora_kit import figures, tables  # pandas and plotly, which no running grid needs

    results = tables.read_results(folder)
    if not results:
        print("no run is done, so there is no table")
        return
    rows = {"rows": grid.rows}
    frame = tables.table(results, rows)
    lines = tables.about(results, frame)
    base = tables.base_score(frame)
    gains = pairs = None
    try:
        pairs = tables.comparisons(results, rows)
        gains = tables.differences(results, rows) if base is not None else None
        lines += tables.in_words(frame, pairs)
        frame = tables.with_places(frame, pairs)
    except ValueError as error:  # too few items for an interval
        lines.append(f"No paired differences: {error}.")
    figure = figures.score_against_parameters(frame, base)
    seeds = tables.seed_scores(results, rows)
    written = tables.write_tables(folder, grid.title, frame, lines, figure, gains, pairs, seeds)
    print(f"\n{grid.title}\n\n{tables.to_text(frame, lines)}")
    for line in best_lines(grid, results):
        print(line)
    print("page: " + next(str(path) for path in written if path.suffix == ".html"))


def best_values(
    grid: Grid, results: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """For each row that `vary` stands in: (mean score over seeds, values), the best first.

    Args:
        grid: with rows made by `vary`.
        results: from `tables.read_results`.
    """
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for row in grid.rows:
        scores = [
            result["eval"]["mean"]
            for result in results
            if result["run"]["row"] == row["row"] and result["eval"]["mean"] is not None
        ]
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
            f"{', '.join(f'{name} {value:g}' for name, value in values.items())} ({100 * mean:.2f} %)"
            for mean, values in tried
        ]
        lines.append(f"  {of:{width}}  {texts[0]}; then {', '.join(texts[1:]) or 'none'}")
    return lines


def print_plan(
    grid: Grid, rows: Sequence[Row], expected: Mapping[str, Expected], side_by_side: int
) -> None:
    """Prints every row with its parameter counts and state, and how long the missing ones take."""
    published = {row["row"]: row.get("published_parameters") for row in grid.rows}
    width = max(len(row.name) for row in rows)
    print(f"{grid.title}\n")
    print(f"{'row':{width}}  {'parameters':>12}  {'published':>12}  state")
    counts = _parameter_counts(rows)
    for row in rows:
        ours, theirs = (
            "" if count is None else f"{count:,}"
            for count in (counts[row.name], published[row.asked["row"]])
        )
        state = f"done: {describe(row)}" if row.state == "done" else row.state
        state += f": {row.problem}" if row.problem and row.state != "done" else ""
        print(f"{row.name:{width}}  {ours:>12}  {theirs:>12}  {state}"[:160])
    missing = [row for row in rows if row.state == "missing"]
    seconds = sum(expected[row.name].total for row in missing)
    speed = f"about {seconds / side_by_side / 60:.0f} minutes"
    if missing and not seconds:
        speed = "time unknown, as this profile's speed has not been measured"
    print(f"\n{len(missing)} of {len(rows)} runs to do: {speed}, {side_by_side} at a time")


def _parameter_counts(rows: Sequence[Row]) -> dict[str, int | None]:
    """Trainable parameters by row name; None where a row or the base's shapes are not known."""
    from bslora_kit import shapes  # with torch and peft
    from bslora_kit.budget import budget
    from bslora_kit.jobs.inputs import base_folder
    from bslora_kit.jobs.job import config_of

    known: dict[str, shapes.Shapes | None] = {}
    counts: dict[str, int | None] = {}
    for row in rows:
        counts[row.name] = None
        if row.state == "failed":
            continue
        base = row.resolved["base_model"]
        if base not in known:
            folder = base_folder(base)
            known[base] = shapes.of_config(folder) if folder else None
        config, of_base = config_of(row.resolved), known[base]
        if of_base is not None:
            counts[row.name] = budget(config, of_base).trainable if config else 0
    return counts
