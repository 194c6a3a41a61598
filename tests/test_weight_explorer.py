"""The weight explorer and its figures by the values they hold, without a browser."""

import io

import numpy as np
import pandas
import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit import bslora
from bslora_kit.adapters.analysis import AdapterWeights, Energy, Overlap, weights_of
from bslora_kit.adapters.inspection import tensors_of_model
from bslora_kit.figures.style import BRANCH_COLOURS
from bslora_kit.figures.weight_view import condensed
from bslora_kit.figures.weights import (
    energy_shares,
    overlap_bars,
    overlap_table,
    singular_value_lines,
)
from bslora_kit.panels.weights import WeightExplorer, look

ENERGIES = [
    Energy("model.layers.0", "q_proj", "local", 1.0, 0.25),
    Energy("model.layers.0", "q_proj", "inter", 3.0, 0.75),
    Energy("model.layers.0", "up_proj", "local", 2.0, 0.5),
    Energy("model.layers.0", "up_proj", "inter", 2.0, 0.5),
]
SIZES = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def moments():
    """An adapter at its start, and after every tensor but those of layer 1 has moved."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=2))
    config = bslora(2, 0, 3, target_modules=r".*\.(0\.self_attn\.q_proj|[01]\.mlp\.(up|down)_proj)")
    model = get_peft_model(model, config)
    before = weights_of(model)
    with torch.no_grad():
        for key, tensor in tensors_of_model(model).items():
            if "layers.1" not in key:
                tensor.weight.add_(torch.randn_like(tensor.weight))
    return before, weights_of(model)


def linear_of(weights, name):
    return next(linear for linear in weights.plan.linears if linear.name == name)


def test_a_look_at_each_matrix(moments):
    before, after = moments
    linear = linear_of(after, "model.layers.0.mlp.up_proj")
    for branch in ("local", "inter", None):
        A, B = after.pair(linear.name, branch)
        dense = {"A": A, "B": B, "update": 2.0 * B @ A}  # the scaling of the published runs
        for name, matrix in dense.items():
            found = look(before, after, linear, branch, name)
            np.testing.assert_allclose(found.matrices[1], matrix, atol=1e-5)
            expected = np.linalg.svd(matrix, compute_uv=False)[: len(found.values[1])]
            np.testing.assert_allclose(found.values[1], expected, atol=1e-4)
            if name != "A":  # B starts at zero
                assert not found.matrices[0].any() and "grew from 0" in found.title
    table = look(before, after, linear, "local", "update").table()
    assert list(table["quantity"]) == ["Frobenius norm", "singular value 1", "singular value 2"]
    assert table["after"][0] == pytest.approx(np.linalg.norm(table["after"][1:]), abs=1e-3)


def test_how_far_a_moved_is_in_the_title(moments):
    before, after = moments
    linear = linear_of(after, "model.layers.1.mlp.up_proj")
    found = look(before, after, linear, "local", "A")
    assert found.title == "A of local, layer 1 up_proj, moved by 0% of its size"
    with pytest.raises(ValueError, match="matrix 'delta' is unknown; use one of A, B, update"):
        look(before, after, linear, "local", "delta")


def test_the_menus_move_one_figure_in_place(moments):
    before, after = moments
    explorer = WeightExplorer(before, after)
    figure = explorer.figure
    controls = explorer.controls
    assert [control.description for control in controls.values()] == [
        "Branch",
        "Layer",
        "Projection",
        "Matrix",
    ]
    assert controls["projection"].options == ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    controls["projection"].value = "mlp.down_proj"
    controls["branch"].value = "inter"
    controls["matrix"].value = "update"
    expected = after.delta("model.layers.0.mlp.down_proj", "inter")
    assert explorer.figure is figure
    np.testing.assert_allclose(figure.data[1].z, expected, atol=1e-6)
    assert not np.asarray(figure.data[0].z).any()
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == np.abs(expected).max()
    assert len(figure.data[3].y) == 3
    assert figure.layout.title.text in explorer.words.value
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (
        "input feature",
        "output feature",
    )
    np.testing.assert_array_equal(explorer.picture.data[1].z, figure.data[1].z)
    assert figure.layout.yaxis.dtick is None
    controls["matrix"].value = "A"
    assert (figure.layout.xaxis.dtick, figure.layout.yaxis.dtick) == (None, 1)


def test_a_layer_without_the_projection_offers_those_it_has(moments):
    explorer = WeightExplorer(*moments)
    explorer.controls["projection"].value = "mlp.down_proj"
    explorer.controls["layer"].value = "model.layers.1"
    assert explorer.controls["projection"].value == "mlp.down_proj"
    assert "self_attn.q_proj" not in explorer.controls["projection"].options
    assert "layer 1 down_proj" in explorer.figure.layout.title.text
    explorer.controls["layer"].value = "model.layers.0"
    explorer.controls["projection"].value = "self_attn.q_proj"
    explorer.controls["layer"].value = "model.layers.1"
    assert explorer.controls["projection"].value in ("mlp.up_proj", "mlp.down_proj")
    assert "layer 1" in explorer.figure.layout.title.text


def test_a_page_without_widgets_has_the_table(moments):
    bundle = WeightExplorer(*moments)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    (table,) = pandas.read_html(io.StringIO(bundle["text/html"]))
    assert list(table.columns) == ["quantity", "before", "after"] and len(table) == 3


def test_two_adapters_are_not_compared(moments):
    before, after = moments
    fewer = AdapterWeights(after.plan, after.scaling, dict(list(after.pairs.items())[:1]))
    with pytest.raises(ValueError, match="take both from one adapter"):
        WeightExplorer(before, fewer)


def test_a_large_matrix_is_condensed_to_extremes():
    matrix = np.zeros((5, 7))
    matrix[0, 1], matrix[1, 0], matrix[4, 6] = -3, 2, 0.5
    cells, block = condensed(matrix, largest=3)
    assert block == (2, 3) and cells.shape == (3, 3)
    assert cells[0, 0] == -3 and cells[2, 2] == 0.5 and np.count_nonzero(cells) == 2
    same, block = condensed(matrix, largest=7)
    assert block == (1, 1) and np.array_equal(same, matrix)


def test_energy_shares():
    figure = energy_shares(ENERGIES)
    local, inter = figure.data
    assert (list(local.y), list(inter.y)) == ([25, 50], [75, 50])
    assert [list(part) for part in local.x] == [["layer 0", "layer 0"], ["q_proj", "up_proj"]]
    assert (local.marker.color, inter.marker.color) == (BRANCH_COLOURS["local"], BRANCH_COLOURS["inter"])
    assert local.marker.pattern.shape != inter.marker.pattern.shape
    assert figure.layout.title.text == (
        "The inter branch holds 62% of the energy: 75% in q_proj, 50% in up_proj"
    )
    with pytest.raises(ValueError, match="no branch has any energy"):
        energy_shares([row._replace(energy=0.0, share=0.0) for row in ENERGIES])


def test_singular_value_lines_count_the_directions_that_matter():
    """3, 1: 9 of 10 in one direction; 1, 1: two are needed."""
    figure = singular_value_lines({"local": [3.0, 1.0], "inter": [1.0, 1.0]}, "layer 0 q_proj")
    assert figure.layout.title.text == (
        "layer 0 q_proj: the largest singular value is local's, 3.00<br>"
        "Directions that hold 90 % of the energy: local 1 of 2, inter 2 of 2"
    )
    assert list(figure.data[0].x) == [1, 2] and list(figure.data[0].y) == [3.0, 1.0]
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol


def test_overlap_bars():
    rows = [Overlap("q_proj", "0", "1", 0.5, 0.1), Overlap("q_proj", "0", "2", 0.7, 0.1)]
    more = [Overlap("q_proj", "0", "1", 0.1, 0.1), Overlap("up_proj", "0", "1", 0.3, 0.2)]
    figure = overlap_bars({"equal start": [*rows, more[1]], "own start": more}, "A", ["q_proj"])
    equal, own, chance = figure.data
    assert list(equal.x) == ["q_proj", "up_proj"]
    assert list(equal.y) == pytest.approx([0.6, 0.3]) and list(own.y) == pytest.approx([0.1, 0.3])
    assert list(chance.y) == pytest.approx([0.1, 0.2])
    assert figure.layout.title.text == "Overlap of A in q: equal start 0.60; own start 0.10; chance 0.10"
    with pytest.raises(ValueError, match="down_proj.*name some of"):
        overlap_bars({"own start": more}, "A", ["down_proj"])
    table = overlap_table({"equal start": [*rows, more[1]], "own start": more})
    assert list(table.index) == ["equal start", "own start", "chance"]
    assert list(table["q_proj"]) == pytest.approx([0.6, 0.1, 0.1])
