"""What --dry-run prints: every row with its parameters and state, then the estimate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bslora_kit.grid import estimate
from bslora_kit.grid.file import Grid
from bslora_kit.grid.rows import Row
from bslora_kit.grid.status_lines import describe
from bslora_kit.shapes import Shapes


def print_plan(
    grid: Grid,
    rows: Sequence[Row],
    equal: Mapping[str, Path],
    trained: Mapping[str, Path],
    estimated: Sequence[str],
) -> None:
    """Prints the rows of a grid with their parameter counts and states, and the estimate.

    Args:
        grid: the grid.
        rows: its rows.
        equal: name of a missing row -> folder of a finished run that would be taken over.
        trained: name of a missing row -> folder of a finished run whose adapter would be scored.
        estimated: lines of `estimate.lines`.
    """
    published = {row["row"]: row.get("published_parameters") for row in grid.rows}
    width = max(len(row.name) for row in rows)
    print(f"{grid.title}\n")
    print(f"{'row':{width}}  {'parameters':>12}  {'published':>12}  {'rate':>8}  state")
    counts = _parameter_counts(rows)
    for row in rows:
        ours, theirs = (
            "" if count is None else f"{count:,}"
            for count in (counts[row.name], published[row.asked["row"]])
        )
        rate = row.resolved.get("lr")
        rate = "" if rate is None else f"{rate:g}"
        state = _state(row, equal, trained)
        print(f"{row.name:{width}}  {ours:>12}  {theirs:>12}  {rate:>8}  {state}"[:160])
    missing = sum(row.state == "missing" for row in rows)
    print(f"\n{missing - len(equal)} of {len(rows)} runs to do")
    for problem, count in Counter(row.problem for row in rows if row.state == "failed").items():
        print(f"{count} cannot run: {problem}")
    for line in estimated:
        print(line)


def _state(row: Row, equal: Mapping[str, Path], trained: Mapping[str, Path]) -> str:
    if row.state == "done":
        return f"done: {describe(row)}"
    if row.name in equal:
        return f"equal to {'/'.join(equal[row.name].parts[-2:])}, which is taken over"
    if row.name in trained:
        return f"only to be scored: trained in {'/'.join(trained[row.name].parts[-2:])}"
    return "cannot run, see below" if row.state == "failed" else row.state


def _parameter_counts(rows: Sequence[Row]) -> dict[str, int | None]:
    """Trainable parameters by row name; None where a row or the base's shapes are not known."""
    known: dict[str, Shapes | None] = {}
    counts: dict[str, int | None] = {}
    for row in rows:
        counts[row.name] = None
        if not row.resolved:
            continue
        name = row.resolved["base_model"]
        if name not in known:
            known[name] = estimate.base_shapes(name)
        base = known[name]
        if base is not None:
            adapted = estimate.plan_of_row(row.resolved, base)
            counts[row.name] = adapted.trainable if adapted else 0
    return counts
