"""Result files -> the numbers of a grid's table: one row per grid row, with errors and intervals.

    papermill_runs/<grid>/<row>-s<seed>/result.json    --read_results--> --table-->  scores, parameters
                                        items.parquet  --differences-->  gains over one row, paired

Scores come from the result files, parameters of the demo from their budgets, published parameters from
the grid file (as printed for Llama 3-8B, see `bslora_kit.published`). Scores and ratios are in percent.
A grid that still runs gives the rows that are there; `about` names those that are missing.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.published import TASKS
from bslora_kit.published_scores import published_score
from bslora_kit.statistics import paired_over_seeds

SHORT = dict(zip(TASKS, "obqa arc_c hella arc_e piqa wino boolq siqa".split(), strict=True))
COMMON = (  # what all rows of one table must agree on: part of result.json, name
    ("run", "profile"),
    ("run", "base_model"),
    ("run", "steps"),
    ("eval", "split"),
    ("eval", "shots"),
    ("eval", "limit"),
)


def read_results(folder: Path | str) -> list[dict[str, Any]]:
    """The finished runs of a grid.

    Args:
        folder: papermill_runs/<grid>; runs without result.json are not finished and passed over.

    Returns:
        The contents of each result.json, plus "folder", its run's folder; sorted by folder.

    Raises:
        ValueError: for a file that is not a result.
    """
    results = []
    for path in sorted(Path(folder).glob("*/result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON ({error}); remove it and run the row again") from error
        if not isinstance(result, dict) or not {"run", "budget", "eval"} <= set(result):
            raise ValueError(f"{path} lacks run, budget or eval; remove it and run the row again")
        results.append({**result, "folder": path.parent})
    return results


def table(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """One row per row of the grid, in its order; rows without a result hold only what the grid says.

    Args:
        results: from `read_results`, of one profile, base model and test; results of rows that the grid
            does not name are left out.
        grid: the grid file; its "rows" are mappings with row, label, and perhaps ranks,
            published_parameters and published_ratio.

    Returns:
        Columns row, method, ranks; parameters and ratio (in percent) of the trained model;
        published_parameters and published_ratio, published_score and published_stderr (as printed, and
        the binomial error of its one run; see `published_scores`); the tasks of the results; mean;
        stderr of the mean (stderr_items: of the items that one run answers; stderr_seeds: of the mean
        over seeds, from two seeds on; stderr: both together); seeds (how many), lr, share_size (gate
        or Kronecker size).

    Raises:
        ValueError: if the results do not belong into one table.
    """
    by_row: dict[str, list[Mapping[str, Any]]] = {row["row"]: [] for row in grid["rows"]}
    for result in results:
        by_row.get(result["run"]["row"], []).append(result)
    used = [result for runs in by_row.values() for result in runs]
    _check_common(used)
    tasks = list(dict.fromkeys(task for result in used for task in result["eval"]["tasks"]))
    rows = [_row(row, by_row[row["row"]], tasks) for row in grid["rows"]]
    integers = {name: "Int64" for name in ("parameters", "published_parameters", "share_size")}
    return pandas.DataFrame(rows).astype(integers)


def differences(
    results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any], against: str = "base"
) -> pandas.DataFrame:
    """Each row's gain in the mean of the eight tasks over one row, paired by item and seed.

    Args:
        results: from `read_results`; their folders hold items.parquet.
        grid: the grid file.
        against: name of the row to compare with; an untrained one serves every seed.

    Returns:
        Columns row, method, difference (points), low, high (95 % interval, clustered by fact),
        p_value, seeds (pairs); rows without a common seed are left out.

    Raises:
        ValueError: if `against` has no result.
    """
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        runs.setdefault(result["run"]["row"], {})[result["run"]["seed"]] = result
    if against not in runs:
        raise ValueError(f"row {against!r} has no result to compare with; there are {sorted(runs)}")
    reference = runs[against]
    untrained = next(iter(reference.values()))["run"]["method"] == UNTRAINED
    rows = []
    for row in grid["rows"]:
        found = runs.get(row["row"], {})
        seeds = sorted(found) if untrained else sorted(set(found) & set(reference))
        if row["row"] == against or not seeds:
            continue
        pairs = [
            (items_of(found[seed]), items_of(reference.get(seed, next(iter(reference.values())))))
            for seed in seeds
        ]
        gain = paired_over_seeds(pairs)
        points = {name: 100 * getattr(gain, name) for name in ("difference", "low", "high")}
        rows.append(
            {
                "row": row["row"],
                "method": row_label(row),
                **points,
                "p_value": gain.p_value,
                "seeds": len(seeds),
            }
        )
    columns = ["row", "method", "difference", "low", "high", "p_value", "seeds"]
    return pandas.DataFrame(rows, columns=columns)


def base_score(frame: pandas.DataFrame, row: str = "base") -> float | None:
    """Mean score of the untouched base in a table, in percent; None where it has not run."""
    found = frame.loc[frame["row"] == row, "mean"].dropna()
    return float(found.iloc[0]) if len(found) else None


def about(results: Sequence[Mapping[str, Any]], frame: pandas.DataFrame) -> list[str]:
    """What a reader must know of a table: profile, base, seeds, items, and what is missing."""
    lines = []
    used = [result for result in results if result["run"]["row"] in set(frame["row"])]
    if used:
        run, scored = used[0]["run"], used[0]["eval"]
        seeds = sorted({result["run"]["seed"] for result in used})
        trained = [x["run"]["steps"] for x in used if x["run"]["method"] != UNTRAINED]
        items = sum(task["n"] for task in scored["tasks"].values())
        limit = f", at most {scored['limit']} a task" if scored["limit"] else ""
        lines.append(
            f"Profile {run['profile']}, base model {_model_name(run['base_model'])}, "
            f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
            + (f", {trained[0]} steps a run." if trained else ".")
        )
        lines.append(
            f"Scores in percent on {items:,} items of the {scored['split']} split{limit}, "
            f"{scored['shots']}-shot; mean = plain mean of the eight tasks, ± its standard error "
            + ("(items and seeds)." if len(seeds) > 1 else "(items; one seed says nothing of others).")
        )
        lines.append(
            "Tasks: " + ", ".join(f"{task} ({short_name(task)})" for task in scored["tasks"]) + "."
        )
    sizes = _share_sizes(used)
    if sizes:
        lines.append(f"Share sizes: {sizes}.")
    if frame[["published_parameters", "published_score"]].notna().any(axis=None):
        lines.append(
            "Published columns: as printed by BSLoRA's authors for Llama 3-8B, one run a row; their ± "
            "is the binomial standard error of that run."
        )
    if used and used[0]["run"]["profile"] == "demo":
        lines.append(
            "Numbers of the demo profile come from the small model that ships with the kit; "
            "they are not the paper's."
        )
    missing = list(frame.loc[frame["seeds"] == 0, "row"])
    if missing:
        lines.append(f"Missing: {len(missing)} of {len(frame)} rows: {', '.join(missing)}.")
    trained_rows = frame["row"].isin(x["run"]["row"] for x in used if x["run"]["method"] != UNTRAINED)
    partial = list(frame.loc[trained_rows & (frame["seeds"] < frame["seeds"].max()), "row"])
    if partial:
        lines.append(f"Fewer seeds than the others: {', '.join(partial)}.")
    return lines


def _check_common(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuses results whose scores cannot stand side by side."""
    for part, name in COMMON:
        values: dict[Any, str] = {}
        for result in results:
            if name != "steps" or result["run"]["method"] != UNTRAINED:
                values.setdefault(result[part].get(name), result["run"]["row"])
        if len(values) > 1:
            found = ", ".join(f"{value!r} ({row})" for value, row in values.items())
            raise ValueError(
                f"results differ in {name}: {found}; one table holds one {name}: run the rows again "
                "with the same settings or read another folder"
            )


