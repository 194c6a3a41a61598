"""What notebook 04 shows of gates, against the published formulas and facts about ranks."""

import numpy
import pytest
from running import LAYERS, SIZES, complaints, executed, figures, first_figures, with_column, words

from bslora_kit.paths import NOTEBOOKS


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    path = NOTEBOOKS / "04_gate_transformation.ipynb"
    return executed(path, tmp_path_factory.mktemp("walk"), {"STEPS": 2})


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_the_chain_is_drawn_in_its_sizes(notebook):
    seen = with_column(notebook, "matrix").set_index("matrix")
    shapes = {"g_ou": (128, 1), "g_od": (1, 32), "B": (32, 4), "A": (4, 32), "g_iu": (32, 1)}
    for name, shape in (shapes | {"g_id": (1, 128)}).items():
        assert tuple(seen.loc[name, ["rows", "columns"]]) == shape
    assert list(seen["linears that read it"]) == [1, 1, 30, 30, 1, 1]
    outlines = [(s.y1 - s.y0, s.x1 - s.x0) for s in figures(notebook)[0].layout.shapes]
    numpy.testing.assert_allclose(outlines, [*shapes.values(), (1, 128)])


def test_the_bracket_is_a_number_and_the_update_is_the_kits(notebook):
    said = words(notebook)
    assert "bracket (1, 1)" in said
    assert float(said.split("largest difference from the kit: ")[1].split()[0]) < 1e-7


def test_a_token_needs_no_six_products(notebook):
    """Six factors of q_proj at g = 32, r = 4: two gates of 128, two of 32, a pair of 128 each."""
    said = words(notebook)
    assert f"multiplications per token: 257 or {2 * 128 + 2 * 32 + 2 * 4 * 32}" in said
    difference, largest = said.split("largest difference: ")[1].split("\n")[0].split(" of values up to ")
    assert float(difference) < 1e-12 * float(largest)


def test_a_gated_branch_has_rank_one_for_every_rank(notebook):
    values = with_column(notebook, "intra")
    ranks = {name: int((values[name] > 1e-13 * values[name].max()).sum()) for name in values.columns}
    assert ranks == {"local": 2, "intra": 1, "inter": 1, "all": 4}
    sweep = with_column(notebook, "rank of the pair")
    assert dict(zip(*sweep.T.to_numpy(), strict=True)) == {1: 1, 4: 1, 16: 1, 64: 1}
    assert "update of rank 4, not 10" in words(notebook)


def test_every_linear_moves_all_columns_in_one_direction(notebook):
    (heat,) = next(f for f in figures(notebook) if "get a gradient" in f.layout.title.text).data
    assert numpy.isfinite(numpy.array(heat.z, dtype=float)).all()
    assert (with_column(notebook, "norm")["rank"] == 1).all()
    said = words(notebook)
    assert "One linear: rank 1; all 30 together: rank 4." in said
    assert float(said.split("autograd's gradient up to ")[1].split()[0]) < 1e-4


def test_costs_are_those_of_the_formula(notebook):
    """LoRA(r_local) + (L r_intra + r_inter) 2g + 2 L sum(in + out + 2g), Zhou et al. 2025."""
    seen = with_column(notebook, "LoRA rank 1").set_index("g")
    both = sum(map(sum, SIZES.values()))
    for g, row in seen.iterrows():
        assert row["gates of k_proj, one branch"] == 128 + 32 + 2 * g > row["LoRA rank 1"] == 160
        pairs = (LAYERS * 4 + 4) * 2 * g
        assert row["all of 2,4,4"] == LAYERS * 2 * both + pairs + 2 * LAYERS * (both + 10 * g)


def test_the_floor_of_each_fit(notebook):
    seen = with_column(notebook, "vectors")
    both = sum(map(sum, SIZES.values()))
    assert tuple(seen.loc["SS"]) == ((LAYERS + 1) * (448 + 448), 0)
    assert tuple(seen.loc["GT"]) == ((LAYERS + 1) * 64, 2 * LAYERS * (both + 10 * 32))
    assert tuple(seen.loc["KE"]) == ((LAYERS + 1) * 64, 2 * LAYERS * both // 32)
