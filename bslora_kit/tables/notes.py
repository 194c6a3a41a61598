"""What a reader of a table must know beside its numbers: scale, test, what is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.jobs.rates import share_size_of
from bslora_kit.published import TASKS
from bslora_kit.published.scores import MODEL
from bslora_kit.statistics import equal_spread, unsteady_rows
from bslora_kit.tables.rates_used import rates_in_words, risen_in_words
from bslora_kit.tables.results import score_of, short_name


def about(
    results: Sequence[Mapping[str, Any]], frame: pandas.DataFrame, clustered: bool = False
) -> list[str]:
    """What a reader must know of a table: profile, base, seeds, items, machines, what is missing.

    Args:
        results: from `results.read_results`.
        frame: from `results.table`.
        clustered: whether its errors are (`cells.with_errors`).
    """
    lines = []
    order = list(frame["row"])
    used = [result for result in results if result["run"]["row"] in order]
    used.sort(key=lambda result: order.index(result["run"]["row"]))
    if used:
        run, scored = used[0]["run"], used[0]["eval"]
        seeds = sorted({result["run"]["seed"] for result in used})
        models = list(dict.fromkeys(_model_name(result["run"]["base_model"]) for result in used))
        trained = [x["run"]["steps"] for x in used if x["run"]["method"] != UNTRAINED]
        items = sum(task["n"] for task in scored["tasks"].values())
        limit = f", at most {scored['limit']} a task" if scored["limit"] else ""
        lines.append(
            f"Profile {run['profile']}, base model{'s' if len(models) > 1 else ''} {', '.join(models)}, "
            f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
            + (f", {trained[0]} steps a run." if trained else ".")
        )
        chance = "items, a fact counting once" if clustered else "items, as if they were independent"
        several = frame.loc[frame["seeds"] > 0, "stderr_seeds"].notna()
        chance += ", and seeds" if several.any() else "; one seed says nothing of others"
        chance += " where a row has several" if several.any() and not several.all() else ""
        has_mean = any(score_of(result["eval"])[0] is not None for result in used)
        of = "plain mean of the eight tasks" if len(scored["tasks"]) > 1 else "MMLU, the only task"
        of += ", MMLU left out" if len(scored["tasks"]) == len(TASKS) + 1 else ""
        mean = f"; mean = {of}, ± its standard error ({chance})" * has_mean
        lines.append(
            f"Scores in percent on {items:,} items of the {scored['split']} split{limit}, "
            f"{scored['shots']}-shot{mean}."
        )
        lines.append(
            "Tasks: " + ", ".join(f"{task} ({short_name(task)})" for task in scored["tasks"]) + "."
        )
    lines += _noise_of_seeds(used)
    lines += _machines(used)
    sizes = _share_sizes(used)
    if sizes:
        lines.append(f"Share sizes: {sizes}.")
    lines += rates_in_words(used) + risen_in_words(used)
    if frame[["published_parameters", "published_score"]].notna().any(axis=None):
        lines.append(
            "Published columns: as printed by BSLoRA's authors for "
            + (MODEL if frame["base"].nunique() == 1 else "the models of these names")
            + ", one run a row; their ± is the binomial standard error of that run."
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


def _noise_of_seeds(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """How much seeds move a run's score, and whether all rows vary alike; none with single seeds."""
    scores: dict[str, list[float]] = {}
    for result in results:
        score, _ = score_of(result["eval"])
        if score is not None and result["run"]["method"] != UNTRAINED:
            scores.setdefault(result["run"]["row"], []).append(score)
    several = {row: values for row, values in scores.items() if len(values) > 1}
    if not several:
        return []
    spreads = {row: statistics.stdev(values) for row, values in several.items()}
    unsteady = unsteady_rows(several)
    apart = [
        f"{row} varies far more over seeds than the others ({spreads[row]:.1f} points; Cochran's test), "
        "so only its own seeds count where it is compared."
        for row in unsteady
    ]
    several = {row: values for row, values in several.items() if row not in unsteady}
    spreads = {row: spreads[row] for row in several}
    squares = sum((len(values) - 1) * spreads[row] ** 2 for row, values in several.items())
    together = math.sqrt(squares / sum(len(values) - 1 for values in several.values()))
    least, most = min(spreads, key=spreads.get), max(spreads, key=spreads.get)
    said = f"Seeds move the score of a run by {together:.2f} points (standard deviation"
    if len(several) == 1:
        return [f"{said}, one row).", *apart]
    lines = [
        f"{said}, {len(several)} rows together; least {least} {spreads[least]:.2f}, most {most} "
        f"{spreads[most]:.2f}). Comparisons take one noise of seeds for all rows, or a pair's own where "
        "that is larger.",
        *apart,
    ]
    whose = "The other rows" if unsteady else "The rows"
    p_value = equal_spread(list(several.values()))
    if p_value < 0.05:
        lines.append(
            f"{whose} do not vary alike over seeds (Bartlett's test, p = {p_value:.2g}): intervals of "
            f"steady rows are wider than need be, those of {most} may be too narrow."
        )
    elif math.isnan(p_value):
        lines.append(
            f"Whether rows vary alike over seeds cannot be tested: {least} does not vary at all."
        )
    else:
        lines.append(
            f"Nothing says that {whose.lower()} vary unequally over seeds (Bartlett's test, p = "
            f"{p_value:.2g}), which {max(map(len, several.values()))} seeds a row would show only for "
            "clear differences."
        )
    return lines


def _machines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which seeds ran on what: rounding differs between kinds of machines, and training magnifies it.

    A run that only scores the adapter of another says where it did that.
    """
    seeds: dict[str, set[int]] = {}
    for result in results:
        machine = result.get("machine", {})
        name = machine.get("gpu") or machine.get("cpu")
        if name:
            seeds.setdefault(name, set()).add(result["run"]["seed"])
    if not seeds:
        return []
    ran = "; ".join(
        f"{name} (seed{'s' if len(of) > 1 else ''} {', '.join(map(str, sorted(of)))})"
        for name, of in sorted(seeds.items(), key=lambda item: sorted(item[1]))
    )
    done = "Scored" if any(result["run"].get("trained_in") for result in results) else "Ran"
    return [f"{done} on: {ran}. A row run again gives equal numbers on the same kind of machine only."]


def _share_sizes(results: Sequence[Mapping[str, Any]]) -> str:
    """The share sizes of all rows beside the published ones, in words."""
    words = []
    for fit, name, size in (("gate", "gate", GATE_SIZE), ("kron", "Kronecker", KRON_SIZE)):
        runs = [x["run"] for x in results if x["run"].get("fit") == fit]
        used = sorted({share_size_of(run) for run in runs} - {None})
        if used:
            words.append(f"{name} {', '.join(map(str, used))} (published {size})")
    return "; ".join(words)


def _model_name(model: str) -> str:
    """A model as readers know it: a hub name, or the last part of a folder."""
    return Path(model).name if Path(model).is_absolute() else model