def _row(row: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], tasks: list[str]) -> dict[str, Any]:
    """The table's row of one grid row, averaged over its seeds."""
    for part, name in (("run", "lr"), ("budget", "trainable")):
        values = sorted({x[part].get(name) for x in runs}, key=str)
        if len(values) > 1:
            raise ValueError(f"seeds of row {row['row']!r} differ in {name}: {values}; run them again")
    run = runs[0]["run"] if runs else {}
    budget = runs[0]["budget"] if runs else {}
    trained = bool(runs) and run["method"] != UNTRAINED
    means = [100 * x["eval"]["mean"] for x in runs if x["eval"]["mean"] is not None]
    errors = [x["eval"]["mean_stderr"] for x in runs]
    of_items = 100 * statistics.fmean(errors) if runs and None not in errors else math.nan
    of_seeds = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    scores = {
        task: 100 * statistics.fmean(x["eval"]["tasks"][task]["value"] for x in runs)
        for task in tasks
        if runs and all(task in x["eval"]["tasks"] for x in runs)
    }
    return {
        "row": row["row"],
        "method": row["label"],
        "ranks": ",".join(map(str, row.get("ranks") or [])),
        "parameters": budget.get("trainable"),
        "ratio": 100 * budget.get("ratio", math.nan),
        "published_parameters": row.get("published_parameters"),
        "published_ratio": row.get("published_ratio"),
        **_published(row),
        **{task: scores.get(task, math.nan) for task in tasks},
        "mean": statistics.fmean(means) if means else math.nan,
        "stderr": math.hypot(of_items, 0 if math.isnan(of_seeds) else of_seeds),
        "stderr_items": of_items,
        "stderr_seeds": of_seeds,
        "seeds": len(runs),
        "lr": run["lr"] if trained else math.nan,
        "share_size": _share_size(run),
    }


