"""What training asks of the machine: device and precision, autocast, random seed, peak memory.

Everything goes through accelerate, which finds the device and, under `accelerate launch`, the other
processes.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)
from torch import nn

from bslora_kit.sharding import shard_frozen_weights

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
# What accelerate hangs on a model: autocast, as an attribute `forward`, and two notes of its own.
_HUNG_ON = ("forward", "_original_forward", "_is_accelerate_prepared")


def precision_for(device: torch.device, wanted: str = "auto") -> str:
    """The precision that "auto" means on a device, or `wanted` if the device can do it.

    Returns:
        "bf16", "fp16" or "fp32".

    Raises:
        ValueError: the device cannot do it.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "auto":
        return ("bf16" if has_bf16 else "fp16") if device.type == "cuda" else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise ValueError(f"precision fp16 needs a CUDA device, here is {device}: use fp32 or bf16")
    if wanted == "bf16" and device.type == "cuda" and not has_bf16:
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no bf16: use fp16 or fp32")
    return wanted


def this_process() -> PartialState:
    """This process's device and, under `accelerate launch`, its place among the others."""
    # Without being told so, accelerate takes processes on machines without a GPU for lone ones.
    return PartialState(cpu=_on_cpu())


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator for this process, in a given precision (see `precision_for`)."""
    resolved = precision_for(this_process().device, precision)
    # accelerate's state is one per process and refuses a second precision; a notebook that trains
    # in fp32 and then in bf16 needs a fresh one (transformers' Trainer does the same).
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=_on_cpu(),
        mixed_precision="no" if resolved == "fp32" else resolved,
        # Losses arrive divided by the tokens of the whole batch: accelerate has nothing to divide,
        # whatever its launcher's configuration says.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # A language model's buffers are constants, and processes may differ in micro-batches.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.distributed_type not in _SUPPORTED:
        raise ValueError(
            f"accelerate was launched with {accelerator.distributed_type.value}; this loop knows "
            "one process, or several with a whole model each (--multi_gpu)"
        )
    return accelerator


def _on_cpu() -> bool:
    return not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


@contextmanager
def in_training_mode(
    model: nn.Module, accelerator: Accelerator, gradient_checkpointing: bool, shard: bool = False
) -> Iterator[nn.Module]:
    """Puts a model on the device, in train mode and under autocast; afterwards undoes the last two.

    Args:
        model: in every process the same.
        accelerator: from `make_accelerator`.
        gradient_checkpointing: recompute activations in the backward pass.
        shard: spread its frozen weights over the processes; the model stays so.

    Yields:
        The model to call: itself, or its data-parallel wrapper.
    """
    was_training = model.training
    before = {name: model.__dict__[name] for name in _HUNG_ON if name in model.__dict__}
    if gradient_checkpointing:
        if not hasattr(model, "activation_checkpointing_enable"):
            raise ValueError(f"gradient_checkpointing: {type(model).__name__} does not offer it")
        # The reentrant kind hangs with parameters that several layers share.
        kwargs = {"use_reentrant": False}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    try:
        model.train()
        if shard:
            prepared = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)
            shard_frozen_weights(prepared, accelerator.device)
            yield prepared
        else:
            yield accelerator.prepare_model(model)
    finally:
        for name in _HUNG_ON:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)
        if gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.zero_grad()
        model.train(was_training)


def seed_step(seed: int, step: int, process: int) -> None:
    """Seeds torch so that the dropout masks of a step are a function of (seed, step, process)."""
    state = np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of CUDA's allocator since training began, or resident in the process's life."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
