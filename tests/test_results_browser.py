"""The results browser without a browser: a control is set, and data and words of the panel are read."""

import base64
import io
import json

import numpy
import pandas
import pytest
from test_tables import GRID, write_run

from bslora_kit import published
from bslora_kit.panels.results import (
    ANY,
    ResultsBrowser,
    View,
    number_columns,
    of_published,
    of_results,
    pareto_front,
    select,
)
from bslora_kit.paths import REFERENCE
from bslora_kit.tables import Finished, read_results


@pytest.fixture(scope="module")
def frame():
    return of_published()


@pytest.fixture
def browser(frame):
    return ResultsBrowser(frame)


def points(figure):
    """label -> (x, y) of all markers."""
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    return {
        label: (x, y)
        for trace in marks
        for label, x, y in zip(trace.text, trace.x, trace.y, strict=True)
    }


def test_the_published_runs_are_all_there(frame):
    assert len(frame) == 22
    assert frame["label"].is_unique
    assert {"parameters", "ratio", "mean", *published.TASKS} <= set(number_columns(frame))
    assert "mean error" not in number_columns(frame)
    assert frame["mean error"].between(0.42, 0.47).all()


def test_it_starts_with_mean_against_parameters(browser, frame):
    assert (browser.view.x, browser.view.y) == ("parameters", "mean")
    shown = points(browser.figure)
    assert shown["Llama 3-8B BSLoRA (SS) 2,4,16"] == (7_667_712, 69.41)
    assert len(shown) == 22 and browser.figure.layout.xaxis.type == "log"
    error = next(trace.error_y for trace in browser.figure.data if trace.name == "on the front")
    one = frame.set_index("label").loc["Llama 3-8B BSLoRA (SS) 2,4,16", "mean error"]
    assert max(error.array) >= 1.96 * one - 1e-9


def test_another_column_is_drawn_in_the_same_widget(browser):
    live = browser.live
    browser.controls["y"].value = "boolq"
    browser.controls["log"].value = False
    assert browser.live is live
    assert json.loads(live.drawing)["layout"]["yaxis"]["title"]["text"] == "boolq"
    assert points(browser.figure)["Llama 1-13B Tied_lora (tl5) 8"] == (548_864, 77.92)
    assert browser.figure.layout.yaxis.title.text == "boolq"
    assert browser.figure.layout.xaxis.type == "linear"
    assert browser.figure.layout.xaxis.tickformat is None
    assert "boolq" in browser.words.value and "77.92" in browser.words.value


def test_ticks_of_a_log_axis_are_whole_numbers_with_a_unit_or_small_ones(browser):
    assert browser.figure.layout.xaxis.tickformat == "~s"  # 20M
    browser.controls["x"].value = "ratio"
    assert browser.figure.layout.xaxis.tickformat == "~g"  # 0.02


def test_filters_leave_what_they_say(browser, frame):
    browser.controls["method"].value = "BSLoRA (KE)"
    assert set(browser.rows["method"]) == {"BSLoRA (KE)"} and len(browser.rows) == 4
    browser.controls["method"].value = ANY
    browser.controls["contains"].value = "TIED"
    assert len(browser.rows) == 6 and "6 of 22 rows are shown" in browser.words.value
    browser.controls["contains"].value = ""
    browser.controls["least"].value, browser.controls["most"].value = "69", "69.2"
    expected = frame[frame["mean"].between(69, 69.2)]
    assert sorted(browser.rows["label"]) == sorted(expected["label"])
    assert browser.rows["mean"].is_monotonic_decreasing


def test_words_that_no_row_holds_give_an_empty_picture(browser):
    browser.controls["contains"].value = "no such row"
    assert len(browser.rows) == 0 and points(browser.figure) == {}
    assert browser.figure.layout.title.text == "No row has both parameters and mean"


