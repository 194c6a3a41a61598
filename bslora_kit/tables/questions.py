"""The questions that the published tables are asked, as contrasts of a grid's rows, and their answers.

    at_equal_budget    each sharing row against LoRA, or each BSLoRA row against ShareLoRA
    of_scopes          BSLoRA's local, intra and inter pair alone, at equal budgets
    of_shared_factor   ShareLoRA's two variants, at equal budgets
    of_places          attention, MLP and both against the untouched base, over the fits
    between_places     the three against each other
    of_variants        TL5 against TL6 on each base
    noise_in_words     whether seeds or items are the larger source of noise
    led_by_seed        what a table of one seed would have said
    scaled_down        how far a run is from the published protocol
    QUESTIONS          what the published tables are asked, of which grid, by which contrasts

Which rows are compared follows from the grid and the parameter counts, never from scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import pandas

from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.jobs.parameters import UNTRAINED
from bslora_kit.jobs.profiles import load_profile
from bslora_kit.jobs.rates import share_size_of
from bslora_kit.published import ITEMS, TASKS
from bslora_kit.shapes import llama_3_8b
from bslora_kit.tables.contrasts import Contrast
from bslora_kit.tables.results import base_of, row_label, untrained_rows

EQUAL = 1.25  # largest ratio of two parameter counts that pass as one budget
_SCOPES = ("local", "intra", "inter")
_PLACES = ("Attention", "MLP", "Both")
_NONE = "none yet"
_LARGER = 1.1  # ratio of two standard errors from which one is called larger


def at_equal_budget(
    grid: Mapping[str, Any], table: pandas.DataFrame, rows: Collection[str], against: Collection[str]
) -> list[Contrast]:
    """Every row of some methods against the row of others that is nearest in trained parameters.

    A BSLoRA row of a local pair alone shares nothing, and is left out: it is LoRA.

    Args:
        grid: the grid file.
        table: from `results.table`, for the counts.
        rows: methods, as a grid file names them, whose rows are asked about.
        against: methods to compare with; of these the nearest row within 1.25 times the count is taken,
            and a row without one is left out.
    """
    return _by_budget(
        grid,
        table,
        lambda row: row["method"] in rows and _scope(row) != "local",
        lambda row: row["method"] in against,
    )


def of_scopes(grid: Mapping[str, Any], table: pandas.DataFrame) -> list[Contrast]:
    """BSLoRA with one of its three pairs alone: intra and inter against local, inter against intra.

    Each against the row of the other scope that is nearest in trained parameters, within 1.25 times.
    """
    found = []
    for one, other in (("intra", "local"), ("inter", "local"), ("inter", "intra")):
        found += _by_budget(
            grid, table, lambda row, of=one: _scope(row) == of, lambda row, of=other: _scope(row) == of
        )
    return found


def of_shared_factor(grid: Mapping[str, Any], table: pandas.DataFrame) -> list[Contrast]:
    """ShareLoRA with A shared against B shared, of nearly equal counts (within 1.25 times)."""
    return _by_budget(
        grid, table, lambda row: row.get("share") == "A", lambda row: row.get("share") == "B"
    )


def _by_budget(
    grid: Mapping[str, Any],
    table: pandas.DataFrame,
    asked: Callable[[Mapping[str, Any]], bool],
    partner: Callable[[Mapping[str, Any]], bool],
) -> list[Contrast]:
    """Each row that is asked about against the nearest partner in parameters on its base."""
    counts = table.set_index("row")["parameters"].dropna().astype(int)
    counts = counts[counts > 0]
    known = [row for row in grid["rows"] if row["row"] in counts]
    found = []
    for row in filter(asked, known):
        others = [x for x in known if partner(x) and base_of(x) == base_of(row)]
        if not others:
            continue
        distance = {x["row"]: abs(math.log(counts[x["row"]] / counts[row["row"]])) for x in others}
        nearest = min(others, key=lambda x: distance[x["row"]])
        if distance[nearest["row"]] <= math.log(EQUAL):
            names = [f"{row_label(x)} ({counts[x['row']]:,})" for x in (row, nearest)]
            found.append(Contrast(*names, (row["row"],), (nearest["row"],)))
    return found


def _scope(row: Mapping[str, Any]) -> str | None:
    """The scope of a BSLoRA row that has one of the three pairs alone."""
    if row["method"] != "bslora":
        return None
    scopes = [scope for scope, rank in zip(_SCOPES, row["ranks"], strict=True) if rank]
    return scopes[0] if len(scopes) == 1 else None


def of_places(grid: Mapping[str, Any], table: pandas.DataFrame) -> list[Contrast]:
    """Attention, MLP and both against the untouched base, each as the mean of its rows that have run.

    Which rows these are, see `between_places`.
    """
    base = untrained_rows(grid).get("")
    if base is None:
        return []
    places = _places(grid, table).values()
    return [Contrast(name, "the untouched base", rows, (base,)) for name, rows in places]


def between_places(grid: Mapping[str, Any], table: pandas.DataFrame) -> list[Contrast]:
    """Attention, MLP and both against each other, each as the mean of its rows that have run.

    A row's place is the first word of its label ("MLP, BSLoRA (SS)"). Only fits that have run in all
    three places count, so that the same methods stand on both sides.
    """
    places = _places(grid, table)
    return [
        Contrast(places[one][0], places[other][0], places[one][1], places[other][1])
        for one, other in (("MLP", "Attention"), ("Both", "Attention"), ("Both", "MLP"))
        if places
    ]


def _places(grid: Mapping[str, Any], table: pandas.DataFrame) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Place -> its name with what its rows train on average, and the rows of the fits that all have."""
    done = set(table.loc[table["seeds"] > 0, "row"])
    by_place: dict[str, dict[str, str]] = {place: {} for place in _PLACES}
    for row in grid["rows"]:
        place, _, method = row["label"].partition(", ")
        if place in by_place and row["row"] in done:
            by_place[place][method] = row["row"]
    fits = [fit for fit in by_place["Both"] if all(fit in rows for rows in by_place.values())]
    if not fits:
        return {}
    counts = table.set_index("row")["parameters"]
    found = {}
    for place, of in by_place.items():
        rows = tuple(of[fit] for fit in fits)
        found[place] = (f"{place} ({counts[list(rows)].mean():,.0f} on average)", rows)
    return found


