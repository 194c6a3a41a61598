"""What notebook 10 shows, against sums and binomial errors worked out here from the printed tables."""

import itertools
import math

import pytest
from running import complaints, executed, figures, first_figures, tables, words

from bslora_kit import published
from bslora_kit.paths import NOTEBOOKS

ITEMS = dict(zip(published.TASKS, (500, 1172, 10042, 2376, 1838, 1267, 3270, 1954), strict=True))
SIZES = {  # parameters of the whole model
    "Llama 1-7B": 6_738_415_616,
    "Llama 3-8B": 8_030_261_248,
    "Llama 1-13B": 13_015_864_320,
}
SIMILAR = published.similar_budget()
LABELS = [f"{row.method} {row.ranks}" for row in SIMILAR.itertuples()]


def error_of(row):
    """Binomial standard error of a mean of eight tasks."""
    return math.sqrt(sum(row[task] * (100 - row[task]) / n for task, n in ITEMS.items())) / 8


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return executed(NOTEBOOKS / "10_published_tables.ipynb", tmp_path_factory.mktemp("published"))


def test_a_picture_within_three_cells_and_nothing_on_stderr(notebook):
    assert first_figures(notebook)
    assert complaints(notebook) == []


def test_the_first_picture_draws_every_row_with_its_noise(notebook):
    drawn = {
        label: (mean, bar)
        for trace in figures(notebook)[0].data
        for label, mean, bar in zip(trace.y, trace.x, trace.error_x.array, strict=True)
    }
    for label, (_, row) in zip(LABELS, SIMILAR.iterrows(), strict=True):
        assert drawn[label] == pytest.approx((row["mean"], 1.96 * error_of(row)))
    median = SIMILAR["mean"].median()
    inside = sum(abs(row["mean"] - median) < 1.96 * error_of(row) for _, row in SIMILAR.iterrows())
    assert figures(notebook)[0].layout.title.text == f"{inside} of 16 intervals hold the median, 69.09 %"


def test_impossible_scores_are_counted_by_trying_every_number_of_right_answers(notebook):
    wrong, count = set(), 0
    for name, frame in published.all_tables().items():
        for task, n in (ITEMS | {"mmlu_0_shot": 14042, "mmlu_5_shot": 14042}).items():
            possible = {f"{100 * k / n:.2f}" for k in range(n + 1)}
            for printed in frame.get(task, frame["method"].iloc[:0]).dropna():
                count += 1
                if f"{printed:.2f}" not in possible:
                    wrong.add((name, task, printed))
    assert f"**{len(wrong)} of {count}** printed scores" in words(notebook)
    table = next(t for t in tables(notebook) if list(t.columns) == ["table", "row", "task", "printed"])
    assert set(zip(table["table"], table["task"], table["printed"], strict=True)) == wrong
    assert len(wrong) == 2


def test_the_audit_shows_every_kind_of_finding(notebook):
    found = [t for t in tables(notebook) if "explanation" in t.columns]
    scores, settings = found
    assert {"72.69", "56.57", "about 79.91", "about 68.99", "about 68.96"} == set(scores["expected"])
    expected = set(settings["expected"])
    assert {"0.18%", "0.10%", "0.00%", "3700224", "7226880", "bold 74.74", "bold 81.99"} <= expected
    assert {"2416", "2832"} <= expected  # ranks 2,4,16 and 2,8,32, read back without their commas
    counts = next(t for t in tables(notebook) if "findings" in t.columns)
    assert counts["findings"].sum() == len(scores) + len(settings)


def test_one_score_stands_apart_in_its_picture(notebook):
    figure = figures(notebook)[1]
    values = sorted(x for trace in figure.data for x in trace.x)
    assert len(values) == 27 and values[-1] == 83.09 and values[-2] < 80.2
    assert figure.layout.title.text == "One HellaSwag score of 27 stands apart: 83.09"


