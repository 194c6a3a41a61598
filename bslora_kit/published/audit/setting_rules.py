"""Audit rules on what was run: parameter counts, ratios, bold print, ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from bslora_kit.branches import (
    GATE_SIZE,
    KRON_SIZE,
    Branch,
    bslora_branches,
    share_lora_branches,
    tied_lora_branches,
)
from bslora_kit.plan import plan
from bslora_kit.published.audit.finding import Finding
from bslora_kit.published.audit.rows import Row
from bslora_kit.published.right_answers import ROUNDING
from bslora_kit.shapes import DEFAULT_TARGETS, Shapes, llama_1_7b, llama_1_13b, llama_3_8b

MODELS = {"Llama 1-7B": llama_1_7b, "Llama 3-8B": llama_3_8b, "Llama 1-13B": llama_1_13b}
_SIZES = tuple(2**power for power in range(1, 13))  # share sizes tried for a count that does not fit
_FITS = {"bslorass": "slice", "bsloragt": "gate", "bslorake": "kron"}


@cache
def _shapes(model: str) -> Shapes:
    return MODELS[model]()


def _branches(method: str, ranks: tuple[int, ...], size: int | None = None) -> list[Branch] | None:
    """The branches of a printed method; None for one that the kit does not know."""
    if method in _FITS and len(ranks) == 3:
        return bslora_branches(*ranks, _FITS[method], size or GATE_SIZE, size or KRON_SIZE)
    if len(ranks) != 1:
        return None
    if method == "sharelora":
        return share_lora_branches(ranks[0], "B")
    variant = method.removeprefix("tiedlora")
    return tied_lora_branches(ranks[0], variant) if variant in ("tl5", "tl6") else None


@cache
def count(model: str, method: str, ranks: tuple[int, ...], size: int | None = None) -> int | None:
    """Trainable parameters of a printed row by its plan; None for an unknown model or method.

    Args:
        model: as printed.
        method: as in `rows.Row`.
        ranks: as printed.
        size: gate or Kronecker size; by default the published one.
    """
    branches = _branches(method, ranks, size)
    if branches is None or model not in MODELS:
        return None
    linears = [x for x in _shapes(model).linears if x.kind in DEFAULT_TARGETS]
    return plan(branches, linears).trainable


def update_rank(method: str, ranks: tuple[int, ...]) -> int | None:
    """Rank of a printed row's update of one linear; None for an unknown method."""
    branches = _branches(method, ranks)
    return None if branches is None else sum(branch.effective_rank for branch in branches)


def parameter_findings(runs: Sequence[Row]) -> Iterator[Finding]:
    """Printed counts that the plan of the printed setting does not give."""
    for row in runs:
        expected = count(row.model, row.method, row.ranks) if row.parameters is not None else None
        if expected is None or expected == row.parameters:
            continue
        why = f"the plan of ranks {_text(row.ranks)} on {row.model} has {expected:,} parameters"
        if row.method in ("bsloragt", "bslorake"):
            name, published = ("gate", GATE_SIZE) if "gt" in row.method else ("Kronecker", KRON_SIZE)
            fitting = [
                size
                for size in _SIZES
                if count(row.model, row.method, row.ranks, size) == row.parameters
            ]
            why += f" at the published {name} size {published}; the printed count is that of "
            why += f"size {fitting[0]}" if fitting else f"no size from {_SIZES[0]} to {_SIZES[-1]}"
        printed = f"{row.parameters:,}"
        yield Finding(row.table, row.name, "parameters", printed, f"{expected:,}", "parameters", why)


def ratio_findings(runs: Sequence[Row]) -> Iterator[Finding]:
    """Printed ratios that neither the printed nor the planned count gives."""
    for row in runs:
        if row.ratio is None or row.parameters is None or row.model not in MODELS:
            continue
        whole = _shapes(row.model).parameters
        counts = {row.parameters, count(row.model, row.method, row.ranks) or row.parameters}
        printed = float(row.ratio.rstrip("%"))
        if any(abs(100 * number / whole - printed) <= ROUNDING for number in counts):
            continue
        expected = f"{100 * row.parameters / whole:.2f}%"
        why = f"{row.parameters:,} of {whole:,} parameters are {100 * row.parameters / whole:.4f} %"
        yield Finding(row.table, row.name, "ratio", row.ratio, expected, "ratio", why)


def bold_findings(rows: Sequence[Row]) -> Iterator[Finding]:
    """Bold cells that are not the best of their block, and best cells that are not bold.

    A table prints bold in some columns, and for groups or for runs: only there it is looked for.
    """
    used = {(row.table, row.of_group, column) for row in rows for column in row.bold}
    for row in rows:
        same = [x for x in rows if (x.table, x.of_group) == (row.table, row.of_group)]
        block = same if row.of_group else [x for x in same if x.block == row.block]
        for column, value in row.numbers.items():
            if (row.table, row.of_group, column) not in used:
                continue
            best = max(block, key=lambda x: x.numbers.get(column, float("-inf")))
            is_best = value == best.numbers[column]
            if is_best == (column in row.bold):
                continue
            if is_best:
                ties = [x.name for x in block if x is not row and x.numbers.get(column) == value]
                why = f"is as high as {ties[0]}" if ties else "is the highest of its block"
                printed, expected = f"{value:.2f}", f"bold {value:.2f}"
            else:
                why = f"{best.name} has {best.numbers[column]:.2f}"
                printed, expected = f"bold {value:.2f}", f"{value:.2f}"
            yield Finding(row.table, row.name, column, printed, expected, "bold", why)


def rank_findings(runs: Sequence[Row], twins: Sequence[tuple[Row, Row]]) -> Iterator[Finding]:
    """Rows that are compared without their ranks; where the same run stands elsewhere, its ranks."""
    known: dict[Row, Row] = {}
    for one, other in twins:
        known.update({one: other} if other.ranks else {})
        known.update({other: one} if one.ranks else {})
    for row in (x for x in runs if not x.ranks):
        twin = known.get(row)
        if twin is None:
            why, expected = (
                "no ranks are printed and no other table has this run",
                "the ranks of the run",
            )
        else:
            expected = _text(twin.ranks)
            why = f"no ranks are printed; the run is that of {twin.table}, {twin.name}"
            peers = [
                known[x].parameters
                for x in runs
                if (x.table, x.block) == (row.table, row.block) and x in known
            ]
            if twin.parameters and all(peers) and max(peers) > 1.5 * twin.parameters:
                why += (
                    f", with {twin.parameters:,} parameters where a row beside it has {max(peers):,}: "
                    "not an equal budget"
                )
        yield Finding(row.table, row.name, "ranks", "", expected, "unprinted ranks", why)


def _text(ranks: tuple[int, ...]) -> str:
    return ",".join(map(str, ranks))
