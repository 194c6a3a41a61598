"""The search for learning rates: every method of a grid gets as many, never scored on test items.

    grid --sweep_grid--> one row a method and rate --driver--> results --end--> learning_rates.yaml
                              ^                                   |
                              +-- widened: the best is at the edge

A method is what has a rate of its own (`rates.rate_key`) on one base. With each gate or Kronecker size
it is tried at its smallest and at its largest rank, and at those that have a `vary` of rates in the
grid file, with these rates, else with half, once and twice its present one. Where the best is the
smallest or the largest, one more rate is tried beyond it, at most `FURTHER` times. The outcome holds the
score of every rate, which ones diverged, and whether the best lies inside.
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
from bslora_kit.jobs.rates import OUTCOME, rank_of, rate_key, share_size_of

FURTHER = 3
_Method = tuple[str, str, int | None]  # base, method, share size
_AROUND = (0.5, 1.0, 2.0)
_COMMON = ("profile", "split", "limit", "steps")


def sweep_grid(grid: Grid, common: Mapping[str, Any]) -> Grid:
    """The grid that tries several rates for each method of another.

    Args:
        grid: rows with `vary: {lr: ...}` are kept; of the others those of each method's smallest and
            largest rank with each share size, unless one that is kept has these.
        common: parameters of every row, such as the profile and its `sweep`.

    Raises:
        ValueError: for a row whose parameters are not valid, if no row is trained, or if two rows vary
            the rate of one method at one rank and share size.
    """
    trained = [row for row in grid.rows if row["method"] != UNTRAINED]
    kept: dict[tuple[_Method, int], str] = {}
    others: dict[_Method, dict[int, tuple[dict[str, Any], float]]] = {}
    for row in trained:
        own_values = {name: value for name, value in row.items() if name in DEFAULTS}
        given = resolve({**DEFAULTS, **grid.parameters, **own_values, **common})
        method, rank = (given["base_model"], rate_key(given), share_size_of(given)), rank_of(given)
        of = _swept(row)
        if of is None:
            others.setdefault(method, {}).setdefault(rank, (row, given["lr"]))
        elif not isinstance(row["lr"], int | float):
            raise ValueError(
                f"--sweep: {of} varies its rate by {row['lr']!r}, which is no number; give the rates to "
                "try"
            )
        elif kept.setdefault((method, rank), of) != of:
            base, name, size = method
            raise ValueError(
                f"--sweep: rows {kept[method, rank]} and {of} both vary the rate of {name} at rank "
                f"{rank}{f' and share size {size}' if size else ''} on {base}, which has one; leave "
                "`vary` to one of them"
            )
    rows = [row for row in trained if _swept(row)]
    for method, ranks in others.items():
        for rank in sorted({min(ranks), max(ranks)}):
            if (method, rank) not in kept:
                row, rate = ranks[rank]
                rows += [_with_rate(row, row["row"], rate * factor) for factor in _AROUND]
    if not rows:
        raise ValueError(f"--sweep: no row of {grid.name} is trained, so none has a learning rate")
    if all(map(_swept, trained)):
        return replace(grid, rows=tuple(rows))
    title = f"Learning rates: {grid.title}"
    return replace(grid, name=f"{grid.name}_rates", title=title, rows=tuple(rows))


def widened(
    grid: Grid, results: Sequence[Mapping[str, Any]], diverged: Collection[str]
) -> list[dict[str, Any]]:
    """The rows that a next round tries: one rate beyond each best that is at the edge.

    Args:
        grid: from `sweep_grid`, with the rows of earlier rounds.
        results: from `tables.read_results`.
        diverged: names of rows whose training diverged.
    """
    further = []
    for of, tried in _tried(grid, results, diverged).items():
        rows = [row for row in grid.rows if _swept(row) == of]
        rates = sorted(row["lr"] for row in rows)
        added = sum(row["varied"].get("further", False) for row in rows)
        if len(tried) < len(rates) or len(rates) < 2 or added == FURTHER:
            continue
        best, score = tried[0]
        if score is None:  # all diverged, so a smaller one is wanted
            best = rates[0]
        elif _inside(best, rates):
            continue
        beyond = rates[0] ** 2 / rates[1] if best == rates[0] else rates[-1] ** 2 / rates[-2]
        row = _with_rate(rows[0], of, beyond)
        row["varied"]["further"] = True
        further.append(row)
    return further


def end(folder: Path, grid: Grid, diverged: Collection[str]) -> list[str]:
    """Writes the outcome of a sweep, and says how many rates each method got and what is at the edge.

    Args:
        folder: of the runs.
        grid: from `sweep_grid`, with the rows of all rounds.
        diverged: names of rows whose training diverged.
    """
    from bslora_kit.tables import read_results  # pandas

    results = read_results(folder)
    by_row = _tried(grid, results, diverged)
    counts: dict[int, list[str]] = {}
    for of, tried in by_row.items():
        counts.setdefault(len(tried), []).append(of)
    lines = [f"{count} rates each: {', '.join(names)}" for count, names in sorted(counts.items())]
    for of, tried in by_row.items():
        rates = [rate for rate, _ in tried]
        best, score = tried[0]
        failed = sorted(rate for rate, score in tried if score is None)
        if failed:
            lines.append(f"{of}: training diverged at {', '.join(f'{rate:g}' for rate in failed)}")
        if score is None:
            lines.append(
                f"{of}: every rate diverged, so it has none; vary smaller ones in the grid file"
            )
        elif not _inside(best, rates):
            which = "smallest" if best == min(rates) else "largest"
            lines.append(
                f"{of}: its best rate {best:g} is the {which} that was tried; a better may lie beyond"
            )
    return [*lines, f"learning rates: {write_outcome(folder, grid, results, diverged)}"]


def write_outcome(
    folder: Path, grid: Grid, results: Sequence[Mapping[str, Any]], diverged: Collection[str]
) -> Path:
    """Writes the best rate of each method and rank, and the scores it rests on, as `rates` reads them.

    Args:
        folder: of the runs.
        grid: from `sweep_grid`, with the rows of all rounds.
        results: from `tables.read_results`.
        diverged: names of rows whose training diverged.
    """
    names = {row["row"] for row in grid.rows}
    runs = {x["run"]["row"]: x["run"] for x in results if x["run"]["row"] in names}
    bases: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for of, tried in _tried(grid, results, diverged).items():
        scores = {rate: round(100 * score, 2) for rate, score in sorted(tried) if score is not None}
        if not scores:
            continue
        run = next(runs[x["row"]] for x in grid.rows if _swept(x) == of and x["row"] in runs)
        size = share_size_of(run)
        entry = {
            "rank": rank_of(run),
            **({"share_size": size} if size else {}),
            "lr": tried[0][0],
            "row": of,
            "scores": scores,
            "diverged": sorted(rate for rate, score in tried if score is None),
            "inside": _inside(tried[0][0], [rate for rate, _ in tried]),
        }
        bases.setdefault(run["base_model"], {}).setdefault(rate_key(run), []).append(entry)
    for methods in bases.values():
        for entries in methods.values():
            entries.sort(key=lambda entry: (entry["rank"], entry.get("share_size", 0)))
    first = next(iter(runs.values()))
    common = {name: first[name] for name in _COMMON}
    common["seeds"] = sorted({x["run"]["seed"] for x in results if x["run"]["row"] in names})
    text = yaml.safe_dump(
        {**common, "bases": bases}, sort_keys=False, default_flow_style=None, width=200
    )
    path = folder / OUTCOME
    write_text(path, f"# Written by --sweep from the runs beside it; scores in percent.\n{text}")
    return path


def _tried(
    grid: Grid, results: Sequence[Mapping[str, Any]], diverged: Collection[str]
) -> dict[str, list[tuple[float, float | None]]]:
    """Original row -> (rate, mean score), the best first; at the end, without a score, what diverged.

    A rate at which one seed diverged counts as diverged: the others alone would flatter it.
    """
    scored = [result for result in results if result["run"]["row"] not in diverged]
    tried: dict[str, list[tuple[float, float | None]]] = {
        of: [(values["lr"], mean) for mean, values in ranked]
        for of, ranked in best_values(grid, scored).items()
    }
    for row in grid.rows:
        if row["row"] in diverged and (of := _swept(row)):
            tried.setdefault(of, []).append((row["lr"], None))
    return tried


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
