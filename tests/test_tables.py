"""Result files -> tables. Runs are made up item by item, so that every number can be worked out again.

Ten items a task: errors are large and easy to check by hand, and nothing depends on their number.
"""

import json
import math
import re
import shutil
import subprocess
import sys

import pandas
import pytest
import scipy.stats

from bslora_kit import paths, published, tables
from bslora_kit.evaluation.scores import Evaluation
from bslora_kit.published import TASKS
from bslora_kit.published.scores import published_score

ITEMS = 10
GRID = {
    "rows": [
        {"row": "base", "label": "Base", "method": "none"},
        {
            "row": "share-b-8",
            "label": "ShareLoRA",
            "method": "share_lora",
            "ranks": [8],
            "published_parameters": 8_060_928,
            "published_ratio": "0.11%",
        },
        {
            "row": "gt-2-4-16",
            "label": "BSLoRA (GT)",
            "method": "bslora",
            "fit": "gate",
            "ranks": [2, 4, 16],
            "published_parameters": 8_028_160,
            "published_ratio": "0.10%",
        },
    ]
}


def items_with(right):
    """Items of the eight mini tasks; the first `right[task]` of each are correct; two items a fact."""
    rows = [
        {
            "task": f"mini_{task}",
            "subject": None,
            "doc_id": number,
            "doc_hash": f"{task}-{number}",
            "kind": "new" if number % 2 else "old",
            "fact": f"{task}-{number // 2}",
            "correct": float(number < right[task]),
        }
        for task in TASKS
        for number in range(ITEMS)
    ]
    return pandas.DataFrame(rows)