def test_pairs_beyond_the_noise_all_have_the_same_lower_row(notebook):
    rows = [
        (label, row["mean"], error_of(row))
        for label, (_, row) in zip(LABELS, SIMILAR.iterrows(), strict=True)
    ]
    beyond = [
        min((a, b), key=lambda row: row[1])[0]
        for a, b in itertools.combinations(rows, 2)
        if abs(a[1] - b[1]) > 1.96 * math.hypot(a[2], b[2])
    ]
    assert set(beyond) == {"BSLoRA (GT) 0,4,8"}
    assert f"{len(beyond)} of 120 pairs exceed the noise of two runs, 0 after Holm" in words(notebook)
    assert "every pair that does: **BSLoRA (GT) 0,4,8**" in words(notebook)
    summary = next(t for t in tables(notebook) if "beyond_noise" in t.columns)
    assert list(summary["pairs"]) == [1, 1, 1, 36, 120]
    assert list(summary["beyond_noise"]) == [0, 0, 0, 0, len(beyond)]
    placement = published.placement().dropna()["mean"]
    assert summary["largest_difference"].iloc[3] == pytest.approx(placement.max() - placement.min())


def test_differences_to_the_highest_row(notebook):
    best = SIMILAR.loc[SIMILAR["mean"].idxmax()]
    table = next(t for t in tables(notebook) if list(t.columns) == ["difference", "low", "high"])
    for label, (_, row) in zip(LABELS, SIMILAR.iterrows(), strict=True):
        if row["mean"] != best["mean"]:
            half = 1.96 * math.hypot(error_of(row), error_of(best))
            expected = [row["mean"] - best["mean"] + shift for shift in (0, -half, half)]
            assert table.loc[label].tolist() == pytest.approx(expected, abs=0.006)
    told, level = figures(notebook)[2].data
    assert list(told.y) == ["BSLoRA (GT) 0,4,8"] and len(level.y) == 14
    title = figures(notebook)[2].layout.title.text
    assert title.startswith("Beyond the noise of one comparison") and title.endswith("1 of 15 rows")
    assert "After counting all 120 pairs of the table, 0 of these differences are left" in words(
        notebook
    )


def test_what_the_prose_says_of_the_tables(notebook):
    """No row of plain LoRA; three low rows on Llama 3-8B; ratios of three adapters off."""
    frames = published.all_tables()
    assert not any(
        frame["method"].str.lower().isin(["lora", "lora r"]).any() for frame in frames.values()
    )
    runs = [
        SIMILAR,
        published.placement().dropna(),
        published.tied_lora().query("model == 'Llama 3-8B'"),
    ]
    means = [row["mean"] for frame in runs for _, row in frame.iterrows()]
    middle = sorted(means)[len(means) // 2]
    noise = 1.96 * math.sqrt(2) * error_of(SIMILAR.iloc[0])
    assert sorted(mean for mean in means if abs(mean - middle) > noise) == [67.44, 67.48, 67.77]
    wrong = {  # what is printed against count / size of the model
        (row.method, row.parameters)
        for frame in frames.values()
        if "ratio" in frame
        for row in frame.itertuples()
        if row.ratio != f"{100 * row.parameters / SIZES[getattr(row, 'model', 'Llama 3-8B')]:.2f}%"
    }
    assert len(wrong) == 3


def test_what_a_table_of_single_runs_can_show(notebook):
    """Normal approximation: 1.96 + 0.84 standard errors of a difference."""
    best = SIMILAR.loc[SIMILAR["mean"].idxmax()]
    error = error_of(best)
    said = words(notebook)
    assert f"standard error of **{error:.2f}**" in said
    assert f"by up to **{1.96 * math.sqrt(2) * error:.2f}** points by chance" in said
    assert f"has to be **{(1.96 + 0.8416) * math.sqrt(2) * error:.1f} points**" in said
    rest = SIMILAR.loc[SIMILAR["ranks"] != "0,4,8", "mean"]
    assert f"The other 15 rows span {rest.max() - rest.min():.2f} points" in said
