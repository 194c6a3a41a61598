"""The scores of one result.json as tables for reading and drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas


def scores_of(result: Mapping[str, Any]) -> pandas.DataFrame:
    """One row a task: task, metric, value and stderr (fractions), n."""
    columns = ["task", "metric", "value", "stderr", "n"]
    rows = [{"task": task, **entry} for task, entry in result["eval"]["tasks"].items()]
    return pandas.DataFrame(rows, columns=columns).astype({"value": float, "stderr": float})


def mean_in_words(result: Mapping[str, Any]) -> str:
    """The mean of the eight tasks with its standard error, as far as they are there."""
    mean, error = result["eval"]["mean"], result["eval"]["mean_stderr"]
    if mean is None:
        return "no mean: it takes all eight tasks"
    if error is None:
        return f"mean of the eight tasks: {mean:.1%} (a standard error takes two items a task)"
    words = "binomial standard error, as if items were independent"
    return f"mean of the eight tasks: {mean:.1%} ± {error:.1%} ({words})"


def kinds_of(result: Mapping[str, Any]) -> pandas.DataFrame:
    """Scores by kind of fact over all tasks together: index kind; columns percent, stderr, items.

    stderr is the binomial standard error in points, missing for a single item. Empty where the items
    have no kinds, as in the real tasks.
    """
    entries = [
        {"kind": kind, "right": entry["value"] * entry["n"], "items": entry["n"]}
        for task in result["eval"]["tasks"].values()
        for kind, entry in task["by_kind"].items()
    ]
    frame = pandas.DataFrame(entries, columns=["kind", "right", "items"])
    sums = frame.groupby("kind", sort=False).sum()
    percent = (100 * sums["right"] / sums["items"]).astype(float)
    variance = percent * (100 - percent) / (sums["items"] - 1).where(sums["items"] > 1)
    columns = {"percent": percent, "stderr": variance.astype(float) ** 0.5}
    return pandas.DataFrame(columns).round(1).join(sums["items"])
