"""Which rows a question compares, and what is said of the outcome; results are made up by hand."""

import re
import shutil

import numpy
import pandas
import pytest
import yaml
from scipy import stats
from test_tables import GRID, TASKS, write_run

from bslora_kit import tables
from bslora_kit.figures import contrast_plot
from bslora_kit.figures.style import style_name
from bslora_kit.grid.finished import how_to_run, read_all, read_finished
from bslora_kit.paths import REFERENCE, ROOT
from bslora_kit.tables.contrasts import Contrast, contrasts, smallest_of, summary, verdicts
from bslora_kit.tables.questions import (
    at_equal_budget,
    between_places,
    led_by_seed,
    led_in_words,
    noise_in_words,
    of_places,
    of_scopes,
    of_shared_factor,
    of_variants,
    scaled_down,
)
from bslora_kit.tables.rates_used import (
    falling_in_words,
    falling_rows,
    rate_doubts,
    risen_in_words,
    searches,
)

ONE_SEED = (
    "One seed: this holds for these trained models on other items and says nothing of other seeds."
)


def grid_of(*rows):
    return {"rows": [{"row": row, "label": label, **more} for row, label, more in rows]}


def table_of(counts):
    return pandas.DataFrame(
        {"row": list(counts), "parameters": list(counts.values()), "seeds": [1] * len(counts)}
    ).astype({"parameters": "Int64"})


def test_equal_budget_takes_the_nearest_row_within_a_quarter():
    grid = grid_of(
        ("base", "Base", {"method": "none"}),
        ("lora-2", "LoRA", {"method": "lora", "ranks": [2]}),
        ("lora-3", "LoRA", {"method": "lora", "ranks": [3]}),
        ("ss", "BSLoRA (SS)", {"method": "bslora", "ranks": [2, 4, 16]}),
        ("ke", "BSLoRA (KE)", {"method": "bslora", "ranks": [2, 8, 32]}),
        ("share", "ShareLoRA", {"method": "share_lora", "ranks": [4]}),
    )
    counts = {"base": 0, "lora-2": 200, "lora-3": 300, "ss": 240, "ke": 374, "share": 376}
    found = at_equal_budget(grid, table_of(counts), ["bslora", "share_lora"], ["lora"])
    # 240 is 1.2 times 200 and 300 is 1.25 times 240; 374 is within 1.25 times 300, 376 is not.
    assert [(x.rows_a, x.rows_b) for x in found] == [(("ss",), ("lora-2",)), (("ke",), ("lora-3",))]
    assert found[0][:2] == ("BSLoRA (SS) 2,4,16 (240)", "LoRA 2 (200)")


def test_scopes_and_shared_factors_are_compared_at_equal_budgets():
    grid = grid_of(
        ("local", "local only", {"method": "bslora", "ranks": [4, 0, 0]}),
        ("intra", "intra only", {"method": "bslora", "ranks": [0, 8, 0]}),
        ("inter", "inter only", {"method": "bslora", "ranks": [0, 0, 48]}),
        ("large", "inter only", {"method": "bslora", "ranks": [0, 0, 256]}),
        ("all", "BSLoRA", {"method": "bslora", "ranks": [2, 4, 16]}),
        ("a", "A", {"method": "share_lora", "share": "A", "ranks": [5]}),
        ("b", "B", {"method": "share_lora", "share": "B", "ranks": [4]}),
    )
    counts = {"local": 100, "intra": 110, "inter": 110, "large": 600, "all": 105, "a": 70, "b": 60}
    scopes, factors = (ask(grid, table_of(counts)) for ask in (of_scopes, of_shared_factor))
    assert [(x.rows_a, x.rows_b) for x in scopes] == [
        (("intra",), ("local",)),
        (("inter",), ("local",)),
        (("inter",), ("intra",)),
    ]
    assert [(x.rows_a, x.rows_b) for x in factors] == [(("a",), ("b",))]
    counts["a"] = 100
    shares = at_equal_budget(grid, table_of(counts), ["bslora"], ["share_lora"])
    assert [x.rows_a for x in shares] == [("intra",), ("inter",), ("all",)]  # local alone shares nothing


