"""The published tables as printed (`printed`), with their noise (`scores`), and their `audit`.

The functions that read the tables are importable from here.
"""

from bslora_kit.published.printed import (
    ITEMS,
    TASKS,
    all_tables,
    placement,
    similar_budget,
    tied_lora,
    tied_lora_mmlu,
)

__all__ = [
    "ITEMS",
    "TASKS",
    "all_tables",
    "placement",
    "similar_budget",
    "tied_lora",
    "tied_lora_mmlu",
]
