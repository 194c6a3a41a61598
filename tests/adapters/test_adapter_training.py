"""Training with adapters: checkpointing, two processes, Trainer with resume, torch.compile's graph."""

import copy
import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from adapter_cases import INPUTS, METHODS, adapted, logits, trainable
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from bslora_kit.adapters import parameter_scopes, plan_of_model


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def backward(model, inputs=INPUTS):
    model(inputs, labels=inputs).loss.backward()
    return gradients(model)


@pytest.mark.parametrize(
    ("method", "reentrant"), [*((method, False) for method in METHODS), ("own_row", True)]
)
def test_gradient_checkpointing_gives_the_same_gradients(method, reentrant):
    model = adapted("llama", method, torch.float64).train()
    wanted = backward(model)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    for name, gradient in backward(model).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_keeps_ties(method):
    model = adapted("llama", method).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(6):
        loss = model(INPUTS, labels=INPUTS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert trainable(model) == plan_of_model(model).trainable


def worker(rank, port, folder):
    """One of two processes: backward on its own row, then saves the averaged gradients."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = adapted("llama", "own_row", torch.float64).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    parallel = DistributedDataParallel(model)
    assert {name.removeprefix("module.") for name in parameter_scopes(parallel)} == set(
        parameter_scopes(model)
    )
    row = INPUTS[rank : rank + 1]
    for _ in range(2):  # a second step shows that ties survive the first
        model.zero_grad()
        parallel(row, labels=row).loss.backward()
    if rank == 0:
        torch.save(gradients(model), f"{folder}/gradients.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path):
    """A method with tensors of all four scopes, under checkpointing; imports cost most of the time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt")
    wanted = backward(adapted("llama", "own_row", torch.float64).train())
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-14)


def test_trainer_resumes_to_the_same_weights(tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in torch.arange(96).view(8, 12) % 40]

    def train(model, folder, resume=None):
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return model.eval()

    start = adapted("llama", "slice")
    straight = train(copy.deepcopy(start), tmp_path / "straight")
    resumed = train(copy.deepcopy(start), tmp_path / "resumed", f"{tmp_path}/straight/checkpoint-2")
    assert not torch.equal(logits(straight), logits(start))
    torch.testing.assert_close(logits(resumed), logits(straight), rtol=1e-6, atol=1e-6)


def test_an_adapted_linear_compiles_to_one_graph():
    """Traced only: the graph is run as it is, without a compiler. The method uses every kind of role."""
    layer = adapted("llama", "own_row").get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(3, 24)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
