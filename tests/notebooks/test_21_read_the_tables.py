"""What notebook 21 says of made-up runs, against pandas and scipy on the items themselves.

Two of its grids have three seeds, MMLU has one, and the others are missing, in the kit's own format.
Half the items of each task are easy, and the rows differ by how many of the hard ones they have right.
"""

import itertools
import json
import re

import numpy
import pandas
import pytest
from running import complaints, executed, figures, first_figures, tables, with_column, words
from scipy import stats
from statsmodels.api import OLS

from bslora_kit.evaluation.scores import Evaluation
from bslora_kit.grid.file import read_grid
from bslora_kit.paths import NOTEBOOKS, RUNS
from bslora_kit.published import TASKS

ITEMS = 40  # of each task, two a fact
SEEDS = (0, 1, 2)
RIGHT = {  # grid -> row -> share of hard items that are right
    "similar_budget": {"base": 0.1, "share-b-4": 0.3, "ss-2-1-2": 0.32, "gt-0-4-8": 0.75},
    "placement": {
        "base": 0.1,
        "attention-ss-2-4-16": 0.3,
        "attention-gt-2-4-16": 0.4,
        "mlp-ss-2-4-16": 0.7,
        "mlp-gt-2-4-16": 0.8,
        "both-ss-2-4-16": 0.72,
        "both-gt-2-4-16": 0.78,
    },
    "tied_lora_mmlu": {"3-8b-base": 0.1, "3-8b-tl5-8": 0.3, "3-8b-tl6-8": 0.8},
}
MMLU = ("tied_lora_mmlu",)  # grids of one seed, scored on MMLU
COUNTS = {"base": 0, "share-b-4": 20_000, "ss-2-1-2": 22_000, "gt-0-4-8": 24_000}


def run_of(row, grid, seed, items):
    """A result.json as the job writes it, as far as tables read it."""
    base = row["method"] == "none"
    run = {"grid": grid, "row": row["row"], "method": row["method"], "fit": row.get("fit"), "seed": seed}
    run |= {"profile": "demo", "base_model": "data/base", "steps": 240, "lr": 0.01, "dropout": 0.0}
    run |= {"batch_size": 32, "max_length": 256, "gate_size": 32, "kron_size": 8}
    run |= {"ranks": row.get("ranks"), "lr_from": None if base else "tuned on data/base, rates.yaml"}
    count = COUNTS.get(row["row"], 30_000 if row["row"].startswith("both") else 15_000)
    scores = Evaluation(items, shots=0, split="test", limit=None, seed=0, batch_size=64)
    budget = {"trainable": count, "total": count, "ratio": 0.0 if base else count / 1_700_000}
    return {"run": run, "budget": budget, "train": {}, "eval": scores.to_dict(), "machine": {}}


