"""Paired tests against scipy, against formulas written out anew, and against simulated truth.

Simulations are small (tens of facts, hundreds of repeats) to keep the file within seconds; their seeds
are fixed.
"""

from __future__ import annotations

import math

import numpy
import pandas
import pytest
import scipy.stats

from bslora_kit.statistics import mcnemar, mean_interval, paired_difference, paired_over_seeds


@pytest.fixture
def draw() -> numpy.random.Generator:
    return numpy.random.default_rng(0)


def test_without_clusters_it_is_the_paired_t_test(draw):
    a, b = draw.random(200) < 0.7, draw.random(200) < 0.6
    ours = paired_difference(a, b)
    theirs = scipy.stats.ttest_rel(a.astype(float), b.astype(float))
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-12)
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert ours.difference == pytest.approx(a.mean() - b.mean())


def test_clusters_of_equal_size_are_a_t_test_of_their_means(draw):
    """With m items in every cluster the robust error is that of the cluster means."""
    a, b = draw.random((40, 5)) < 0.7, draw.random((40, 5)) < 0.6
    ours = paired_difference(a.ravel(), b.ravel(), clusters=numpy.repeat(numpy.arange(40), 5))
    theirs = scipy.stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-12)


def test_clusters_of_unequal_size_follow_the_sandwich_formula(draw):
    clusters = draw.integers(0, 30, 200)
    a, b = draw.random(200) < 0.7, draw.random(200) < 0.6
    difference = a.astype(float) - b
    labels = numpy.unique(clusters)
    square = sum((difference[clusters == one] - difference.mean()).sum() ** 2 for one in labels)
    expected = math.sqrt(len(labels) / (len(labels) - 1) * square) / 200
    ours = paired_difference(a, b, clusters=[f"fact {one}" for one in clusters])
    assert ours.standard_error == pytest.approx(expected, rel=1e-12)


def test_tasks_weigh_the_same_whatever_their_size(draw):
    a, b = draw.random(300) < 0.7, draw.random(300) < 0.6
    task = numpy.repeat(["big", "small"], [250, 50])
    ours = paired_difference(a, b, tasks=task)
    d = a.astype(float) - b
    assert ours.difference == pytest.approx((d[:250].mean() + d[250:].mean()) / 2)
    errors = [d[:250].std() / math.sqrt(250), d[250:].std() / math.sqrt(50)]
    expected = math.hypot(*errors) / 2 * math.sqrt(300 / 298)
    assert ours.standard_error == pytest.approx(expected, rel=1e-12)


def test_missing_facts_stand_alone(draw):
    a, b = draw.random(60) < 0.7, draw.random(60) < 0.6
    assert paired_difference(a, b, clusters=[None] * 30 + [math.nan] * 30) == paired_difference(a, b)


def test_equal_runs_differ_by_nothing():
    same = [1, 0, 1, 1]
    assert paired_difference(same, same) == (0.0, 0.0, 0.0, 0.0, 1.0)
    assert mcnemar(same, same) == (0, 0, 1.0)


def test_mcnemar_is_the_binomial_test_of_what_only_one_knows():
    a, b = [1] * 9 + [0] * 2 + [1] * 20, [0] * 9 + [1] * 2 + [1] * 20
    ours = mcnemar(a, b)
    by_hand = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert (ours.only_a, ours.only_b) == (9, 2)
    assert ours.p_value == pytest.approx(by_hand, rel=1e-12)


def test_mean_interval_is_scipys(draw):
    values = draw.normal(size=7)
    ours = mean_interval(values, level=0.9)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert math.isnan(mean_interval([0.5]).standard_error)


def test_interval_by_fact_covers_the_truth_and_by_item_does_not(draw):
    """40 facts asked five times; a fact is known to a run or not, and that decides most answers."""
    clusters = numpy.repeat(numpy.arange(40), 5)
    hits = {"by fact": 0, "by item": 0}
    repeats = 1000
    for _ in range(repeats):
        known_a, known_b = draw.random((2, 40)) < [[0.6], [0.5]]
        a = draw.random(200) < numpy.where(known_a[clusters], 0.95, 0.25)
        b = draw.random(200) < numpy.where(known_b[clusters], 0.95, 0.25)
        truth = 0.1 * 0.7
        for name, interval in {
            "by fact": paired_difference(a, b, clusters=clusters),
            "by item": paired_difference(a, b),
        }.items():
            hits[name] += interval.low <= truth <= interval.high
    assert 0.93 <= hits["by fact"] / repeats <= 0.97
    assert hits["by item"] / repeats < 0.88


def runs(draw: numpy.random.Generator, seed_spread: float, seeds: int = 3) -> list:
    """Two tasks, 30 facts asked twice each; items and seeds both move the difference of 0.05."""
    frame = pandas.DataFrame(
        {
            "task": numpy.repeat(["one", "two"], 30),
            "subject": None,
            "doc_id": numpy.tile(numpy.arange(30), 2),
            "fact": numpy.tile(numpy.arange(30), 2),
        }
    )
    frame["doc_hash"] = frame["task"] + frame["doc_id"].astype(str)
    fact = numpy.tile(draw.normal(0, 0.2, 30), 2)
    pairs = []
    for _ in range(seeds):
        shift = draw.normal(0, seed_spread)
        noise = draw.normal(0, 0.2, (2, 60))
        a = frame.assign(correct=0.55 + fact + shift + noise[0])
        b = frame.assign(correct=0.5 + noise[1])
        pairs.append((a, b))
    return pairs


@pytest.mark.parametrize("seed_spread", [0.02, 0.2])
def test_interval_over_seeds_covers_the_truth(draw, seed_spread):
    repeats = 300
    hits = sum(
        interval.low <= 0.05 <= interval.high
        for interval in (paired_over_seeds(runs(draw, seed_spread)) for _ in range(repeats))
    )
    assert 0.93 <= hits / repeats <= 0.985


def test_interval_of_one_seed_is_that_of_its_items(draw):
    ((a, b),) = runs(draw, 0.2, seeds=1)
    expected = paired_difference(a["correct"], b["correct"], a["fact"], a["task"])
    assert paired_over_seeds([(a, b)]) == pytest.approx(expected)


def test_items_are_matched_and_not_their_order(draw):
    pairs = runs(draw, 0.1)
    shuffled = [(a.sample(frac=1, random_state=1), b) for a, b in pairs]
    assert paired_over_seeds(shuffled) == pytest.approx(paired_over_seeds(pairs))


def test_bad_input_is_named(draw):
    ((a, b),) = runs(draw, 0.1, seeds=1)
    with pytest.raises(ValueError, match="correct_a has 2 items and correct_b 3"):
        paired_difference([1, 0], [1, 0, 1])
    with pytest.raises(ValueError, match="correct_b holds a missing"):
        mcnemar([1, 0], [1, math.nan])
    with pytest.raises(ValueError, match="clusters has 1 entries for 2 items"):
        paired_difference([1, 0], [1, 1], clusters=["x"])
    with pytest.raises(ValueError, match="1 clusters in 1 tasks"):
        paired_difference([1, 0], [1, 1], clusters=["x", "x"])
    with pytest.raises(ValueError, match="level is 95"):
        mean_interval([1, 2], level=95)
    with pytest.raises(ValueError, match=r"values has shape \(0,\)"):
        mean_interval([])
    with pytest.raises(ValueError, match="run B of pair 1 has 59 items"):
        paired_over_seeds([(a, b.iloc[1:])])
    with pytest.raises(ValueError, match="no pair of runs"):
        paired_over_seeds([])
