"""The audit: what is wrong in the published tables is found, planted errors are found, nothing else is.

Planted errors go into two kinds of tables that have none: a copy of the published ones with every
misprint mended by hand, and tables that are made up here from counts of right answers.
"""

from __future__ import annotations

import numpy
import pandas
import pytest

from bslora_kit import published
from bslora_kit.published import ITEMS, TASKS
from bslora_kit.published.audit import as_frame, audit

MEANS = {
    "openbookqa": 46,
    "arc_challenge": 57,
    "hellaswag": 80,
    "arc_easy": 83,
    "piqa": 82,
    "winogrande": 74,
    "boolq": 82.5,
    "social_iqa": 48.5,
}
COUNTS = {"4": 4_030_464, "8": 8_060_928, "16": 16_121_856, "32": 32_243_712}  # ShareB on Llama 3-8B
SLICE = {"2,1,2": 4_513_792, "2,4,16": 7_667_712, "4,8,32": 15_335_424, "8,16,32": 29_753_344}


def cells_of(findings, *rules):
    return {(x.table, x.row.split(" (row")[0], x.column, x.rule) for x in findings if x.rule in rules}


@pytest.fixture(scope="module")
def findings():
    return audit()


def test_misprinted_scores_are_found(findings):
    by_cell = {(x.row, x.column, x.rule): x for x in findings}
    swapped = by_cell["Llama 1-13B Tied_lora (tl6) (row 6)", "winogrande", "right answers"]
    assert (swapped.printed, swapped.expected) == ("72.96", "72.69")
    kron = "Share Attention & MLP BSLoRA(KE) (row 12)"
    for rule in ("right answers", "equal runs"):
        found = by_cell[kron, "arc_challenge", rule]
        assert (found.printed, found.expected) == ("56.67", "56.57")
    assert cells_of(findings, "right answers", "equal runs", "row mean", "group mean") == {
        ("tied_lora", "Llama 1-13B Tied_lora (tl6)", "winogrande", "right answers"),
        ("placement", "Share Attention & MLP BSLoRA(KE)", "arc_challenge", "right answers"),
        ("placement", "Share Attention & MLP BSLoRA(KE)", "arc_challenge", "equal runs"),
    }


def test_the_repeated_score_and_the_means_that_inherit_it_are_found(findings):
    found = {
        x.column if "BSLoRA" in x.row else "group": x
        for x in findings
        if x.rule in ("repeated cell", "unusual score", "inherited")
    }
    assert set(found) == {"hellaswag", "mean", "group"}
    assert (found["hellaswag"].rule, found["hellaswag"].printed) == ("repeated cell", "83.09")
    assert "repeats the row's boolq" in found["hellaswag"].explanation
    assert (found["mean"].printed, found["mean"].expected) == ("69.39", "about 68.99")
    assert (found["group"].printed, found["group"].expected) == ("69.09", "about 68.96")
    assert "below Share MLP (69.01)" in found["group"].explanation


def test_wrong_counts_and_ratios_are_found(findings):
    found = {(x.row.split(" (row")[0], x.printed, x.expected) for x in findings if x.rule == "ratio"}
    assert found == {
        ("BSLoRA (KE) 8,16,16", "17.95%", "0.18%"),
        ("ShareLoRA 8", "0.11%", "0.10%"),
        ("Llama 1-13B Tied_lora (tl5)", "0.01%", "0.00%"),
    }
    counts = {x.printed: x for x in findings if x.rule == "parameters"}
    assert {printed: x.expected for printed, x in counts.items()} == {
        "3,832,320": "3,700,224",
        "7,205,376": "7,226,880",
    }
    assert counts["7,205,376"].explanation.endswith("the printed count is that of size 32")
    assert "that of no size" in counts["3,832,320"].explanation


