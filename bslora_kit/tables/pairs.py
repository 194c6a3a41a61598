"""Every row of a table against every other: which differences exceed the noise, and which ranks follow.

    items.parquet of all runs --comparisons--> all pairs, paired by item and seed, Holm over the table
                              --rank_sets-->   the places that each row may hold

Numbers are in points; see `contrasts` for what "not distinguishable" means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas

from bslora_kit.tables.answers import Answers, answers_of
from bslora_kit.tables.contrasts import (
    SIGNIFICANT,
    Contrast,
    contrasts_of,
    one_seed,
    size_of,
    smallest_of,
)
from bslora_kit.tables.discordant import discordant
from bslora_kit.tables.results import base_of, names_of, score_of, unlike


def comparisons(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """All pairs of rows on the mean of the eight tasks, or on MMLU where nothing else was scored.

    Args:
        results: from `results.read_results`; their folders hold items.parquet.
        grid: the grid file; an untrained row serves every seed.

    Returns:
        One row a pair, in the grid's order, with the columns of `contrasts`: a, b are names of rows,
        method_a, method_b what they ran (`results.names_of`), and p_holm is adjusted over all pairs; and
        with McNemar's test of `discordant.discordant`. Pairs without a common seed, or on different
        base models, are left out.

    Raises:
        ValueError: if runs did not answer the same items, or hold too few for an interval.
    """
    answers = answers_of(results, grid)
    return comparisons_of(answers and answers.counted(), grid)


def comparisons_of(answers: Answers | None, grid: Mapping[str, Any]) -> pandas.DataFrame:
    """`comparisons` of answers that were read before, those that count; None where there are none."""
    names = names_of(grid["rows"])
    bases = {row["row"]: base_of(row) for row in grid["rows"]}
    asked = [
        Contrast(one, other, (one,), (other,))
        for one, other in combinations(names, 2)
        if bases[one] == bases[other]
    ]
    found = contrasts_of(answers, asked)
    found = found.assign(method_a=found["a"].map(names), method_b=found["b"].map(names))
    return found.join(discordant(answers, list(zip(found["a"], found["b"], strict=True))))


def rank_sets(table: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.DataFrame:
    """The places that each row of a table may hold, as far as its runs can tell.

    A row stands behind as many rows as are distinguishably better, and before as many as are
    distinguishably worse; all places between are open. With Holm's adjustment all sets hold the true
    places together in 95 of 100 tables (Mogstad, Romano, Shaikh & Wilhelm, Review of Economic Studies
    2024).

    Args:
        table: from `results.table`; rows without a mean have no place. Rows on different base models
            are ranked apart.
        pairs: from `comparisons`.

    Returns:
        Columns row, first, last (places, 1 is best), places ("1" or "1-4"), level_with: the rows that it
        was compared with and cannot be told from, and apart: those that it was not compared with, for
        want of a common seed; both as tuples, the best first.
    """
    blocks = [_sets_of(block, pairs) for _, block in table.groupby("base", sort=False)]
    return pandas.concat(blocks, ignore_index=True)


def _sets_of(table: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.DataFrame:
    """`rank_sets` of the rows on one base model."""
    means = table.dropna(subset=["mean"]).set_index("row")["mean"].sort_values(ascending=False)
    better = {row: set() for row in means.index}  # row -> rows distinguishably better
    worse = {row: set() for row in means.index}
    compared = {frozenset(pair) for pair in zip(pairs["a"], pairs["b"], strict=True)}
    for pair in pairs[pairs["distinguishable"]].itertuples():
        up, down = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
        if up in worse and down in better:
            worse[up].add(down)
            better[down].add(up)
    rows = []
    for row in (name for name in table["row"] if name in means.index):
        first, last = 1 + len(better[row]), len(means) - len(worse[row])
        others = [x for x in means.index if x != row and x not in better[row] | worse[row]]
        level = tuple(x for x in others if frozenset((row, x)) in compared)
        apart = tuple(x for x in others if x not in level)
        places = str(first) if first == last else f"{first}-{last}"
        rows.append((row, first, last, places, level, apart))
    return pandas.DataFrame(rows, columns=["row", "first", "last", "places", "level_with", "apart"])


def with_places(table: pandas.DataFrame, pairs: pandas.DataFrame) -> pandas.DataFrame:
    """A table with the columns places and against_best.

    The latter is "best", "not distinguishable", "below", or "not compared" for want of a common seed.
    """
    sets = rank_sets(table, pairs).set_index("row")
    if not len(pairs) or not len(sets):
        return table.assign(places=None, against_best=None)
    words = {}
    for best in leaders(table):
        block = table.loc[(table["base"] == best["base"]) & table["row"].isin(sets.index), "row"]
        words |= dict.fromkeys(block, "below")
        words |= dict.fromkeys(sets.loc[best["row"], "level_with"], "not distinguishable")
        words |= dict.fromkeys(sets.loc[best["row"], "apart"], "not compared")
        words[best["row"]] = "best"
    return table.assign(places=table["row"].map(sets["places"]), against_best=table["row"].map(words))


def against(pairs: pandas.DataFrame, row: str) -> pandas.DataFrame:
    """The pairs that one row is in, as the other rows less this one.

    Returns:
        Columns row, method, difference, low, high, p_holm, seeds, distinguishable, the highest first.
    """
    swapped = pairs[pairs["a"] == row]
    turned = swapped.assign(
        row=swapped["b"],
        method=swapped["method_b"],
        difference=-swapped["difference"],
        low=-swapped["high"],
        high=-swapped["low"],
    )
    straight = pairs[pairs["b"] == row]
    straight = straight.assign(row=straight["a"], method=straight["method_a"])
    columns = ["row", "method", "difference", "low", "high", "p_holm", "seeds", "distinguishable"]
    return pandas.concat([turned, straight])[columns].sort_values(
        "difference", ascending=False, ignore_index=True
    )


def in_words(table: pandas.DataFrame, pairs: pandas.DataFrame) -> list[str]:
    """What the comparisons of a table say, in sentences.

    Args:
        table: from `results.table`.
        pairs: from `comparisons`.
    """
    if not len(pairs):
        several = table.dropna(subset=["mean"])["base"].duplicated().any()
        return ["No two rows have a seed in common, so none are compared."] if several else []
    told = int(pairs["distinguishable"].sum())
    level = len(pairs) - told
    alone, among = pairs["smallest"], smallest_of(pairs, len(pairs))
    said = [
        f"{told} of {len(pairs)} pairs of rows are distinguishable (paired by item and seed, clustered "
        "by fact, Holm over the table)"
        + (f"; {level} {'is' if level == 1 else 'are'} not distinguishable." if level else "."),
        "Smallest true difference that a pair shows in 8 of 10 such comparisons: "
        f"{alone.median():.1f} points asked alone, {among.median():.1f} at Holm's first step (medians "
        f"over the pairs; the largest {size_of(alone.max())} and {size_of(among.max())}).",
    ]
    said += one_seed(pairs)
    counted = int((pairs["p_mcnemar_holm"] < SIGNIFICANT).sum())
    said.append(
        f"McNemar's test, of these trained models alone and with all answers weighing the same: "
        f"{counted} of {len(pairs)} pairs differ, Holm over the table."
    )
    sets = rank_sets(table, pairs).set_index("row")
    names = unlike({row["row"]: name_of(row) for row in table.to_dict("records")})
    for best in leaders(table):
        level_with, apart = (
            [names[row] for row in sets.loc[best["row"], column]] for column in ("level_with", "apart")
        )
        said.append(
            f"Highest mean{' on ' if best['base'] else ''}{best['base']}: {name_of(best)}. "
            f"Not distinguishable from it: {'; '.join(level_with) or 'no row'}."
            + (f" Not compared with it, for want of a common seed: {'; '.join(apart)}." if apart else "")
        )
    return said


def leaders(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """The row with the highest mean on each base model; none where nothing has a mean."""
    best = table.dropna(subset=["mean"]).groupby("base", sort=False)["mean"].idxmax()
    return table.loc[best].to_dict("records")


def name_of(row: Mapping[str, Any]) -> str:
    """Method and ranks of a table's row."""
    return f"{row['method']} {row['ranks']}".strip()


def seed_scores(results: Sequence[Mapping[str, Any]], grid: Mapping[str, Any]) -> pandas.DataFrame:
    """One row a run: row, method (`results.names_of`), seed, mean (percent; NaN where there is none)."""
    order = names_of(grid["rows"])
    runs = sorted(
        (x for x in results if x["run"]["row"] in order),
        key=lambda x: (list(order).index(x["run"]["row"]), x["run"]["seed"]),
    )
    rows = [
        {
            "row": x["run"]["row"],
            "method": order[x["run"]["row"]],
            "seed": x["run"]["seed"],
            "mean": score_of(x["eval"])[0],
        }
        for x in runs
    ]
    frame = pandas.DataFrame(rows, columns=["row", "method", "seed", "mean"])
    return frame.astype({"mean": float})