def write_run(folder, row, seed, right, **changes):
    """A finished run: result.json as the job writes it, items.parquet beside it."""
    right = right if isinstance(right, dict) else dict.fromkeys(TASKS, right)
    items = items_with(right)
    named = next(entry for entry in GRID["rows"] if entry["row"] == row)
    trainable = {"none": 0, "share_lora": 9_000, "bslora": 8_500}[named["method"]]
    run = {
        "grid": "made_up",
        "row": row,
        "method": named["method"],
        "ranks": named.get("ranks", []),
        "fit": named.get("fit"),
        "gate_size": 32 if named.get("fit") == "gate" else None,
        "seed": seed,
        "profile": "demo",
        "base_model": "/somewhere/data/base",
        "steps": 300,
        "lr": 0.005 if named["method"] != "none" else None,
        "lr_from": "profile",
    } | changes
    evaluation = Evaluation(items, shots=0, split="test", limit=None, seed=0, batch_size=64)
    place = folder / f"{row}-s{seed}"
    place.mkdir(parents=True)
    items.to_parquet(place / "items.parquet")
    budget = {"trainable": trainable, "total": trainable, "ratio": trainable / 1_000_000}
    result = {"run": run, "budget": budget, "train": {}, "eval": evaluation.to_dict(), "machine": {}}
    (place / "result.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, "base", 0, 3)
    write_run(tmp_path, "share-b-8", 0, 6)
    write_run(tmp_path, "share-b-8", 1, 8)
    write_run(tmp_path, "gt-2-4-16", 0, dict.fromkeys(TASKS, 5) | {"openbookqa": 9})
    (tmp_path / "gt-2-4-16-s1").mkdir()  # still running: no result.json
    return tmp_path


def test_a_table_holds_the_rows_in_the_grids_order(folder):
    frame = tables.table(tables.read_results(folder), GRID)
    assert list(frame["row"]) == ["base", "share-b-8", "gt-2-4-16"]
    assert list(frame["ranks"]) == ["", "8", "2,4,16"]
    assert list(frame["parameters"]) == [0, 9_000, 8_500]
    assert frame["ratio"].tolist() == pytest.approx([0, 0.9, 0.85])
    assert frame["published_parameters"].tolist()[1:] == [8_060_928, 8_028_160]
    assert frame["published_ratio"].tolist()[1:] == ["0.11%", "0.10%"]
    assert list(frame["seeds"]) == [1, 2, 1]
    assert frame["share_size"].isna().tolist() == [True, True, False]
    assert frame["share_size"][2] == 32
    assert math.isnan(frame["lr"][0]) and list(frame["lr"][1:]) == [0.005, 0.005]
    scores = frame[[f"mini_{task}" for task in TASKS]]
    assert scores.iloc[1].tolist() == pytest.approx([70] * 8)
    assert scores.iloc[2].tolist() == pytest.approx([90] + [50] * 7)
    assert frame["mean"].tolist() == pytest.approx([30, 70, 55])


def test_errors_of_the_mean_come_from_items_and_seeds(folder):
    """A task with k of 10 right has variance k (10 - k) / 10 / 9 an item; eight tasks are averaged."""
    frame = tables.table(tables.read_results(folder), GRID).set_index("row")

    def of_items(*right):
        return 100 * math.sqrt(sum(k * (10 - k) / 90 / 10 for k in right)) / 8

    assert frame.loc["gt-2-4-16", "stderr_items"] == pytest.approx(of_items(9, *[5] * 7))
    assert math.isnan(frame.loc["gt-2-4-16", "stderr_seeds"])
    assert frame.loc["gt-2-4-16", "stderr"] == frame.loc["gt-2-4-16", "stderr_items"]
    one_run = (of_items(*[6] * 8) + of_items(*[8] * 8)) / 2
    assert frame.loc["share-b-8", "stderr_items"] == pytest.approx(one_run)
    assert frame.loc["share-b-8", "stderr_seeds"] == pytest.approx(10)  # 60 and 80: sd 14.14 / root 2
    assert frame.loc["share-b-8", "stderr"] == pytest.approx(math.hypot(one_run, 10))


def test_gains_are_paired_with_the_untrained_base(folder):
    gains = tables.differences(tables.read_results(folder), GRID).set_index("row")
    assert gains["difference"].tolist() == pytest.approx([40, 25])
    assert gains["seeds"].tolist() == [2, 1]
    assert (gains["low"] < gains["difference"]).all() and (gains["high"] > gains["difference"]).all()
    assert gains.loc["gt-2-4-16", "low"] > 0


def test_gains_over_a_trained_row_take_common_seeds_only(folder):
    gains = tables.differences(tables.read_results(folder), GRID, against="share-b-8").set_index("row")
    assert gains.loc["gt-2-4-16", "seeds"] == 1
    assert gains.loc["gt-2-4-16", "difference"] == pytest.approx(55 - 60)
    with pytest.raises(ValueError, match="row 'lora-8' has no result to compare with; there are"):
        tables.differences(tables.read_results(folder), GRID, against="lora-8")


def test_a_partial_table_names_what_is_missing(tmp_path):
    write_run(tmp_path, "share-b-8", 0, 6)
    results = tables.read_results(tmp_path)
    frame = tables.table(results, GRID)
    assert list(frame["seeds"]) == [0, 1, 0]
    assert frame["mean"].isna().tolist() == [True, False, True]
    lines = tables.about(results, frame)
    assert "Missing: 2 of 3 rows: base, gt-2-4-16." in lines
    assert "ShareLoRA" in tables.to_text(frame, lines)
    assert tables.base_score(frame) is None


def test_an_empty_folder_gives_a_table_of_missing_rows(tmp_path):
    frame = tables.table(tables.read_results(tmp_path), GRID)
    assert list(frame["published_parameters"].dropna()) == [8_060_928, 8_028_160]
    assert tables.about([], frame)[-1] == "Missing: 3 of 3 rows: base, share-b-8, gt-2-4-16."
    assert "8,060,928" in tables.to_text(frame)


def test_about_says_what_the_numbers_are(folder):
    results = tables.read_results(folder)
    lines = tables.about(results, tables.table(results, GRID))
    assert lines[0] == "Profile demo, base model base, seeds 0, 1, 300 steps a run."
    assert lines[1].startswith("Scores in percent on 80 items of the test split, 0-shot;")
    assert "mini_openbookqa (obqa), mini_arc_challenge (arc_c)" in lines[2]
    assert "Share sizes: gate 32 (published 1024)." in lines
    assert any("they are not the paper's" in line for line in lines)
    assert "Fewer seeds than the others: gt-2-4-16." in lines
    assert "/somewhere" not in "".join(lines)


def test_tables_are_read_without_torch():
    code = "import sys, bslora_kit.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT).returncode == 0


def test_about_says_which_seeds_ran_on_which_machine(folder):
    results = tables.read_results(folder)
    frame = tables.table(results, GRID)
    assert not any(line.startswith("Ran on") for line in tables.about(results, frame))  # not known
    for result in results:
        first = result["run"]["seed"] == 0
        result["machine"] = {"cpu": "Slow", "gpu": None} if first else {"cpu": "Slow", "gpu": "Fast"}
    said = next(line for line in tables.about(results, frame) if line.startswith("Ran on"))
    assert said.startswith("Ran on: Slow (seed 0); Fast (seed 1). A row run again gives equal numbers")


def test_about_says_how_much_seeds_move_a_score(folder):
    """ShareLoRA scores 60 and 80: a standard deviation of 14.14 points; GT 55 and 56.25 then 0.88."""
    results = tables.read_results(folder)
    lines = tables.about(results, tables.table(results, GRID))
    assert "Seeds move the score of a run by 14.14 points (standard deviation, one row)." in lines
    write_run(folder, "gt-2-4-16", 2, dict.fromkeys(TASKS, 5) | {"openbookqa": 10})
    results = tables.read_results(folder)
    said = " ".join(tables.about(results, tables.table(results, GRID)))
    together = math.sqrt((200 + 1.25**2 / 2) / 2)
    words = "standard deviation, 2 rows together; least gt-2-4-16 0.88, most"
    assert f"by {together:.2f} points ({words}" in said
    p_value = scipy.stats.bartlett([60, 80], [55, 56.25]).pvalue
    assert f"rows vary unequally over seeds (Bartlett's test, p = {p_value:.2g})" in said


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ((5, 6, 5, 7), "do not vary alike over seeds (Bartlett's test, p = 0.01"),
        ((5, 9, 1, 8), "gt-2-4-16 varies far more over seeds than the others (35.9 points; Cochran's"),
    ],
)
def test_about_names_the_row_that_seeds_move_most(folder, right, words):
    for seed, gate in enumerate(right, 1):
        write_run(folder, "share-b-8", seed + 10, dict.fromkeys(TASKS, 6) | {"boolq": 5 + seed})
        write_run(folder, "gt-2-4-16", seed + 10, gate)
    results = [run for run in tables.read_results(folder) if run["run"]["seed"] > 10]
    said = " ".join(tables.about(results, tables.table(results, GRID)))
    assert words in said
    assert ("those of gt-2-4-16 may be too narrow" in said) == ("Bartlett" in words)


