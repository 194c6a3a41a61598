"""The scores of one run: errors by fact, against statsmodels and against the table of its grid."""

from __future__ import annotations

import math

import numpy
import pandas
import pytest
from statsmodels.api import OLS

from bslora_kit.paths import RUNS
from bslora_kit.tables.one_run import kinds_of, score_in_words, score_of_items, scores_of

GRID = RUNS / "reference" / "placement"
COLUMNS = ["task", "metric", "value", "stderr", "n"]


@pytest.fixture(scope="module")
def items() -> pandas.DataFrame:
    """What the untouched base answered."""
    return pandas.read_parquet(GRID / "base-s0" / "items.parquet")


def clustered(correct: pandas.Series, facts: pandas.Series) -> tuple[float, float]:
    """A mean and its standard error by statsmodels."""
    fit = OLS(correct.to_numpy(float), numpy.ones(len(correct))).fit(
        cov_type="cluster", cov_kwds={"groups": pandas.factorize(facts)[0]}
    )
    return fit.params[0], fit.bse[0]


def test_each_task_counts_a_fact_once(items):
    found = scores_of(items)
    assert list(found) == COLUMNS
    assert list(found["task"]) == list(items["task"].unique())
    metrics = found.set_index("task")["metric"]
    assert (metrics["mini_hellaswag"], metrics["mini_boolq"]) == ("acc_norm", "acc")
    for row in found.itertuples():
        part = items[items["task"] == row.task]
        value, error = clustered(part["correct"], part["fact"])
        assert (row.value, row.stderr, row.n) == pytest.approx((value, error, len(part)))


def test_the_mean_is_that_of_the_grids_table(items):
    table = pandas.read_csv(GRID / "table.csv").set_index("row")
    score = score_of_items(items)
    assert score.mean == pytest.approx(table.loc["base", "mean"])
    assert score.stderr == pytest.approx(table.loc["base", "stderr"])
    assert score_in_words(items) == (
        f"mean of the eight tasks: {score.mean:.1f} ± {score.stderr:.1f} % "
        "(standard error, items of one fact counted once)"
    )


def test_kinds_of_facts_over_all_tasks(items):
    found = kinds_of(items)
    assert set(found.index) == {"old", "new", "two_hop"} and found["items"].sum() == len(items)
    for kind, row in found.iterrows():
        part = items[items["kind"] == kind]
        value, error = clustered(part["correct"], part["fact"])
        assert row["percent"] == pytest.approx(100 * value, abs=0.051)
        assert row["stderr"] == pytest.approx(100 * error, abs=0.051)


def test_items_without_facts_stand_alone_and_have_no_kinds(items):
    real = items.assign(task=items["task"].str.removeprefix("mini_"), fact=None, kind=None, subject=None)
    for row in scores_of(real).itertuples():
        correct = real.loc[real["task"] == row.task, "correct"].astype(float)
        assert row.stderr == pytest.approx(correct.std() / math.sqrt(len(correct)))
    found = kinds_of(real)
    assert list(found) == ["percent", "stderr", "items"] and not len(found)
    assert score_in_words(real).endswith("% (standard error, items taken as independent)")


def test_mmlu_alone_has_the_score_of_its_table():
    grid = RUNS / "reference" / "tied_lora_mmlu"
    table = pandas.read_csv(grid / "table.csv").set_index("row").loc["3-8b-base"]
    items = pandas.read_parquet(grid / "3-8b-base-s0" / "items.parquet")
    score = score_of_items(items)
    assert (score.mean, score.stderr) == pytest.approx((table["mean"], table["stderr"]))
    assert score_in_words(items).startswith(f"MMLU: {score.mean:.1f} ± {score.stderr:.1f} %")


def test_too_few_tasks_or_facts_are_said(items):
    some = items[items["task"] != "mini_boolq"]
    assert score_of_items(some) is None
    assert score_in_words(some) == "no mean: it takes all eight tasks"
    one = items.groupby("task", sort=False).head(1)
    assert score_in_words(one).endswith("% (a standard error takes more items)")
    assert scores_of(one)["stderr"].isna().all() and scores_of(one)["n"].eq(1).all()
