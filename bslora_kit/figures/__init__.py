"""Plotly figures of the kit, drawn from plain data; every title states what the data show."""

from bslora_kit.figures.budgets import (
    budget_by_scope,
    cost_of_a_rank,
    equal_budget_triples,
    floor_of_a_fit,
    rank_budget,
    redraw_rank_budget,
)
from bslora_kit.figures.evidence import (
    contrast_plot,
    forest_plot,
    one_run_noise,
    seed_dots,
)
from bslora_kit.figures.fronts import scatter_with_front, score_against_parameters
from bslora_kit.figures.low_rank import (
    counts_against_printed,
    layer_cosines,
    singular_values,
    weight_against_pair,
)
from bslora_kit.figures.runs import loss_curve, scores_by_task
from bslora_kit.figures.sharing import (
    sharing_map,
    sharing_maps,
    sharing_summary,
    sharing_table,
)
from bslora_kit.figures.theme import follow_theme
from bslora_kit.figures.training import training_curves
from bslora_kit.figures.transformations import (
    Matrix,
    gradient_by_column,
    kronecker_chunks,
    matrix_equation,
    measured_rank,
    singular_spectrum,
    slice_map,
)
from bslora_kit.figures.weights import (
    energy_shares,
    overlap_bars,
    overlap_table,
    singular_value_lines,
)

__all__ = [
    "Matrix",
    "budget_by_scope",
    "contrast_plot",
    "cost_of_a_rank",
    "counts_against_printed",
    "energy_shares",
    "equal_budget_triples",
    "floor_of_a_fit",
    "follow_theme",
    "forest_plot",
    "gradient_by_column",
    "kronecker_chunks",
    "layer_cosines",
    "loss_curve",
    "matrix_equation",
    "measured_rank",
    "one_run_noise",
    "overlap_bars",
    "overlap_table",
    "rank_budget",
    "redraw_rank_budget",
    "scatter_with_front",
    "score_against_parameters",
    "scores_by_task",
    "seed_dots",
    "sharing_map",
    "sharing_maps",
    "sharing_summary",
    "sharing_table",
    "singular_spectrum",
    "singular_value_lines",
    "singular_values",
    "slice_map",
    "training_curves",
    "weight_against_pair",
]
