"""What notebook 01 shows after twelve steps a training, against counts and ranks worked out here."""

import numpy
import pytest
from running import LAYERS, SIZES, complaints, executed, figures, first_figures, tables, words

from bslora_kit.paths import NOTEBOOKS

STEPS = 12
WEIGHTS = LAYERS * sum(i * o for i, o in SIZES.values())
PAIRS = LAYERS * sum(i + o for i, o in SIZES.values())  # of rank 1


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    path = NOTEBOOKS / "01_low_rank_updates.ipynb"
    return executed(path, tmp_path_factory.mktemp("walk"), {"steps": STEPS})


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    # papermill put a cell with the parameters after the tagged one, further down.
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_the_first_picture_and_its_table_hold_the_same_elements(notebook):
    weights, pairs = figures(notebook)[0].data
    table = tables(notebook)[0]
    assert list(weights.y) == list(table["weight"]) == [LAYERS * i * o for i, o in SIZES.values()]
    assert list(pairs.y) == list(table["pair of rank 8"])
    assert sum(pairs.y) == 8 * PAIRS and sum(weights.y) == WEIGHTS


def test_the_adapter_has_the_kits_count_and_starts_at_the_base(notebook):
    assert f"{8 * PAIRS:,} parameters train" in words(notebook)
    assert f"The kit counts {8 * PAIRS:,} for" in words(notebook)
    assert "The largest change of an output is 0.0." in words(notebook)


def test_training_lowers_the_loss_and_counts_what_it_trains(notebook):
    scores = next(table for table in tables(notebook) if "trained parameters" in table.columns)
    counts = {"untouched base": 0, "rank 1": PAIRS, "rank 8": 8 * PAIRS, "whole weights": WEIGHTS}
    assert dict(scores["trained parameters"]) == counts
    losses = scores.filter(like="held-out").iloc[:, 0]
    assert (losses.drop("untouched base") < losses["untouched base"]).all()
    curve = next(f for f in figures(notebook) if "in 12 steps" in f.layout.title.text)
    assert list(curve.data[0].x) == list(range(1, STEPS + 1))
    assert losses["rank 8"] == pytest.approx(curve.data[1].y[-1], abs=5e-4)


def test_the_rank_of_an_update_is_measured(notebook):
    table = next(table for table in tables(notebook) if "rank" in table.columns)
    assert table.loc["update, rank 8", "rank"] == 8 and table.loc["weight W", "rank"] == 128
    assert table.loc["update, whole weights", "rank"] > 100
    share = table["share of energy in the first 8"]
    assert share["update, rank 8"] == 1 and 0 < share["weight W"] < share["update, whole weights"] < 1
    traces = {t.name: numpy.array(t.y) for t in figures(notebook)[-1].data}
    values = traces["update, whole weights"]
    energy = (values[:8] ** 2).sum() / (values**2).sum()
    assert share["update, whole weights"] == pytest.approx(energy, abs=6e-4)
    assert traces["update, rank 8"][7] > 1e-3 > 1e-6 > traces["update, rank 8"][8]


def test_merging_leaves_the_outputs_and_no_parameters(notebook):
    difference = float(words(notebook).split("Largest difference of an output: ")[1].split(". ")[0])
    assert difference < 1e-3  # logits of a few units in float32
    assert "Parameters more than the base: 0." in words(notebook)
