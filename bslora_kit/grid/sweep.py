"""The search for learning rates: each method of a grid gets as many, never scored on test items.

    grid --sweep_grid--> one row a method and rate --driver--> results --end--> learning_rates.yaml
                              ^                                   |
                              +-- widened: the best is at the edge

A method is what has a rate of its own (`rates.rate_key`) on one base. It gets the rates that `vary` has
for it in the grid file, else half, once and twice its present one. Where the best is the smallest or the
largest, one more rate is tried beyond it, at most `FURTHER` times; the outcome holds how many a method
got, and whether its best lies inside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bslora_kit.files import write_text
from bslora_kit.grid.file import Grid
from bslora_kit.grid.report import best_values
from bslora_kit.jobs.parameters import DEFAULTS, UNTRAINED, resolve
from bslora_kit.jobs.rates import OUTCOME, rate_key

FURTHER = 3
_AROUND = (0.5, 1.0, 2.0)
_COMMON = ("profile", "split", "limit", "steps")


def sweep_grid(grid: Grid, common: Mapping[str, Any]) -> Grid:
    """The grid that tries several rates for each method of another.

    Args:
        grid: rows with `vary: {lr: ...}` are kept; of the others the first of each method is taken.
        common: parameters of every row, such as the profile and its `sweep`.

    Raises:
        ValueError: for a row whose parameters are not valid, if no row is trained, or if two rows vary
            the rate of one method.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    swept: dict[tuple[str, str], str] = {}
    trained = [row for row in grid.rows if row["method"] != UNTRAINED]
    for row in sorted(trained, key=lambda row: _swept(row) is None):
        own_values = {name: value for name, value in row.items() if name in DEFAULTS}
        given = resolve({**DEFAULTS, **grid.parameters, **own_values, **common})
        method = (given["base_model"], rate_key(given))
        if of := _swept(row):
            if swept.setdefault(method, of) != of:
                raise ValueError(
                    f"--sweep: rows {swept[method]} and {of} both vary the rate of {method[1]} on "
                    f"{method[0]}, which has one; leave `vary` to one of them"
                )
            rows.append(row)
        elif method not in seen:
            rows += [_with_rate(row, row["row"], given["lr"] * factor) for factor in _AROUND]
        seen.add(method)
    if not rows:
        raise ValueError(f"--sweep: no row of {grid.name} is trained, so none has a learning rate")
    if all(map(_swept, trained)):
        return replace(grid, rows=tuple(rows))
    title = f"Learning rates: {grid.title}"
    return replace(grid, name=f"{grid.name}_rates", title=title, rows=tuple(rows))


def widened(grid: Grid, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a next round tries: one rate beyond each best that is at the edge.

    Args:
        grid: from `sweep_grid`, with the rows of earlier rounds.
        results: from `tables.read_results`.
    """
    further = []
    for of, tried in best_values(grid, results).items():
        rows = [row for row in grid.rows if _swept(row) == of]
        rates = sorted(row["lr"] for row in rows)
        best = tried[0][1]["lr"]
        added = sum(row["varied"].get("further", False) for row in rows)
        if len(tried) < len(rates) or len(rates) < 2 or added == FURTHER or _inside(best, rates):
            continue
        beyond = rates[0] ** 2 / rates[1] if best == rates[0] else rates[-1] ** 2 / rates[-2]
        row = _with_rate(rows[0], of, beyond)
        row["varied"]["further"] = True
        further.append(row)
    return further


def end(folder: Path, grid: Grid) -> list[str]:
    """Writes the outcome of a sweep, and says how many rates each method got and what is at the edge.

    Args:
        folder: of the runs.
        grid: from `sweep_grid`, with the rows of all rounds.
    """
    from bslora_kit.tables import read_results  # pandas

    results = read_results(folder)
    best = best_values(grid, results)
    counts: dict[int, list[str]] = {}
    for of, tried in best.items():
        counts.setdefault(len(tried), []).append(of)
    lines = [f"{count} rates each: {', '.join(names)}" for count, names in sorted(counts.items())]
    for of, tried in best.items():
        rate, rates = tried[0][1]["lr"], [values["lr"] for _, values in tried]
        if not _inside(rate, rates):
            which = "smallest" if rate == min(rates) else "largest"
            lines.append(
                f"{of}: its best rate {rate:g} is the {which} that was tried; a better may lie beyond"
            )
    return [*lines, f"learning rates: {write_outcome(folder, grid, results)}"]


def write_outcome(folder: Path, grid: Grid, results: Sequence[Mapping[str, Any]]) -> Path:
    """Writes the best rate of each method, and the scores that it rests on, as `rates` reads them.

    Args:
        folder: of the runs.
        grid: from `sweep_grid`, with the rows of all rounds.
        results: from `tables.read_results`.
    """
    names = {row["row"] for row in grid.rows}
    runs = {x["run"]["row"]: x["run"] for x in results if x["run"]["row"] in names}
    bases: dict[str, dict[str, Any]] = {}
    for of, tried in best_values(grid, results).items():
        run = next(runs[x["row"]] for x in grid.rows if _swept(x) == of and x["row"] in runs)
        scores = {values["lr"]: round(100 * mean, 2) for mean, values in tried}
        bases.setdefault(run["base_model"], {})[rate_key(run)] = {
            "lr": tried[0][1]["lr"],
            "row": of,
            "scores": dict(sorted(scores.items())),
            "inside": _inside(tried[0][1]["lr"], scores),
        }
    first = next(iter(runs.values()))
    common = {name: first[name] for name in _COMMON}
    common["seeds"] = sorted({x["run"]["seed"] for x in results if x["run"]["row"] in names})
    text = yaml.safe_dump({**common, "bases": bases}, sort_keys=False, default_flow_style=None)
    path = folder / OUTCOME
    write_text(path, f"# Written by --sweep from the runs beside it; scores in percent.\n{text}")
    return path


def _swept(row: Mapping[str, Any]) -> str | None:
    """The original row of one that differs from it in its rate alone."""
    varied = row.get("varied", {})
    return varied["of"] if set(varied.get("values", ())) == {"lr"} else None


def _with_rate(row: Mapping[str, Any], of: str, rate: float) -> dict[str, Any]:
    rate = float(f"{rate:.6g}")
    values = {"lr": rate, "row": f"{of}-lr-{rate}"}
    return {**row, **values, "varied": {"of": of, "values": {"lr": rate}}}


def _inside(rate: float, rates: Collection[float]) -> bool:
    return min(rates) < rate < max(rates)
