"""What notebook 05 shows of Kronecker copies, against the published formulas and facts about ranks."""

import numpy
import pytest
from running import (
    LAYERS,
    SIZES,
    complaints,
    executed,
    figures,
    first_figures,
    tables,
    with_column,
    words,
)

from bslora_kit.paths import NOTEBOOKS


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    path = NOTEBOOKS / "05_kronecker_extension.ipynb"
    return executed(path, tmp_path_factory.mktemp("walk"), {"STEPS": 2})


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_copies_cover_every_linear_and_the_rest_is_cut(notebook):
    seen = with_column(notebook, "copies (B)").set_index("linear")
    for kind, sizes in SIZES.items():
        for copies, cut, size in zip(
            seen.loc[kind, ["copies", "copies (B)"]],
            seen.loc[kind, ["cut", "cut (B)"]],
            sizes,
            strict=True,
        ):
            assert 48 * copies - cut == size and 0 <= cut < 48
    block, extended = (numpy.array(trace.z) for trace in figures(notebook)[0].data)
    assert block.shape == (4, 48) and extended.shape == (4, 144)
    ratios = extended.reshape(4, 3, 48) / block[:, None]
    numpy.testing.assert_allclose(ratios, ratios[:1, :, :1].repeat(4, 0).repeat(48, 2), rtol=1e-4)


def test_the_copies_give_the_update_that_the_kit_merges_and_folding_gives_the_same(notebook):
    said = words(notebook)
    assert float(said.split("largest difference from the kit: ")[1].split()[0]) < 1e-7
    difference, largest = said.split("largest difference: ")[1].split("\n")[0].split(" of values up to ")
    assert float(difference) < 1e-5 * float(largest)


def test_copies_keep_the_rank_as_long_as_the_block_has_it(notebook):
    values = with_column(notebook, "intra")
    ranks = {name: int((values[name] > 1e-13 * values[name].max()).sum()) for name in values.columns}
    assert ranks == {"local": 2, "intra": 4, "inter": 4, "all": 10}
    sweep = with_column(notebook, "rank of an update with r = 4")
    assert dict(zip(*sweep.T.to_numpy(), strict=True)) == {2: 2, 3: 3, 4: 4, 48: 4}


def test_rounding_down_breaks_and_rounding_up_does_not(notebook):
    seen = with_column(notebook, "copies, up")
    for row in seen.to_dict("records"):
        assert (row["product"] == "fits") == (row["size"] % row["k"] == 0)
        assert (row["product"] == "no copy at all") == (row["size"] < row["k"])
        assert row["copies, up"] * row["k"] - row["cut off"] == row["size"]
    assert "size 96 is different from 128" in words(notebook)


def test_everybody_teaches_every_column_the_last_ones_once_less(notebook):
    (heat,) = next(f for f in figures(notebook) if "get a gradient" in f.layout.title.text).data
    assert numpy.isfinite(numpy.array(heat.z, dtype=float)).all()
    times = next(table for table in tables(notebook) if len(table.columns) == 5 and 47 in table.index)
    for column, (_, counts) in zip((0, 15, 16, 31, 32, 47), times.iterrows(), strict=True):
        expected = [len(range(column, size, 48)) for size, _ in SIZES.values()]
        assert list(counts) == expected
    assert float(words(notebook).split("autograd's gradient up to ")[1].split()[0]) < 1e-4


def test_costs_are_those_of_the_formula(notebook):
    """(L r_intra + r_inter) 2k + 2 L sum(ceil(in/k) + ceil(out/k)), Zhou et al. 2025."""
    seen = with_column(notebook, "rank of a shared branch").set_index("k")
    for k, row in seen.iterrows():
        scales = sum(-(-size // k) for sizes in SIZES.values() for size in sizes)
        assert row["pairs"] == (LAYERS * 4 + 4) * 2 * k
        assert row["vectors"] == 2 * LAYERS * scales
        assert row["both"] == row["pairs"] + row["vectors"]
    assert seen["both"].idxmin() == 16