def test_bad_bounds_say_what_is_wrong_and_keep_the_picture(browser):
    before = points(browser.figure)
    browser.controls["least"].value = "many"
    assert "least is &#x27;many&#x27;; type a number" in browser.words.value
    assert "role='alert'" in browser.words.value and points(browser.figure) == before
    browser.controls["least"].value = "70"
    browser.controls["most"].value = "60"
    assert "nothing lies between" in browser.words.value


def test_the_csv_holds_the_shown_rows(browser):
    browser.controls["method"].value = "ShareLoRA"
    link = browser.download.value
    text = base64.b64decode(link.split("base64,")[1].split('"')[0]).decode()
    back = pandas.read_csv(io.StringIO(text))
    assert text == browser.csv and "Save these 4 rows as CSV" in link
    printed = published.similar_budget().query("method == 'ShareLoRA'")
    assert sorted(back["parameters"]) == sorted(printed["parameters"])
    assert back["arc_easy"].sum() == pytest.approx(printed["arc_easy"].sum())


@pytest.mark.parametrize("less_is_better", [True, False])
def test_the_front_by_its_definition(less_is_better):
    draw = numpy.random.default_rng(0)
    x, y = (pandas.Series(draw.integers(0, 8, 40)) for _ in range(2))  # with ties
    sign = 1 if less_is_better else -1
    expected = [
        not any(
            sign * x[k] <= sign * x[row] and y[k] >= y[row] and (x[k] != x[row] or y[k] != y[row])
            for k in range(40)
        )
        for row in range(40)
    ]
    assert pareto_front(x, y, less_is_better).tolist() == expected
    assert 0 < sum(expected) < 40


def test_the_front_is_drawn_through_its_rows(browser):
    line = next(trace for trace in browser.figure.data if trace.name == "Pareto front")
    front = browser.rows[browser.rows["on_front"]].sort_values("parameters")
    assert list(line.x) == list(front["parameters"]) and list(line.y) == list(front["mean"])
    assert list(line.y) == sorted(line.y)
    title = browser.figure.layout.title.text
    assert f"{len(front)} of 22 rows are on the Pareto front: higher mean, lower" in title


def test_every_control_has_a_name_and_the_page_a_static_form(browser):
    assert all(control.description for control in browser.controls.values())
    bundle = browser._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "<table" in data["text/html"] and "Llama 3-8B BSLoRA (SS) 2,4,16" in data["text/html"]


def test_a_results_folder_is_read_with_its_errors(tmp_path):
    for seed, right in enumerate((6, 8)):
        write_run(tmp_path, "share-b-8", seed, right)
    write_run(tmp_path, "base", 0, 3)
    frame = of_results(tmp_path, GRID)
    assert list(frame["label"]) == ["Base", "ShareLoRA 8"]
    assert frame["mean"].tolist() == pytest.approx([30, 70])
    errors = Finished.of("", GRID, read_results(tmp_path)).table["stderr"].dropna()
    assert frame["mean error"].tolist() == errors.tolist()
    browser = ResultsBrowser(frame)
    assert points(browser.figure) == {"ShareLoRA 8": (9_000, pytest.approx(70))}  # 0 has no logarithm
    browser.controls["log"].value = False
    assert points(browser.figure)["Base"] == (0, pytest.approx(30))


def test_rows_that_vary_are_read_too():
    frame = of_results(REFERENCE / "rates")
    assert len(frame) > 100 and frame["mean"].notna().all()


def test_what_is_missing_is_named(tmp_path, frame):
    with pytest.raises(FileNotFoundError, match="none is missing; run its grid first"):
        of_results(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="yaml is missing; pass the grid"):
        of_results(tmp_path)
    with pytest.raises(ValueError, match="holds no finished run"):
        of_results(tmp_path, GRID)
    with pytest.raises(ValueError, match="'label' is no number column; use one of"):
        select(frame, View(x="label"))
    with pytest.raises(ValueError, match="the table has no row"):
        ResultsBrowser(frame.iloc[:0])
