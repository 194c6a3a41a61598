"""Plotly figures of the kit, drawn from plain data; every title states what the data show."""

from bslora_kit.figures.budgets import budget_by_scope
from bslora_kit.figures.runs import loss_curve, score_against_parameters, scores_by_task

__all__ = ["budget_by_scope", "loss_curve", "score_against_parameters", "scores_by_task"]
