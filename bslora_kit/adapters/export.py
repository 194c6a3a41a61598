"""Writes an adapter of any method as a plain PEFT LoRA, exactly.

Every update here is scaling * B_eff A_eff with A_eff [R, in] and B_eff [out, R], which is a LoRA of rank
R with alpha / R = scaling. No decomposition takes place and nothing is lost; what sharing saved is paid
back in size. Stock peft and what reads its files (merging tools, serving engines) need no bslora_kit.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from peft.utils.constants import CONFIG_NAME
from safetensors.torch import save_file
from torch import nn

from bslora_kit.adapters.inspection import plan_of_model
from bslora_kit.adapters.model import PREFIX
from bslora_kit.methods import SharedLoraConfig
from bslora_kit.plan import Plan


def export_lora(peft_model: nn.Module, folder: str | os.PathLike[str], adapter: str = "default") -> Path:
    """Writes `adapter` as a plain LoRA that `peft.PeftModel.from_pretrained` loads without this kit.

    Modules saved in full (`modules_to_save`) and trained biases go along.

    Args:
        peft_model: a PeftModel of this kit.
        folder: receives adapter_model.safetensors and adapter_config.json; made if it is not there.
        adapter: name of the adapter.

    Returns:
        The folder.

    Raises:
        ValueError: if the model has no such adapter.
    """
    made = plan_of_model(peft_model, adapter)
    base = peft_model.get_base_model()
    tensors = {
        key: value.detach().cpu().contiguous()
        for key, value in get_peft_model_state_dict(peft_model, adapter_name=adapter).items()
        if PREFIX not in key
    }
    for linear in made.linears:
        layer = base.get_submodule(linear.name)
        with torch.no_grad():
            A, B = layer.effective_pair(adapter)
        path = f"base_model.model.{linear.name}"
        # Copies, because tensors in a file may not share memory and slices of a shared pair do.
        tensors[f"{path}.lora_A.weight"] = A.cpu().clone(memory_format=torch.contiguous_format)
        tensors[f"{path}.lora_B.weight"] = B.cpu().clone(memory_format=torch.contiguous_format)

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = _lora_config(peft_model.peft_config[adapter], made)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as part:
        save_file(tensors, Path(part, SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})
        config.save_pretrained(part)
        for name in (SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME):
            os.replace(Path(part, name), folder / name)
    return folder


def _lora_config(config: SharedLoraConfig, made: Plan) -> LoraConfig:
    """The LoraConfig of the export: all linears have the same rank R, hence no patterns."""
    alpha = config.scaling * made.rank
    return LoraConfig(
        r=made.rank,
        lora_alpha=int(alpha) if float(alpha).is_integer() else alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
        modules_to_save=config.modules_to_save,
        bias="lora_only" if config.bias.endswith("_only") else config.bias,
        fan_in_fan_out=config.fan_in_fan_out,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        inference_mode=True,
    )