def test_wrong_bold_print_is_found(findings):
    found = {(x.row.split(" (row")[0], x.column, x.expected) for x in findings if x.rule == "bold"}
    assert found == {
        ("ShareLoRA 8", "winogrande", "73.80"),
        ("BSLoRA (SS) 2,4,16", "winogrande", "bold 74.74"),
        ("ShareLoRA 8", "piqa", "bold 81.99"),
    }


def test_rows_without_ranks_are_named_and_traced(findings):
    found = {x.row: x for x in findings if x.rule == "unprinted ranks"}
    assert len(found) == 9 and {x.table for x in found.values()} == {"placement"}
    both = {name: x for name, x in found.items() if name.startswith("Share Attention & MLP")}
    assert [x.expected for x in both.values()] == ["2,4,16", "2,4,16", "2,8,32"]
    assert ["not an equal budget" in x.explanation for x in both.values()] == [False, False, True]


def test_rows_that_training_hardly_moved_are_named(findings):
    far = {(x.row.split(" (row")[0], x.printed): x for x in findings if x.rule == "far from others"}
    assert set(far) == {
        ("Llama 3-8B Tied_lora (tl5)", "67.48"),
        ("Llama 3-8B Tied_lora (tl6)", "67.44"),
        ("BSLoRA (GT) 0,4,8", "67.77"),
    }
    assert "rank 2, not 12" in far["BSLoRA (GT) 0,4,8", "67.77"].explanation
    assert "rank 8;" in far["Llama 3-8B Tied_lora (tl5)", "67.48"].explanation


def test_methods_that_answer_alike_are_named(findings):
    """On two of the three models TL5 and TL6 differ by 0 to 2 right answers a task."""
    level = {x.row.split(" (row")[0]: x for x in findings if x.rule == "level methods"}
    assert set(level) == {
        f"Llama 1-{size} Tied_lora ({variant})" for size in ("7B", "13B") for variant in ("tl5", "tl6")
    }
    why = level["Llama 1-7B Tied_lora (tl5)"].explanation
    assert why.startswith("Llama 1-7B Tied_lora (tl6) (row 2) has the same right answers")
    assert "to within 2, 5 of 22,419 in all" in why and "untrained model" in why


def mended():
    """The published tables with each misprint put right, and ranks beside the placement's rows."""
    tables = published.all_tables()
    similar, tied, place = (tables[x] for x in ("similar_budget", "tied_lora", "placement"))
    tied.loc[5, "winogrande"] = 72.69
    place.loc[11, "arc_challenge"] = 56.57
    place.loc[1, "hellaswag"], place.loc[1, "mean"], place.loc[0, "mean"] = 79.91, 68.99, 68.96
    similar.loc[[11, 4], "ratio"] = ["0.18%", "0.10%"]
    for name in ("tied_lora", "tied_lora_mmlu"):
        tables[name].loc[4, "ratio"] = "0.00%"
    similar.loc[3, "parameters"], similar.loc[7, "parameters"] = 3_700_224, 7_226_880
    similar.loc[4, "bold"] = "piqa"
    similar.loc[5, "bold"] += " winogrande"
    place["ranks"] = ["", "2,4,16", "2,4,16", "2,8,32"] * 3
    return tables


def made_up(seed):
    """Two tables of runs that differ in a few items, printed with two decimals, best in bold."""
    draw = numpy.random.default_rng(seed)
    rows = []
    for rank, ranks in zip(COUNTS, SLICE, strict=True):
        for method, label, count in (
            ("ShareLoRA", rank, COUNTS[rank]),
            ("BSLoRA (SS)", ranks, SLICE[ranks]),
        ):
            right = {
                t: round(MEANS[t] * ITEMS[t] / 100 + draw.normal(0, ITEMS[t] ** 0.5 / 8)) for t in TASKS
            }
            exact = {task: 100 * k / ITEMS[task] for task, k in right.items()}
            printed = {task: round(value, 2) for task, value in exact.items()}
            rows.append(
                {"method": method, "ranks": label, "parameters": count}
                | {"ratio": f"{100 * count / 8_030_261_248:.2f}%", **printed}
                | {"mean": round(float(numpy.mean(list(exact.values()))), 2)}
            )
    frame = pandas.DataFrame(rows)
    again = frame.iloc[:4].drop(columns=["parameters", "ratio"]).assign(placement="Both")
    return {"budgets": in_bold(frame), "again": again}