def of_variants(grid: Mapping[str, Any], table: pandas.DataFrame) -> list[Contrast]:
    """TL6 against TL5 of one rank, on every base model of the grid."""
    done = set(table.loc[table["seeds"] > 0, "row"])
    tied = [row for row in grid["rows"] if row.get("variant") and row["row"] in done]
    return [
        Contrast(row_label(six), row_label(five), (six["row"],), (five["row"],))
        for five in tied
        for six in tied
        if (five["variant"], six["variant"]) == ("tl5", "tl6")
        and (base_of(five), five["ranks"]) == (base_of(six), six["ranks"])
    ]


QUESTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any], pandas.DataFrame], list[Contrast]]]] = {
    "Does sharing beat LoRA at equal budget?": (
        "fair",
        partial(at_equal_budget, rows=("bslora", "share_lora", "tied_lora", "vera"), against=("lora",)),
    ),
    "Which scope is worth its parameters: local, intra or inter?": ("fair", of_scopes),
    "Is it better to share A or B?": ("fair", of_shared_factor),
    "Does BSLoRA beat ShareLoRA at equal budget?": (
        "similar_budget",
        partial(at_equal_budget, rows=("bslora",), against=("share_lora",)),
    ),
    "What does each place gain over the untouched base?": ("placement", of_places),
    "Does placement matter?": ("placement", between_places),
    "TL6 or TL5?": ("tied_lora", of_variants),
    "TL6 or TL5 on MMLU?": ("tied_lora_mmlu", of_variants),
    "TL6 or TL5 on MMLU with five examples?": ("tied_lora_mmlu_5_shot", of_variants),
}
"""Question -> the grid that is asked, and which of its rows are compared (its rows, its table)."""


def led_by_seed(seeds: pandas.DataFrame) -> pandas.DataFrame:
    """The table that each seed alone would have given: who leads, by how much, and who is last.

    Args:
        seeds: from `pairs.seed_scores`; rows that lack one of the seeds are left out.

    Returns:
        Columns seed, leads, ahead_by (points to the second row), last; one row a seed. A row goes by its
        method and ranks, or by its own name where several rows have the same.
    """
    wide = seeds.dropna(subset=["mean"]).pivot(index="seed", columns="row", values="mean")
    wide = wide.dropna(axis=1)
    methods = seeds.drop_duplicates("row").set_index("row")["method"]
    wide = wide.rename(columns=methods[~methods.duplicated(keep=False)])
    if wide.shape[1] < 2:
        return pandas.DataFrame(columns=["seed", "leads", "ahead_by", "last"])
    ordered = wide.apply(lambda scores: scores.nlargest(2).diff().abs().iloc[1], axis=1)
    return pandas.DataFrame(
        {
            "seed": wide.index,
            "leads": wide.idxmax(axis=1).to_numpy(),
            "ahead_by": ordered.to_numpy(),
            "last": wide.idxmin(axis=1).to_numpy(),
        }
    )


