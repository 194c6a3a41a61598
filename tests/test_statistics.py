"""Paired tests against scipy and statsmodels, against formulas written out anew, and against simulation.

Simulations are small (tens of facts) to keep the file within seconds; their seeds are fixed.
"""

from __future__ import annotations

import math

import numpy
import pandas
import pytest
import scipy.stats
import statsmodels.api
import statsmodels.stats.power
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels

from bslora_kit.statistics import (
    SeedVariance,
    crossed_difference,
    errors_of,
    holm,
    influence_of,
    interval_of,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_over_seeds,
    smallest_difference,
)


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
    assert (
        paired_difference(a, b, clusters=[None] * 30 + [math.nan] * 30)[:6]
        == paired_difference(a, b)[:6]
    )


def test_equal_runs_differ_by_nothing():
    same = [1, 0, 1, 1]
    assert paired_difference(same, same)[:5] == (0.0, 0.0, 0.0, 0.0, 1.0)
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
    facts, repeats, truth = numpy.repeat(numpy.arange(40), 5), 1000, 0.1 * 0.7
    known = draw.random((2, 40, repeats)) < numpy.reshape([0.6, 0.5], (2, 1, 1))
    right = draw.random((2, 200, repeats)) < numpy.where(known[:, facts], 0.95, 0.25)
    differences = right[0].astype(float) - right[1]
    hits = {}
    for name, clusters in {"by fact": facts, "by item": None}.items():
        every = influence_of(differences, clusters)
        intervals = [interval_of(part) for part in parts(every, 1)]
        hits[name] = numpy.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.93 <= hits["by fact"] <= 0.97
    assert hits["by item"] < 0.88


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


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("of_facts", "of_seeds"), [(0.3, 0.02), (0.1, 0.2), (0, 0)], ids=["items", "seeds", "neither"]
)
def test_interval_over_seeds_covers_the_truth(draw, seeds, of_facts, of_seeds):
    """Whether items or seeds move the difference more, or only what both do together."""
    facts, repeats = numpy.repeat(numpy.arange(40), 2), 1000
    differences = 0.05 + draw.normal(0, 0.4, (80, repeats, seeds))
    differences += draw.normal(0, of_facts, (40, repeats, 1))[facts]
    differences += draw.normal(0, of_seeds, (repeats, seeds))
    every = influence_of(differences.reshape(80, -1), facts)
    intervals = [interval_of(part) for part in parts(every, seeds)]
    hits = numpy.mean([interval.low <= 0.05 <= interval.high for interval in intervals])
    assert 0.93 <= hits <= (0.97 if seeds == 5 else 0.985)


def parts(influence, columns):
    """Neighbouring columns of an influence, so many at a time: one simulated table each."""
    for start in range(0, len(influence.means), columns):
        chosen = slice(start, start + columns)
        yield influence._replace(means=influence.means[chosen], summed=influence.summed[:, chosen])


def test_clustered_errors_are_those_of_statsmodels(draw):
    """A regression on the constant alone with a cluster-robust covariance is the same estimator."""
    clusters = draw.integers(0, 30, 200)
    a, b = draw.random(200) < 0.7, draw.random(200) < 0.6
    ours = paired_difference(a, b, clusters=clusters)
    fit = statsmodels.api.OLS(a.astype(float) - b, numpy.ones(200)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True
    )
    # statsmodels also scales by (n - 1) / (n - 1 regressor), which is 1 here.
    assert ours.standard_error == pytest.approx(fit.bse[0], rel=1e-9)
    assert ours.p_value == pytest.approx(fit.pvalues[0], rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-9)


def test_mcnemar_is_that_of_statsmodels(draw):
    a, b = draw.random(300) < 0.7, draw.random(300) < 0.6
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert mcnemar(a, b).p_value == pytest.approx(mcnemar_of_statsmodels(table, exact=True).pvalue)


def test_mcnemar_by_cluster_is_scipys_permutation_test(draw):
    """Every way to exchange A and B within a cluster, counted by scipy: twelve clusters, 4,096 ways."""
    clusters = draw.integers(0, 12, 60)
    a, b = draw.random(60) < 0.75, draw.random(60) < 0.45
    sums = [numpy.bincount(clusters, answers) for answers in (a, b)]
    theirs = scipy.stats.permutation_test(
        sums,
        lambda one, other, axis: (one - other).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=numpy.inf,
    )
    ours = mcnemar(a, b, clusters)
    assert (ours.only_a, ours.only_b) == ((a & ~b).sum(), (b & ~a).sum())
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)


def test_mcnemar_of_many_clusters_is_the_chi_square_test_of_their_balances(draw):
    """Square of the summed balances over the sum of their squares (Durkalski et al. 2003)."""
    clusters = numpy.repeat(numpy.arange(400), 6)
    a, b = draw.random(2400) < 0.60, draw.random(2400) < 0.57
    balances = numpy.bincount(clusters, a.astype(float) - b)
    chi_square = balances.sum() ** 2 / (balances**2).sum()
    assert mcnemar(a, b, clusters).p_value == pytest.approx(scipy.stats.chi2.sf(chi_square, 1), abs=0.01)


def test_mcnemar_of_repeated_seeds_counts_an_item_once(draw):
    """The same run as two seeds: twice the answers, the same evidence."""
    a, b = draw.random(100) < 0.7, draw.random(100) < 0.6
    once, items = mcnemar(a, b), numpy.arange(100)
    twice = mcnemar(numpy.tile(a, 2), numpy.tile(b, 2), numpy.tile(items, 2))
    assert (twice.only_a, twice.only_b) == (2 * once.only_a, 2 * once.only_b)
    assert twice.p_value == pytest.approx(once.p_value)


