"""Printed rows with their noise and their pairs, against hand-made sums; a grid's rows: test_tables."""

import math

import pandas
import pytest

from bslora_kit import published
from bslora_kit.published.scores import differences_to, noise_summary, pairs_of, rows_with_noise

ROWS = pandas.DataFrame(
    {
        "table": "t",
        "model": "m",
        "label": ["a", "b", "c"],
        "mean": [70.0, 71.0, 68.5],
        "stderr": [0.3, 0.4, 0.4],
    }
)


def test_all_printed_runs_are_there_under_the_kits_names():
    rows = rows_with_noise()
    assert rows["table"].value_counts().to_dict() == {
        "similar_budget": 16,
        "placement": 9,
        "tied_lora": 6,
    }
    assert set(rows["method"]) == {
        "ShareLoRA",
        "BSLoRA (SS)",
        "BSLoRA (GT)",
        "BSLoRA (KE)",
        "Tied-LoRA (TL5)",
        "Tied-LoRA (TL6)",
    }
    labels = set(rows["label"])
    assert {"BSLoRA (SS) 2,4,16", "Attention & MLP, BSLoRA (KE)", "Tied-LoRA (TL6) 8"} <= labels


def test_the_noise_of_one_mean_by_hand():
    row = rows_with_noise().iloc[0]
    items = [500, 1172, 10042, 2376, 1838, 1267, 3270, 1954]
    variances = [
        row[task] * (100 - row[task]) / n for task, n in zip(published.TASKS, items, strict=True)
    ]
    assert row["stderr"] == pytest.approx(math.sqrt(sum(variances)) / 8)


def test_pairs_with_the_higher_row_first():
    """b - c is 2.5 with an error of 0.57 (z 4.4), a - c 1.5 with 0.5 (z 3), b - a 1 with 0.5 (z 2)."""
    pairs = pairs_of(ROWS).set_index(["a", "b"])
    assert pairs["difference"].to_dict() == {("b", "a"): 1.0, ("a", "c"): 1.5, ("b", "c"): 2.5}
    assert pairs.loc[("b", "a"), "half_width"] == pytest.approx(1.96 * 0.5, abs=1e-3)
    p = pairs["p_value"]
    assert p[("b", "a")] == pytest.approx(0.0455, abs=1e-4)
    assert p[("a", "c")] == pytest.approx(0.0027, abs=1e-4)
    assert pairs.loc[("a", "c"), "p_holm"] == pytest.approx(2 * p[("a", "c")])
    assert pairs["beyond_noise"].all() and pairs["beyond_holm"].all()
    close = pairs_of(ROWS.assign(stderr=[0.37, 0.37, 0.37])).set_index(["a", "b"])
    assert not close.loc[("b", "a"), "beyond_noise"] and close.loc[("b", "c"), "beyond_holm"]


def test_the_summary_counts_pairs_model_by_model():
    both = pandas.concat([ROWS, ROWS.iloc[:2].assign(model="n")])
    summary = noise_summary(both).set_index("model")
    assert summary["pairs"].to_dict() == {"m": 3, "n": 1}
    assert summary["beyond_holm"].to_dict() == {"m": 3, "n": 1}
    assert summary["largest_difference"].to_dict() == {"m": 2.5, "n": 1.0}


def test_differences_to_one_row():
    found = differences_to(ROWS, "b").set_index("method")
    assert found["difference"].to_dict() == {"a": -1.0, "c": -2.5}
    assert found.loc["a", ["low", "high"]].tolist() == pytest.approx([-1.98, -0.02], abs=1e-3)
    with pytest.raises(ValueError, match="no row is labelled 'x'; there are a, b, c"):
        differences_to(ROWS, "x")
