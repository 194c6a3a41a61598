"""Shards a model's frozen weights over processes (FSDP2), where one GPU has no room to train it.

    frozen weights    each process keeps 1/N of every tensor; a decoder layer is gathered for its turn
    trained ones      whole in every process, their gradients summed: a thousandth of the model

What is trained keeps ordinary tensors, so optimizer, clipping, loss scale and checkpoints are those of
one process. https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def shard_frozen_weights(model: nn.Module, device: torch.device) -> None:
    """Shards the model in place, for good, and moves it to the device, one decoder layer at a time.

    Args:
        model: from transformers, with PEFT adapters; the same in every process, on the CPU where it is
            too big for one GPU.
        device: of this process.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.data = parameter.data.to(device)
            distributed.broadcast(parameter.data, src=0)
    options = {
        "mesh": init_device_mesh(device.type, (distributed.get_world_size(),)),
        "ignored_params": set(trained),
    }
    for layer in decoder_layers(model):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers keeps whole when it spreads a model, which are its layers.

    Raises:
        ValueError: if the model does not name them.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = getattr(base, "_no_split_modules", None) or ()
    layers = [module for module in base.modules() if type(module).__name__ in names]
    if not layers:
        raise ValueError(
            f"{type(base).__name__} does not name its layers (_no_split_modules), so it cannot be "
            "sharded: train it in one process"
        )
    return layers


def sum_gradients(model: nn.Module) -> None:
    """Adds up the gradients of all processes, in place and in each of them."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            distributed.all_reduce(parameter.grad)