def test_equal_budget_stays_on_one_base():
    grid = grid_of(
        ("lora", "LoRA", {"method": "lora", "ranks": [2], "base_model": "small"}),
        ("ss", "BSLoRA (SS)", {"method": "bslora", "ranks": [1, 1, 1], "base_model": "large"}),
    )
    assert at_equal_budget(grid, table_of({"lora": 10, "ss": 10}), ["bslora"], ["lora"]) == []


def test_places_are_compared_on_the_fits_that_ran_in_all():
    rows = [
        (f"{p}-{fit}", f"{p}, BSLoRA ({fit})", {}) for p in ("Attention", "MLP", "Both") for fit in "SG"
    ]
    table = table_of(dict.fromkeys([row for row, _, _ in rows], 1))
    table.loc[table["row"] == "Both-G", "parameters"] = 4_002
    names = ["Both (2,002 on average)", "Attention (1 on average)"]
    assert between_places(grid_of(*rows), table)[1] == Contrast(
        *names, ("Both-S", "Both-G"), ("Attention-S", "Attention-G")
    )
    assert of_places(grid_of(*rows), table) == []
    with_base = grid_of(("base", "Base", {"method": "none"}), *rows)
    over_base = of_places(with_base, table)
    assert [(x.a, x.b, x.rows_b) for x in over_base][0] == (names[1], "the untouched base", ("base",))
    assert [x.rows_a for x in over_base] == [(f"{p}-S", f"{p}-G") for p in ("Attention", "MLP", "Both")]
    table.loc[table["row"] == "MLP-G", "seeds"] = 0
    assert [x.rows_a for x in between_places(grid_of(*rows), table)] == [
        ("MLP-S",),
        ("Both-S",),
        ("Both-S",),
    ]
    table["seeds"] = 0
    assert between_places(grid_of(*rows), table) == of_places(with_base, table) == []


def test_variants_are_paired_by_base_and_rank():
    rows = [
        (f"{base}-{variant}-{rank}", variant, {"variant": variant, "ranks": [rank], "base_model": base})
        for base in ("small", "large")
        for rank in (2, 8)
        for variant in ("tl5", "tl6")
    ]
    found = of_variants(grid_of(*rows), table_of(dict.fromkeys([row for row, _, _ in rows], 1)))
    assert [(x.rows_a[0], x.rows_b[0]) for x in found] == [
        (f"{base}-tl6-{rank}", f"{base}-tl5-{rank}") for base in ("small", "large") for rank in (2, 8)
    ]


def test_the_leader_of_each_seed_leaves_out_rows_that_lack_one():
    seeds = pandas.DataFrame(
        [("a", 0, 60.0), ("b", 0, 62.0), ("c", 0, 70.0), ("a", 1, 63.0), ("b", 1, 59.5)],
        columns=["method", "seed", "mean"],
    ).assign(row=lambda frame: "row-" + frame["method"])
    found = led_by_seed(seeds)
    assert found.to_dict("list") == {
        "seed": [0, 1],
        "leads": ["b", "a"],
        "ahead_by": [2.0, 3.5],
        "last": ["a", "b"],
    }
    assert led_in_words(found) == "With 2 seeds 2 different rows lead: b, a."
    assert led_in_words(found.assign(leads="b")) == "b leads with each of the 2 seeds."
    assert led_in_words(found.iloc[:1]).startswith("There is one seed")
    assert len(led_by_seed(seeds.iloc[:1])) == 0


def test_rows_with_one_label_go_by_their_names():
    seeds = pandas.DataFrame(
        [("lora-lr-1", "LoRA", 60.0), ("lora-lr-2", "LoRA", 62.0), ("base", "Base", 50.0)],
        columns=["row", "method", "mean"],
    ).assign(seed=0)
    found = led_by_seed(seeds)
    assert (found.loc[0, "leads"], found.loc[0, "last"]) == ("lora-lr-2", "Base")