def answers(share, draw, tasks=TASKS):
    """Items of the eight mini tasks; the first half of each is right, of the rest a share."""
    rows = [
        {
            "task": f"mini_{task}",
            "subject": "law" if task == "mmlu" else None,
            "doc_id": number,
            "doc_hash": f"{task}-{number}",
            "kind": "new",
            "fact": f"{task}-{number // 2}",
            "correct": float(number < ITEMS // 2 or draw.random() < share),
        }
        for task in tasks
        for number in range(ITEMS)
    ]
    return pandas.DataFrame(rows)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    draw = numpy.random.default_rng(0)
    for name, shares in RIGHT.items():
        rows = {row["row"]: row for row in read_grid(RUNS / "grids" / f"{name}.yaml").rows}
        for row, share in shares.items():
            for seed in SEEDS[: 1 if row.endswith("base") or name in MMLU else None]:
                place = folder / name / f"{row}-s{seed}"
                place.mkdir(parents=True)
                items = answers(share, draw, ["mmlu"] if name in MMLU else TASKS)
                items.to_parquet(place / "items.parquet")
                result = run_of(rows[row], name, seed, items)
                (place / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="module")
def notebook(reference, tmp_path_factory):
    place = tmp_path_factory.mktemp("read_the_tables")
    return executed(NOTEBOOKS / "21_read_the_tables.ipynb", place, {"reference": str(reference)})


def items_of(reference, grid, row, seed):
    name = "base-s0" if row == "base" else f"{row}-s{seed}"
    return pandas.read_parquet(reference / grid / name / "items.parquet")


def mean_of(reference, grid, row, seed):
    """Plain mean of the eight tasks, in percent."""
    items = items_of(reference, grid, row, seed)
    return 100 * items.groupby("task")["correct"].mean().mean()


def over_seeds(reference, grid, row):
    return numpy.mean([mean_of(reference, grid, row, seed) for seed in SEEDS])


def test_a_picture_comes_first_and_nothing_is_on_stderr(notebook):
    assert first_figures(
        type(notebook)(cells=[x for x in notebook.cells if "injected" not in str(x.metadata)])
    )
    assert complaints(notebook) == []


def test_the_first_picture_draws_every_row_with_its_mean(notebook, reference):
    drawn = {
        x: y
        for trace in figures(notebook)[0].data
        if trace.mode == "markers"
        for x, y in zip(trace.x, trace.y, strict=True)
    }
    assert len(drawn) == 3
    for row in ("share-b-4", "ss-2-1-2", "gt-0-4-8"):
        assert drawn[COUNTS[row]] == pytest.approx(over_seeds(reference, "similar_budget", row))


def test_grids_without_runs_are_named_with_their_command(notebook, reference):
    said = words(notebook)
    for name in ("fair", "tied_lora", "tied_lora_mmlu_5_shot", "range"):
        assert f"papermill_runs/grids/{name}.yaml --seeds 5 --out {reference}" in said
    assert "**Does sharing beat LoRA at equal budget?** Not answered here" in said
    assert "not been run: fair, tied_lora, tied_lora_mmlu_5_shot." in said
    assert "Nothing is known of other seeds in tied_lora_mmlu: one seed a row." in said


def test_the_leader_of_each_seed(notebook, reference):
    table = with_column(notebook, "leads")
    for seed in SEEDS:
        rows = list(RIGHT["similar_budget"])[1:]
        means = {row: mean_of(reference, "similar_budget", row, seed) for row in rows}
        best, second = sorted(means.values(), reverse=True)[:2]
        assert table.loc[seed, "leads"].startswith("BSLoRA (GT)") == (means["gt-0-4-8"] == best)
        assert table.loc[seed, "ahead_by"] == pytest.approx(best - second, abs=0.006)


def test_equal_budget_pairs_and_what_is_said_of_them(notebook, reference):
    """GT has 1.2 times the parameters of ShareLoRA 4 and many more right; SS is level with it."""
    table = next(x for x in tables(notebook) if {"smallest", "p_holm"} <= set(x.columns))
    expected = [
        over_seeds(reference, "similar_budget", row)
        - over_seeds(reference, "similar_budget", "share-b-4")
        for row in ("ss-2-1-2", "gt-0-4-8")
    ]
    assert list(table["difference"]) == pytest.approx(expected, abs=6e-4)
    said = words(notebook)
    assert re.search(r"BSLoRA \(SS\) 2,1,2 \(22,000\) and ShareLoRA 4 \(20,000\) are not disting", said)
    rows = list(RIGHT["similar_budget"])[1:]
    means = numpy.array(
        [[mean_of(reference, "similar_budget", row, seed) for seed in SEEDS] for row in rows]
    )
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    pooled = 2 * (rest**2).sum() / 4  # of a difference, (3 rows - 1) (3 seeds - 1) degrees of freedom
    gaps = means[2] - means[0]
    half = stats.t.ppf(0.975, 4) * numpy.sqrt(max(pooled, gaps.var(ddof=1)) / len(SEEDS))
    row = table.iloc[1]
    assert row["low"] <= gaps.mean() - half + 1e-3 and row["high"] >= gaps.mean() + half - 1e-3
    assert (row["p_holm"] < 0.05) == ("BSLoRA (GT) 0,4,8 (24,000) is above ShareLoRA 4 (20,000)" in said)


def test_places_are_means_over_the_fits_that_ran_in_all(notebook, reference):
    over_base, found = [x for x in tables(notebook) if {"smallest", "p_holm"} <= set(x.columns)][1:3]
    means = {
        place: numpy.mean(
            [over_seeds(reference, "placement", f"{place}-{fit}-2-4-16") for fit in ("ss", "gt")]
        )
        for place in ("attention", "mlp", "both")
    }
    pairs = [("mlp", "attention"), ("both", "attention"), ("both", "mlp")]
    expected = [means[one] - means[other] for one, other in pairs]
    assert list(found["difference"]) == pytest.approx(expected, abs=6e-4)
    gains = [mean - mean_of(reference, "placement", "base", 0) for mean in means.values()]
    assert list(over_base["difference"]) == pytest.approx(gains, abs=6e-4)
    both, other = "Both (30,000 on average)", "MLP (15,000 on average)"
    assert f"{both} and {other} are not distinguishable" in words(notebook)
    assert f"{other} is above Attention (15,000 on average)" in words(notebook)
    assert f"{other} is above the untouched base" in words(notebook)
    by_fit = with_column(notebook, "MLP")
    for place, count in (("Attention", "15,000"), ("MLP", "15,000"), ("Both", "30,000")):
        for fit in ("ss", "gt"):
            mean = over_seeds(reference, "placement", f"{place.lower()}-{fit}-2-4-16")
            assert by_fit.loc[f"BSLoRA ({fit.upper()})", place] == f"{mean:.1f} ({count})"


def test_the_smallest_difference_is_that_of_the_noncentral_t(notebook, reference):
    """With a true difference of that size, 8 of 10 two-sided t tests at 5 % find it."""
    table = [x for x in tables(notebook) if {"smallest", "p_holm"} <= set(x.columns)][2]
    row = table.iloc[2]
    half = (row["high"] - row["low"]) / 2
    seeds, items = len(SEEDS) - 1, len(TASKS) * (ITEMS // 2 - 1)
    ratios = []
    for freedom in (seeds, items):
        critical = stats.t.ppf(0.975, freedom)
        shift = row["smallest"] / (half / critical)
        ratios.append(1 - stats.nct.cdf(critical, freedom, shift))
    assert min(ratios) - 0.05 < 0.8 < max(ratios) + 0.05
    overview = with_column(notebook, "asked alone")
    assert (overview["asked alone"] < overview["among all pairs"]).all()
    assert overview["seeds"].to_dict() == {"similar_budget": 3, "placement": 3, "tied_lora_mmlu": 1}
    alone = overview.loc["tied_lora_mmlu", "asked alone"]
    assert re.search(
        rf"two trained models \(one seed\) shows from \*\*{alone:.1f} points\*\* on", words(notebook)
    )
    rows = {name: len(shares) for name, shares in RIGHT.items()}
    assert overview["pairs"].to_dict() == {
        name: len(list(itertools.combinations(range(count), 2))) for name, count in rows.items()
    }


def test_a_verdict_of_one_seed_says_so(notebook):
    """TL6 has five of ten more of the hard half right; that holds for two trained models."""
    said = words(notebook)
    assert "**TL6 or TL5 on MMLU?**" in said
    verdict = said.split("**TL6 or TL5 on MMLU?**")[1].split("\n- ")[1]
    assert verdict.startswith("3-8B, Tied-LoRA (TL6) 8 is above 3-8B, Tied-LoRA (TL5) 8: +")
    assert verdict.split("\n")[0].endswith("and says nothing of other seeds.")


def test_mcnemar_counts_the_answers_that_one_row_alone_has_right(notebook, reference):
    """By hand for the first grid's clearest pair, which the base is in: it has one run for all seeds."""
    table = with_column(notebook, "McNemar, these trained models")
    right = {
        row: numpy.stack([items_of(reference, "similar_budget", row, seed)["correct"] for seed in SEEDS])
        for row in RIGHT["similar_budget"]
    }
    counts = {
        ((right[one] > right[other]).sum(), (right[other] > right[one]).sum())
        for one, other in itertools.combinations(right, 2)
    }
    shown = {
        (only, less)
        for only, less in zip(
            *(pandas.to_numeric(table.iloc[1:, column]) for column in (-4, -3)), strict=True
        )
    }
    assert shown <= counts
    four = with_column(notebook, "interval: distinguishable")
    assert four.to_numpy().sum() == 6


def test_the_origin_of_the_learning_rates_is_that_of_the_results(notebook):
    rows = ", ".join(list(RIGHT["similar_budget"])[1:])
    assert f"Learning rate of {rows}: tuned on data/base, rates.yaml; 0.01." in words(notebook)


def test_a_score_of_one_task_has_the_errors_of_its_items_and_seeds(notebook, reference):
    """GT has by far the most right, so it is the row that is shown."""
    table = with_column(notebook, "items")
    runs = [items_of(reference, "similar_budget", "gt-0-4-8", seed) for seed in SEEDS]
    for task in TASKS:
        row = table.loc[f"mini_{task}"]
        right = [items.loc[items["task"] == f"mini_{task}", "correct"] for items in runs]
        assert row["mean"] == pytest.approx(100 * numpy.mean(right), abs=0.006)
        facts = runs[0].loc[runs[0]["task"] == f"mini_{task}", "fact"]
        means = numpy.mean(right, axis=0)
        robust = {"cov_type": "cluster", "cov_kwds": {"groups": pandas.factorize(facts)[0]}}
        of_items = OLS(means, numpy.ones(len(means))).fit(**robust).bse[0]
        assert row["stderr_items"] == pytest.approx(100 * of_items, abs=0.006)
        of_seeds = stats.sem([one.mean() for one in right])
        assert row["stderr_seeds"] == pytest.approx(100 * of_seeds, abs=0.006)
        assert (row["seeds"], row["items"]) == (len(SEEDS), ITEMS)
    assert table.loc["all eight", "items"] == len(TASKS) * ITEMS


def test_the_scale_of_the_runs_stands_beside_the_papers(notebook):
    table = with_column(notebook, "published")
    assert table.loc["gate size"].tolist() == ["32", "1024"]
    assert table.loc["Kronecker size"].tolist() == ["not used", "256"]
    numbers = table.drop(index=["learning rate", "gate size", "Kronecker size"]).astype(float)
    assert numbers.loc["parameters of the base model"].tolist() == [1_700_000, 8_030_261_248]
    assert numbers.loc["training steps"].tolist() == [240, 800]
    assert numbers.loc["seeds"].tolist() == [3, 1]
    assert numbers.loc["test items"].tolist() == [len(TASKS) * ITEMS, 22_419]


def test_the_browser_has_a_static_table(notebook):
    shown = [
        output.data.get("text/html", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert any("Pareto front" in html and "BSLoRA (GT)" in html for html in shown)
