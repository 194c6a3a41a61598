"""Rows of printed tables as the audit reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bslora_kit.published.printed import ITEMS, TASKS
from bslora_kit.published.right_answers import Interval, mean_of_intervals, score_interval

if TYPE_CHECKING:
    import pandas

MODEL = "Llama 3-8B"  # of tables without a column "model"
GROUP_MEAN = "(group mean)"


@dataclass(frozen=True, eq=False)
class Row:
    """One printed row.

    Attributes:
        table, name: where it stands; the name is unique in its table.
        model, method: whose run it is; the method in lower case without blanks and signs.
        ranks: as printed, () where none are.
        block: rows that are compared with each other share it.
        of_group: whether it holds a group's mean and no run.
        scores: task -> percent, as far as printed.
        mean, parameters, ratio: as printed, None where not.
        bold: names of the columns printed in bold.
    """

    table: str
    name: str
    model: str
    method: str
    ranks: tuple[int, ...]
    block: str
    of_group: bool
    scores: dict[str, float]
    mean: float | None
    parameters: int | None
    ratio: str | None
    bold: frozenset[str] = field(default_factory=frozenset)

    @property
    def numbers(self) -> dict[str, float]:
        """All columns in which rows can be best: the scores and the mean."""
        return self.scores if self.mean is None else {**self.scores, "mean": self.mean}


def rows_of(tables: Mapping[str, pandas.DataFrame]) -> list[Row]:
    """All rows of all tables.

    Args:
        tables: name -> table with the columns of `bslora_kit.published`.

    Raises:
        ValueError: for a table without a column "method" or without any score.
    """
    rows = []
    for name, frame in tables.items():
        known = [column for column in frame if column in ITEMS]
        if "method" not in frame or not known:
            raise ValueError(
                f"table {name!r} has the columns {list(frame)}; expected method, at least one of "
                f"{', '.join(ITEMS)}, and perhaps model, placement, ranks, parameters, ratio, mean, bold"
            )
        blocks = 0
        for position, record in enumerate(frame.to_dict("records")):
            blocks += record["method"] == frame["method"].iloc[0]
            rows.append(_row(name, position, record, known, blocks))
    return rows


def _row(table: str, position: int, record: dict, tasks: Sequence[str], blocks: int) -> Row:
    given = {key: value for key, value in record.items() if value == value and value != ""}
    ranks = re.findall(r"\d+", str(given.get("ranks", given.get("rank", ""))))
    place = given.get("model") or given.get("placement")
    words = [str(given[key]) for key in ("model", "placement", "method", "ranks") if key in given]
    of_group = record["method"] == GROUP_MEAN
    return Row(
        table=table,
        name=f"{' '.join(words)} (row {position + 1})",
        model=given.get("model", MODEL),
        method=re.sub(r"[^a-z0-9]", "", str(record["method"]).lower()),
        ranks=tuple(map(int, ranks)),
        block=str(place or f"block {blocks}"),
        of_group=of_group,
        scores={task: float(given[task]) for task in tasks if task in given},
        mean=float(given["mean"]) if "mean" in given else None,
        parameters=int(given["parameters"]) if "parameters" in given else None,
        ratio=str(given["ratio"]) if "ratio" in given else None,
        bold=frozenset(str(given.get("bold", "")).split()),
    )


def mean_interval_of(row: Row) -> Interval:
    """Least and largest mean that the row's printed scores allow."""
    return mean_of_intervals(score_interval(task, score) for task, score in row.scores.items())


def is_complete(row: Row) -> bool:
    """Whether all eight scores and their mean are printed."""
    return row.mean is not None and set(row.scores) >= set(TASKS)


def median_of_others(row: Row, task: str, rows: Iterable[Row]) -> tuple[float, int] | None:
    """Median of a task over the other runs on the same model, and their number; None below five."""
    others = [
        other.scores[task]
        for other in rows
        if other is not row and other.model == row.model and task in other.scores
    ]
    return (median(others), len(others)) if len(others) >= 5 else None


def members_of(group: Row, rows: Sequence[Row]) -> list[Row]:
    """The runs whose mean a group's row holds."""
    same = [row for row in rows if (row.table, row.block) == (group.table, group.block)]
    return [row for row in same if not row.of_group and row.mean is not None]