def test_the_larger_source_of_noise_is_named_where_it_is_known():
    errors = pandas.DataFrame(
        {"stderr_items": [0.5, 0.5, 0.5], "stderr_seeds": [0.7, 0.2, numpy.nan]}, list("abc")
    )
    assert noise_in_words(errors) == (
        "Seeds are a larger source of noise than items in 1 of the 2 grids with several seeds: a. "
        "Nothing is known of other seeds in c: one seed a row."
    )
    assert noise_in_words(errors.iloc[2:]) == "Nothing is known of other seeds in c: one seed a row."
    assert noise_in_words(errors.iloc[1:2]).endswith("0 of the 1 grids with several seeds.")


def test_what_has_not_been_trained_yet_is_said(tmp_path):
    assert set(scaled_down([])["here"]) == {"none yet"}
    write_run(tmp_path, "base", 0, 3)
    here = scaled_down(tables.read_results(tmp_path))["here"]
    assert here["test items"] == "80"
    assert set(here.drop("test items")) == {"none yet"}


def test_rows_that_fall_below_a_smaller_one_of_their_method():
    table = pandas.DataFrame(
        {
            "row": ["share-8", "share-32", "ss", "ke"],
            "parameters": [8, 32, 16, 64],
            "lr": [0.012, 0.006, 0.012, 0.012],
        }
    )
    pairs = pandas.DataFrame(
        {
            "a": ["share-8", "share-32", "ke"],
            "b": ["share-32", "ss", "ss"],
            "difference": [4.0, -5.0, -6.0],
            "distinguishable": True,
        }
    )
    kinds = {"share-8": "share", "share-32": "share", "ss": "slice", "ke": "kron"}
    found = falling_rows(table, pairs, kinds)  # the others are pairs of two kinds
    assert found.to_numpy().tolist() == [["share-32", "share-8", -4.0, 0.006, 0.012]]
    assert falling_in_words(found) == [
        "share-32 (rate 0.006) lies below share-8, with a lower rate than share-8, which may be too low "
        "for these steps."
    ]
    same = falling_rows(table.assign(lr=0.012), pairs, kinds)
    assert falling_in_words(same)[0].startswith(
        "share-32 (rate 0.012) lies below share-8, with no lower"
    )
    assert falling_in_words(same.iloc[:0]) == ["None of them lies distinguishably below it."]
    assert len(falling_rows(table, pairs.assign(distinguishable=False), kinds)) == 0
    larger = pairs.assign(difference=-1.0)  # the larger row is the better
    assert len(falling_rows(table, larger, kinds)) == 0
    of_one_kind = falling_rows(table, pairs, dict.fromkeys(kinds, "all"))
    assert of_one_kind["row"].tolist() == ["share-32", "share-32", "ke"]
    without_base = falling_rows(table, pairs, {"ke": "kron"})  # the others were not trained
    assert len(without_base) == 0


def test_nobody_leads_where_there_is_no_other_row():
    assert (
        led_in_words(
            led_by_seed(
                pandas.DataFrame(
                    {"row": ["ss"] * 2, "method": ["SS"] * 2, "seed": [0, 1], "mean": [60.0, 61.0]}
                )
            )
        )
        == "No two rows have a seed in common, so none leads."
    )


def test_rows_whose_loss_rose_are_named_with_their_seeds():
    def run(row: str, seed: int, first: float, last: float) -> dict:
        return {
            "run": {"row": row, "seed": seed, "lr": 0.02},
            "train": {"loss_first": first, "loss_last": last},
        }

    runs = [run("gt", seed, 2.0, last) for seed, last in enumerate((5.0, 0.4, 5.5))]
    runs += [run("ss", 0, 2.0, 1.9), {"run": {"row": "base", "seed": 0}, "train": {}}]
    (said,) = risen_in_words(runs)
    assert said.startswith("gt: the training loss ended higher than it began with seeds 0, 2 of 3")
    assert "its rate 0.02 is too high" in said
    assert risen_in_words(runs[1:2] + runs[3:]) == []


