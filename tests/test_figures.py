"""Figures by the values of their traces and by what their titles claim."""

import math

import pandas
import pytest

from bslora_kit.budget import budget
from bslora_kit.figures import budget_by_scope, loss_curve, score_against_parameters, scores_by_task
from bslora_kit.figures.style import BRANCH_COLOURS, METHOD_STYLES
from bslora_kit.methods import bslora, share_lora
from bslora_kit.shapes import llama_3_8b

HISTORY = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "loss": 2.0, "eval_loss": 2.5},
    {"step": 3, "loss": 1.25},
    {"step": 4, "loss": 1.0, "eval_loss": 1.75},
]
SCORES = pandas.DataFrame(
    {
        "task": ["mini_piqa", "mini_boolq"],
        "metric": ["acc_norm", "acc"],
        "value": [0.5, 0.8],
        "stderr": [0.1, 0.05],
        "n": [25, 64],
    }
)
TABLE = pandas.DataFrame(
    {
        "row": ["base", "share-b-4", "share-b-8", "ss-2-4-16", "gt-0-4-8"],
        "method": ["Base", "ShareLoRA", "ShareLoRA", "BSLoRA (SS)", "BSLoRA (GT)"],
        "ranks": ["", "4", "8", "2,4,16", "0,4,8"],
        "base": "",
        "parameters": [0, 4_000, 8_000, 7_500, 4_400],
        "mean": [50.0, 60.0, 70.0, 71.0, None],
        "stderr": [0.9, 1.0, 1.0, 1.0, None],
        "seeds": [1, 1, 1, 1, 0],
    }
)


def test_loss_curve():
    figure = loss_curve(HISTORY)
    training, held_out = figure.data
    assert list(training.x) == [1, 2, 3, 4] and list(training.y) == [3.0, 2.0, 1.25, 1.0]
    assert list(held_out.x) == [2, 4] and list(held_out.y) == [2.5, 1.75]
    title = "The loss goes from 3.00 to 1.00 in 4 steps; 1.75 on held-out examples"
    assert figure.layout.title.text == title
    assert figure.layout.yaxis.title.text == "loss (nats per answer token)"


def test_loss_curve_without_held_out_examples():
    figure = loss_curve([{"step": 1, "loss": 3.0, "eval_loss": None}])
    assert len(figure.data) == 1
    assert "held-out" not in figure.layout.title.text
    with pytest.raises(ValueError, match="the history is empty"):
        loss_curve([])


def test_scores_by_task():
    figure = scores_by_task(SCORES)
    points = figure.data[0]
    assert list(points.x) == [50, 80] and list(points.y) == ["mini_piqa", "mini_boolq"]
    assert list(points.error_x.array) == pytest.approx([19.6, 9.8])
    assert figure.layout.title.text == "Best on mini_boolq (80.0 %), worst on mini_piqa (50.0 %)"
    with pytest.raises(ValueError, match="hold no task"):
        scores_by_task(SCORES[:0])


def test_score_against_parameters():
    figure = score_against_parameters(TABLE, base=50.0)
    front, share, slices = figure.data  # the base has no parameters, the gated row no score
    assert list(front.x) == [4_000, 7_500, 8_000]  # to the right edge: 8,000 have less than 7,500
    assert list(front.y) == [60, 71, 71]
    assert front.line.shape == "hv" and front.name.startswith("Pareto front")
    assert (share.name, list(share.x), list(share.y)) == ("ShareLoRA", [4_000, 8_000], [60, 70])
    assert list(share.error_y.array) == pytest.approx([1.96, 1.96])
    assert (slices.name, list(slices.x), list(slices.y)) == ("BSLoRA (SS)", [7_500], [71])
    assert (slices.marker.color, slices.marker.symbol) == METHOD_STYLES["BSLoRA (SS)"]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.shapes[0].y0 == figure.layout.shapes[0].y1 == 50
    assert figure.layout.annotations[0].text == "untouched base, 50.0 %"
    assert figure.layout.yaxis.range is None
    assert list(score_against_parameters(TABLE, base=65.0).data[0].x) == [7_500, 8_000]
    assert list(score_against_parameters(TABLE, base=90.0).data[0].x) == []


def test_a_row_far_below_the_base_is_named_at_the_edge():
    """60 of 71 is 10 below a base of 70; the others with bars of 1.96 reach from 68.04 to 72.96."""
    figure = score_against_parameters(TABLE, base=70.0)
    assert list(figure.layout.yaxis.range) == pytest.approx([66.04, 73.96])
    (named,) = [note for note in figure.layout.annotations if "below the axis" in note.text]
    assert named.text == "ShareLoRA 4: 60.0 %, below the axis"
    assert (named.x, named.y) == pytest.approx((math.log10(4_000), 66.04))
    figure = score_against_parameters(TABLE, base=74.5)  # above all bars, and within the axis
    assert list(figure.layout.yaxis.range) == pytest.approx([66.04, 75.5])


def test_methods_of_one_style_have_symbols_of_their_own():
    labels = [f"{name} {more}" for name in METHOD_STYLES for more in ("", "a", "b", "c")]
    table = pandas.DataFrame(
        {"row": labels, "base": "", "method": labels, "ranks": "", "parameters": range(1, 33)}
    ).assign(mean=60.0, stderr=1.0, seeds=1)
    drawn = [(x.marker.color, x.marker.symbol) for x in score_against_parameters(table).data[1:]]
    assert len(set(drawn)) == len(labels) == 32


def test_the_title_states_who_leads_and_how_clearly():
    leads = "BSLoRA (SS) 2,4,16 leads with 71.0 %, +21.0 points from the base"
    assert score_against_parameters(TABLE, base=50.0).layout.title.text == leads
    verdicts = TABLE.assign(against_best=["below", "below", "not distinguishable", "best", "below"])
    assert score_against_parameters(verdicts, base=50.0).layout.title.text == (
        f"{leads}; not distinguishable from it: 1 of 2"
    )
    apart = TABLE.assign(against_best=["below", "not compared", "not distinguishable", "best", "below"])
    assert score_against_parameters(apart, base=50.0).layout.title.text == (
        f"{leads}; not distinguishable from it: 1 of 2, not compared: 1"
    )
    alone = score_against_parameters(TABLE[3:]).layout.title.text
    assert alone == "BSLoRA (SS) 2,4,16 leads with 71.0 %"
    assert score_against_parameters(TABLE[4:]).layout.title.text == "No row has a score yet"


def test_budget_by_scope():
    figure = budget_by_scope(budget(bslora(2, 4, 16), llama_3_8b()))
    assert {bar.name: bar.x[0] for bar in figure.data} == {
        "own to one linear": 32 * 2 * 55_296,
        "shared in a layer": 32 * 4 * 2 * 14_336,
        "shared by the model": 16 * 2 * 14_336,
    }
    assert [bar.marker.color for bar in figure.data] == [
        BRANCH_COLOURS[name] for name in ("local", "intra", "inter")
    ]
    assert figure.layout.title.text == (
        "7,667,712 trainable parameters: 48% shared in a layer, 46% own to one linear, "
        "6% shared by the model"
    )
    figure = budget_by_scope(budget(share_lora(8, share="B"), llama_3_8b()))
    assert [bar.name for bar in figure.data] == ["own to one linear", "shared by a projection type"]


def test_methods_differ_in_colour_and_in_symbol():
    colours, symbols = zip(*METHOD_STYLES.values(), strict=True)
    assert len(set(colours)) == len(set(symbols)) == len(METHOD_STYLES)
