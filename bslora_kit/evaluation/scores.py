"""Scores a model in memory with lm-evaluation-harness and keeps every item.

    result = evaluate(model, tokenizer, ["mini_commonsense", "mini_mmlu"])
    result.scores     one row per task            result.mean       plain mean of the eight tasks
    result.items      one row per test item       result.by_kind    old, new and two-hop facts apart

Prompts, answer keys and the two metrics are those of the installed lm_eval (see `tasks`). Every number
is computed from the items, unrounded, so that a table can be traced back to them. lm_eval is imported
when something is scored, not with this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy
import pandas

from bslora_kit.evaluation.tasks import COMMONSENSE, GROUPS, definitions, expand, metric_of, task_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["COMMONSENSE", "Evaluation", "evaluate", "task_folder"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scored items of one model; everything else is computed from them.

    Attributes:
        items: one row per test item. task; subject (MMLU; missing elsewhere); doc_id (position in the
            split); doc_hash (lm_eval's, the same for the same item in every run); kind and fact (missing
            where the item has none); gold and prediction (index of the choice, the latter under the
            published metric); log_likelihoods (list, one per choice, in nats); correct (under the
            published metric); acc and acc_norm (0, 1, or NaN where the task does not report it).
        shots: solved examples before each question.
        split: "test", "validation" or "train".
        limit: items per task or subject at most; None for all.
        seed: of the choice of few-shot examples.
        batch_size: sequences per forward pass; in 16-bit numbers results move with it.
    """

    items: pandas.DataFrame
    shots: int
    split: str
    limit: int | None
    seed: int
    batch_size: int

    @cached_property
    def scores(self) -> pandas.DataFrame:
        """One row per task: task, metric, value (0 to 1), stderr, n. MMLU is weighted by size.

        Errors here are lm_eval's, which take items as independent; `tables.one_run` counts a fact once.
        """
        rows = []
        for task, items in self.items.groupby("task", sort=False):
            parts = [part["correct"] for _, part in items.groupby("subject", dropna=False)]
            rows.append({"task": task, "metric": metric_of(task), **_pooled(parts)})
        return pandas.DataFrame(rows)

    @cached_property
    def subjects(self) -> pandas.DataFrame:
        """The rows behind MMLU: task, subject, metric, value, stderr, n; empty without MMLU."""
        return self._grouped("subject")

    @cached_property
    def by_kind(self) -> pandas.DataFrame:
        """Scores by kind of fact: task, kind, metric, value, stderr, n; empty without kinds."""
        return self._grouped("kind")

    @cached_property
    def mean(self) -> float | None:
        """Plain mean of the eight commonsense values, unrounded; None unless all eight are there."""
        eight = self._eight()
        return None if eight is None else float(eight["value"].mean())

    @cached_property
    def mean_stderr(self) -> float | None:
        """Standard error of `mean`: the root of the eight summed variances, over 8."""
        eight = self._eight()
        if eight is None:
            return None
        return _finite(math.sqrt((eight["stderr"] ** 2).sum(skipna=False)) / 8)

    def to_dict(self) -> dict[str, Any]:
        """The `eval` part of result.json: plain numbers, None where a standard error has n = 1."""
        return {
            "tasks": {
                row["task"]: {
                    **_plain(row, ("metric", "value", "stderr", "n")),
                    "by_kind": {
                        kind["kind"]: _plain(kind, ("value", "stderr", "n"))
                        for kind in self.by_kind.to_dict("records")
                        if kind["task"] == row["task"]
                    },
                }
                for row in self.scores.to_dict("records")
            },
            "subjects": {
                row["subject"]: _plain(row, ("value", "stderr", "n"))
                for row in self.subjects.to_dict("records")
            },
            "mean": self.mean,
            "mean_stderr": self.mean_stderr,
            "shots": self.shots,
            "split": self.split,
            "limit": self.limit,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "lm_eval": version("lm_eval"),
        }

    def _eight(self) -> pandas.DataFrame | None:
        for eight in GROUPS.values():
            chosen = self.scores[self.scores["task"].isin(eight)]
            if len(chosen) == len(eight):
                return chosen
        return None

    def _grouped(self, column: str) -> pandas.DataFrame:
        rows = [
            {"task": task, column: name, "metric": metric_of(task), **_pooled([part["correct"]])}
            for (task, name), part in self.items.groupby(["task", column], sort=False)
        ]
        return pandas.DataFrame(rows, columns=["task", column, "metric", "value", "stderr", "n"])


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: str | Sequence[str],
    *,
    shots: int = 0,
    split: str = "test",
    limit: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Evaluation:
    """Scores a model as it stands, adapters and all; leaves its mode and all random states as they were.

    Args:
        model: a causal language model, on any device; a PEFT model too.
        tokenizer: its tokenizer.
        tasks: names as in `tasks.known_tasks`; "mini_commonsense" and "commonsense" mean the eight
            tasks.
        shots: solved examples before each question: MMLU the first of its dev split, other tasks drawn
            with `seed`.
        split: "test" for the published numbers, "validation" (or "train") for choosing settings.
        limit: at most so many items per task (MMLU: per subject), spread evenly over the split; the same
            ones in every run.
        batch_size: sequences per forward pass; keep one for a whole table.
        seed: of the choice of few-shot examples.

    Returns:
        The items, and the scores computed from them.

    Raises:
        ValueError: for unknown tasks, an unusable split, numbers below their least; MalformedItems (a
            ValueError) for items that do not fit their official task.
        FileNotFoundError: for a local task without its file.
        ConnectionError: where a real task's items are neither here nor to be had; says what to fetch.
        FloatingPointError: if the model gives NaN.
    """
    for name, value, least in (("shots", shots, 0), ("limit", limit, 1), ("batch_size", batch_size, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}; expected a whole number of at least {least}")
    found = definitions(expand(tasks), split)

    from bslora_kit.evaluation.harness import score  # lm_eval is needed, and loaded, only from here on

    records = score(model, tokenizer, found, shots=shots, limit=limit, batch_size=batch_size, seed=seed)
    return Evaluation(pandas.DataFrame(records), shots, split, limit, seed, batch_size)


def _pooled(parts: list[pandas.Series]) -> dict[str, float | int]:
    """Mean over all items and its standard error, from the variance within the parts.

    With one part this is the sample standard deviation over root n; with several lm_eval's
    `pooled_sample_stderr`, the error of a mean whose subjects are fixed.
    """
    n = sum(map(len, parts))
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in parts)
    free = n - len(parts)
    return {
        "value": float(numpy.concatenate(parts).mean()),
        "stderr": math.sqrt(squares / free / n) if free else math.nan,
        "n": n,
    }


def _plain(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: _finite(row[key]) if key == "stderr" else row[key] for key in keys}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
