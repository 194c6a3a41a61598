"""Where the gradient of a shared tensor comes from: the part that each linear that reads it adds.

    y = W x + s B' A' x         G = dL/dW = sum over tokens of (dL/dy) x^T              [out, in]
    dL/dA through one linear  = vector-Jacobian product of G with A -> s B'(B) A'(A)    the shape of A
    dL/dA                     = the sum over the linears that read A

The second line is the chain rule of `fit`, so it holds for every fit and every role. The sum is what
autograd leaves in `.grad`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from bslora_kit.adapters.fit import fit_branch
from bslora_kit.adapters.inspection import plan_of_model, tensors_of_model


def gradient_by_user(
    model: PeftModel, loss: Callable[[], torch.Tensor], key: str, adapter: str = "default"
) -> dict[str, np.ndarray]:
    """Splits the gradient of one adapter tensor by the linears that read it.

    Args:
        model: a PeftModel of this kit with one active adapter, not merged, without dropout (eval mode).
        loss: runs the model and returns its loss.
        key: of the tensor in `plan_of_model(model).tensors`, for example "inter.A.model".
        adapter: its name.

    Returns:
        Name of the linear -> its part of the gradient, in the tensor's shape, float32, in the model's
        order. The parts sum to the gradient that `loss().backward()` gives.

    Raises:
        ValueError: if the adapter has no such tensor, or the model drops inputs at random.
    """
    plan = plan_of_model(model, adapter)
    if key not in plan.tensors:
        raise ValueError(f"no tensor {key!r}; there is {', '.join(list(plan.tensors)[:8])}, ...")
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes G; call model.eval()")
    spec, tensors = plan.tensors[key], tensors_of_model(model, adapter)
    weight_gradients = _weight_gradients(model, loss, spec.users)
    parts, base = {}, model.get_base_model()
    for linear in (linear for linear in plan.linears if linear.name in spec.users):
        use = next(use for use in plan.uses[linear.name] if key in use.keys.values())
        fitted = {role: tensors[name]().detach().clone() for role, name in use.keys.items()}
        shared = fitted[spec.role].requires_grad_()
        A, B = fit_branch(use.branch, fitted, linear.in_features, linear.out_features)
        scaling = base.get_submodule(linear.name).shared_lora_reading[adapter].scaling
        (part,) = torch.autograd.grad(scaling * (B @ A), shared, weight_gradients[linear.name])
        parts[linear.name] = part.numpy(force=True)
    return parts


def _weight_gradients(
    model: PeftModel, loss: Callable[[], torch.Tensor], linears: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """dL/dW [out, in] of each linear, though W itself is frozen."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, x: torch.Tensor, gradient: torch.Tensor) -> None:
        product = torch.einsum("to,ti->oi", gradient.flatten(0, -2).float(), x.flatten(0, -2).float())
        found[name] = found[name] + product if name in found else product

    def watch(name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        output.register_hook(partial(keep, name, inputs[0].detach()))

    handles = [
        model.get_base_model().get_submodule(name).register_forward_hook(partial(watch, name))
        for name in linears
    ]
    try:
        trainable = [p for p in model.parameters() if p.requires_grad]
        torch.autograd.grad(loss(), trainable, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return found
