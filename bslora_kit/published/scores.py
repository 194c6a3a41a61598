"""Published scores with the noise of the one run behind each, and which of them it leaves apart.

A published row is one run with one seed. How often its answers agree with another row's item by item is
not published, so only the binomial error of each run is known, and two rows can be compared as if they
had answered different items: an upper limit for runs on one test, which still says nothing of seeds.
Scores in percent, as printed (see `printed` and `audit`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from bslora_kit.published import printed
from bslora_kit.published.printed import TASKS
from bslora_kit.published.right_answers import mean_error, score_error
from bslora_kit.statistics import holm

if TYPE_CHECKING:
    import pandas

MODEL = "Llama 3-8B"  # the model whose published rows stand beside a grid's
NORMAL_95 = 1.959964  # standard errors on each side of a 95 % interval
_PLACEMENTS = {"Attention": "Share Attention", "MLP": "Share MLP", "Both": "Share Attention & MLP"}
_METHOD_NAMES = {  # as printed -> as the kit's tables and figures write it
    "Tied_lora (tl5)": "Tied-LoRA (TL5)",
    "Tied_lora (tl6)": "Tied-LoRA (TL6)",
    **{f"BSLoRA({fit})": f"BSLoRA ({fit})" for fit in ("SS", "GT", "KE")},
}


class PublishedScore(NamedTuple):
    """A printed score and the binomial standard error of its run, in percent and points."""

    score: float
    stderr: float


def published_score(row: Mapping[str, Any]) -> PublishedScore | None:
    """The printed mean of the eight tasks, or of MMLU where the row says how many shots.

    Args:
        row: of a grid file. Rows with published_parameters are found by them in the equal-budget and
            Tied-LoRA tables; rows labelled "Attention, ...", "MLP, ..." or "Both, ..." in the placement
            table.

    Returns:
        None for a row that no published table has.
    """
    place, _, method = str(row.get("label", "")).partition(", ")
    if place in _PLACEMENTS:
        return _placement_scores().get((_PLACEMENTS[place], method.replace(" ", "")))
    return _scores_by_count().get((row.get("published_parameters"), row.get("shots")))


def mean_of_row(row: Mapping[str, Any]) -> PublishedScore:
    """The printed mean of one row of a published table, with its one-run noise."""
    return PublishedScore(float(row["mean"]), mean_error({task: float(row[task]) for task in TASKS}))


def rows_with_noise() -> pandas.DataFrame:
    """All printed rows with a mean of the eight tasks.

    Returns:
        Columns table; model; method, as the kit's figures name it; label; the eight tasks; mean; stderr:
        binomial standard error of the mean.
    """
    import pandas

    frames = []
    for name, frame in printed.all_tables().items():
        if "mean" in frame:
            frame = frame.dropna(subset=list(TASKS)).rename(columns={"rank": "ranks"})
            place = frame["placement"].str.removeprefix("Share ") + ", " if "placement" in frame else ""
            methods = frame["method"].replace(_METHOD_NAMES)
            ranks = " " + frame["ranks"].astype(str) if "ranks" in frame else ""
            frames.append(
                frame.assign(
                    table=name,
                    model=frame["model"] if "model" in frame else MODEL,
                    method=methods,
                    label=place + methods + ranks,
                    stderr=[mean_of_row(row).stderr for row in frame.to_dict("records")],
                )
            )
    columns = ["table", "model", "method", "label", *TASKS, "mean", "stderr"]
    return pandas.concat(frames, ignore_index=True)[columns]


def pairs_of(rows: pandas.DataFrame) -> pandas.DataFrame:
    """All pairs of printed rows, the higher one first, against the noise of two single runs.

    Args:
        rows: from `rows_with_noise`, those that are to be compared.

    Returns:
        Columns a, b, difference, half_width (of its 95 % interval), p_value, p_holm (adjusted over these
        pairs), beyond_noise (by the interval alone), beyond_holm.
    """
    import pandas
    from scipy.stats import norm

    found = []
    for one, other in combinations(rows.to_dict("records"), 2):
        up, down = (one, other) if one["mean"] >= other["mean"] else (other, one)
        error = math.hypot(up["stderr"], down["stderr"])
        difference = up["mean"] - down["mean"]
        found.append(
            {
                "a": up["label"],
                "b": down["label"],
                "difference": difference,
                "half_width": NORMAL_95 * error,
                "p_value": 2 * float(norm.sf(difference / error)),
            }
        )
    columns = ["a", "b", "difference", "half_width", "p_value"]
    pairs = pandas.DataFrame(found, columns=columns)
    adjusted = holm(pairs["p_value"]) if len(pairs) else []
    return pairs.assign(
        p_holm=adjusted,
        beyond_noise=pairs["difference"] > pairs["half_width"],
        beyond_holm=[p < 0.05 for p in adjusted],
    )


def noise_summary(rows: pandas.DataFrame) -> pandas.DataFrame:
    """How many pairs of each table, model by model, exceed the noise.

    Args:
        rows: from `rows_with_noise`.

    Returns:
        Columns table, model, pairs, largest_difference, beyond_noise, beyond_holm.
    """
    import pandas

    found = []
    for (table, model), group in rows.groupby(["table", "model"], sort=False):
        pairs = pairs_of(group)
        found.append(
            {
                "table": table,
                "model": model,
                "pairs": len(pairs),
                "largest_difference": pairs["difference"].max(),
                "beyond_noise": int(pairs["beyond_noise"].sum()),
                "beyond_holm": int(pairs["beyond_holm"].sum()),
            }
        )
    return pandas.DataFrame(found)


def differences_to(rows: pandas.DataFrame, label: str) -> pandas.DataFrame:
    """Each row less one of them, with the 95 % interval of two single runs.

    Args:
        rows: from `rows_with_noise`.
        label: of the row to compare with.

    Returns:
        Columns method (the label), difference, low, high: as `figures.forest_plot` takes them.

    Raises:
        ValueError: if no row has the label.
    """
    import pandas

    if label not in set(rows["label"]):
        raise ValueError(f"no row is labelled {label!r}; there are {', '.join(rows['label'])}")
    one, others = rows[rows["label"] == label].iloc[0], rows[rows["label"] != label]
    difference = others["mean"] - one["mean"]
    half_width = NORMAL_95 * (others["stderr"] ** 2 + one["stderr"] ** 2) ** 0.5
    return pandas.DataFrame(
        {
            "method": others["label"],
            "difference": difference,
            "low": difference - half_width,
            "high": difference + half_width,
        }
    ).reset_index(drop=True)


@cache
def _placement_scores() -> dict[tuple[str, str], PublishedScore]:
    frame = printed.placement().dropna(subset=list(TASKS))
    return {(row["placement"], row["method"]): mean_of_row(row) for row in frame.to_dict("records")}


@cache
def _scores_by_count() -> dict[tuple[int, int | None], PublishedScore]:
    """(printed parameters, shots or None) -> score; counts are unique within and across the tables."""
    found = {}
    for frame in (printed.similar_budget(), printed.tied_lora()):
        for row in frame.to_dict("records"):
            found[row["parameters"], None] = mean_of_row(row)
    for row in printed.tied_lora_mmlu().to_dict("records"):
        for shots in (0, 5):
            task = f"mmlu_{shots}_shot"
            found[row["parameters"], shots] = PublishedScore(row[task], score_error(task, row[task]))
    return found
