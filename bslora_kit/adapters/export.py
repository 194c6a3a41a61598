"""Writes an adapter of any method as a plain PEFT LoRA, exactly.

Every update here is scaling * B_eff A_eff with A_eff [R, in] and B_eff [out, R], which is a LoRA of rank
R with alpha / R = scaling. No decomposition takes place and nothing is lost; what sharing saved is paid
back in size. Stock peft and what reads its files (merging tools, serving engines) need no bslora_kit.

    model in memory    export_lora(peft_model, "plain")
    saved adapter      python -m bslora_kit.adapters export adapter plain      reads no base weights

All linears of one adapter have the same branches and so the same rank R: the exported config names it
once and needs no rank or alpha patterns.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, PeftConfig, PeftModel, TaskType
from peft.utils import SAFETENSORS_WEIGHTS_NAME, get_peft_model_state_dict
from peft.utils.constants import CONFIG_NAME
from safetensors.torch import save_file
from torch import nn

from bslora_kit.adapters.inspection import plan_of_model
from bslora_kit.adapters.model import PREFIX
from bslora_kit.methods import PEFT_TYPE, SharedLoraConfig
from bslora_kit.plan import Plan

_CLASSES = {
    TaskType.CAUSAL_LM: transformers.AutoModelForCausalLM,
    TaskType.SEQ_2_SEQ_LM: transformers.AutoModelForSeq2SeqLM,
    TaskType.SEQ_CLS: transformers.AutoModelForSequenceClassification,
    TaskType.TOKEN_CLS: transformers.AutoModelForTokenClassification,
    TaskType.QUESTION_ANS: transformers.AutoModelForQuestionAnswering,
    TaskType.FEATURE_EXTRACTION: transformers.AutoModel,
}


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
        ValueError: if the model has no such adapter, or if `folder` holds a saved adapter of this kit,
            which the export would replace.
    """
    made = plan_of_model(peft_model, adapter)
    folder = Path(folder)
    if _peft_type(folder) == PEFT_TYPE:
        raise ValueError(
            f"{folder} holds an adapter of this kit, which the export would replace; name another folder"
        )
    base = peft_model.get_base_model()
    tensors = {
        key: value.detach().cpu().contiguous()
        for key, value in get_peft_model_state_dict(peft_model, adapter_name=adapter).items()
        if PREFIX not in key
    }
    for linear in made.linears:
        layer = base.get_submodule(linear.name)
        with torch.no_grad():
            A, B = layer.effective_pair(adapter, device=torch.device("cpu"))
        path = f"base_model.model.{linear.name}"
        # Copies, because tensors in a file may not share memory and slices of a shared pair do.
        tensors[f"{path}.lora_A.weight"] = A.clone(memory_format=torch.contiguous_format)
        tensors[f"{path}.lora_B.weight"] = B.clone(memory_format=torch.contiguous_format)

    folder.mkdir(parents=True, exist_ok=True)
    config = _lora_config(peft_model.peft_config[adapter], made)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as part:
        save_file(tensors, Path(part, SAFETENSORS_WEIGHTS_NAME), metadata={"format": "pt"})
        config.save_pretrained(part)
        for name in (SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME):
            os.replace(Path(part, name), folder / name)
    return folder


def load_without_base_weights(
    adapter_folder: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> PeftModel:
    """Loads a saved adapter on a base that has sizes but no weights (the meta device).

    The base is built from its config alone, as the class that the adapter was saved with.

    Args:
        adapter_folder: what `save_pretrained` wrote for an adapter of this kit.
        base: the base model, whose config is read; by default the one that the adapter names.

    Raises:
        ValueError: if the folder holds no adapter of this kit, if the config of the base cannot be read,
            or if the adapter does not fit that base.
    """
    kind = _peft_type(Path(adapter_folder))
    if kind != PEFT_TYPE:
        found = f"holds a {kind} adapter" if kind else f"has no {CONFIG_NAME}"
        raise ValueError(f"{adapter_folder} {found}; give a folder with an adapter that this kit saved")
    config = PeftConfig.from_pretrained(adapter_folder)
    with torch.device("meta"):
        model = _build_base(config, base or config.base_model_name_or_path)
    return PeftModel.from_pretrained(model, adapter_folder, low_cpu_mem_usage=True)


def _peft_type(folder: Path) -> str | None:
    """The method of the adapter that a folder holds, None if it holds none."""
    file = folder / CONFIG_NAME
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("peft_type")
    except (ValueError, AttributeError) as error:  # not JSON, or not an object
        raise ValueError(f"{file} is damaged ({error}); copy it again") from error


def _build_base(config: SharedLoraConfig, base: str | os.PathLike[str] | None) -> nn.Module:
    """The base model, built on the current default device from its config."""
    if not base:
        raise ValueError("the adapter does not name its base model; name its folder with --base")
    try:
        base_config = transformers.AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the config of base model {str(base)!r} cannot be read; name its folder with --base"
        ) from error
    if config.task_type is not None:
        return _CLASSES[TaskType(config.task_type)].from_config(base_config, trust_remote_code=False)
    # PEFT writes the class of the base into a config that names no task. Only classes of transformers
    # are taken: a file may not choose which code runs.
    name = (config.auto_mapping or {}).get("base_model_class", "")
    factory = getattr(transformers, name, None)
    if not (isinstance(factory, type) and issubclass(factory, transformers.PreTrainedModel)):
        raise ValueError(
            f"the adapter was made on {name or 'a model'!r}, which transformers does not define; load "
            "it on that model and call export_lora"
        )
    if not isinstance(base_config, factory.config_class):
        raise ValueError(
            f"the adapter was made on a {name}, but {str(base)!r} is a {base_config.model_type} model; "
            "name the right base with --base"
        )
    return factory(base_config)


def _lora_config(config: SharedLoraConfig, made: Plan) -> LoraConfig:
    """The LoraConfig of the export."""
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