def in_bold(frame):
    columns = [*TASKS, "mean"]
    best = frame.groupby(frame.index // 2)[columns].transform("max") == frame[columns]
    return frame.assign(bold=[" ".join(best.columns[row]) for row in best.to_numpy()])


FAR = {("tied_lora", 2), ("tied_lora", 3), ("similar_budget", 2)}


def test_a_mended_copy_gives_no_false_alarm():
    """What stays is no misprint: rows far from the other runs, and methods that answer alike."""
    found = {(x.rule, x.table, int(x.row.split("row ")[1][:-1]) - 1) for x in audit(mended())}
    assert found == {
        *(("far from others", *row) for row in FAR),
        *(("level methods", "tied_lora", row) for row in (0, 1, 4, 5)),
    }


@pytest.mark.parametrize("seed", range(8))
def test_made_up_tables_without_errors_give_no_alarm(seed):
    assert audit(made_up(seed)) == []


def shift_mean(frame, row, column, value):
    """Puts a score in and computes the row's mean with it."""
    frame.loc[row, column] = value
    frame.loc[row, "mean"] = round(frame.loc[row, list(TASKS)].astype(float).mean(), 2)


def not_attainable(frame, row, task):
    """A score 0.01 to 0.03 away that no number of right answers gives."""
    near = round(frame.loc[row, task] + 0.02, 2)
    tried = [round(near + step / 100, 2) for step in range(-1, 5)]
    possible = {round(100 * k / ITEMS[task], 2) for k in range(ITEMS[task] + 1)}
    return next(value for value in tried if value not in possible)


@pytest.mark.parametrize("kind", ["mended", "made up"])
@pytest.mark.parametrize("row", [1, 5, 6])
@pytest.mark.parametrize("task", ["openbookqa", "arc_challenge", "arc_easy", "piqa", "winogrande"])
def test_scores_that_no_count_gives_are_found(kind, row, task):
    tables, name = (mended(), "similar_budget") if kind == "mended" else (made_up(1), "budgets")
    frame = tables[name]
    frame.loc[row, task] = not_attainable(frame, row, task)
    found = [x for x in audit(tables) if x.rule == "right answers"]
    assert [(x.table, x.column, x.printed) for x in found] == [
        (name, task, f"{frame.loc[row, task]:.2f}")
    ]
    assert f"(row {row + 1})" in found[0].row


@pytest.mark.parametrize("error", [0.02, -0.04, 0.9])
@pytest.mark.parametrize("row", [0, 9, 13])
def test_wrong_means_are_found(row, error):
    tables = mended()
    tables["similar_budget"].loc[row, "mean"] += error
    found = [x for x in audit(tables) if x.rule == "row mean"]
    assert [(x.table, x.row.endswith(f"(row {row + 1})")) for x in found] == [("similar_budget", True)]
    assert float(found[0].expected) == pytest.approx(tables["similar_budget"].loc[row, "mean"] - error)


def test_a_mean_is_checked_against_unrounded_scores():
    """These counts have the mean 69.1455, printed 69.15; the mean of their printed scores is 69.145."""
    right = {"openbookqa": 233, "arc_challenge": 666, "hellaswag": 8046, "arc_easy": 1983}
    right |= {"piqa": 1512, "winogrande": 920, "boolq": 2698, "social_iqa": 953}
    row = {task: round(100 * count / ITEMS[task], 2) for task, count in right.items()}
    assert numpy.mean([100 * count / ITEMS[task] for task, count in right.items()]) > 69.1455
    assert numpy.mean(list(row.values())) < 69.1451
    frame = pandas.DataFrame([{"method": "any", "ranks": "1", **row}])
    columns = [
        [x.column for x in audit({"t": frame.assign(mean=mean)})] for mean in (69.15, 69.14, 69.16)
    ]
    assert columns == [[], ["mean"], ["mean"]]


@pytest.mark.parametrize("error", [0.02, -0.02])
def test_wrong_group_means_are_found(error):
    tables = mended()
    tables["placement"].loc[4, "mean"] += error
    assert cells_of(audit(tables), "group mean") == {
        ("placement", "Share MLP (group mean)", "mean", "group mean")
    }


@pytest.mark.parametrize(
    ("row", "task", "source"), [(6, "hellaswag", "piqa"), (2, "winogrande", "boolq")]
)
def test_repeated_cells_are_found_with_what_they_spoil(row, task, source):
    tables = mended()
    frame = tables["placement"]
    shift_mean(frame, row, task, frame.loc[row, source])
    group = row - row % 4
    frame.loc[group, "mean"] = round(frame.loc[group + 1 : group + 3, "mean"].mean(), 2)
    found = [x for x in audit(tables) if x.table == "placement" and x.rule != "right answers"]
    at = {(int(x.row.split("row ")[1][:-1]) - 1, x.column, x.rule) for x in found}
    assert at >= {
        (row, task, "repeated cell"),
        (row, "mean", "inherited"),
        (group, "mean", "inherited"),
    }
    true = mended()["placement"].loc[row, "mean"]
    inherited = next(x for x in found if x.rule == "inherited" and "BSLoRA" in x.row)
    assert float(inherited.expected.split()[1]) == pytest.approx(true, abs=0.1)


@pytest.mark.parametrize(("name", "row"), [("similar_budget", 10), ("placement", 3)])
def test_unusual_scores_are_found(name, row):
    tables = mended()
    shift_mean(tables[name], row, "hellaswag", 97.69)
    assert (name, "hellaswag") in {
        (x.table, x.column) for x in audit(tables) if x.rule == "unusual score"
    }


@pytest.mark.parametrize(("kind", "row"), [("mended", 9), ("mended", 10), ("made up", 2)])
def test_a_run_that_is_printed_twice_must_agree(kind, row):
    tables, name = (mended(), "placement") if kind == "mended" else (made_up(3), "again")
    frame = tables[name]
    before = frame.loc[row, "boolq"]
    frame.loc[row, "boolq"] = round(100 * (round(before * 32.70) + 40) / 3270, 2)
    found = [x for x in audit(tables) if x.rule == "equal runs"]
    assert [(x.table, x.column) for x in found] == [(name, "boolq")]
    assert float(found[0].expected) == before


def test_a_row_copied_to_other_ranks_is_found():
    tables = made_up(2)
    frame = tables["budgets"]
    scores = [*TASKS, "mean"]
    frame.loc[6, scores] = frame.loc[4, scores].to_list()
    found = [x for x in audit(tables) if x.rule == "equal runs" and x.table == "budgets"]
    assert {(x.column, x.printed) for x in found} == {("ranks", "16"), ("ranks", "32")}


@pytest.mark.parametrize(("kind", "row"), [("mended", 0), ("mended", 11), ("made up", 3)])
def test_wrong_counts_are_found(kind, row):
    tables, name = (mended(), "similar_budget") if kind == "mended" else (made_up(0), "budgets")
    true = int(tables[name].loc[row, "parameters"])
    tables[name].loc[row, "parameters"] = true + 900
    found = [x for x in audit(tables) if x.rule == "parameters"]
    assert [(x.table, x.printed, x.expected) for x in found] == [(name, f"{true + 900:,}", f"{true:,}")]


@pytest.mark.parametrize(("printed", "row"), [("5.02%", 0), ("0.12%", 6), ("0.38%", 13)])
def test_wrong_ratios_are_found(printed, row):
    tables = mended()
    true = tables["similar_budget"].loc[row, "ratio"]
    tables["similar_budget"].loc[row, "ratio"] = printed
    found = [x for x in audit(tables) if x.rule == "ratio"]
    assert [(x.printed, x.expected) for x in found] == [(printed, true)]


@pytest.mark.parametrize("kind", ["mended", "made up"])
def test_wrong_and_missing_bold_print_is_found(kind):
    tables, name = (mended(), "similar_budget") if kind == "mended" else (made_up(4), "budgets")
    frame = tables[name]
    bold = next(row for row in frame.index if "mean" in frame.loc[row, "bold"].split())
    plain = bold + 1 if bold % 2 == 0 else bold - 1
    frame.loc[bold, "bold"] = frame.loc[bold, "bold"].replace("mean", "")
    frame.loc[plain, "bold"] += " mean"
    found = {(x.row.split("row ")[1][:-1], x.column) for x in audit(tables) if x.rule == "bold"}
    assert found == {(str(bold + 1), "mean"), (str(plain + 1), "mean")}


def test_a_tie_needs_both_in_bold():
    tables = mended()
    frame = tables["similar_budget"]
    frame.loc[8, "bold"] = frame.loc[8, "bold"] + " openbookqa"  # 45.60 is not the best
    frame.loc[9, "bold"] = frame.loc[9, "bold"].replace("openbookqa ", "")  # 46.20 ties
    found = {(x.row.split("row ")[1][:-1], x.expected) for x in audit(tables) if x.rule == "bold"}
    assert found == {("9", "45.60"), ("10", "bold 46.20")}


def test_a_row_far_from_the_others_is_found():
    tables = made_up(5)
    frame = tables["budgets"]
    for task in TASKS:
        right = round((frame.loc[7, task] - 2) * ITEMS[task] / 100)
        frame.loc[7, task] = round(100 * right / ITEMS[task], 2)
    shift_mean(frame, 7, "piqa", frame.loc[7, "piqa"])
    found = [x for x in audit(tables) if x.rule == "far from others"]
    assert [x.row for x in found] == ["BSLoRA (SS) 8,16,32 (row 8)"]


@pytest.mark.parametrize("seed", range(4))
def test_a_row_with_the_answers_of_another_method_is_found(seed):
    """One answer more or less on each task, as two hardly trained adapters have."""
    tables = made_up(seed)
    frame = tables["budgets"]
    draw = numpy.random.default_rng(seed)
    for task in TASKS:
        right = round(frame.loc[4, task] * ITEMS[task] / 100) + draw.integers(-1, 2)
        frame.loc[5, task] = round(100 * right / ITEMS[task], 2)
    shift_mean(frame, 5, "piqa", frame.loc[5, "piqa"])
    found = [x for x in audit(tables) if x.rule == "level methods" and x.table == "budgets"]
    assert {x.row.split("row ")[1] for x in found} == {"5)", "6)"}


def test_a_row_with_three_more_right_answers_on_one_task_is_not_level():
    tables = made_up(6)
    frame = tables["budgets"]
    frame.loc[5, [*TASKS, "mean"]] = frame.loc[4, [*TASKS, "mean"]].to_list()
    assert len([x for x in audit(tables) if x.rule == "level methods" and x.table == "budgets"]) == 2
    right = round(frame.loc[5, "boolq"] * ITEMS["boolq"] / 100) + 3
    shift_mean(frame, 5, "boolq", round(100 * right / ITEMS["boolq"], 2))
    assert not [x for x in audit(tables) if x.rule == "level methods" and x.table == "budgets"]


def test_findings_as_a_table(findings):
    frame = as_frame(findings)
    columns = "table row column printed expected rule explanation"
    assert list(frame) == columns.split() and len(frame) == len(findings)


def test_a_table_without_scores_is_refused():
    with pytest.raises(ValueError, match="table 'mine' has the columns .*expected method, at least one"):
        audit({"mine": pandas.DataFrame({"method": ["LoRA"], "accuracy": [1.0]})})
