"""All pairs of a table's rows: against scipy and hand-made sets; the page that shows them."""

import io
import itertools
import math

import numpy
import pandas
import pytest
import scipy.stats
from test_tables import GRID, ITEMS, TASKS, write_run

from bslora_kit import tables
from bslora_kit.tables import (
    against,
    comparisons,
    in_words,
    rank_sets,
    seed_scores,
    with_places,
)
from bslora_kit.tables.discordant import beside_intervals


@pytest.fixture
def folder(tmp_path):
    """The base answers 3 of 10 in a task, ShareLoRA 6 or 8, GT 5 to 9: GT and ShareLoRA overlap."""
    write_run(tmp_path, "base", 0, 3)
    write_run(tmp_path, "share-b-8", 0, 6)
    write_run(tmp_path, "share-b-8", 1, 8)
    write_run(tmp_path, "gt-2-4-16", 0, dict.fromkeys(TASKS, 6) | {"openbookqa": 9})
    write_run(tmp_path, "gt-2-4-16", 1, dict.fromkeys(TASKS, 7) | {"boolq": 5})
    return tmp_path


@pytest.fixture
def pairs(folder):
    return comparisons(tables.read_results(folder), GRID)


def test_all_pairs_stand_in_the_grids_order(pairs):
    assert list(zip(pairs["a"], pairs["b"], strict=True)) == list(
        itertools.combinations(["base", "share-b-8", "gt-2-4-16"], 2)
    )
    assert pairs["difference"].tolist() == pytest.approx([-40, -100 * (63.75 + 67.5) / 200 + 30, 4.375])
    assert pairs["seeds"].tolist() == [2, 2, 2]


def test_seed_errors_are_those_of_the_seeds_differences(pairs):
    """The base is one run for both seeds, so the seeds' differences are 30 and 50 points."""
    row = pairs.set_index(["a", "b"]).loc[("base", "share-b-8")]
    assert row["stderr_seeds"] == pytest.approx(scipy.stats.sem([30, 50]))
    row = pairs.set_index(["a", "b"]).loc[("base", "gt-2-4-16")]  # 63.75 and 67.5 vary less than most
    within = (numpy.var([60, 80], ddof=1) + numpy.var([63.75, 67.5], ddof=1)) / 2
    assert row["stderr_seeds"] == pytest.approx(math.sqrt(within / 2))
    row = pairs.set_index(["a", "b"]).loc[("share-b-8", "gt-2-4-16")]
    assert row["stderr_seeds"] == pytest.approx(scipy.stats.sem([60 - 63.75, 80 - 67.5]))


def test_mcnemar_stands_beside_the_intervals(pairs):
    """Base and ShareLoRA: ShareLoRA alone has 3 and 5 of ten in each task right, in facts of two items.

    The base has items 0 to 2 of a task right and ShareLoRA 0 to 5 or 0 to 7, so that facts 1 to 3 have
    balances of 2, 4 and 2 over both seeds: 24 facts, all of one sign.
    """
    row = pairs.set_index(["a", "b"]).loc[("base", "share-b-8")]
    assert (row["only_a"], row["only_b"]) == (0, 8 * 8)
    assert row["p_mcnemar"] == pytest.approx(2 / 2**24)
    assert row["seeds_mcnemar"] == 2
    assert (pairs["p_mcnemar_holm"] >= pairs["p_mcnemar"]).all()
    assert row["p_mcnemar_holm"] == pytest.approx(3 * row["p_mcnemar"])
    # ShareLoRA has one more right in seven tasks and three in boolq with seed 1: nine facts of one sign,
    # 2 / 2^9. With seed 0 it has three fewer, in two facts: the other side.
    row = pairs.set_index(["a", "b"]).loc[("share-b-8", "gt-2-4-16")]
    assert (row["only_a"], row["only_b"]) == (7 + 3, 3)
    assert row["seeds_mcnemar"] == 1


