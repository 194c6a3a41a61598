"""All rules of the audit on all rows of some tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bslora_kit.published import printed
from bslora_kit.published.audit.finding import Finding, of_cell
from bslora_kit.published.audit.neighbour_rules import (
    far_row_findings,
    inherited_findings,
    level_findings,
    unusual_scores,
)
from bslora_kit.published.audit.rows import rows_of
from bslora_kit.published.audit.score_rules import (
    equal_run_findings,
    group_mean_findings,
    right_answer_findings,
    row_mean_findings,
    twins_of,
)
from bslora_kit.published.audit.setting_rules import (
    bold_findings,
    parameter_findings,
    rank_findings,
    ratio_findings,
)

if TYPE_CHECKING:
    import pandas


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
    rows = rows_of(printed.all_tables() if tables is None else tables)
    runs = [row for row in rows if not row.of_group]
    twins = twins_of(runs)
    unusual = {(row, task): why for row, task, *why in unusual_scores(runs)}
    found = [
        *right_answer_findings(rows),
        *row_mean_findings(rows, twins),
        *group_mean_findings(rows),
        *equal_run_findings(twins),
        *(
            of_cell(row, task, f"about {mid:.2f}", rule, why)
            for (row, task), (mid, rule, why) in unusual.items()
        ),
        *inherited_findings(rows, {key: why[0] for key, why in unusual.items()}),
        *far_row_findings(runs, {row for row, _ in unusual}),
        *level_findings(runs),
        *parameter_findings(runs),
        *ratio_findings(runs),
        *bold_findings(rows),
        *rank_findings(runs, twins),
    ]
    order = {(row.table, row.name): number for number, row in enumerate(rows)}
    return sorted(found, key=lambda finding: order[finding.table, finding.row])