def test_errors_of_items_and_seeds_stand_apart(draw):
    """Two-way analysis of variance of [items, seeds], by its mean squares."""
    values = draw.normal(0, 0.3, (50, 1)) + draw.normal(0, 0.1, (1, 4)) + draw.normal(0, 0.2, (50, 4))
    ours = crossed_difference(values)
    grand, items, seeds = values.mean(), values.mean(axis=1), values.mean(axis=0)
    square_items = 4 * ((items - grand) ** 2).sum() / 49
    square_seeds = 50 * ((seeds - grand) ** 2).sum() / 3
    rest = values - items[:, None] - seeds + grand
    square_rest = (rest**2).sum() / (49 * 3)
    assert ours.error_items == pytest.approx(math.sqrt(square_items / 200))
    assert ours.error_seeds == pytest.approx(math.sqrt(square_seeds / 200))
    variance = (square_items + square_seeds - square_rest) / 200
    assert ours.standard_error == pytest.approx(math.sqrt(variance))
    parts = (square_items**2 / 49, square_seeds**2 / 3, square_rest**2 / 147)
    assert ours.freedom == pytest.approx((200 * variance) ** 2 / sum(parts))
    errors = errors_of(influence_of(values))
    assert errors == pytest.approx((ours.standard_error, ours.error_items, ours.error_seeds))


def test_errors_are_the_sum_of_both_sources_however_few_seeds(draw):
    """The interval of two seeds is that of the seeds alone; the error of the mean has the items' too."""
    values = draw.random((50, 1)) + numpy.array([0.0, 0.1])
    errors = errors_of(influence_of(values))
    assert (
        errors.seeds == pytest.approx(crossed_difference(values).standard_error) == pytest.approx(0.05)
    )
    assert errors.both == pytest.approx(math.hypot(errors.items, 0.05)) and errors.items > 0.03
    alone = errors_of(influence_of(values[:, :1]))
    assert alone.both == alone.items == pytest.approx(scipy.stats.sem(values[:, 0]))
    assert math.isnan(alone.seeds)


def test_a_mean_of_equal_seeds_keeps_the_error_of_its_items():
    """Both seeds have the same mean by answering other items: their part is 0, what they do together
    is not, and would take the items' error away."""
    values = numpy.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    errors = errors_of(influence_of(values))
    assert errors.seeds == 0
    assert errors.both == errors.items == pytest.approx(scipy.stats.sem([0.5, 0.5, 1, 0]))
    found = crossed_difference(values - 0.1)
    assert found.standard_error == pytest.approx(errors.items * math.sqrt(0.1))
    assert 0.05 < found.p_value < 1  # one degree of freedom, that of the seeds


def test_an_interval_of_few_items_has_their_freedom_however_many_seeds_are_known():
    """Four items: with 1000 degrees of freedom of the seeds the items' 3 still count."""
    values = numpy.array([[0.0], [1.0], [2.0], [5.0]])
    tiny = SeedVariance(variance=1e-9, interaction=0.0, freedom=1000.0)
    assert interval_of(influence_of(values), tiny).freedom == pytest.approx(3, abs=1e-3)


def test_a_mean_over_seeds_has_its_errors_apart(draw):
    runs_of_a = [a for a, _ in runs(draw, 0.1)]
    values = numpy.stack([run["correct"] for run in runs_of_a], axis=1)
    by_seed = influence_of(values)
    assert by_seed.means.mean() == pytest.approx(values.mean())
    errors = errors_of(by_seed)
    assert errors.seeds == pytest.approx(scipy.stats.sem(values.mean(axis=0)))
    assert errors.items == pytest.approx(scipy.stats.sem(values.mean(axis=1)))
    alone = errors_of(influence_of(values[:, :1]))
    assert math.isnan(alone.seeds) and alone.both == pytest.approx(scipy.stats.sem(values[:, 0]))


def test_holm_by_its_definition():
    """The smallest of four p values counts four times, the next three times, and none falls again."""
    assert holm([0.04, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]).tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(ValueError, match="p_values holds 1.2, not a probability"):
        holm([0.1, 1.2])


@pytest.mark.parametrize(("freedom", "power"), [(4, 0.8), (11, 0.8), (200, 0.9)])
def test_the_smallest_difference_is_that_of_statsmodels(freedom, power):
    """A paired t test of n items has an error of sd / root n."""
    effect = statsmodels.stats.power.TTestPower().solve_power(
        nobs=freedom + 1, alpha=0.05, power=power, alternative="two-sided"
    )
    ours = smallest_difference(2.0, freedom, power)
    assert ours == pytest.approx(2.0 * effect * math.sqrt(freedom + 1), rel=1e-4)


def test_a_true_difference_of_that_size_is_found_as_often_as_said(draw):
    error, items = 0.02, 400
    size = smallest_difference(error, items - 1)
    found = [
        crossed_difference(draw.normal(size, error * math.sqrt(items), (items, 1))).low > 0
        for _ in range(1000)
    ]
    assert 0.77 <= numpy.mean(found) <= 0.83


def test_interval_of_one_seed_is_that_of_its_items(draw):
    ((a, b),) = runs(draw, 0.2, seeds=1)
    expected = paired_difference(a["correct"], b["correct"], a["fact"], a["task"])
    assert paired_over_seeds([(a, b)]) == pytest.approx(expected, nan_ok=True)


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
    with pytest.raises(ValueError, match="power is 0.01; expected a chance above 0.05"):
        smallest_difference(0.01, 10, power=0.01)
    with pytest.raises(ValueError, match="standard_error is nan"):
        smallest_difference(math.nan, 10)