def test_the_terminal_table_of_all_published_rows_fits_120_columns(tmp_path):
    printed = published.similar_budget()
    frame = printed.rename(columns={task: f"mini_{task}" for task in TASKS}).assign(
        row=printed["method"] + printed["ranks"],
        base="",
        published_parameters=printed["parameters"],
        published_ratio=printed["ratio"],
        parameters=123_456,
        ratio=12.34,
        stderr=1.23,
        seeds=1,
        lr=0.00125,
        share_size=32,
        places="10-16",
    )
    text = tables.to_text(frame, ["a long sentence of many words, " * 9])
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) == 1 + 16 + 1 + 3
    assert "ShareLoRA" in text and "33,046,528" in text and "69.41" in text


def test_markdown_and_csv_hold_the_same_rows(folder):
    results = tables.read_results(folder)
    frame = tables.table(results, GRID)
    rows = [line for line in tables.to_markdown(frame, ["Of a demo."]).splitlines() if "|" in line]
    assert len(rows) == 2 + 3
    cells = [cell.strip() for cell in rows[3].split("|")]
    assert cells[1:5] == ["ShareLoRA", "8", "9,000", "0.90%"]
    assert cells[-5:-1] == ["8,060,928", "0.11%", "68.97", "0.43"]
    assert "published params" in rows[0] and "published ±" in rows[0]
    (folder / "table.csv").write_text(tables.to_csv(frame))
    back = pandas.read_csv(folder / "table.csv")
    assert back["mean"].tolist() == frame["mean"].tolist()


