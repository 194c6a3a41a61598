"""What a model with adapters can be asked: the plan it was made from, and who shares each tensor."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from bslora_kit.adapters.bank import AdapterTensor, adapter_tensors, module_name, own_name
from bslora_kit.adapters.model import SharedLoraModel
from bslora_kit.plan import Plan


def plan_of_model(model: nn.Module, adapter: str = "default") -> Plan:
    """The plan that an adapter of a model was made from.

    Args:
        model: a PeftModel of this kit, or a wrapper around one.
        adapter: its name.

    Raises:
        ValueError: if the model has no such adapter of this kit.
    """
    plans = _tuner(model).shared_lora_plans
    if adapter not in plans:
        raise ValueError(f"adapter {adapter!r} does not exist; there is {list(plans)}")
    return plans[adapter]


def tensors_of_model(model: nn.Module, adapter: str = "default") -> dict[str, AdapterTensor]:
    """The tensors of an adapter by their keys in its plan, each shared one once.

    Args:
        model: as for `plan_of_model`.
        adapter: its name.

    Raises:
        ValueError: if the model has no such adapter of this kit.
    """
    made, tuner = plan_of_model(model, adapter), _tuner(model)
    bank = tuner.shared_lora_bank[adapter]
    return {
        key: tuner.model.get_submodule(spec.owner).shared_lora_own[adapter][own_name(spec)]
        if spec.scope == "module"
        else bank[module_name(key)]
        for key, spec in made.tensors.items()
    }


def parameter_scopes(model: nn.Module) -> dict[str, str]:
    """Over what each trainable adapter tensor of a model is shared.

    Args:
        model: with adapters of this kit, or of another PEFT method, whose tensors count as "module".

    Returns:
        Name in `model.named_parameters()` -> "module", "layer", "type" or "model".
    """
    scopes = {
        f"{name}.{key}": "module"
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
        for attribute in module.adapter_layer_names
        for key, parameter in getattr(module, attribute).named_parameters(prefix=attribute)
        if parameter.requires_grad
    }
    shared = {
        name: tensor.scope for name, tensor in adapter_tensors(model) if tensor.weight.requires_grad
    }
    return scopes | shared


def _tuner(model: nn.Module) -> SharedLoraModel:
    """The tuner inside a model.

    Raises:
        ValueError: if there is none.
    """
    for module in model.modules():
        if isinstance(module, SharedLoraModel):
            return module
    raise ValueError(
        f"{type(model).__name__} has no adapter of bslora_kit; make one with peft.get_peft_model"
    )
