"""Result files -> the numbers of a grid's table: one row per grid row, with errors.

    papermill_runs/<grid>/<row>-s<seed>/result.json    --read_results--> --table-->  scores, parameters

Scores come from the result files, parameters of the demo from their budgets, published parameters from
the grid file, published scores from `published.scores`. Scores and ratios are in percent. A grid that
still runs gives the rows that are there.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.jobs.rates import share_size_of
from bslora_kit.jobs.result_file import FILE, HASH_DIGITS, read_result
from bslora_kit.published import TASKS
from bslora_kit.published.scores import published_score

SHORT = dict(zip(TASKS, "obqa arc_c hella arc_e piqa wino boolq siqa".split(), strict=True))
SHORT["mmlu"] = "mmlu"
_ITEM_COLUMNS = ("task", "subject", "doc_id", "doc_hash", "kind", "fact", "correct")
COMMON = (  # what all rows of one table must agree on: part of result.json, name
    ("run", "profile"),
    ("run", "steps"),
    ("eval", "split"),
    ("eval", "shots"),
    ("eval", "limit"),
    ("eval", "tasks"),
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
    paths = sorted(Path(folder).glob(f"*/{FILE}"))
    return [{**read_result(path), "folder": path.parent} for path in paths]


def table(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """One row per row of the grid, in its order; rows without a result hold only what the grid says.

    Args:
        results: from `read_results`, of one profile, base model and test; results of rows that the grid
            does not name are left out.
        grid: the grid file; its "rows" are mappings with row, label, and perhaps ranks,
            published_parameters and published_ratio.

    Returns:
        Columns row, base ("" unless the grid's rows name a base model each), method, ranks; parameters
        and ratio (in percent) of the trained model; published_parameters and published_ratio,
        published_score and published_stderr (as printed, and the binomial error of its one run; see
        `published.scores`); the tasks of the results; mean; stderr of the mean (stderr_items: from
        items, as if these were independent, see `cells.with_errors`; stderr_seeds: of the mean over
        seeds, from two seeds on; stderr: both together), of MMLU where nothing else was scored; seeds
        (how many), lr, share_size (gate or Kronecker size).

    Raises:
        ValueError: if the results do not belong into one table.
    """
    by_row = runs_by_row(results, grid)
    used = [result for runs in by_row.values() for result in runs]
    _check_common(used)
    _check_bases(grid, by_row)
    tasks = list(dict.fromkeys(task for result in used for task in result["eval"]["tasks"]))
    rows = [_row(row, by_row[row["row"]], tasks) for row in grid["rows"]]
    integers = {name: "Int64" for name in ("parameters", "published_parameters", "share_size")}
    return pandas.DataFrame(rows).astype(integers)


def runs_by_row(
    results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]
) -> dict[str, list[Mapping[str, Any]]]:
    """The finished runs of each of a grid's rows, in its order; of other rows none."""
    by_row: dict[str, list[Mapping[str, Any]]] = {row["row"]: [] for row in grid["rows"]}
    for result in results:
        by_row.get(result["run"]["row"], []).append(result)
    for row, runs in by_row.items():
        folders: dict[int, Any] = {}
        for result in runs:
            seed = result["run"]["seed"]
            if seed in folders:
                raise ValueError(
                    f"seed {seed} of row {row!r} is there twice: {folders[seed]} and "
                    f"{_place_of(result)}; remove one of them"
                )
            folders[seed] = _place_of(result)
    return by_row


def _place_of(result: Mapping[str, Any]) -> str:
    """The folder of a run, without where it was made."""
    return "/".join(Path(result.get("folder", "")).parts[-2:])


class Score(NamedTuple):
    """What the seeds of a row scored; NaN where it is not known.

    Attributes:
        mean: over seeds, in percent.
        stderr: standard error of the mean, items and seeds together, in points.
        stderr_items: from the choice of items.
        stderr_seeds: of the mean over seeds, from two seeds on.
    """

    mean: float
    stderr: float
    stderr_items: float
    stderr_seeds: float


def over_seeds(found: Sequence[tuple[float | None, float | None]]) -> Score:
    """The score of a row from those of its runs, with items as if they were independent.

    Args:
        found: score and its standard error from items of each run, in percent; None where there is none.
    """
    means = [mean for mean, _ in found if mean is not None]
    errors = [error for _, error in found]
    of_items = statistics.fmean(errors) if found and None not in errors else math.nan
    of_seeds = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return Score(
        statistics.fmean(means) if means else math.nan,
        math.hypot(of_items, 0 if math.isnan(of_seeds) else of_seeds),
        of_items,
        of_seeds,
    )


def base_of(row: Mapping[str, Any]) -> str:
    """The base model that a grid's row names, "" where it leaves that to the profile."""
    return row.get("base_model") or ""


def untrained_rows(grid: Mapping[str, Any]) -> dict[str, str]:
    """Base model, as the grid names it -> the row that scores it untrained."""
    return {base_of(row): row["row"] for row in grid["rows"] if row.get("method") == UNTRAINED}


def base_score(frame: pandas.DataFrame) -> float | None:
    """Mean score of the untouched base in a table, in percent.

    None where it has not run, or where the table has several bases.
    """
    found = frame.loc[frame["parameters"] == 0, "mean"].dropna()
    return float(found.iloc[0]) if len(found) == 1 and frame["base"].nunique() == 1 else None


def _check_common(results: Sequence[Mapping[str, Any]]) -> None:
    """Refuses results whose scores cannot stand side by side."""
    for part, name in COMMON:
        values: dict[Any, str] = {}
        for result in results:
            if name != "steps" or result["run"]["method"] != UNTRAINED:
                value = result[part].get(name)
                value = tuple(sorted(value)) if name == "tasks" else value
                values.setdefault(value, result["run"]["row"])
        if len(values) > 1:
            found = ", ".join(
                f"{', '.join(value) if name == 'tasks' else repr(value)} ({row})"
                for value, row in values.items()
            )
            raise ValueError(
                f"results differ in {name}: {found}; one table holds one {name}: run the rows again "
                "with the same settings or read another folder"
            )


def _check_bases(grid: Mapping[str, Any], by_row: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuses rows that name one base model, or none, and were run on several."""
    models: dict[str, dict[str, str]] = {}  # as the grid names it -> as run -> a row
    for row in grid["rows"]:
        for result in by_row[row["row"]]:
            models.setdefault(base_of(row), {}).setdefault(result["run"]["base_model"], row["row"])
    for used in models.values():
        if len(used) > 1:
            found = ", ".join(f"{model!r} ({row})" for model, row in used.items())
            raise ValueError(
                f"results differ in base_model: {found}; run the rows again on one base, or name the "
                "base_model of each row in the grid"
            )


def _row(row: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], tasks: list[str]) -> dict[str, Any]:
    """The table's row of one grid row, averaged over its seeds."""
    for part, name in (("run", "lr"), ("budget", "trainable")):
        values = {f"{row['row']}-s{x['run']['seed']}": x[part].get(name) for x in runs}
        if len(set(values.values())) > 1:
            found = ", ".join(f"{value} ({run})" for run, value in values.items())
            raise ValueError(
                f"seeds of row {row['row']!r} differ in {name}: {found}; one row of a table has one: "
                "remove the folders of some, or run them again with the same settings"
            )
    run = runs[0]["run"] if runs else {}
    budget = runs[0]["budget"] if runs else {}
    trained = bool(runs) and run["method"] != UNTRAINED
    scores = {
        task: over_seeds([score_on(task, x["eval"]) for x in runs]).mean
        for task in (tasks if runs else ())
    }
    return {
        "row": row["row"],
        "base": base_of(row),
        "method": row["label"],
        "ranks": ",".join(map(str, row.get("ranks") or [])),
        "parameters": budget.get("trainable"),
        "ratio": 100 * budget.get("ratio", math.nan),
        "published_parameters": row.get("published_parameters"),
        "published_ratio": row.get("published_ratio"),
        **_published(row),
        **{task: scores.get(task, math.nan) for task in tasks},
        **over_seeds([score_of(x["eval"]) for x in runs])._asdict(),
        "seeds": len(runs),
        "lr": run["lr"] if trained else math.nan,
        "share_size": share_size_of(run),
    }


def _published(row: Mapping[str, Any]) -> dict[str, float]:
    found = published_score(row)
    score, stderr = found or (math.nan, math.nan)
    return {"published_score": score, "published_stderr": stderr}


def score_of(scored: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """What a run is compared by: the mean of the eight tasks, or MMLU where nothing else was scored.

    Args:
        scored: `eval` of a result.json.

    Returns:
        The score and its binomial standard error from items, in percent; None where there is none.
    """
    if mmlu_alone(scored["tasks"]):
        return score_on(*scored["tasks"], scored)
    return _percent(scored["mean"], scored["mean_stderr"])


def mmlu_alone(tasks: Iterable[str]) -> bool:
    """Whether nothing but MMLU was scored, or its model in the demo's world."""
    return {task.removeprefix("mini_") for task in tasks} == {"mmlu"}


def score_on(task: str, scored: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """A run's score on one task and its binomial error from items, in percent; None where none is."""
    return _percent(scored["tasks"][task]["value"], scored["tasks"][task]["stderr"])


def _percent(*values: float | None) -> tuple[float | None, ...]:
    return tuple(None if value is None else 100 * value for value in values)


def items_of(folder: Path | str) -> pandas.DataFrame:
    """The items that one run answered.

    Args:
        folder: of the run.

    Raises:
        ValueError: if they are not beside the result, or cannot be read.
    """
    path = Path(folder) / "items.parquet"
    name = "/".join(path.parts[-3:])  # a table is passed on; where it was made is no part of it
    if not path.is_file():
        raise ValueError(f"{name} is missing; run the row again to compare item by item")
    try:
        items = pandas.read_parquet(path, columns=list(_ITEM_COLUMNS))
        # A run of a kit that keeps whole hashes answers the same items.
        return items.assign(doc_hash=items["doc_hash"].str[:HASH_DIGITS])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} is damaged ({type(error).__name__}); run the row again") from error


def names_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Row -> its method and ranks; rows of which several have the same go by their own names.

    Args:
        rows: of a grid.
    """
    return unlike({row["row"]: row_label(row) for row in rows})


def unlike(names: Mapping[str, str]) -> dict[str, str]:
    """Names of rows, those that several rows share replaced by the rows' own."""
    counts = Counter(names.values())
    return {row: name if counts[name] == 1 else row for row, name in names.items()}


def row_label(row: Mapping[str, Any]) -> str:
    """Method and ranks of a grid's row."""
    return " ".join([row["label"], ",".join(map(str, row.get("ranks") or []))]).strip()


def short_name(task: str) -> str:
    """A task's abbreviation for narrow tables, the same for a mini task and its official model."""
    return SHORT.get(task.removeprefix("mini_"), task)
