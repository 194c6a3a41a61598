"""Audit rules on what is printed against what follows from it: scores, means, the same run elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from bslora_kit.published.audit.finding import Finding, of_cell
from bslora_kit.published.audit.rows import Row, is_complete, mean_interval_of, members_of
from bslora_kit.published.printed import ITEMS
from bslora_kit.published.right_answers import (
    ROUNDING,
    agrees,
    attainable,
    mean_of_intervals,
    rounded,
    score_interval,
)

EQUAL_CELLS = 6  # scores that agree between two rows of one method: the same run


def right_answer_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Scores that no number of right answers gives."""
    for row in rows:
        for task, printed in row.scores.items():
            if attainable(printed, ITEMS[task]):
                continue
            fitting = _fitting_scores(row, task)
            why = f"no number of right answers out of {ITEMS[task]:,} gives {printed:.2f} %"
            if fitting:
                why += f"; {' or '.join(fitting)} gives the printed mean {row.mean:.2f}"
            nearest = round(printed * ITEMS[task] / 100)
            around = [f"{100 * k / ITEMS[task]:.2f}" for k in (nearest - 1, nearest, nearest + 1)]
            yield of_cell(row, task, " or ".join(fitting or around), "right answers", why)


def _fitting_scores(row: Row, task: str) -> list[str]:
    """Attainable scores of one task with which the row's other scores give the printed mean.

    Of several, those with the printed digits in another order, else all.
    """
    if not is_complete(row):
        return []
    count = len(row.scores)
    others = [score_interval(name, score) for name, score in row.scores.items() if name != task]
    low = count * (row.mean - ROUNDING) - sum(high for _, high in others)
    high = count * (row.mean + ROUNDING) - sum(low for low, _ in others)
    items = ITEMS[task]
    around = range(max(int(low * items / 100) - 1, 0), min(int(high * items / 100) + 1, items) + 1)
    values = [f"{100 * k / items:.2f}" for k in around if low <= 100 * k / items <= high]
    swapped = [value for value in values if sorted(value) == sorted(f"{row.scores[task]:.2f}")]
    return swapped or values


def row_mean_findings(rows: Sequence[Row], twins: Sequence[tuple[Row, Row]]) -> Iterator[Finding]:
    """Means that do not follow from their row, unless one cell of it is known to be the wrong one."""
    for row in rows:
        if not is_complete(row) or agrees(row.mean, mean_interval_of(row)):
            continue
        wrong = [task for task, score in row.scores.items() if not attainable(score, ITEMS[task])]
        wrong += [
            task
            for pair in twins
            if row in pair
            for task in row.scores
            if pair[0].scores.get(task) != pair[1].scores.get(task)
        ]
        if any(_fitting_scores(row, task) for task in wrong):
            continue
        interval = mean_interval_of(row)
        why = f"the unrounded scores of the row have the mean {_span(interval, 4)}"
        yield of_cell(row, "mean", _span(interval, 2), "row mean", why)


def group_mean_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Group means that do not follow from the means of their rows."""
    for group in (row for row in rows if row.of_group and row.mean is not None):
        members = members_of(group, rows)
        if not members:
            continue
        interval = mean_of_intervals(map(_mean_behind, members))
        if not agrees(group.mean, interval):
            why = f"the unrounded means of its {len(members)} rows average to {_span(interval, 4)}"
            yield of_cell(group, "mean", _span(interval, 2), "group mean", why)


def _mean_behind(row: Row) -> tuple[float, float]:
    """The unrounded means that both the printed mean and the printed scores allow."""
    low, high = rounded(row.mean)
    if is_complete(row) and agrees(row.mean, mean_interval_of(row)):
        least, largest = mean_interval_of(row)
        return max(low, least), min(high, largest)
    return low, high


def twins_of(runs: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows of one method and model whose scores are the same run's."""
    return [
        (one, other)
        for one, other in combinations(runs, 2)
        if (one.model, one.method) == (other.model, other.method)
        and sum(other.scores.get(task) == score for task, score in one.scores.items()) >= EQUAL_CELLS
    ]


def equal_run_findings(twins: Sequence[tuple[Row, Row]]) -> Iterator[Finding]:
    """Different prints of one run, and one run printed under two triples of ranks."""
    for pair in twins:
        for row, other in (pair, pair[::-1]):
            if row.ranks and other.ranks and row.ranks != other.ranks:
                why = f"repeats the scores of {other.name}, a run of other ranks"
                yield Finding(
                    row.table, row.name, "ranks", _ranks(row), "another row", "equal runs", why
                )
                continue
            for column in row.numbers:
                here, there = row.numbers[column], other.numbers.get(column)
                if there is None or here == there or _is_sound(row, column, there):
                    continue
                why = f"the same run is printed with {there:.2f} in {other.table}, {other.name}"
                if column != "mean" and f"{there:.2f}" in _fitting_scores(row, column):
                    why += f"; that gives the printed mean {row.mean:.2f}"
                yield of_cell(row, column, f"{there:.2f}", "equal runs", why)


def _is_sound(row: Row, column: str, elsewhere: float) -> bool:
    """Whether a cell fits its own row, so that of two different prints the other one is wrong."""
    if not is_complete(row) or column == "mean":
        return column == "mean" and is_complete(row) and agrees(row.mean, mean_interval_of(row))
    fits = agrees(row.mean, mean_interval_of(row)) and bool(
        attainable(row.scores[column], ITEMS[column])
    )
    changed = {**row.scores, column: elsewhere}
    interval = mean_of_intervals(score_interval(task, score) for task, score in changed.items())
    return fits and not (attainable(elsewhere, ITEMS[column]) and agrees(row.mean, interval))


def _span(interval: tuple[float, float], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in interval)
    return low if low == high else f"{low} to {high}"


def _ranks(row: Row) -> str:
    return ",".join(map(str, row.ranks))
