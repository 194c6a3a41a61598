"""Result files -> the tables of a grid: numbers, comparisons of all rows, and every printed form.

results = read_results("papermill_runs/similar_budget")
pairs = comparisons(results, grid)
frame = with_places(table(results, grid), pairs)
print(to_text(frame, about(results, frame)))
"""

from bslora_kit.tables.contrasts import (
    Contrast,
    conclusions,
    contrasts,
    smallest_of,
    span_of,
    summary,
    verdicts,
)
from bslora_kit.tables.forms import to_csv, to_latex, to_markdown, to_text
from bslora_kit.tables.gains import differences
from bslora_kit.tables.notes import about
from bslora_kit.tables.page import to_html, write_tables
from bslora_kit.tables.pair_forms import pair_notes, pairs_to_latex, pairs_to_markdown, pairs_view
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
    "conclusions",
    "contrasts",
    "smallest_of",
    "span_of",
    "summary",
    "verdicts",
    "about",
    "against",
    "base_score",
    "comparisons",
    "differences",
    "in_words",
    "pair_notes",
    "pairs_to_latex",
    "pairs_to_markdown",
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