def test_the_page_stands_alone(folder):
    run = tables.Finished.of("Shared <LoRA>", GRID, tables.read_results(folder))
    paths = tables.write_tables(folder, run)
    names = [f"table.{end}" for end in ("md", "csv", "tex", "html")]
    names += [f"{name}.{end}" for name in ("cells", "pairs") for end in ("md", "csv", "tex")]
    assert [path.name for path in paths] == names
    assert not list(folder.glob("*.part"))
    page = paths[3].read_text()
    assert "<h1>Shared &lt;LoRA&gt;</h1>" in page
    assert page.count("Plotly.newPlot") >= 3 and "not the paper" in page
    assert "8,060,928" in page and "+40.00" in page
    assert (
        "Plotly" in page
        and "as published, Llama 3-8B, one run" in page
        and not re.search(r"<(script|link)[^>]+(src|href)=", page)
    )


def test_published_scores_stand_beside_their_rows_with_the_noise_of_one_run():
    """Eight binomial variances, by hand for the ShareLoRA row of rank 8."""
    printed = [45.60, 56.57, 79.89, 82.79, 81.99, 73.80, 82.69, 48.46]
    items = [500, 1172, 10042, 2376, 1838, 1267, 3270, 1954]
    variance = sum(p * (100 - p) / n for p, n in zip(printed, items, strict=True)) / 64
    frame = tables.table([], GRID).set_index("row")
    assert frame.loc["share-b-8", "published_score"] == 68.97
    assert frame.loc["share-b-8", "published_stderr"] == pytest.approx(math.sqrt(variance))
    assert math.isnan(frame.loc["base", "published_score"])


@pytest.mark.parametrize(
    ("row", "score", "stderr"),
    [
        ({"label": "Both, BSLoRA (KE)", "ranks": [2, 8, 32]}, 69.18, 0.431),
        ({"label": "MLP, BSLoRA (SS)", "ranks": [2, 4, 16]}, 69.14, 0.431),
        ({"label": "Tied-LoRA (TL5)", "published_parameters": 442_368}, 67.48, 0.434),
        ({"label": "TL6, 5-shot", "published_parameters": 1_230_080, "shots": 5}, 65.98, 0.400),
        ({"label": "BSLoRA (KE)", "published_parameters": 28_866_048}, 69.25, 0.430),
    ],
)
def test_rows_of_every_grid_find_their_published_score(row, score, stderr):
    found = published_score(row)
    assert found.score == score
    assert found.stderr == pytest.approx(stderr, abs=0.001)


def test_rows_that_no_published_table_has_find_none():
    assert published_score({"label": "LoRA", "ranks": [8]}) is None
    assert published_score({"label": "Attention, LoRA"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "paper"}, "results differ in profile: 'demo' .base., 'paper' .gt-2-4-16."),
        ({"steps": 20}, "results differ in steps: 300 .share-b-8., 20 .gt-2-4-16."),
        ({"base_model": "other"}, "results differ in base_model"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(folder, change, message):
    write_run(folder, "gt-2-4-16", 2, 5, **change)
    runs = tables.read_results(folder)
    runs = [run for run in runs if (run["run"]["row"], run["run"]["seed"]) != ("gt-2-4-16", 0)]
    with pytest.raises(ValueError, match=message):
        tables.table(runs, GRID)


def test_rows_that_were_scored_on_other_tasks_are_refused(folder):
    path = folder / "gt-2-4-16-s0" / "result.json"
    result = json.loads(path.read_text())
    result["eval"]["tasks"] = {"mini_piqa": result["eval"]["tasks"]["mini_piqa"]}
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="results differ in tasks: mini_arc_.* .base., mini_piqa .gt-2"):
        tables.table(tables.read_results(folder), GRID)