def test_all_pairs_are_written_in_every_form(folder, pairs, tmp_path):
    place = tmp_path / "written"
    place.mkdir()
    run = tables.Finished.of("Rows & runs", GRID, tables.read_results(folder))
    paths = tables.write_tables(place, run)
    assert [path.name for path in paths[-3:]] == ["pairs.md", "pairs.csv", "pairs.tex"]
    marked, separate, latex = (path.read_text() for path in paths[-3:])
    back = pandas.read_csv(io.StringIO(separate))
    pandas.testing.assert_frame_equal(back, pairs, check_dtype=False)
    lines = [line for line in marked.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(pairs)
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:3] == ["Base", "ShareLoRA 8", "-40.00"]
    assert cells[-4:] == ["0", "64", f"{pairs.loc[0, 'p_mcnemar_holm']:.2g}", "2 of 2"]
    assert lines[0].count("McNemar: ") == 4
    body = latex.split(r"\endlastfoot")[1].split(r"\end{longtable}")[0].strip().splitlines()
    assert len(body) == len(pairs) and all(line.count("&") == len(cells) - 1 for line in body)
    assert r"Rows \& runs: all pairs of rows" in latex and "±" not in latex
    page = paths[3].read_text()
    for text in (marked, latex, page):
        assert "says nothing of other seeds, however small its p" in text


def test_p_values_are_adjusted_over_the_table(pairs):
    steps = sorted(pairs["p_value"])
    stepped = numpy.maximum.accumulate([min(1, (3 - place) * p) for place, p in enumerate(steps)])
    assert sorted(pairs["p_holm"]) == pytest.approx(list(stepped))
    assert (pairs["distinguishable"] == (pairs["p_holm"] < 0.05)).all()


def test_one_seed_is_a_clustered_paired_test(tmp_path):
    """With every task alike, the test by fact is scipy's paired t test on the facts' means."""
    write_run(tmp_path, "base", 0, 3)
    write_run(tmp_path, "share-b-8", 0, 6)
    found = comparisons(tables.read_results(tmp_path), GRID).iloc[0]
    facts = numpy.array([[0, 0], [0, 1], [1, 1], [0, 0], [0, 0]]).mean(axis=1)  # 3 to 5 of 10
    by_fact = numpy.tile(facts, len(TASKS))
    free = len(by_fact) - len(TASKS)  # a mean of its own for each task
    error = by_fact.std() / numpy.sqrt(free)
    assert found["difference"] == pytest.approx(-100 * by_fact.mean()) == pytest.approx(-30)
    assert found["stderr"] == pytest.approx(100 * error)
    assert found["p_value"] == pytest.approx(2 * scipy.stats.t.sf(by_fact.mean() / error, free))
    assert found["smallest"] > 1.96 * found["stderr"]
    assert numpy.isnan(found["stderr_seeds"])


def made_up(told):
    """Four rows with means 4 to 1; `told` holds the distinguishable pairs."""
    frame = pandas.DataFrame(
        {"row": list("dacb"), "base": "", "method": list("dacb"), "ranks": "", "mean": [1, 4, 2, 3]}
    )
    means = frame.set_index("row")["mean"]
    rows = [
        {"a": one, "b": other, "method_a": one, "method_b": other, "smallest": 1.0, "seeds": 1}
        | {
            "difference": means[one] - means[other],
            "low": 0.0,
            "high": 0.0,
            "p_holm": 0.5,
            "stderr_seeds": 0.1,
        }
        | {"stderr": 0.3, "freedom": 30.0, "p_mcnemar_holm": 0.5}
        | {"distinguishable": {one, other} in told}
        for one, other in itertools.combinations(frame["row"], 2)
    ]
    return frame, pandas.DataFrame(rows)


