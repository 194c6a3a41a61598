"""Figures of low-rank updates by the values of their traces and by what their titles claim."""

import numpy
import pytest

from bslora_kit.figures import (
    counts_against_printed,
    layer_cosines,
    singular_values,
    weight_against_pair,
)
from bslora_kit.shapes import linear_at


def test_weights_and_pairs_are_summed_by_kind():
    linears = [
        linear_at("model.layers.0.q_proj", 10, 10),
        linear_at("model.layers.1.q_proj", 10, 10),
        linear_at("model.layers.1.k_proj", 10, 5),
    ]
    figure = weight_against_pair(linears, rank=2)
    weights, pairs = figure.data
    assert list(weights.x) == ["q_proj", "k_proj"] and list(weights.y) == [200, 50]
    assert list(pairs.y) == [2 * 2 * 20, 2 * 15]
    assert "44.0%" in figure.layout.title.text  # 110 of 250


def test_singular_values_are_relative_to_the_largest_of_their_matrix():
    figure = singular_values({"W": [4.0, 2.0, 1.0], "update": [10.0, 0.0, 0.0]}, "a finding")
    assert list(figure.data[0].x) == [1, 2, 3] and list(figure.data[0].y) == [1, 0.5, 0.25]
    assert list(figure.data[1].y) == [1, 0, 0]
    assert figure.data[0].line.dash != figure.data[1].line.dash
    with pytest.raises(ValueError, match="5 matrices in one figure; give at most 4"):
        singular_values({str(n): [1.0] for n in range(5)}, "too many")


def test_the_title_says_how_alike_the_least_alike_layers_are():
    alike, apart = numpy.ones((3, 3)), numpy.eye(3)
    apart[0, 2] = apart[2, 0] = -0.25
    figure = layer_cosines({"tied": alike, "own": apart})
    assert figure.layout.title.text.endswith("least alike layers:<br>tied 1.00; own -0.25")
    assert [numpy.array(trace.z).tolist() for trace in figure.data] == [alike.tolist(), apart.tolist()]


def test_the_title_names_the_variant_that_gives_every_printed_count():
    printed = {"4": 40, "8": 80}
    figure = counts_against_printed(printed, {"A": [30, 60], "B": [40, 80], "AB": [40, 8]})
    assert figure.layout.title.text == "The printed counts are those of ShareLoRA B"
    assert list(figure.data[-1].y) == [40, 80] and figure.data[-1].name == "printed"
    none = counts_against_printed(printed, {"A": [40, 81]})
    assert "none of the three" in none.layout.title.text
