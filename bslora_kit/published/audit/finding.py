"""What a rule of the audit found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bslora_kit.published.audit.rows import Row

if TYPE_CHECKING:
    import pandas


class Finding(NamedTuple):
    """One printed value that a rule contradicts; printed and expected are text, as in the table."""

    table: str
    row: str
    column: str
    printed: str
    expected: str
    rule: str
    explanation: str


def of_cell(row: Row, column: str, expected: str, rule: str, why: str) -> Finding:
    """A finding on one score of a row, or on its mean."""
    value = row.mean if column == "mean" else row.scores[column]
    return Finding(row.table, row.name, column, f"{value:.2f}", expected, rule, why)


def as_frame(findings: Sequence[Finding]) -> pandas.DataFrame:
    """Findings as a table with the columns of `Finding`."""
    import pandas

    return pandas.DataFrame(findings, columns=list(Finding._fields))
