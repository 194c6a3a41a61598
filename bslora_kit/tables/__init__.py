"""Result files -> the tables of a grid: numbers, comparisons of all rows, and every printed form.

run = Finished.of(title, grid, read_results("papermill_runs/similar_budget"))
print(to_text(run.table, run.lines))
write_tables("papermill_runs/similar_budget", run)
"""

from bslora_kit.tables.cells import cells
from bslora_kit.tables.contrasts import (
    Contrast,
    conclusions,
    contrasts,
    smallest_of,
    span_of,
    summary,
    verdicts,
)
from bslora_kit.tables.finished import Finished
from bslora_kit.tables.forms import to_csv, to_latex, to_markdown, to_text
from bslora_kit.tables.gains import differences
from bslora_kit.tables.notes import about
from bslora_kit.tables.page import to_html, write_tables
from bslora_kit.tables.pair_forms import pairs_view
from bslora_kit.tables.pairs import (
    against,
    comparisons,
    in_words,
    rank_sets,
    seed_scores,
    with_places,
)
from bslora_kit.tables.results import base_score, read_results, table

__all__ = [
    "Contrast",
    "Finished",
    "conclusions",
    "contrasts",
    "smallest_of",
    "span_of",
    "summary",
    "verdicts",
    "about",
    "against",
    "base_score",
    "cells",
    "comparisons",
    "differences",
    "in_words",
    "pairs_view",
    "rank_sets",
    "read_results",
    "seed_scores",
    "table",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "to_text",
    "with_places",
    "write_tables",
]