def test_a_row_without_a_mean_has_no_error_and_other_rows_are_left_out(folder):
    for path in folder.glob("*/result.json"):
        result = json.loads(path.read_text())
        del result["eval"]["tasks"]["mini_piqa"]
        result["eval"]["mean"] = result["eval"]["mean_stderr"] = None
        path.write_text(json.dumps(result))
    run = tables.Finished.of("Seven tasks", GRID, tables.read_results(folder))
    assert run.table[["mean", "stderr", "stderr_items"]].isna().all(axis=None)
    alone = {"rows": GRID["rows"][:2]}
    run = tables.Finished.of("Two rows", alone, tables.read_results(folder))
    assert {x["run"]["row"] for x in run.results} == {"base", "share-b-8"}


def test_seeds_count_where_a_row_has_several(folder):
    results = tables.read_results(folder)
    said = tables.about(results, tables.table(results, GRID))[1]
    assert "and seeds where a row has several)" in said  # ShareLoRA alone has
    one = [x for x in results if x["run"]["seed"] == 0 or x["run"]["row"] == "base"]
    assert "one seed says nothing of others)" in tables.about(one, tables.table(one, GRID))[1]


def test_a_copied_run_is_no_further_seed(folder):
    shutil.copytree(folder / "share-b-8-s1", folder / "share-b-8-s1 (copy)")
    with pytest.raises(ValueError, match=r"seed 1 of row 'share-b-8' is there twice: .*s1 and .*\(copy"):
        tables.table(tables.read_results(folder), GRID)


def test_seeds_of_a_row_must_share_its_learning_rate(folder):
    write_run(folder, "gt-2-4-16", 2, 5, lr=0.1)
    words = r"seeds of row 'gt-2-4-16' differ in lr: 0.005 \(gt-2-4-16-s0\), 0.1 \(gt-2-4-16-s2\)"
    with pytest.raises(ValueError, match=words):
        tables.table(tables.read_results(folder), GRID)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("{}", "lacks run, budget or eval")]
)
def test_broken_result_files_are_named(folder, text, message):
    (folder / "gt-2-4-16-s1" / "result.json").write_text(text)
    with pytest.raises(ValueError, match=f"gt-2-4-16-s1.result.json {message}"):
        tables.read_results(folder)


def test_missing_items_are_named(folder):
    (folder / "base-s0" / "items.parquet").unlink()
    with pytest.raises(ValueError, match="items.parquet is missing; run the row again"):
        tables.differences(tables.read_results(folder), GRID)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no fact"])
def test_damaged_items_are_named_and_cost_only_the_comparisons(folder, damage):
    path = folder / "base-s0" / "items.parquet"
    content = bytearray(path.read_bytes())
    if damage == "no fact":
        pandas.read_parquet(path).drop(columns="fact").to_parquet(path)
    elif damage == "changed":
        content[10:60] = bytes(50)
        path.write_bytes(content)
    else:
        path.write_bytes(content[: 100 if damage == "cut" else 0])
    run = tables.Finished.of("Rows", GRID, tables.read_results(folder))
    assert re.match(r"[^/]+/base-s0/items.parquet is damaged \(\w+\); run the row again$", run.problem)
    assert run.pairs is None and run.lines[-1] == f"No paired differences: {run.problem}."
    assert run.table["mean"].notna().all()


