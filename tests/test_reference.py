"""The committed reference run shows that the demo has range: what an adapter learns depends on it.

The demands are checked on the committed item files, with scipy, not with the kit's own statistics.
"""

import json

import numpy as np
import pandas
import pytest
from scipy import stats

from bslora_kit.paths import RUNS

RANGE = RUNS / "reference" / "range"
CHANCE = {
    "mini_openbookqa": 1 / 4, "mini_arc_challenge": 1 / 4, "mini_hellaswag": 1 / 4,
    "mini_arc_easy": 1 / 4, "mini_piqa": 1 / 2, "mini_winogrande": 1 / 2, "mini_boolq": 1 / 2,
    "mini_social_iqa": 1 / 3, "mini_mmlu": 1 / 4,
}  # fmt: skip
EIGHT = [task for task in CHANCE if task != "mini_mmlu"]
SEEDS = (0, 1, 2)
pytestmark = pytest.mark.skipif(not RANGE.is_dir(), reason="no committed run of the range grid yet")


def items(row: str, seed: int) -> pandas.DataFrame:
    """Answers of one run, in the order of the items."""
    frame = pandas.read_parquet(RANGE / f"{row}-s{seed}" / "items.parquet")
    return frame.sort_values(["task", "subject", "doc_id"], na_position="first").reset_index(drop=True)


def over_seeds(row: str) -> pandas.DataFrame:
    """One line an item: its task, its fact and how often it was answered rightly, from 0 to 1."""
    runs = [items(row, seed) for seed in SEEDS]
    for run in runs[1:]:
        assert list(run["doc_hash"]) == list(runs[0]["doc_hash"])
    rate = np.mean([run["correct"].to_numpy(float) for run in runs], axis=0)
    return runs[0][["task", "fact"]].assign(rate=rate)


def mean_of_eight(row: str, seed: int) -> float:
    by_task = items(row, seed).groupby("task")["correct"].mean()
    return float(by_task[EIGHT].mean())


def test_runs_are_three_seeds_of_equal_settings():
    runs = [json.loads((RANGE / f"{row}-s{seed}" / "result.json").read_text())["run"]
            for row in ("lora-8", "gt-0-4-8") for seed in SEEDS]
    assert {run["split"] for run in runs} == {"test"} and {run["limit"] for run in runs} == {None}
    assert len({run["steps"] for run in runs}) == 1
    assert [run["seed"] for run in runs] == [*SEEDS, *SEEDS]


def test_lora_gains_ten_points_over_the_untouched_base():
    gains = [mean_of_eight("lora-8", seed) - mean_of_eight("base", 0) for seed in SEEDS]
    assert np.mean(gains) >= 0.10


def test_two_gates_a_linear_are_below_lora():
    """Per seed over the same items, by fact; then over the seeds."""
    for seed in SEEDS:
        lora, gates = items("lora-8", seed), items("gt-0-4-8", seed)
        assert list(lora["doc_hash"]) == list(gates["doc_hash"])
        gap = lora.assign(gap=lora["correct"].astype(float) - gates["correct"].astype(float))
        by_fact = gap[gap["task"].isin(EIGHT)].groupby("fact")["gap"].mean()
        assert stats.ttest_1samp(by_fact, 0).confidence_interval(0.95).low > 0
    gaps = [mean_of_eight("lora-8", seed) - mean_of_eight("gt-0-4-8", seed) for seed in SEEDS]
    assert stats.ttest_1samp(gaps, 0).confidence_interval(0.95).low > 0


@pytest.mark.parametrize("task", CHANCE)
def test_no_task_is_at_chance_or_at_the_ceiling_for_lora(task):
    answers = over_seeds("lora-8").query("task == @task")
    by_fact = answers.groupby("fact")["rate"].mean()
    assert stats.ttest_1samp(by_fact, CHANCE[task]).confidence_interval(0.95).low > 0
    assert answers["rate"].mean() <= 0.97


def test_results_are_kept_by_kind_of_fact():
    result = json.loads((RANGE / "lora-8-s0" / "result.json").read_text())
    for task in EIGHT:
        assert set(result["eval"]["tasks"][task]["by_kind"]) == {"old", "new", "two_hop"}
