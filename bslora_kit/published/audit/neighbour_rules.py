"""Audit rules that compare a run with the other runs on the same model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import median

from bslora_kit.published.audit.finding import Finding, of_cell
from bslora_kit.published.audit.rows import (
    Row,
    is_complete,
    mean_interval_of,
    median_of_others,
    members_of,
)
from bslora_kit.published.audit.setting_rules import update_rank
from bslora_kit.published.printed import ITEMS
from bslora_kit.published.right_answers import agrees, mean_error, score_error

UNUSUAL = 5.0  # binomial standard errors from the median of the runs on the same model
REPEATED = 2.0  # the same for a score that also repeats another one of its row
LEVEL = 2  # right answers on each task by which two runs of other methods may differ and be level
PAIR_NOISE = 1.96 * 2**0.5  # standard errors: unpaired 95 % half width of a difference of two runs


def unusual_scores(runs: Sequence[Row]) -> Iterator[tuple[Row, str, float, str, str]]:
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


def inherited_findings(
    rows: Sequence[Row], unusual: Mapping[tuple[Row, str], float]
) -> Iterator[Finding]:
    """Row and group means that were computed with an unusual score."""
    shifts: dict[Row, float] = {}
    for (row, task), middle in unusual.items():
        if is_complete(row) and agrees(row.mean, mean_interval_of(row)):
            shifts[row] = shifts.get(row, 0) + (middle - row.scores[task]) / len(row.scores)
    for row, shift in shifts.items():
        tasks = ", ".join(task for other, task in unusual if other is row)
        why = f"computed with the doubtful {tasks}"
        yield of_cell(row, "mean", f"about {row.mean + shift:.2f}", "inherited", why)
    for group in (row for row in rows if row.of_group and row.mean is not None):
        members = members_of(group, rows)
        shift = sum(shifts.get(row, 0) for row in members) / max(len(members), 1)
        if not shift:
            continue
        mended = group.mean + shift
        why = "computed with the doubtful mean of one of its rows"
        for other in (row for row in rows if row.of_group and row.table == group.table):
            if other.mean is not None and (group.mean - other.mean) * (mended - other.mean) < 0:
                order = "below" if mended < other.mean else "above"
                why += f"; without it the group lies {order} {other.block} ({other.mean:.2f})"
        yield of_cell(group, "mean", f"about {mended:.2f}", "inherited", why)


def far_row_findings(runs: Sequence[Row], doubtful: set[Row]) -> Iterator[Finding]:
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
            yield of_cell(row, "mean", f"about {middle:.2f}", "far from others", why)


def level_findings(runs: Sequence[Row]) -> Iterator[Finding]:
    """Runs of two methods with the same answers: a copy, or two adapters that training hardly moved.

    Two adapters that were trained give other answers to many items, even if their means agree. What two
    methods share is the untrained model, so runs that answer alike have stayed near it.
    """
    complete = [row for row in runs if is_complete(row)]
    for pair in combinations(complete, 2):
        if pair[0].model != pair[1].model or pair[0].method == pair[1].method:
            continue
        apart = _answers_apart(*pair)
        if max(apart) > LEVEL:
            continue
        others = [
            sum(_answers_apart(one, other))
            for one, other in combinations(complete, 2)
            if one.model == other.model and one.method != other.method
        ]
        items = sum(ITEMS[task] for task in pair[0].scores)
        why = (
            f"{{}} has the same right answers on every task to within {max(apart)}, {sum(apart)} of "
            f"{items:,} in all, where half of the pairs of two methods are {round(median(others))} or "
            "more apart: a copy, or both have stayed at the untrained model; compare them with it and "
            "with other learning rates"
        )
        for row, other in (pair, pair[::-1]):
            expected = "scores that differ between methods"
            yield of_cell(row, "mean", expected, "level methods", why.format(other.name))


def _answers_apart(one: Row, other: Row) -> list[int]:
    """Right answers by which two rows differ, task by task."""
    return [
        abs(round((score - other.scores[task]) * ITEMS[task] / 100))
        for task, score in one.scores.items()
        if task in other.scores
    ]