def test_places_are_sets():
    """a beats c and d; b beats d: a is 1st or 2nd, b 1st to 3rd, c 2nd to 4th, d 3rd or 4th."""
    sets = rank_sets(*made_up([{"a", "c"}, {"a", "d"}, {"b", "d"}])).set_index("row")
    assert sets["places"].to_dict() == {"d": "3-4", "a": "1-2", "c": "2-4", "b": "1-3"}
    level = {"d": ("c",), "a": ("b",), "c": ("b", "d"), "b": ("a", "c")}
    assert sets["level_with"].to_dict() == level
    assert set(sets["apart"]) == {()}


def test_rows_that_were_not_compared_are_not_called_level():
    """a leads and has no common seed with c, so of the two nothing is said."""
    frame, pairs = made_up([{"a", "d"}])
    pairs = pairs[[{one, other} != {"a", "c"} for one, other in pairs[["a", "b"]].to_numpy()]]
    sets = rank_sets(frame, pairs).set_index("row")
    assert (sets.loc["a", "level_with"], sets.loc["a", "apart"]) == (("b",), ("c",))
    seen = with_places(frame, pairs).set_index("row")["against_best"].to_dict()
    assert seen == {"d": "below", "a": "best", "c": "not compared", "b": "not distinguishable"}
    assert in_words(frame, pairs)[-1] == (
        "Highest mean: a. Not distinguishable from it: b. Not compared with it, for want of a common "
        "seed: c."
    )


def test_a_table_in_which_nothing_is_compared_says_so():
    frame, pairs = made_up([])
    assert in_words(frame, pairs.iloc[:0]) == [
        "No two rows have a seed in common, so none are compared."
    ]
    assert in_words(frame.iloc[:1], pairs.iloc[:0]) == []


def test_what_is_known_of_no_other_seed_is_said_of_those_pairs_alone():
    frame, pairs = made_up([])
    some = in_words(frame, pairs.assign(stderr_seeds=[numpy.nan] + [0.1] * (len(pairs) - 1)))
    assert some[2].startswith("Where the ± of seeds is empty: One seed:")
    assert in_words(frame, pairs.assign(stderr_seeds=numpy.nan))[2].startswith("One seed:")


def test_a_row_may_have_a_comma_in_its_name():
    frame, pairs = made_up([{"a", "d"}])
    named = {"b": "b, [2, 4]", "c": "c, d"}
    frame, pairs = (one.replace(named) for one in (frame, pairs))
    seen = with_places(frame, pairs).set_index("row")["against_best"].to_dict()
    assert seen == {"d": "below", "a": "best", "c, d": "not distinguishable", "b, [2, 4]": seen["c, d"]}
    assert "b, [2, 4]; c, d" in in_words(frame, pairs)[-1]


def test_places_are_those_on_one_base():
    """b beats d on one base, a beats c on the other: nothing is said of a against b."""
    frame, pairs = made_up([{"a", "c"}, {"b", "d"}])
    frame["base"] = frame["row"].map({"d": "small", "b": "small", "a": "large", "c": "large"})
    pairs = pairs[
        [{one, other} in ({"a", "c"}, {"b", "d"}) for one, other in pairs[["a", "b"]].to_numpy()]
    ]
    sets = rank_sets(frame, pairs).set_index("row")
    assert sets["places"].to_dict() == {"d": "2", "b": "1", "a": "1", "c": "2"}
    seen = with_places(frame, pairs).set_index("row")["against_best"].to_dict()
    assert seen == {"d": "below", "b": "best", "a": "best", "c": "below"}
    assert in_words(frame, pairs)[3:] == [
        "Highest mean on small: b. Not distinguishable from it: no row.",
        "Highest mean on large: a. Not distinguishable from it: no row.",
    ]


def test_places_without_and_with_every_difference():
    frame, pairs = made_up([])
    assert set(rank_sets(frame, pairs)["places"]) == {"1-4"}
    frame, pairs = made_up([set(pair) for pair in itertools.combinations("abcd", 2)])
    assert rank_sets(frame, pairs)["places"].tolist() == ["4", "1", "3", "2"]