def led_in_words(led: pandas.DataFrame) -> str:
    """How often the lead changes hands between seeds.

    Args:
        led: from `led_by_seed`.
    """
    leaders = list(dict.fromkeys(led["leads"]))
    if not len(led):
        return "No two rows have a seed in common, so none leads."
    if len(led) < 2:
        return "There is one seed, so nobody knows who leads with another."
    if len(leaders) == 1:
        return f"{leaders[0]} leads with each of the {len(led)} seeds."
    return f"With {len(led)} seeds {len(leaders)} different rows lead: {', '.join(leaders)}."


def noise_in_words(errors: pandas.DataFrame) -> str:
    """In which grids seeds move a comparison more than items do.

    Args:
        errors: a row a grid, columns stderr_items and stderr_seeds (missing where nothing is known of
            other seeds).
    """
    known = errors.dropna(subset=["stderr_seeds"])
    single = [name for name in errors.index if name not in known.index]
    ratio = known["stderr_seeds"] / known["stderr_items"]
    larger = list(known.index[ratio > _LARGER])
    alike = list(known.index[(ratio <= _LARGER) & (ratio >= 1 / _LARGER)])
    said = []
    if len(known):
        said.append(
            f"Seeds are a larger source of noise than items in {len(larger)} of the {len(known)} grids "
            f"with several seeds{': ' if larger else ''}{'; '.join(larger)}."
        )
    if alike:
        said.append(f"Both are about as large (within {_LARGER} times) in {'; '.join(alike)}.")
    if single:
        said.append(f"Nothing is known of other seeds in {'; '.join(single)}: one seed a row.")
    return " ".join(said)


def scaled_down(results: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """What was run, beside the published protocol on Llama 3-8B (profile "paper").

    Args:
        results: from `results.read_results`.

    Returns:
        Index: what; columns here, published; as text. "none yet" where only the untouched base has run.
    """
    paper = load_profile("paper")
    trained = [x for x in results if x["run"]["method"] != UNTRAINED]
    shares = [x["budget"]["trainable"] / x["budget"]["ratio"] for x in trained]
    items = {sum(task["n"] for task in x["eval"]["tasks"].values()) for x in results}

    def here(name: str) -> str:
        values = sorted({x["run"][name] for x in trained}, key=lambda value: (value is None, value))
        return " to ".join(_text(value) for value in _ends(values)) or _NONE

    def published(name: str) -> str:
        return _text(paper.training[name])

    seeds = {x["run"]["seed"] for x in trained}
    lines = {
        "parameters of the base model": (
            _span(round(x) for x in shares),
            f"{llama_3_8b().parameters:,}",
        ),
        "training steps": (here("steps"), published("steps")),
        "examples a step": (here("batch_size"), published("batch_size")),
        "tokens an example, at most": (here("max_length"), published("max_length")),
        "learning rate": (here("lr"), f"{paper.learning_rate:g} for every method"),
        "dropout": (here("dropout"), f"{paper.dropout:g}"),
        "gate size": (_sizes(trained, "gate"), str(GATE_SIZE)),
        "Kronecker size": (_sizes(trained, "kron"), str(KRON_SIZE)),
        "seeds": (str(len(seeds)) if seeds else _NONE, "1"),
        "test items": (_span(items), f"{sum(ITEMS[task] for task in TASKS):,}"),
    }
    return pandas.DataFrame.from_dict(lines, orient="index", columns=["here", "published"])


def _sizes(trained: Sequence[Mapping[str, Any]], fit: str) -> str:
    """The share sizes of the runs with a fit."""
    sizes = {share_size_of(x["run"]) for x in trained if x["run"].get("fit") == fit} - {None}
    return ", ".join(map(str, sorted(sizes))) or ("not used" if trained else _NONE)


def _span(numbers: Any) -> str:
    values = sorted(set(numbers))
    return " to ".join(f"{value:,}" for value in _ends(values)) or _NONE


def _ends(values: Sequence[Any]) -> list[Any]:
    """The first and the last of some values, once where they are the same."""
    return list(dict.fromkeys([*values[:1], *values[-1:]]))


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
