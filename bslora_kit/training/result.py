"""What a training run reports: an entry a step, a result at the end, or that it diverged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bslora_kit.data import Example


class TrainingDiverged(RuntimeError):
    """Loss or gradient is not finite any more. The last good checkpoint is kept.

    Attributes:
        step: the step that failed, from 1.
        lr: its learning rate.
        checkpoint: the last good checkpoint, or None.
    """

    def __init__(self, what: str, step: int, lr: float, checkpoint: Path | None):
        kept = (
            f"last good checkpoint: {checkpoint}"
            if checkpoint
            else "no good checkpoint was written"
        )
        super().__init__(
            f"training diverged at step {step}, learning rate {lr:g}: {what}; {kept}. "
            "Lower lr, lengthen warmup_steps, or use bf16 or fp32 in place of fp16."
        )
        self.step, self.lr, self.checkpoint = step, lr, checkpoint


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to.

    Attributes:
        steps: steps done, those before a resume included.
        loss: mean loss over the answer tokens of the last step's batch, in nats.
        eval_loss: the last held-out loss, in nats per answer token; None without held-out examples.
        tokens: tokens read, prompts and answers, without padding.
        seconds: time spent in steps; evaluation and checkpoints not counted.
        tokens_per_s: tokens / seconds.
        peak_memory_bytes: CUDA's allocator at its highest, or the process's resident memory.
        stopped: `should_stop` ended the run before its last step.
        history: one dict a step, as in history.jsonl.
    """

    steps: int
    loss: float
    eval_loss: float | None
    tokens: int
    seconds: float
    tokens_per_s: float
    peak_memory_bytes: int
    stopped: bool
    history: list[dict[str, Any]] = field(repr=False)

    @classmethod
    def of(cls, history: list[dict[str, Any]], stopped: bool) -> TrainingResult:
        """Sums a history up."""
        last = history[-1]
        return cls(
            steps=last["step"],
            loss=last["loss"],
            eval_loss=next((e["eval_loss"] for e in reversed(history) if "eval_loss" in e), None),
            tokens=last["tokens"],
            seconds=last["seconds"],
            tokens_per_s=last["tokens"] / last["seconds"],
            peak_memory_bytes=max(entry["peak_memory_bytes"] for entry in history),
            stopped=stopped,
            history=history,
        )


def history_entry(
    history: list[dict[str, Any]],
    batch: Sequence[Example],
    loss: float,
    rate: float,
    norm: Tensor,
    norms: Mapping[str, Tensor],
    seconds: float,
) -> dict[str, Any]:
    """The line of history.jsonl of one step.

    Args:
        history: the entries so far.
        batch: the step's examples, those of all processes.
        loss: mean loss over the batch's answer tokens, in nats.
        rate: the step's learning rate.
        norm: gradient norm before clipping.
        norms: gradient norm by scope.
        seconds: time that the step took.

    Returns:
        step (from 1), loss, lr, grad_norm, grad_norm_<scope>, tokens and seconds so far, and
        tokens_per_s of this step. A grad_norm of None is an fp16 step that the loss scaler skipped.
    """
    before = history[-1] if history else {"tokens": 0, "seconds": 0.0}
    tokens = sum(len(example) for example in batch)
    named = {"grad_norm": norm, **{f"grad_norm_{scope}": value for scope, value in norms.items()}}
    finite = {name: value.item() if value.isfinite() else None for name, value in named.items()}
    return {
        "step": len(history) + 1,
        "loss": loss,
        "lr": rate,
        **finite,
        "tokens": before["tokens"] + tokens,
        "seconds": before["seconds"] + seconds,
        "tokens_per_s": tokens / seconds,
    }
