"""Which printed numbers of a table cannot be right, or stand for something else than they seem?

    audit()                  the four published tables
    audit({"mine": frame})   any table with the columns of `bslora_kit.published`

No number is known beforehand; every rule compares what is printed with what follows from the rest:

    right answers     a score is k / n for the n items of its task
    row mean          the mean of the unrounded scores that the printed ones stand for
    group mean        the mean of its rows, unrounded
    equal runs        the same run printed in two tables has the same numbers
    repeated cell     a score that repeats another task's in its row, and is unusual for its task
    unusual score     more than five standard errors from the runs on the same model
    inherited         means computed with such a score
    far from others   a row whose mean differs from the other runs' by more than one-run noise
    parameters        what the plan of the method counts
    ratio             parameters / the model's parameters
    bold              the best of a block, ties included, and nothing else
    unprinted ranks   rows that are compared without saying what was run

Number of items: lm-evaluation-harness (`published.ITEMS`). Sizes: `bslora_kit.shapes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bslora_kit import published
from bslora_kit.audit_rows import (
    ROUNDING,
    Row,
    agrees,
    attainable,
    is_complete,
    mean_error,
    mean_interval_of,
    mean_of_intervals,
    median_of_others,
    rounded,
    rows_of,
    score_error,
    score_interval,
)
from bslora_kit.audit_settings import (
    bold_findings,
    parameter_findings,
    rank_findings,
    ratio_findings,
    update_rank,
)
from bslora_kit.published import ITEMS

if TYPE_CHECKING:
    import pandas

UNUSUAL = 5.0  # binomial standard errors from the median of the runs on the same model
REPEATED = 2.0  # the same for a score that also repeats another one of its row
PAIR_NOISE = 1.96 * 2**0.5  # standard errors: unpaired 95 % half width of a difference of two runs
EQUAL_CELLS = 6  # scores that agree between two rows of one method: the same run


class Finding(NamedTuple):
    """One printed value that a rule contradicts; printed and expected are text, as in the table."""

    table: str
    row: str
    column: str
    printed: str
    expected: str
    rule: str
    explanation: str


def audit(tables: Mapping[str, pandas.DataFrame] | None = None) -> list[Finding]:
    """Everything in printed tables that their own numbers contradict.

    Args:
        tables: name -> table with the columns of `bslora_kit.published`; by default the published
            ones. Rows without a column "model" count as runs on Llama 3-8B.

    Returns:
        Findings in the order of tables and rows; several where several rules see one cell.

    Raises:
        ValueError: for a table that lacks methods or scores.
    """
    rows = rows_of(published.all_tables() if tables is None else tables)
    runs = [row for row in rows if not row.of_group]
    twins = _twins(runs)
    unusual = {(row, task): why for row, task, *why in _unusual_scores(runs)}
    found = [
        *_right_answers(rows),
        *_row_means(rows, twins),
        *_group_means(rows),
        *_equal_runs(twins),
        *(
            _cell(row, task, f"about {mid:.2f}", rule, why)
            for (row, task), (mid, rule, why) in unusual.items()
        ),
        *_inherited(rows, {key: why[0] for key, why in unusual.items()}),
        *_far_rows(runs, {row for row, _ in unusual}),
        *(Finding(*fields) for fields in parameter_findings(runs)),
        *(Finding(*fields) for fields in ratio_findings(runs)),
        *(Finding(*fields) for fields in bold_findings(rows)),
        *(Finding(*fields) for fields in rank_findings(runs, twins)),
    ]
    order = {(row.table, row.name): number for number, row in enumerate(rows)}
    return sorted(found, key=lambda finding: order[finding.table, finding.row])


def as_frame(findings: Sequence[Finding]) -> pandas.DataFrame:
    """Findings as a table with the columns of `Finding`."""
    import pandas

    return pandas.DataFrame(findings, columns=list(Finding._fields))


def _cell(row: Row, column: str, expected: str, rule: str, why: str) -> Finding:
    value = row.mean if column == "mean" else row.scores[column]
    return Finding(row.table, row.name, column, f"{value:.2f}", expected, rule, why)


def _right_answers(rows: Sequence[Row]) -> Iterator[Finding]:
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
            yield _cell(row, task, " or ".join(fitting or around), "right answers", why)


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


def _row_means(rows: Sequence[Row], twins: Sequence[tuple[Row, Row]]) -> Iterator[Finding]:
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
        yield _cell(row, "mean", _span(interval, 2), "row mean", why)


def _group_means(rows: Sequence[Row]) -> Iterator[Finding]:
    for group in (row for row in rows if row.of_group and row.mean is not None):
        members = _members(group, rows)
        if not members:
            continue
        interval = mean_of_intervals(map(_mean_behind, members))
        if not agrees(group.mean, interval):
            why = f"the unrounded means of its {len(members)} rows average to {_span(interval, 4)}"
            yield _cell(group, "mean", _span(interval, 2), "group mean", why)


def _members(group: Row, rows: Sequence[Row]) -> list[Row]:
    same = [row for row in rows if (row.table, row.block) == (group.table, group.block)]
    return [row for row in same if not row.of_group and row.mean is not None]


def _mean_behind(row: Row) -> tuple[float, float]:
    """The unrounded means that both the printed mean and the printed scores allow."""
    low, high = rounded(row.mean)
    if is_complete(row) and agrees(row.mean, mean_interval_of(row)):
        least, largest = mean_interval_of(row)
        return max(low, least), min(high, largest)
    return low, high


def _twins(runs: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows of one method and model whose scores are the same run's."""
    return [
        (one, other)
        for one, other in combinations(runs, 2)
        if (one.model, one.method) == (other.model, other.method)
        and sum(other.scores.get(task) == score for task, score in one.scores.items()) >= EQUAL_CELLS
    ]


