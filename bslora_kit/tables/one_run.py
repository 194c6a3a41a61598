"""The scores of one run as tables for reading and drawing, from the items it answered.

Errors are as in the tables of a grid: items that ask for one fact count once (`answers`), while those in
result.json are lm-eval's, which take items as independent.
"""

from __future__ import annotations

import math

import pandas

from bslora_kit.evaluation.tasks import metric_of
from bslora_kit.published import TASKS
from bslora_kit.tables.answers import ALL, Answers, scores_by_row
from bslora_kit.tables.results import Score, mmlu_alone


def scores_of(items: pandas.DataFrame) -> pandas.DataFrame:
    """One row a task: task, metric, value and stderr (fractions), n.

    Args:
        items: `Evaluation.items`, or `results.items_of` a run.
    """
    found, sizes = _scores(items), items.groupby("task", sort=False, observed=True).size()
    rows = [
        (task, metric_of(task), found[task].mean / 100, found[task].stderr / 100, n)
        for task, n in sizes.items()
    ]
    return pandas.DataFrame(rows, columns=["task", "metric", "value", "stderr", "n"])


def score_of_items(items: pandas.DataFrame) -> Score | None:
    """What rows are compared by, in percent: the mean of the eight tasks, or MMLU where it is all.

    Args:
        items: as in `scores_of`.

    Returns:
        The score with its errors; None where neither is there.
    """
    there = {task.removeprefix("mini_") for task in items["task"].unique()}
    return _scores(items)[ALL] if mmlu_alone(there) or there.issuperset(TASKS) else None


def score_in_words(items: pandas.DataFrame) -> str:
    """The score of `score_of_items` with its standard error, as far as they are there.

    Args:
        items: as in `scores_of`.
    """
    score = score_of_items(items)
    if score is None:
        return "no mean: it takes all eight tasks"
    name = "MMLU" if mmlu_alone(items["task"].unique()) else "mean of the eight tasks"
    if math.isnan(score.stderr):
        return f"{name}: {score.mean:.1f} % (a standard error takes more items)"
    known = items["fact"].notna().any()
    how = "items of one fact counted once" if known else "items taken as independent"
    return f"{name}: {score.mean:.1f} ± {score.stderr:.1f} % (standard error, {how})"


def kinds_of(items: pandas.DataFrame) -> pandas.DataFrame:
    """Scores by kind of fact over all tasks together: index kind; columns percent, stderr, items.

    stderr is the standard error in points, missing for a single fact. Empty where the items have no
    kinds, as in the real tasks.

    Args:
        items: as in `scores_of`.
    """
    known = items.dropna(subset="kind")
    sizes = known["kind"].value_counts(sort=False).rename_axis("kind")
    found = _scores(known.assign(task=known["kind"]))
    columns = {
        "percent": [found[kind].mean for kind in sizes.index],
        "stderr": [found[kind].stderr for kind in sizes.index],
    }
    return pandas.DataFrame(columns, index=sizes.index).round(1).assign(items=sizes)


def _scores(items: pandas.DataFrame) -> dict[str, Score]:
    """Task (or `ALL`) -> score in percent."""
    run = items[["correct"]].astype(float).set_axis(pandas.MultiIndex.from_tuples([("run", 0)]), axis=1)
    found = scores_by_row(Answers(items[["task", "fact"]], run, {}))
    return {task: score for (_, task), score in found.items()}
