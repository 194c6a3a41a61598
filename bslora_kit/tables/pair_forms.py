"""All pairs of a table's rows as people read them.

Two groups of columns, which answer two questions: what is known of the methods (the difference with its
interval), and what is known of the trained models that are there (McNemar's test).
"""

from __future__ import annotations

import pandas

from bslora_kit.tables.contrasts import one_seed
from bslora_kit.tables.forms import texts
from bslora_kit.tables.long_forms import LongTable

_MODELS = "McNemar, these trained models"


def pair_notes(pairs: pandas.DataFrame) -> list[str]:
    """What a reader of the pairs must know.

    Args:
        pairs: from `pairs.comparisons`.
    """
    single = pairs["stderr_seeds"].isna()
    chance = "items drawn by chance" if single.all() else "items and seeds drawn by chance"
    notes = [
        f"Difference of the tasks' means in points, row less second row; interval, p and smallest "
        f"visible difference (seen in 8 of 10 such comparisons, before Holm) with {chance}, paired by "
        f"item and seed and clustered by fact. Holm's method over all {len(pairs)} pairs."
    ]
    notes += one_seed(pairs)
    notes.append(
        "McNemar's test counts the answers that only one of the two has right, all seeds together and "
        "every answer the same; exact, a fact counting once. It is about these trained models on other "
        "items and says nothing of other seeds, however small its p. Seeds alone: in how many of "
        "them the test by itself shows the same side (p below 0.05, unadjusted)."
    )
    return notes


def pairs_view(pairs: pandas.DataFrame) -> pandas.DataFrame:
    """The columns that people read, as text, in two groups.

    Args:
        pairs: from `pairs.comparisons`.
    """
    several = pairs["stderr_seeds"].notna().any()
    methods = "difference, " + ("over items and seeds" if several else "over items, one seed")
    alone = zip(pairs["seeds_mcnemar"], pairs["seeds"], strict=True)
    columns = {
        (methods, "row"): pairs["method_a"],
        (methods, "less row"): pairs["method_b"],
        (methods, "points"): texts(pairs["difference"], "{:+.2f}"),
        (methods, "95 % interval"): intervals(pairs),
        (methods, "± of items"): texts(pairs["stderr_items"], "{:.2f}"),
        (methods, "± of seeds"): texts(pairs["stderr_seeds"], "{:.2f}"),
        (methods, "p, Holm"): texts(pairs["p_holm"], "{:.2g}"),
        (methods, "smallest visible"): texts(pairs["smallest"], "{:.1f}"),
        (methods, "verdict"): [
            "distinguishable" if told else "not distinguishable" for told in pairs["distinguishable"]
        ],
        (_MODELS, "only row right"): texts(pairs["only_a"], "{:,}"),
        (_MODELS, "only less row right"): texts(pairs["only_b"], "{:,}"),
        (_MODELS, "p, Holm"): texts(pairs["p_mcnemar_holm"], "{:.2g}"),
        (_MODELS, "seeds alone"): [f"{some} of {all_}" for some, all_ in alone],
    }
    return pandas.DataFrame(columns)


def pairs_printed(pairs: pandas.DataFrame) -> LongTable:
    """All pairs with their notes.

    Args:
        pairs: from `pairs.comparisons`.
    """
    return LongTable("all pairs of rows", pair_notes(pairs), pairs_view(pairs), second="McNemar")


def intervals(frame: pandas.DataFrame) -> list[str]:
    """Columns low and high as text."""
    return [f"{low:+.2f} to {high:+.2f}" for low, high in zip(frame["low"], frame["high"], strict=True)]