def _equal_runs(twins: Sequence[tuple[Row, Row]]) -> Iterator[Finding]:
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
                yield _cell(row, column, f"{there:.2f}", "equal runs", why)


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


def _unusual_scores(runs: Sequence[Row]) -> Iterator[tuple[Row, str, float, str, str]]:
    """Row, task, median of the other runs, rule, explanation."""
    for row in runs:
        for task, score in row.scores.items():
            others = median_of_others(row, task, runs)
            if others is None:
                continue
            middle, number = others
            distance = abs(score - middle) / score_error(task, middle)
            of_others = (
                f"{distance:.1f} standard errors from {middle:.2f}, the median of the other {number} "
                f"runs on {row.model}"
            )
            same = [name for name, value in row.scores.items() if name != task and value == score]
            if same and distance > REPEATED:
                why = f"repeats the row's {same[0]} and lies {of_others}"
                yield row, task, middle, "repeated cell", why
            elif distance > UNUSUAL:
                yield row, task, middle, "unusual score", f"lies {of_others}"


def _inherited(rows: Sequence[Row], unusual: Mapping[tuple[Row, str], float]) -> Iterator[Finding]:
    """Row and group means that were computed with an unusual score."""
    shifts: dict[Row, float] = {}
    for (row, task), middle in unusual.items():
        if is_complete(row) and agrees(row.mean, mean_interval_of(row)):
            shifts[row] = shifts.get(row, 0) + (middle - row.scores[task]) / len(row.scores)
    for row, shift in shifts.items():
        tasks = ", ".join(task for other, task in unusual if other is row)
        why = f"computed with the doubtful {tasks}"
        yield _cell(row, "mean", f"about {row.mean + shift:.2f}", "inherited", why)
    for group in (row for row in rows if row.of_group and row.mean is not None):
        members = _members(group, rows)
        shift = sum(shifts.get(row, 0) for row in members) / max(len(members), 1)
        if not shift:
            continue
        mended = group.mean + shift
        why = "computed with the doubtful mean of one of its rows"
        for other in (row for row in rows if row.of_group and row.table == group.table):
            if other.mean is not None and (group.mean - other.mean) * (mended - other.mean) < 0:
                order = "below" if mended < other.mean else "above"
                why += f"; without it the group lies {order} {other.block} ({other.mean:.2f})"
        yield _cell(group, "mean", f"about {mended:.2f}", "inherited", why)


def _far_rows(runs: Sequence[Row], doubtful: set[Row]) -> Iterator[Finding]:
    """Rows outside the noise around the runs on the same model: hardly trained, or too small."""
    for row in runs:
        others = [x.mean for x in runs if x is not row and x.model == row.model and is_complete(x)]
        if not is_complete(row) or row in doubtful or len(others) < 5:
            continue
        middle = median(others)
        noise = PAIR_NOISE * mean_error(row.scores)
        if abs(row.mean - middle) > noise:
            why = (
                f"{row.mean - middle:+.2f} points from the median of the other {len(others)} runs on "
                f"{row.model}, where two single runs differ by up to {noise:.2f} by chance"
            )
            rank = update_rank(row.method, row.ranks)
            if rank is not None:
                why += f"; the update of a linear has rank {rank}"
                why += f", not {sum(row.ranks)}" if rank < sum(row.ranks) else ""
            why += "; compare it with the untrained model and with other learning rates"
            yield _cell(row, "mean", f"about {middle:.2f}", "far from others", why)


def _span(interval: tuple[float, float], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in interval)
    return low if low == high else f"{low} to {high}"


def _ranks(row: Row) -> str:
    return ",".join(map(str, row.ranks))