def test_latex_is_a_booktabs_table_with_escaped_text(folder):
    results = tables.read_results(folder)
    frame = tables.table(results, GRID)
    text = tables.to_latex("Shared_LoRA & 100 %", frame, ["Of a demo: 5 %."])
    rules = [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")]
    assert rules == [1, 1, 1]
    assert r"\caption{Shared\_LoRA \& 100 \%}" in text and r"Of a demo: 5 \%." in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    assert len(body) == 3 and all(line.count("&") == len(columns) - 1 for line in body)
    assert r"9,000 & 0.90\%" in body[1] and body[1].rstrip().endswith(r"68.97 & 0.43 \\")
    assert text.count("{") == text.count("}") and "±" not in text
    assert r"\multicolumn{4}{c}{as published, Llama 3-8B, one run}" in text


TWO_BASES = {
    "rows": [
        {"row": "base-7b", "label": "Base", "method": "none", "base_model": "llama-1-7b"},
        {
            "row": "tl5-7b",
            "label": "Tied-LoRA (TL5)",
            "method": "tied_lora",
            "ranks": [8],
            "base_model": "llama-1-7b",
            "published_parameters": 438_272,
        },
        {"row": "base-13b", "label": "Base", "method": "none", "base_model": "llama-1-13b"},
        {
            "row": "tl5-13b",
            "label": "Tied-LoRA (TL5)",
            "method": "tied_lora",
            "ranks": [8],
            "base_model": "llama-1-13b",
            "published_parameters": 548_864,
        },
    ]
}


@pytest.fixture
def two_bases(tmp_path):
    """Each base answers 3 or 5 of 10 in a task, and two more with an adapter."""
    for name, right in (("7b", 3), ("13b", 5)):
        runs = [("base", 0, right, f"base-{name}")]
        runs += [("share-b-8", seed, right + 2, f"tl5-{name}") for seed in (0, 1)]
        for made_as, seed, correct, row in runs:
            write_run(tmp_path, made_as, seed, correct, base_model=f"data/base-1-{name}")
            place = (tmp_path / f"{made_as}-s{seed}").rename(tmp_path / f"{row}-s{seed}")
            result = json.loads((place / "result.json").read_text())
            result["run"]["row"] = row
            (place / "result.json").write_text(json.dumps(result))
    return tables.read_results(tmp_path)


def test_a_grid_on_several_bases_has_a_block_for_each(two_bases):
    frame = tables.table(two_bases, TWO_BASES)
    assert list(frame["base"]) == ["llama-1-7b", "llama-1-7b", "llama-1-13b", "llama-1-13b"]
    assert frame["mean"].tolist() == pytest.approx([30, 50, 50, 70])
    assert frame["published_score"].tolist()[1::2] == [63.85, 65.85]
    assert tables.base_score(frame) is None
    gains = tables.differences(two_bases, TWO_BASES)
    assert dict(zip(gains["row"], gains["against"], strict=True)) == {
        "tl5-7b": "base-7b",
        "tl5-13b": "base-13b",
    }
    assert gains["difference"].tolist() == pytest.approx([20, 20])
    pairs = tables.comparisons(two_bases, TWO_BASES)
    assert set(zip(pairs["a"], pairs["b"], strict=True)) == set(
        zip(gains["against"], gains["row"], strict=True)
    )
    lines = tables.about(two_bases, frame)
    assert "base models data/base-1-7b, data/base-1-13b" in lines[0]
    page = tables.to_html(tables.Finished.of("Bases", TWO_BASES, two_bases))
    assert page.count("Against the highest mean") == 2 and "as published, one run" in page


def test_rows_of_one_base_that_ran_on_another_are_refused(two_bases):
    one_name = {"rows": [{**row, "base_model": "llama-1-7b"} for row in TWO_BASES["rows"]]}
    with pytest.raises(ValueError, match="differ in base_model: 'data/base-1-7b' .base-7b., 'data/base"):
        tables.table(two_bases, one_name)


def test_a_table_without_published_rows_has_no_published_columns(folder):
    bare = [{k: v for k, v in row.items() if "published" not in k} for row in GRID["rows"]]
    frame = tables.table(tables.read_results(folder), {"rows": bare})
    for text in (tables.to_text(frame), tables.to_markdown(frame), tables.to_latex("t", frame)):
        assert "published" not in text and "printed" not in text
    assert "printed" in tables.to_text(tables.table(tables.read_results(folder), GRID))