def test_what_tells_of_a_wrong_rate_counts_the_rows_that_can(results):
    """ShareLoRA and GT are of two kinds, so neither has a smaller row to be compared with."""
    run = tables.Finished.of("Rows", GRID, results)
    said = "0 of 2 trained rows have a smaller one of their method and place to be compared with."
    assert rate_doubts(run.results, run.table, run.pairs) == [said]
    as_one = [
        {**x, "run": {**x["run"], "method": "lora", "ranks": [8]}} if x["run"]["ranks"] else x
        for x in results
    ]
    elsewhere = {**as_one[-1], "run": {**as_one[-1]["run"], "row": "of another grid"}}
    assert rate_doubts([*as_one, elsewhere], run.table, run.pairs) == [
        said.replace("0 of 2", "1 of 2"),
        "None of them lies distinguishably below it.",
    ]


def test_the_search_behind_a_rate_is_that_of_the_outcome(tmp_path):
    path = tmp_path / "found.yaml"
    entry = {"rank": 8, "lr": 0.1, "row": "lora-8", "scores": {0.2: 61.0, 0.1: 66.25}, "diverged": [0.4]}
    path.write_text(yaml.safe_dump({"bases": {"data/base": {"lora": [entry]}}}))

    def run(row: str, **values) -> dict:
        shared = {"method": "lora", "ranks": [5], "lr": 0.1, "lr_from": f"tuned on data/base, {path}"}
        return {"run": {"row": row, **shared, **values}}

    results = [run("lora-5"), run("lora-5"), run("other", lr=0.3), run("given", lr_from="given")]
    results += [run("gone", lr_from="tuned on data/base, gone.yaml"), {"run": {"row": "base"}}]
    assert searches(results).to_numpy().tolist() == [
        ["lora-5", "0.1", "lora-8", "0.1: 66.2, 0.2: 61.0, 0.4: diverged"]
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """ShareLoRA answers 6 or 8 of 10 in a task, GT 6 or 7 and one more in one."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, "base", 0, 3)
    for seed, share, gate in ((0, 6, 6), (1, 8, 7)):
        write_run(folder, "share-b-8", seed, share)
        write_run(folder, "gt-2-4-16", seed, dict.fromkeys(TASKS, gate) | {"boolq": gate + 1})
    return tables.read_results(folder)


def test_a_group_answers_as_the_mean_of_its_rows(results):
    asked = [
        Contrast("trained", "base", ("share-b-8", "gt-2-4-16"), ("base",)),
        Contrast("GT", "Share", ("gt-2-4-16",), ("share-b-8",)),
        Contrast("missing", "base", ("lora-8",), ("base",)),
    ]
    found = contrasts(results, GRID, asked)
    gate = numpy.array([60 + 10 / 8, 70 + 10 / 8])
    assert found["a"].tolist() == ["trained", "GT"]
    assert found["difference"].tolist() == pytest.approx([(70 + gate.mean()) / 2 - 30, gate.mean() - 70])
    assert found.loc[1, "stderr_seeds"] == pytest.approx(stats.sem(gate - [60, 80]))
    said = verdicts(found)
    assert re.match(r"GT and Share are not distinguishable: -3\.[78] points, 95 % interval ", said[1])
    assert "difference of over 100 points would have shown" in said[1]  # two seeds are few
    assert said[1].endswith("in 8 of 10 such comparisons at Holm's first step.")
    alone = verdicts(found.iloc[1:])[0]
    assert f"of {found.loc[1, 'smallest']:.1f} points would have shown in 8 of 10 such compar" in alone
    assert alone.endswith("comparisons.")
    assert summary(found.iloc[1:]).startswith("0 of 1 comparisons are distinguishable, Holm over the 1.")


def test_verdicts_of_one_seed_say_so(results):
    one = [result for result in results if result["run"]["seed"] == 0]
    found = contrasts(one, GRID, [Contrast("Share", "base", ("share-b-8",), ("base",))])
    assert found["distinguishable"].all()
    assert verdicts(found)[0].startswith("Share is above base: +30.0 points, 95 % interval")
    assert verdicts(found)[0].endswith(ONE_SEED)
    assert summary(found).startswith("1 of 1 comparisons are distinguishable")
    assert "Share above base (+30.0)" in summary(found)
    assert summary(found).endswith(ONE_SEED)
    assert verdicts(found.iloc[:0])[0].startswith("Nothing to compare")


def test_the_smallest_difference_has_a_power_of_four_fifths():
    frame = pandas.DataFrame({"stderr": [0.5, 0.5], "freedom": [4.0, 200.0]})
    for comparisons in (1, 136):
        for size, freedom in zip(smallest_of(frame, comparisons), frame["freedom"], strict=True):
            critical = stats.t.isf(0.025 / comparisons, freedom)
            assert stats.nct.sf(critical, freedom, size / 0.5) == pytest.approx(0.8, abs=1e-6)


def test_contrasts_are_drawn_with_their_verdicts(results):
    asked = [
        Contrast("Share", "base", ("share-b-8",), ("base",)),
        Contrast("GT", "Share", ("gt-2-4-16",), ("share-b-8",)),
    ]
    found = contrasts(results, GRID, asked).assign(distinguishable=[True, False])
    told, level = contrast_plot(found).data
    assert list(told.x) == pytest.approx([40]) and list(level.x) == pytest.approx([-3.75])
    assert list(level.y) == ["GT<br>less Share"]
    title = "1 of 2 planned comparisons are distinguishable (Holm)"
    assert contrast_plot(found).layout.title.text == title
    single = contrast_plot(found.assign(stderr_seeds=numpy.nan))
    assert single.layout.title.text == f"{title}; one seed"
    with pytest.raises(ValueError, match="there is no contrast to draw"):
        contrast_plot(found.iloc[:0])


def test_a_grid_that_has_not_run_is_named_with_its_command(tmp_path):
    assert read_finished("similar_budget", tmp_path) is None
    with pytest.raises(ValueError, match="holds no finished run of similar_budget, fair.*--seeds 5"):
        read_all(["similar_budget", "fair"], tmp_path)
    command = how_to_run("fair").split("`")[3]
    grid = command.split()[3]
    assert (ROOT / grid).is_file() and command.endswith("--out papermill_runs/reference")


def test_a_grid_that_cannot_be_read_is_left_out_with_a_warning(tmp_path, monkeypatch):
    for name in ("range", "placement"):
        shutil.copytree(REFERENCE / name, tmp_path / name)
    next((tmp_path / "range").glob("*/items.parquet")).unlink()
    with pytest.warns(UserWarning, match="range is left out: .*items.parquet is missing"):
        assert list(read_all(["range", "placement"], tmp_path)) == ["placement"]
    monkeypatch.chdir(tmp_path)  # a relative folder is one of the checkout
    assert len(read_finished("placement", "papermill_runs/reference").table) == 10


def test_methods_look_alike_wherever_they_are_put():
    labels = {
        "MLP, BSLoRA (SS)": "BSLoRA (SS)",
        "BSLoRA (GT), gate 8": "BSLoRA (GT)",
        "ShareLoRA (A)": "ShareLoRA",
        "1-7B, Tied-LoRA (TL5)": "Tied-LoRA (TL5)",
        "LoRA": "LoRA",
        "Untouched base": None,
    }
    assert {label: style_name(label) for label in labels} == labels


def test_a_span_leaves_out_pairs_that_cannot_differ():
    assert tables.span_of(pandas.Series([0.0, 1.91, 2.4])) == "1.9 to 2.4"
    assert tables.span_of(pandas.Series([0.0, 0.0])) == "0.0"
    assert tables.span_of(pandas.Series([2.44, 2.4])) == "2.4"
