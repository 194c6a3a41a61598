"""Figures of the transformations: what they draw is what the arrays hold, and their titles are computed.

Sizes are tiny, and chosen so that nothing divides by chance.
"""

from __future__ import annotations

import numpy as np
import pytest

from bslora_kit.figures import (
    Matrix,
    gradient_by_column,
    kronecker_chunks,
    matrix_equation,
    measured_rank,
    singular_spectrum,
    slice_map,
)

DRAW = np.random.default_rng(0)


def test_a_slice_map_marks_what_each_linear_reads():
    factor = DRAW.normal(size=(2, 10))
    figure = slice_map(factor, {"wide": (0, 10), "narrow": (3, 7)}, "column of A")
    wide, narrow, heat = figure.data
    assert (narrow.base[0], narrow.base[0] + narrow.x[0]) == (2.5, 6.5)  # pixels 3, 4, 5 and 6
    assert wide.x[0] == 10
    np.testing.assert_array_equal(heat.z, factor)
    assert "narrow reads 4 of 10" in figure.layout.title.text and "40%" in figure.layout.title.text


@pytest.mark.parametrize("span", [(-1, 3), (7, 11), (4, 4)])
def test_a_span_outside_the_factor_is_refused(span):
    with pytest.raises(ValueError, match="odd: columns"):
        slice_map(np.ones((2, 10)), {"odd": span}, "column of A")


def test_matrices_of_an_equation_are_drawn_to_scale_without_overlap():
    tall, flat = DRAW.normal(size=(9, 2)), DRAW.normal(size=(2, 5))
    figure = matrix_equation([Matrix("B", tall), Matrix("A", flat), "=", Matrix("BA", tall @ flat)], "t")
    boxes = [(shape.x0, shape.x1, shape.y1 - shape.y0) for shape in figure.layout.shapes]
    assert [(right - left, height) for left, right, height in boxes] == [(2, 9), (5, 2), (5, 9)]
    assert all(first[1] < second[0] for first, second in zip(boxes, boxes[1:], strict=False))
    for heat, values in zip(figure.data, (tall, flat, tall @ flat), strict=True):
        np.testing.assert_array_equal(heat.customdata, values)
        assert np.abs(heat.z).max() == 1 and heat.dx == 1 and heat.dy == -1
    assert [note.text for note in figure.layout.annotations if note.text == "="] == ["="]


def test_a_zero_matrix_is_drawn_white():
    (heat,) = matrix_equation([Matrix("B", np.zeros((3, 2)))], "start").data
    assert not heat.z.any()


def test_an_equation_needs_a_matrix():
    with pytest.raises(ValueError, match="at least one Matrix"):
        matrix_equation(["="], "nothing")


def test_kronecker_chunks_are_scaled_copies_and_the_end_is_marked():
    block, scales = DRAW.normal(size=(2, 4)), np.array([2.0, -1.0, 0.5])
    figure = kronecker_chunks(block, scales, 10)
    copies = figure.data[1].z
    for number, scale in enumerate(scales):
        np.testing.assert_array_equal(copies[:, 4 * number : 4 * number + 4], scale * block)
    assert "2 columns are cut off" in figure.layout.title.text
    (cut,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (cut.x0, cut.x1) == (9.5, 11.5)
    assert [note.text for note in figure.layout.annotations] == ["+2.00", "-1.00", "+0.50"]
    assert "nothing is cut off" in kronecker_chunks(block, scales, 12).layout.title.text


def test_too_few_copies_are_refused():
    with pytest.raises(ValueError, match="3 copies of 4 columns do not cover 13"):
        kronecker_chunks(np.ones((2, 4)), np.ones(3), 13)


def test_the_measured_rank_is_that_of_numpy_and_stands_in_the_title():
    updates = {rank: DRAW.normal(size=(12, rank)) @ DRAW.normal(size=(rank, 9)) for rank in (1, 3)}
    spectra = {f"r{rank}": np.linalg.svd(x, compute_uv=False) for rank, x in updates.items()}
    threshold = 12 * np.finfo(float).eps
    for rank, update in updates.items():
        assert measured_rank(spectra[f"r{rank}"], threshold) == np.linalg.matrix_rank(update) == rank
    figure = singular_spectrum(spectra, threshold, shown=4)
    assert figure.layout.title.text == "Measured rank: r1 1, r3 3"
    for line, values in zip(figure.data, spectra.values(), strict=True):
        assert list(line.x) == [1, 2, 3, 4] and line.y[0] == 1
        assert line.y[1] == pytest.approx(max(values[1] / values[0], 1e-17))
    assert len({line.line.dash for line in figure.data}) == 2


def test_a_zero_update_has_no_spectrum():
    with pytest.raises(ValueError, match="intra: all singular values are 0"):
        singular_spectrum({"intra": np.zeros(4)}, 1e-12, shown=4)


def test_columns_without_a_gradient_stay_blank():
    everywhere = np.ones((2, 6))
    middle = np.zeros((2, 6))
    middle[:, 2:4] = 3.0
    figure = gradient_by_column({"down": everywhere, "q": middle}, "column of A")
    assert figure.layout.title.text == "2 of 6 columns get a gradient from all 2 kinds, 4 from one alone"
    (heat,) = figure.data
    assert list(heat.y) == ["down", "q"]
    np.testing.assert_allclose(heat.customdata[0], np.sqrt(2))
    assert list(np.isnan(heat.z[1])) == [True, True, False, False, True, True]
    np.testing.assert_allclose(heat.z[1][2:4], np.log10(np.sqrt(18)))
