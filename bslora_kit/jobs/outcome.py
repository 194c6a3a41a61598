"""What a finished job leaves in its folder: the adapter, the items, and the parts of result.json."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bslora_kit.budget import Budget
from bslora_kit.jobs.result_file import HASH_DIGITS
from bslora_kit.training import TrainingResult

if TYPE_CHECKING:
    from bslora_kit.evaluation.scores import Evaluation


def save_adapter(model: Any, base_name: str, folder: Path) -> None:
    """Saves the adapter in one move.

    Args:
        model: a PEFT model.
        base_name: of its base, as it was asked for; the adapter's config names it.
        folder: where to; an adapter there is replaced.
    """
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    model.peft_config["default"].base_model_name_or_path = base_name
    # "auto" would ask the hub whether the vocabulary has grown; the kit adapts no embedding.
    model.save_pretrained(beside, save_embedding_layers=False)
    (beside / "README.md").unlink()  # an empty form; what the adapter is stands in result.json
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def write_items(evaluation: Evaluation, path: Path) -> None:
    """Writes one row a test item, as Parquet, in one move.

    Of each doc_hash the first 12 hexadecimal digits are kept: 48 bits tell the items of a task apart,
    and whole hashes, which do not compress, would be most of the file.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    items = evaluation.items.assign(doc_hash=evaluation.items["doc_hash"].str[:HASH_DIGITS])
    items.to_parquet(beside, index=False, compression="zstd")
    os.replace(beside, path)


def budget_entry(spent: Budget | None) -> dict[str, Any]:
    """The part `budget` of result.json; without an adapter all zero."""
    if spent is None:
        return {"trainable": 0, "total": 0, "ratio": 0.0, "by_scope": {}, "by_kind": {}, "rank": 0}
    names = ("trainable", "total", "ratio", "by_scope", "by_branch", "by_kind", "rank")
    return {name: getattr(spent, name) for name in names}


def training_entry(training: TrainingResult | None, precision: str, processes: int) -> dict[str, Any]:
    """The part `train` of result.json.

    Args:
        training: None for the untouched base.
        precision: that it was done in.
        processes: how many took part.
    """
    if training is None:
        return {"status": "untrained", "steps": 0}
    return {
        "status": "stopped" if training.stopped else "done",
        "steps": training.steps,
        "tokens": training.tokens,
        "tokens_per_s": training.tokens_per_s,
        "peak_memory_bytes": training.peak_memory_bytes,
        "loss_first": training.history[0]["loss"],
        "loss_last": training.loss,
        "eval_loss": training.eval_loss,
        "seconds": training.seconds,
        "processes": processes,
        "precision": precision,
    }
