"""What notebook 03 shows of slices, against the published formulas and facts about ranks."""

import numpy
import pytest
from running import LAYERS, SIZES, complaints, executed, figures, first_figures, with_column, words

from bslora_kit.paths import NOTEBOOKS


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    path = NOTEBOOKS / "03_slice_sharing.ipynb"
    return executed(path, tmp_path_factory.mktemp("walk"), {"STEPS": 2})


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_every_linear_reads_the_centre(notebook):
    seen = with_column(notebook, "columns of A").set_index("linear")
    for kind, sizes in SIZES.items():
        for column, size in zip(("columns of A", "rows of B"), sizes, strict=True):
            first, last = map(int, seen.loc[kind, column].split(" to "))
            assert last - first + 1 == size and first == 447 - last  # as much before as after
    bars = [trace for trace in figures(notebook)[0].data if trace.type == "bar"]
    assert [bar.x[0] for bar in bars] == [sizes[0] for sizes in SIZES.values()]


def test_the_slices_give_the_update_that_the_kit_merges(notebook):
    said = words(notebook).split("largest difference from the kit: ")[1]
    assert float(said.split()[0]) < 1e-7


def test_slices_keep_the_rank_and_branches_add_up(notebook):
    values = with_column(notebook, "intra")
    ranks = [int((values[name] > 1e-13 * values[name].max()).sum()) for name in values.columns]
    assert dict(zip(values.columns, ranks, strict=True)) == {
        "local": 2,
        "intra": 4,
        "inter": 4,
        "all": 10,
    }
    assert "Measured: local 2, intra 4, inter 4, all 10." in words(notebook)


def test_the_outer_columns_learn_from_down_proj_alone(notebook):
    (heat,) = next(f for f in figures(notebook) if "get a gradient" in f.layout.title.text).data
    read = ~numpy.isnan(numpy.array(heat.z, dtype=float))
    for kind, columns in zip(heat.y, read, strict=True):
        expected = range(448) if kind == "down_proj" else range(160, 288)
        assert list(numpy.flatnonzero(columns)) == list(expected)
    assert "71% of the columns learn from `down_proj` alone" in words(notebook)  # 320 of 448


def test_sizes_that_do_not_fit(notebook):
    seen = with_column(notebook, "left over before").set_index("in")
    assert list(seen.loc[127, ["left over before", "after"]]) == [160, 161]
    assert list(seen["fits"]) == [True, True, True, False]


def test_costs_are_those_of_the_formula(notebook):
    """LoRA(r_local) + (L r_intra + r_inter)(I + O), Zhou et al. 2025."""
    seen = with_column(notebook, "one inter rank")
    for row, kinds in (("all five", list(SIZES)), ("attention only", ["q_proj", "k_proj", "v_proj"])):
        ins, outs = zip(*(SIZES[kind] for kind in kinds), strict=True)
        pair = max(ins) + max(outs)
        local = LAYERS * 2 * (sum(ins) + sum(outs))
        assert seen.loc[row, "one inter rank"] == pair
        assert seen.loc[row, "all"] == local + (LAYERS * 4 + 4) * pair


def test_the_answers_of_the_exercises(notebook):
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "columns 159 to 287" in prose and (448 - 129) // 2 == 159 and 159 + 129 - 1 == 287
    assert "rows 48 to 79" in prose and (128 - 32) // 2 == 48
    one_local = LAYERS * sum(map(sum, SIZES.values()))
    assert f"{one_local:,}" in prose and f"That is {one_local // 896} inter ranks" in prose