def _published(row: Mapping[str, Any]) -> dict[str, float]:
    found = published_score(row)
    score, stderr = found or (math.nan, math.nan)
    return {"published_score": score, "published_stderr": stderr}


def _share_size(run: Mapping[str, Any]) -> int | None:
    """Gate or Kronecker size of a run that uses one."""
    if run.get("method") != "bslora":
        return None
    return run.get({"gate": "gate_size", "kron": "kron_size"}.get(run["fit"], ""))


def _share_sizes(results: Sequence[Mapping[str, Any]]) -> str:
    """The share sizes of all rows beside the published ones, in words."""
    words = []
    for fit, name, size in (("gate", "gate", GATE_SIZE), ("kron", "Kronecker", KRON_SIZE)):
        runs = [x["run"] for x in results if x["run"].get("fit") == fit]
        used = sorted({_share_size(run) for run in runs} - {None})
        if used:
            words.append(f"{name} {', '.join(map(str, used))} (published {size})")
    return "; ".join(words)


def items_of(result: Mapping[str, Any]) -> pandas.DataFrame:
    """The items of the eight tasks that one run answered, or of MMLU where it answered no other.

    Raises:
        ValueError: if they are not beside the result.
    """
    path = Path(result["folder"]) / "items.parquet"
    if not path.is_file():
        raise ValueError(f"{path} is missing; run the row again to compare item by item")
    items = pandas.read_parquet(path)
    eight = items["task"].str.removeprefix("mini_").isin(TASKS)
    return items[eight] if eight.any() else items


def row_label(row: Mapping[str, Any]) -> str:
    """Method and ranks of a grid's row."""
    return " ".join([row["label"], ",".join(map(str, row.get("ranks") or []))]).strip()


def _model_name(model: str) -> str:
    """A model as readers know it: a hub name, or the last part of a folder."""
    return Path(model).name if Path(model).is_absolute() else model


def short_name(task: str) -> str:
    """A task's abbreviation for narrow tables, the same for a mini task and its official model."""
    return SHORT.get(task.removeprefix("mini_"), task)
