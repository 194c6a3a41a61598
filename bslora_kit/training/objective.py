"""The numbers inside a training step: learning rate, loss on the answers, gradient norm per scope.

The loss of a batch is the mean of -log p over its answer tokens (nats per token). Here it is a sum:
whoever cuts a batch into parts adds the sums up and divides by the tokens of the whole.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from bslora_kit.data import IGNORED, Example
from bslora_kit.training.settings import TrainingSettings


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """The rate of a step (from 0): linear warm-up from 0, then linear or cosine decay towards 0.

    Equal to transformers' `get_linear_schedule_with_warmup` and `get_cosine_schedule_with_warmup`,
    as a function of the step instead of an object with a state to restore.
    """
    if step < settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    progress = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.lr * (1 - progress)


def answer_tokens(example: Example) -> int:
    """Number of tokens that a model has to predict; the first token of a text never is one."""
    return sum(label != IGNORED for label in example.labels[1:])


def summed_loss(model: nn.Module, batch: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """Sum of -log p over the answer tokens of a batch.

    Logits are computed only where some row has an answer token, if the model can do that: prompts
    need none, and [batch, tokens, vocabulary] is large.

    Args:
        model: a causal language model, or its data-parallel wrapper.
        batch: as from `collate`, on the CPU.
        device: where the model is.

    Returns:
        A scalar, in float32 or more.
    """
    targets = batch["labels"][:, 1:]  # [batch, tokens - 1]: position p predicts token p + 1
    positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
    targets = _sent(targets[:, positions], device)
    positions = _sent(positions, device)
    inputs = {
        "input_ids": _sent(batch["input_ids"], device),
        "attention_mask": _sent(batch["attention_mask"], device),
        "use_cache": False,
    }
    if _takes_positions(model):
        logits = model(**inputs, logits_to_keep=positions).logits
    else:
        logits = model(**inputs).logits[:, positions]
    return functional.cross_entropy(
        logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


def _takes_positions(model: nn.Module) -> bool:
    if isinstance(model, DistributedDataParallel):
        model = model.module
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _has_argument(type(base), "logits_to_keep")


@cache
def _has_argument(model_type: type[nn.Module], name: str) -> bool:
    return name in inspect.signature(model_type.forward).parameters


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def gradient_norms(
    parameters: Mapping[str, nn.Parameter], scope_of: Mapping[str, str]
) -> dict[str, Tensor]:
    """The 2-norm of the gradient of each scope's parameters, as scalars on the device."""
    gradients: dict[str, list[Tensor]] = {scope: [] for scope in scope_of.values()}
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            gradients[scope_of[name]].append(parameter.grad)
    return {scope: get_total_norm(tensors) for scope, tensors in gradients.items()}


def scopes_of(names: Sequence[str], scopes: Mapping[str, str] | None) -> dict[str, str]:
    """The scope of each trained parameter; "all" where no scopes are given.

    Raises:
        ValueError: a trained parameter has no scope.
    """
    if scopes is None:
        return dict.fromkeys(names, "all")
    missing = [name for name in names if name not in scopes]
    if missing:
        raise ValueError(
            f"no scope for {len(missing)} of {len(names)} trained parameters, first {missing[0]}: "
            "give one for every name in model.named_parameters() that requires a gradient"
        )
    return {name: scopes[name] for name in names}
