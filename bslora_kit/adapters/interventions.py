"""Changes to an adapter that answer a question about it: an equal start, a branch left out.

    start_alike(model)                       every layer starts from the same draw (a control)
    with without_branches(model, "inter"):   the model as if a branch had learned nothing

Both work on the tensors that the plan lists, so a shared one is changed once for all its users.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from bslora_kit.adapters.inspection import plan_of_model, tensors_of_model
from bslora_kit.adapters.layer import SharedLoraLinear


@torch.no_grad()
def start_alike(model: nn.Module, adapter: str = "default") -> None:
    """Gives every tensor that a linear owns the values of the first linear of its kind and shape.

    Independent draws are what PEFT and this kit start from. Equal draws are the control: what layers
    have in common after such a start may come from the start alone.

    Args:
        model: a PeftModel of this kit.
        adapter: its name.
    """
    made, tensors = plan_of_model(model, adapter), tensors_of_model(model, adapter)
    kinds = {linear.name: linear.kind for linear in made.linears}
    first: dict[tuple[object, ...], torch.Tensor] = {}
    for key, spec in made.tensors.items():
        if spec.scope == "module":
            alike = (spec.branch, spec.role, kinds[spec.owner], spec.shape)
            tensors[key].weight.copy_(first.setdefault(alike, tensors[key].weight))


@contextmanager
def without_branches(model: nn.Module, *branches: str, adapter: str = "default") -> Iterator[None]:
    """While it is open, branches add nothing to the model: their B is zero. Then they are as before.

    Args:
        model: a PeftModel of this kit.
        *branches: names of the branches to leave out.
        adapter: of which adapter.

    Raises:
        ValueError: for a branch that is not there, and if the adapter is merged into the base.
    """
    made = plan_of_model(model, adapter)
    names = [branch.name for branch in made.branches]
    unknown = [name for name in branches if name not in names]
    if unknown:
        raise ValueError(f"no branch {unknown[0]!r} in adapter {adapter!r}; it has {', '.join(names)}")
    layers = (module for module in model.modules() if isinstance(module, SharedLoraLinear))
    if any(adapter in layer.merged_adapters for layer in layers):
        raise ValueError(f"adapter {adapter!r} is merged into the base; call unmerge_adapter() first")
    tensors = tensors_of_model(model, adapter)
    ups = [
        tensors[key].weight
        for key, spec in made.tensors.items()
        if spec.branch in branches and spec.role == "B"
    ]
    kept = [up.detach().clone() for up in ups]
    try:
        with torch.no_grad():
            for up in ups:
                up.zero_()
        yield
    finally:
        with torch.no_grad():
            for up, values in zip(ups, kept, strict=True):
                up.copy_(values)
