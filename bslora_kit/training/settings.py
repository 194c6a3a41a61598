"""The settings of a training run, checked where they are made.

A profile (data/profiles/*.yaml) names them; the published values are in paper.yaml.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Attributes:
        steps: optimizer steps.
        lr: peak learning rate of AdamW.
        batch_size: examples a step, over all processes.
        micro_batch_size: examples in one forward pass of one process. A batch is sorted by length
            before it is cut, so micro-batches smaller than the batch also spare padding.
        warmup_steps: steps over which the rate climbs from 0.
        schedule: how the rate falls towards 0 afterwards.
        weight_decay: AdamW's, on every trained parameter.
        max_grad_norm: longer gradients are scaled down to this norm; infinity leaves them.
        precision: of the forward pass. "auto" is bf16 where a GPU has it, fp16 on other GPUs, and
            fp32 elsewhere. "fp32" computes in the model's own types, without autocast.
        max_length: longest example, in tokens.
        seed: of the order of the examples and of the dropout masks.
        evaluate_every: steps between held-out losses; one is always taken after the last step.
        checkpoint_every: steps between checkpoints, and one at the end; 0 writes none.
        gradient_checkpointing: recompute activations in the backward pass, to save memory.
    """

    steps: int
    lr: float
    batch_size: int = 32
    micro_batch_size: int = 32
    warmup_steps: int = 0
    schedule: Literal["linear", "cosine"] = "linear"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    max_length: int = 256
    seed: int = 0
    evaluate_every: int = 0
    checkpoint_every: int = 0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind == "int" and type(value) is not int:
                raise ValueError(f"{field.name} is {value!r}, expected a whole number")
            if kind == "float" and type(value) not in (int, float):
                raise ValueError(
                    f"{field.name} is {value!r}, expected a number (YAML reads 1e-4 as text: write "
                    "1.0e-4)"
                )
        positive = ("steps", "lr", "batch_size", "micro_batch_size", "max_length", "max_grad_norm")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("warmup_steps", "weight_decay", "seed", "evaluate_every", "checkpoint_every"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not math.isfinite(self.lr):
            raise ValueError(f"lr is {self.lr}, expected a finite number")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, expected fewer than the {self.steps} steps"
            )
        for name, allowed in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
                )
