"""Figures of differences, seeds and noise, by the values of their traces and what their titles claim."""

import numpy
import pandas
import pytest

from bslora_kit.figures import forest_plot, one_run_noise, seed_dots

DIFFERENCES = pandas.DataFrame(
    {
        "method": ["SS", "GT", "KE"],
        "difference": [2.0, 0.5, -1.0],
        "low": [1.0, -0.5, -2.5],
        "high": [3.5, 1.5, -0.25],
    }
)
SEEDS = pandas.DataFrame(
    {
        "method": ["base", "LoRA", "LoRA", "GT"],
        "seed": [0, 0, 1, 0],
        "mean": [50.0, 60.0, 63.0, None],
    }
)


def test_forest_plot_marks_what_its_intervals_tell():
    figure = forest_plot(DIFFERENCES, "LoRA")
    told, level = figure.data
    assert list(told.y) == ["SS", "KE"] and list(level.y) == ["GT"]
    assert told.marker.symbol != level.marker.symbol and told.marker.color != level.marker.color
    assert list(told.error_x.array) == [1.5, 0.75] and list(told.error_x.arrayminus) == [1.0, 1.5]
    assert figure.layout.title.text == "Beyond the noise of one comparison with LoRA: 2 of 3 rows"
    assert [trace.name for trace in figure.data] == ["beyond the noise of one comparison", "within it"]
    assert list(figure.layout.yaxis.categoryarray) == ["SS", "GT", "KE"]


def test_forest_plot_takes_a_verdict_over_the_whole_table():
    figure = forest_plot(DIFFERENCES, "LoRA", pandas.Series([True, False, False]))
    assert list(figure.data[0].y) == ["SS"] and list(figure.data[1].y) == ["GT", "KE"]
    assert figure.layout.title.text == "Distinguishable from LoRA: 1 of 3 rows"
    assert [trace.name for trace in figure.data] == ["distinguishable", "not distinguishable"]
    with pytest.raises(ValueError, match="there is no difference to draw"):
        forest_plot(DIFFERENCES.iloc[:0], "LoRA")


def test_seed_dots():
    figure = seed_dots(SEEDS)
    runs, means = figure.data
    assert list(runs.x) == [50, 60, 63] and list(runs.customdata) == [0, 0, 1]
    assert dict(zip(means.y, means.x, strict=True)) == {"base": 50, "LoRA": 61.5}
    assert figure.layout.title.text == "Seeds of one row span up to 3.0 points, the rows' means 11.5"
    one = seed_dots(SEEDS.iloc[:2])
    assert one.layout.title.text.startswith("One run a row") and "10.0 points" in one.layout.title.text
    with pytest.raises(ValueError, match="no run has a mean score"):
        seed_dots(SEEDS.iloc[3:])


def test_one_run_noise_draws_95_percent():
    rows = pandas.DataFrame(
        {"label": ["a", "b"], "method": ["LoRA", "any"], "mean": [69.0, 68.0], "stderr": [0.43, 0.5]}
    )
    figure = one_run_noise(rows, "What is seen", "boolq")
    assert figure.layout.xaxis.title.text.startswith("printed boolq (%)")
    bars = numpy.concatenate([trace.error_x.array for trace in figure.data])
    assert bars == pytest.approx([1.96 * 0.43, 1.96 * 0.5])
    assert [trace.name for trace in figure.data] == ["LoRA", "any"]
    assert figure.layout.title.text == "What is seen"
