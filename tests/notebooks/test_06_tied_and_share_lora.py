"""What notebook 06 shows, against formulas, the printed counts and facts about ranks."""

import numpy
import pytest
from running import complaints, executed, figures, first_figures, tables, words

from bslora_kit.paths import NOTEBOOKS

RANK, LAYERS = 8, 6
SIZES = {  # model -> layers, hidden, keys and values, MLP
    "Llama 1-7B": (32, 4096, 4096, 11_008),
    "Llama 3-8B": (32, 4096, 1024, 14_336),
    "Llama 1-13B": (40, 5120, 5120, 13_824),
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    path = NOTEBOOKS / "06_tied_and_share_lora.ipynb"
    return executed(path, tmp_path_factory.mktemp("walk"))


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_only_tl5_gives_every_layer_the_same_update(notebook):
    seen = next(table for table in tables(notebook) if "smallest cosine" in table.columns)
    assert seen.loc["Tied-LoRA (TL5)", "smallest cosine"] == 1
    assert (seen.filter(like="ShareLoRA", axis=0)["largest cosine"] < 0.5).all()
    # Gains 1 + 0.3 N: E[v]^2 E[u]^2 / (E[v^2] E[u^2]) = 1 / 1.09^2, up to chance of 32 outputs.
    for column in ("smallest cosine", "largest cosine"):
        assert abs(seen.loc["Tied-LoRA (TL6)", column] - 1 / 1.09**2) < 0.15
    maps = [f for f in figures(notebook) if f.data[0].type == "heatmap"]
    assert "<br>Tied-LoRA (TL5) 1.00; Tied-LoRA (TL6) 0." in maps[0].layout.title.text
    for trace in maps[0].data:
        assert numpy.allclose(numpy.diag(numpy.array(trace.z)), 1, atol=1e-5)


def test_a_shared_factor_bounds_what_the_layers_read_or_write(notebook):
    """With r = 8, 6 layers, 128 inputs and 32 outputs of v_proj, for random values."""
    seen = next(table for table in tables(notebook) if "inputs read" in table.columns)
    assert list(seen["rank of a layer"]) == [RANK] * 4
    assert dict(seen["inputs read"]) == {
        "Tied-LoRA (TL5)": RANK,
        "Tied-LoRA (TL6)": RANK,
        "ShareLoRA A": RANK,
        "ShareLoRA B": LAYERS * RANK,
    }
    assert dict(seen["outputs written"]) == {
        "Tied-LoRA (TL5)": RANK,
        "Tied-LoRA (TL6)": 32,
        "ShareLoRA A": 32,
        "ShareLoRA B": RANK,
    }
    assert "ShareLoRA A reads 8 directions in all layers together and writes 32" in words(notebook)


def test_counts_follow_the_formulas_on_three_llamas(notebook):
    counts = next(table for table in tables(notebook) if "S_in" in table.index)
    for model, (layers, hidden, kv, mlp) in SIZES.items():
        ins, outs = 4 * hidden + mlp, 2 * hidden + 2 * kv + mlp
        assert list(counts[model]) == [
            ins,
            outs,
            RANK * (ins + outs),
            RANK * (ins + outs) + layers * (outs + 5 * RANK),
            RANK * (ins + layers * outs),
            RANK * (layers * ins + outs),
        ]


def test_the_printed_share_lora_rows_share_b(notebook):
    proof = next(table for table in tables(notebook) if "printed" in table.columns)
    assert list(proof["printed"]) == [4_030_464, 8_060_928, 16_121_856, 32_243_712]
    assert list(proof["B"]) == list(proof["printed"])
    assert not set(proof["printed"]) & (set(proof["A"]) | set(proof["AB"]))
    assert "All 4 printed counts are those of ShareLoRA **B**." in words(notebook)
    titles = [figure.layout.title.text for figure in figures(notebook)]
    assert "The printed counts are those of ShareLoRA B" in titles


def test_tl5_and_tl6_are_not_told_apart(notebook):
    """From the printed cells: the largest gap is 63.16 - 63.01 of MMLU, 21 of 14,042 questions."""
    said = words(notebook)
    assert "TL5 is ahead in 9 of 9 cells, by at most 0.15 points: 21 of 14,042 MMLU questions" in said
    assert "and 0.04 points of a mean" in said
    table = next(table for table in tables(notebook) if "noise of mmlu_0_shot" in table)
    assert table.loc["Llama 3-8B", "mmlu_0_shot"] == 0.15
    error = (63.16 * (100 - 63.16) / 14_042) ** 0.5
    noise = table.loc["Llama 3-8B", "noise of mmlu_0_shot"]
    assert noise == pytest.approx(1.96 * 2**0.5 * error, abs=0.006)


def test_the_printed_tied_lora_counts_are_met(notebook):
    tied = next(table for table in tables(notebook) if "equal" in table.columns)
    assert len(tied) == 6 and tied["equal"].all()
    assert list(tied["computed"])[2:4] == [442_368, 1_230_080]