def test_a_table_prints_what_is_not_distinguishable():
    frame, pairs = made_up([{"a", "c"}, {"a", "d"}, {"b", "d"}])
    seen = with_places(frame, pairs).set_index("row")["against_best"].to_dict()
    assert seen == {"d": "below", "a": "best", "c": "below", "b": "not distinguishable"}
    said = in_words(frame, pairs)
    assert said[0].startswith("3 of 6 pairs of rows are distinguishable")
    assert said[2] == (
        "McNemar's test, of these trained models alone and with all answers weighing the same: "
        "0 of 6 pairs differ, Holm over the table."
    )
    assert said[3] == "Highest mean: a. Not distinguishable from it: b."


def test_pairs_are_turned_towards_one_row(pairs):
    over = against(pairs, "share-b-8").set_index("row")
    original = pairs.set_index(["a", "b"])
    straight, turned = original.loc[("base", "share-b-8")], original.loc[("share-b-8", "gt-2-4-16")]
    assert over.loc["base", ["difference", "low", "high"]].tolist() == pytest.approx(
        straight[["difference", "low", "high"]].tolist()
    )
    assert over.loc["gt-2-4-16", ["difference", "low", "high"]].tolist() == pytest.approx(
        [-turned["difference"], -turned["high"], -turned["low"]]
    )


def test_runs_by_seed(folder):
    scores = seed_scores(tables.read_results(folder), GRID)
    assert list(scores["seed"]) == [0, 0, 1, 0, 1]
    assert scores["mean"].tolist() == pytest.approx([30, 60, 80, 63.75, 67.5])


def test_runs_of_other_items_are_named(folder):
    place = folder / "gt-2-4-16-s1" / "items.parquet"
    pandas.read_parquet(place).iloc[ITEMS:].to_parquet(place)
    with pytest.raises(ValueError, match="run gt-2-4-16, seed 1 has 70 items that are not the 80"):
        comparisons(tables.read_results(folder), GRID)


def test_a_grid_without_results_has_no_pairs(tmp_path):
    pairs = comparisons([], GRID)
    frame = tables.table([], GRID)
    assert len(pairs) == 0 and in_words(frame, pairs) == []
    assert "p_mcnemar_holm" in pairs and len(tables.pairs_view(pairs)) == 0
    assert beside_intervals(pairs).to_numpy().tolist() == [[0, 0], [0, 0]]
    assert with_places(frame, pairs)["places"].isna().all()


def test_the_page_shows_seeds_pairs_and_verdicts(folder, pairs):
    run = tables.Finished.of("Three rows", GRID, tables.read_results(folder))
    page = tables.to_html(run)
    assert "against the best" in page and "not distinguishable" in page
    assert "All pairs (3)" in page and "Against the highest mean, ShareLoRA 8" in page
    assert page.count("Plotly.newPlot") >= 4
    pandas.testing.assert_frame_equal(run.pairs, pairs)
    assert "not distinguishable" in tables.to_markdown(run.table)
    assert "1-3" in tables.to_text(run.table)  # two seeds of so few items tell nothing apart


def test_rows_that_only_mmlu_scored_are_compared_on_it(tmp_path):
    """Such a table has no mean of eight tasks, so no places, but its pairs are compared all the same."""
    for row, right in (("base", 3), ("share-b-8", 8)):
        write_run(tmp_path, row, 0, right)
        place = tmp_path / f"{row}-s0" / "items.parquet"
        items = pandas.read_parquet(place)
        items.assign(task="mini_mmlu", doc_id=range(len(items))).to_parquet(place)
    results = tables.read_results(tmp_path)
    for result in results:
        result["eval"]["mean"] = result["eval"]["mean_stderr"] = None
    pairs = comparisons(results, GRID)
    frame = with_places(tables.table(results, GRID), pairs)
    assert pairs["difference"].tolist() == pytest.approx([-50])
    assert frame["places"].isna().all() and len(in_words(frame, pairs)) == 4
    assert in_words(frame, pairs)[2].startswith("One seed:")
    assert "All pairs (1)" in tables.to_html(tables.Finished.of("MMLU", GRID, results))
