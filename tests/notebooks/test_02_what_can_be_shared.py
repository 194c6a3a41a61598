"""What notebook 02 shows, against counts worked out here from the shipped model's sizes."""

import pytest
from running import LAYERS, SIZES, complaints, executed, figures, first_figures, tables, words

from bslora_kit.paths import NOTEBOOKS

RANK = 8
INS, OUTS = (sum(size[side] for size in SIZES.values()) for side in (0, 1))
LORA = LAYERS * RANK * (INS + OUTS)
TRAINABLE = {
    "LoRA": LORA,
    "BSLoRA (SS) 2,2,4": LORA * 2 // RANK + (LAYERS * 2 + 4) * 2 * 448,
    "ShareLoRA A": RANK * (INS + LAYERS * OUTS),
    "ShareLoRA B": RANK * (LAYERS * INS + OUTS),
    "ShareLoRA AB": RANK * (INS + OUTS),
    "Tied-LoRA (TL6)": RANK * (INS + OUTS) + LAYERS * (OUTS + 5 * RANK),
}
TENSORS = [60, 74, 35, 35, 10, 70]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    path = NOTEBOOKS / "02_what_can_be_shared.ipynb"
    return executed(path, tmp_path_factory.mktemp("walk"))


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_the_methods_cost_what_their_formulas_say(notebook):
    summary = next(table for table in tables(notebook) if "LoRA" in table.index)
    assert dict(summary["trainable"]) == TRAINABLE
    assert list(summary["tensors"]) == TENSORS
    assert f"{LORA / TRAINABLE['ShareLoRA AB']:.1f} times fewer than LoRA" in words(notebook)
    assert "ShareLoRA B is the larger one" in words(notebook)


def test_the_first_map_shows_every_linear_in_three_scopes(notebook):
    bands = {}
    for trace in figures(notebook)[0].data:
        bands[trace.name] = bands.get(trace.name, 0) + len(trace.x)
    names = ("own to one linear", "shared in a layer", "shared by the model")
    assert bands == dict.fromkeys(names, 2 * LAYERS * len(SIZES))


def test_gates_outweigh_what_they_save(notebook):
    gates = 2 * LAYERS * (INS + OUTS + 5 * 2 * 1024)
    assert f"{gates:,} of them are in gates" in words(notebook)
    total = LORA * 2 // RANK + (LAYERS * 2 + 4) * 2 * 1024 + gates
    assert f"GT trains {total / LORA:.1f} times as many parameters" in words(notebook)


def test_the_large_model_has_the_published_counts(notebook):
    large = next(table for table in tables(notebook) if "BSLoRA (SS) 2,4,16" in table.index)
    both, local = 55_296, 32 * 2 * 55_296  # sums of in and out over a layer's linears; local rank 2
    kron = (32 * 4 + 16) * 2 * 256 + 2 * 32 * both // 256  # pairs, then vectors of both shared branches
    assert dict(large["trainable"]) == {
        "LoRA 8": 32 * 8 * both,
        "ShareLoRA B 8": 8_060_928,
        "BSLoRA (SS) 2,4,16": 7_667_712,
        "BSLoRA (GT) 2,4,16": 8_028_160,
        "BSLoRA (KE) 2,4,16": local + kron,
    }
    assert kron < 32 * both / 20  # as the prose after it says
    assert large.loc["BSLoRA (SS) 2,4,16", "layer"] == 32 * 4 * (14_336 + 14_336)  # exercise 1


def test_a_live_model_holds_each_shared_tensor_once(notebook):
    live = next(table for table in tables(notebook) if "addresses" in table.columns)
    assert dict(live["trainable"]) == TRAINABLE
    assert list(live["addresses"]) == TENSORS
    assert "agree for all 6 methods" in words(notebook)


def test_a_changed_tensor_moves_the_updates_of_all_its_users(notebook):
    moved = next(table for table in tables(notebook) if "updates that move" in table.columns)
    assert dict(moved["updates that move"].astype(int)) == {"layer": 5, "model": 30, "module": 1}


def test_sharing_unequal_sizes_is_refused_with_the_remedy(notebook):
    assert "shared by linears of different sizes [128, 448] without a fit" in words(notebook)
