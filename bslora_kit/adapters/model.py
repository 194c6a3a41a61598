"""The PEFT tuner: puts adapters of the family on a model, as their plan says.

`peft.get_peft_model(model, config)` ends in `SharedLoraModel.inject_adapter`: it lists the linears that
the config matches, makes the plan, fills the bank with the shared tensors and hands every linear what
it reads. Everything else keeps the bank in step with what PEFT does to its layers: activating,
freezing, casting, deleting, saving and loading. Written against peft 0.21.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import AuxiliaryTrainingWrapper, get_quantization_kwargs
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from bslora_kit import plan
from bslora_kit.adapters.bank import AdapterTensor, make_tensor, module_name, own_name
from bslora_kit.adapters.layer import BASE_NAME, Reading, SharedLoraLinear
from bslora_kit.adapters.matching import (
    describe_linears,
    home_of,
    linears_difference,
    match_linears,
)
from bslora_kit.methods import METHOD_NAME, SharedLoraConfig
from bslora_kit.plan import Plan

PREFIX = f"{METHOD_NAME}_"
_OWN = f"{PREFIX}own"
_BANK = f"{PREFIX}bank"


class SharedLoraModel(BaseTuner):
    """A model with adapters of the family.

    Attributes:
        shared_lora_bank: adapter -> name -> shared tensor, each once.
        shared_lora_plans: adapter -> its plan.
    """

    prefix = PREFIX
    tuner_layer_cls = SharedLoraLinear
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    # inject_adapter_in_model returns the bare model and would lose the bank: PEFT then refuses.
    uses_shared_state = True

    def _pre_injection_hook(self, model: nn.Module, config: SharedLoraConfig, adapter_name: str) -> None:
        """Runs once, before the first adapter."""
        self.shared_lora_bank = nn.ModuleDict()
        self.shared_lora_plans: dict[str, Plan] = {}

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Adds the adapter `adapter_name`, whose config is in `peft_config`; as in PEFT's BaseTuner.

        Raises:
            ValueError: if the targets match nothing or something else than a linear. The model is then
                unchanged.
        """
        if state_dict is not None:
            raise ValueError(
                "a state dict does not say which linears share which tensors; give the adapter's config"
            )
        config = self.peft_config[adapter_name]
        linears = match_linears(config, model)
        made = plan.plan(config.branches, linears)
        config.adapted_linears = describe_linears(linears)
        grads = [(p, p.requires_grad) for p in self.shared_lora_bank.parameters()]
        home = {linear.name: home_of(model.get_submodule(linear.name)) for linear in linears}
        shared = nn.ModuleDict()
        for spec in made.tensors.values():
            if spec.scope != "module":
                device, dtype = home[spec.users[0]]
                shared[module_name(spec.key)] = _make(
                    config, spec, torch.device("meta") if low_cpu_mem_usage else device, dtype
                )
        self.shared_lora_plans[adapter_name] = made
        self.shared_lora_bank[adapter_name] = shared
        try:
            super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage)
        except Exception:
            del self.shared_lora_plans[adapter_name], self.shared_lora_bank[adapter_name]
            raise
        for parameter, requires_grad in grads:  # a new adapter leaves the others as they were
            parameter.requires_grad_(requires_grad)

    def _create_and_replace(
        self,
        peft_config: SharedLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Gives one linear its tensors, wrapping it first if no adapter did."""
        made, shared = self.shared_lora_plans[adapter_name], self.shared_lora_bank[adapter_name]
        device, dtype = home_of(target)
        own, keeps, branches = nn.ModuleDict(), [], []
        for use in made.uses[current_key]:
            tensors: dict[str, AdapterTensor] = {}
            for role, key in use.keys.items():
                spec = made.tensors[key]
                if spec.scope == "module":
                    tensors[role] = own[own_name(spec)] = _make(peft_config, spec, device, dtype)
                else:
                    tensors[role] = shared[module_name(key)]
                if spec.users[0] == current_key:
                    keeps.append(tensors[role])
            branches.append((use.branch, tensors))
        reading = Reading(branches, peft_config.scaling, peft_config.dropout, keeps)
        if isinstance(target, SharedLoraLinear):
            target.update_layer(adapter_name, own, reading)
        else:
            linear = next(linear for linear in made.linears if linear.name == current_key)
            layer = SharedLoraLinear(target, linear, **get_quantization_kwargs(self))
            # Before it has tensors: PEFT moves those to the base's device, which may be "meta".
            self._replace_module(parent, target_name, layer, target)
            layer.update_layer(adapter_name, own, reading)

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activates one adapter or several, whose updates then add up.

        Raises:
            ValueError: for a name that is not there.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        unknown = sorted(set(names) - set(self.peft_config))
        if unknown:
            raise ValueError(f"adapter {unknown[0]!r} does not exist; there is {list(self.peft_config)}")
        super().set_adapter(adapter_name, inference_mode)
        for name, tensors in self.shared_lora_bank.items():
            tensors.requires_grad_(name in names and not inference_mode)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Freezes or unfreezes adapters."""
        super().set_requires_grad(adapter_names, requires_grad)
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            if name in self.shared_lora_bank:
                self.shared_lora_bank[name].requires_grad_(requires_grad)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        for name, tensors in self.shared_lora_bank.items():
            tensors.requires_grad_(enabled and name in self.active_adapters)

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter with its shared tensors; if it was active, another becomes so."""
        active = self.active_adapters
        super().delete_adapter(adapter_name)
        del self.shared_lora_plans[adapter_name], self.shared_lora_bank[adapter_name]
        if adapter_name in active:
            # Layers choose for themselves, and layers that the other adapters do not target differently.
            left = [name for name in active if name != adapter_name]
            self.set_adapter(left or sorted(self.peft_config)[:1])

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        if autocast_adapter_dtype:
            for tensor in self.shared_lora_bank[adapter_name].values():
                if tensor.weight.dtype in (torch.float16, torch.bfloat16):
                    tensor.float()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """For one forward or generate, passes `adapter_names` (one for each row) to the layers."""
        for config in self.peft_config.values():
            if config.awaits_weights:  # what has run is in use, and a failed load must not remove it
                config.awaits_weights = False
        chosen = kwargs.get("adapter_names")
        if chosen is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names chooses adapters in inference only; call model.eval() first")
        unknown = sorted(set(chosen) - {BASE_NAME, *self.peft_config})
        if unknown:
            raise ValueError(
                f"adapter {unknown[0]!r} does not exist; there is {[*self.peft_config, BASE_NAME]}"
            )
        # Beam search repeats each row num_beams times, but not the inputs of an encoder.
        generation = kwargs.get("generation_config")
        beams = kwargs.get("num_beams") or getattr(generation, "num_beams", None) or 1
        encoder = self.model.get_encoder() if hasattr(self.model, "get_encoder") else self.model
        encoded = set() if encoder is self.model or encoder is None else set(encoder.modules())
        repeated = [name for name in chosen for _ in range(beams)]
        hooks = [
            module.register_forward_pre_hook(
                partial(_pass_names, adapter_names=list(chosen) if module in encoded else repeated),
                with_kwargs=True,
            )
            for module in _outside_adapters(self.model)
            if isinstance(module, (SharedLoraLinear, AuxiliaryTrainingWrapper))
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: SharedLoraConfig,
        adapter_name: str,
        state_dict: dict[str, torch.Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, torch.Tensor]:
        """The entries of one adapter, chosen by name: wrappers such as FSDP hide the structure."""
        places = tuple(f"{place}.{adapter_name}." for place in (_OWN, _BANK))
        found = {key: value for key, value in state_dict.items() if any(p in key for p in places)}
        return found | cls._get_learnable_bias_state_dict(model, state_dict, config)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name of an entry in a file."""
        for place in (_OWN, _BANK):
            key = key.replace(f"{place}.{adapter_name}.", f"{place}.", 1)
        return key

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: SharedLoraConfig,
        adapter_name: str,
        state_dict: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Puts the adapter's name into the entries of a file, after comparing them with the model.

        Raises:
            ValueError: if the file was made for other linears, or if an entry is missing, unknown or of
                another shape. No value is written then.
        """
        wanted = {
            cls._remove_adapter_name_from_key(key, adapter_name): (key, value.shape)
            for key, value in cls._get_adapter_state_dict(
                model, config, adapter_name, model.state_dict(), []
            ).items()
            if PREFIX in key
        }
        given = {key: value.shape for key, value in state_dict.items() if PREFIX in key}
        problem = config.awaits_weights and linears_difference(
            config.linears_in_file, config.adapted_linears
        )
        problem = problem or _difference({key: shape for key, (_, shape) in wanted.items()}, given)
        if problem:
            if config.awaits_weights:
                take_out(model.base_model, adapter_name)
            raise ValueError(
                f"the file does not fit adapter {adapter_name!r} ({config.method}) on this model: "
                f"{problem}; load it with the base model and the adapter_config.json that it was saved "
                "with. The model is unchanged"
            )
        config.awaits_weights = False
        return {(wanted[key][0] if key in wanted else key): value for key, value in state_dict.items()}


def take_out(tuner: SharedLoraModel, adapter_name: str) -> None:
    """Removes an adapter that was put in for a file that turned out not to fit."""
    if len(tuner.peft_config) == 1:
        tuner.unload()
    else:
        tuner.delete_adapter(adapter_name)


def _make(
    config: SharedLoraConfig, spec: plan.Tensor, device: torch.device, dtype: torch.dtype
) -> AdapterTensor:
    """One tensor as the config wants it."""
    return make_tensor(
        spec,
        zero_start=config.init_weights,
        frozen_seed=config.frozen_seed,
        device=device,
        dtype=dtype,
    )


def _outside_adapters(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all in it, but for what adapted linears hold: that grows with each adapter."""
    yield module
    if not isinstance(module, SharedLoraLinear):
        for child in module.children():
            yield from _outside_adapters(child)


def _pass_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hook: hands the adapter of each row to a layer."""
    return args, kwargs | {"adapter_names": adapter_names}


def _difference(wanted: dict[str, torch.Size], given: dict[str, torch.Size]) -> str:
    """The first way in which the entries of a file differ from what a model has; "" if none."""
    for key, shape in wanted.items():
        if key not in given:
            return f"{key} is missing ({len(wanted)} entries wanted, {len(given)} in the file)"
        if given[key] != shape:
            return f"{key} has shape {list(given[key])} where {list(shape)} is wanted"
    extra = sorted(set(given) - set(wanted))
    return f"{extra[0]} is unknown ({len(extra)} such entries)" if extra else ""
