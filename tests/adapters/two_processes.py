"""Run by `accelerate launch` in two processes: trains a model under DDP and under FSDP2, saves both.

On a CPU accelerate prepares a model for DDP only, so FSDP2 is torch's own `fully_shard`, which is what
accelerate calls on GPUs: one unit for each decoder layer, the bank of shared tensors in the outer unit.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from adapter_cases import INPUTS, adapted
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

METHOD = "own_row"  # has tensors of all four scopes, and frozen ones


def start():
    """The adapted model, in float64, where the order of sums does not show."""
    return adapted("llama", METHOD, torch.float64).train()


def train(model, rows, backward=torch.Tensor.backward):
    """Two steps; returns the gradients of the first by their names in a model that is not wrapped."""
    trained = {
        name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad
    }
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    gradients = {}
    for _ in range(2):
        optimizer.zero_grad()
        backward(model(rows, labels=rows).loss)
        gradients = gradients or {name: whole(p.grad) for name, p in trained.items()}
        optimizer.step()
    return gradients


def whole(tensor):
    """A copy of a tensor, gathered where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def run(folder):
    """What each of the two processes does."""
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    row = INPUTS[accelerator.process_index][None]

    model = start()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    gradients = train(accelerator.prepare(model), row, accelerator.backward)
    save(accelerator, folder / "ddp", gradients, model, model.state_dict())

    model, mesh = start(), init_device_mesh("cpu", (2,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    gradients = train(model, row)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    save(accelerator, folder / "fsdp2", gradients, model, get_model_state_dict(model, options=options))
    accelerator.end_training()


def save(accelerator, folder, gradients, model, state):
    """Writes the adapter and the gradients from the first process."""
    if accelerator.is_main_process:
        model.save_pretrained(folder, state_dict=state)
        save_file(gradients, folder / "gradients.safetensors")
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
