"""The training loop: fine-tunes what is trainable of a causal language model, on accelerate.

    for each step:   batch(seed, step) --> micro-batches --> loss on the answers --> gradients
                     gradients --> norm per scope --> clip --> AdamW(learning rate of the step)
                     --> one line of history.jsonl; now and then held-out loss and checkpoint

The gradient of a step is that of the mean loss over all answer tokens of the whole batch, whatever
the cut into micro-batches and processes: a mean of micro-batch means would weight short answers
more. What is random in a step (its examples, its dropout masks) follows from (seed, step, process),
so a run that was killed and started again ends, on a CPU, bit for bit as an undisturbed one.

The published protocol is that of BSLoRA (Zhou et al., ICML 2025): see data/profiles/paper.yaml.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from bslora_kit.data import Example, batch_indices, collate, fingerprint, micro_batches
from bslora_kit.device import in_training_mode, make_accelerator, peak_memory, seed_step
from bslora_kit.progress import ProgressLines
from bslora_kit.sharding import sum_gradients
from bslora_kit.training.checkpoint import frozen_fingerprint
from bslora_kit.training.objective import (
    answer_tokens,
    gradient_norms,
    learning_rate,
    scopes_of,
    summed_loss,
)
from bslora_kit.training.result import TrainingDiverged, TrainingResult, history_entry
from bslora_kit.training.run_folder import RunFolder
from bslora_kit.training.settings import TrainingSettings

__all__ = ["TrainingDiverged", "TrainingResult", "TrainingSettings", "train"]

_SMALLEST_LOSS_SCALE = 2.0**-10  # gradients that overflow fp16 even so will not recover


def train(
    model: nn.Module,
    examples: Sequence[Example],
    settings: TrainingSettings,
    folder: str | Path,
    *,
    pad_id: int,
    held_out: Sequence[Example] = (),
    scopes: Mapping[str, str] | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    shard: bool = False,
) -> TrainingResult:
    """Trains the parameters of `model` that require gradients, in place.

    Where `folder` holds a checkpoint of the same run, training goes on from there. Under
    `accelerate launch` every process calls this with the same arguments and takes its part of each
    batch; the first one writes.

    Args:
        model: a causal language model, plain or with PEFT adapters. It moves to the device that
            accelerate chooses; afterwards it is in train or eval mode as before.
        examples: as from `bslora_kit.data.encode`.
        settings: how to train.
        folder: takes history.jsonl (one line a step, see `history_entry`) and checkpoints/.
        pad_id: token that fills up short examples; which one has no effect.
        held_out: examples for the held-out loss.
        scopes: scope by name of each trained parameter ("module", "layer", "type", "model"), for
            one gradient norm a scope; None counts all as one scope "all".
        report: takes the history entry of each step, in the first process.
        should_stop: asked after every step; True ends the run, with a checkpoint if it keeps any.
        shard: spread the frozen weights over the processes (FSDP2), instead of a whole model in each.
            The model stays sharded, and its batch and held-out examples are dealt out evenly.

    Raises:
        ValueError: no examples, nothing to train, a precision that the device cannot do.
        CheckpointMismatch: the folder's checkpoint belongs to another run.
        TrainingDiverged: loss or gradient became NaN or infinite.
    """
    accelerator = make_accelerator(settings.precision)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _check(trained, examples, held_out, settings, accelerator, pad_id, shard)
    scope_of = scopes_of(list(trained), scopes)
    main = accelerator.is_main_process
    identity = _identity(model, trained, examples, held_out, settings, accelerator)
    with in_training_mode(model, accelerator, settings.gradient_checkpointing, shard) as wrapped:
        optimizer = accelerator.prepare_optimizer(
            torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        )
        run = RunFolder(
            Path(folder), trained, optimizer.optimizer, accelerator.scaler, identity, writes=main
        )
        progress = ProgressLines(settings.steps, done=len(run.history), silent=not main)
        stopped = False
        for step in range(len(run.history), settings.steps):
            began = time.perf_counter()
            chosen = batch_indices(len(examples), settings.batch_size, settings.seed, step)
            batch = [examples[i] for i in chosen]
            seed_step(settings.seed, step, accelerator.process_index)
            loss = _add_gradient(wrapped, batch, settings, accelerator, pad_id, progress, shard)
            norms = gradient_norms(trained, scope_of)
            norm = get_total_norm(list(norms.values()))
            rate = learning_rate(settings, step)
            _check_finite(loss, norm.item(), rate, accelerator.scaler, run)
            clip_grads_with_norm_(trained.values(), settings.max_grad_norm, norm)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()  # the loss scaler skips it where an fp16 gradient overflowed
            optimizer.zero_grad()

            seconds = time.perf_counter() - began
            entry = history_entry(run.history, batch, loss, rate, norm, norms, seconds)
            entry["peak_memory_bytes"] = peak_memory(accelerator.device)
            finished = step + 1 == settings.steps
            if held_out and (finished or _is_due(step, settings.evaluate_every)):
                entry["eval_loss"] = _held_out_loss(
                    model, held_out, settings, accelerator, pad_id, progress, shard
                )
                _check_finite(entry["eval_loss"], 0.0, rate, None, run)
            run.log(entry)
            if report and main:
                report(entry)
            progress.update(step + 1, loss, entry["tokens_per_s"])
            stopped = not finished and _agree_to_stop(should_stop, accelerator)
            if settings.checkpoint_every and (
                finished or stopped or _is_due(step, settings.checkpoint_every)
            ):
                run.save()
            if stopped:
                break
        accelerator.wait_for_everyone()
    return TrainingResult.of(run.history, stopped)


def _add_gradient(
    wrapped: nn.Module,
    batch: Sequence[Example],
    settings: TrainingSettings,
    accelerator: Accelerator,
    pad_id: int,
    progress: ProgressLines,
    shard: bool,
) -> float:
    """Adds the gradient of the batch's mean loss, over all processes; returns that loss."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    tokens = sum(answer_tokens(example) for example in batch)
    micros = list(micro_batches(batch, settings.micro_batch_size, rank, processes))
    total = torch.zeros((), device=accelerator.device)
    for number, micro in enumerate(micros, start=1):
        # Processes exchange gradients once a step, in the backward pass of the last micro-batch.
        with nullcontext() if shard or number == len(micros) else accelerator.no_sync(wrapped):
            loss = summed_loss(wrapped, collate(micro, pad_id), accelerator.device) / tokens
            # The exchange takes the mean over processes; the gradient of the batch is their sum.
            accelerator.backward(loss if shard else loss * processes)
        total += loss.detach()
        progress.keep_alive()
    if shard:
        sum_gradients(wrapped)
    accelerator.unscale_gradients()
    return accelerator.reduce(total, "sum").item()


@torch.no_grad()
def _held_out_loss(
    model: nn.Module,
    held_out: Sequence[Example],
    settings: TrainingSettings,
    accelerator: Accelerator,
    pad_id: int,
    progress: ProgressLines,
    shard: bool,
) -> float:
    """Mean loss over the answer tokens of the held-out examples, without dropout."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    total = torch.zeros((), device=accelerator.device)
    model.eval()
    size = settings.micro_batch_size
    micros = list(micro_batches(held_out, size, rank, processes))
    for micro in micros:
        total += summed_loss(model, collate(micro, pad_id), accelerator.device)
        progress.keep_alive("held-out loss")
    if shard and len(micros) < math.ceil(math.ceil(len(held_out) / processes) / size):
        # Some process has one more micro-batch, and needs this one's part of the weights for it.
        summed_loss(model, collate(held_out[:1], pad_id), accelerator.device)
    model.train()
    tokens = sum(answer_tokens(example) for example in held_out)
    return accelerator.reduce(total, "sum").item() / tokens


def _check_finite(
    loss: float, norm: float, rate: float, scaler: torch.amp.GradScaler | None, run: RunFolder
) -> None:
    """Raises TrainingDiverged unless loss and gradient are finite, or fp16 merely overflowed."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"loss {loss}, gradient norm {norm}"
    if math.isfinite(loss) and scaler is not None:
        if scaler.get_scale() >= _SMALLEST_LOSS_SCALE:
            return
        what = f"gradients overflow fp16 even at a loss scale of {scaler.get_scale():g}"
    raise TrainingDiverged(what, len(run.history) + 1, rate, run.last_good_checkpoint())


def _is_due(step: int, every: int) -> bool:
    return every > 0 and (step + 1) % every == 0


def _agree_to_stop(should_stop: Callable[[], bool] | None, accelerator: Accelerator) -> bool:
    """True in every process as soon as it is in one."""
    if should_stop is None:
        return False
    asked = torch.tensor(float(should_stop()), device=accelerator.device)
    return accelerator.reduce(asked, "sum").item() > 0


def _check(
    trained: Mapping[str, nn.Parameter],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: TrainingSettings,
    accelerator: Accelerator,
    pad_id: int,
    shard: bool,
) -> None:
    if not trained:
        raise ValueError("no parameter of the model requires a gradient: add an adapter first")
    halves = [name for name, p in trained.items() if p.dtype == torch.float16]
    if accelerator.scaler is not None and halves:
        raise ValueError(
            f"{halves[0]} is float16, but fp16 training needs float32 trained parameters (frozen "
            "ones may be float16): convert them with .float()"
        )
    if not examples:
        raise ValueError("no training examples")
    if not isinstance(pad_id, int):
        raise ValueError(
            f"pad_id is {pad_id!r}, expected a token id; a tokenizer without a padding token can "
            "lend its eos_token_id"
        )
    if settings.batch_size < accelerator.num_processes:
        raise ValueError(
            f"batch_size {settings.batch_size} leaves some of the {accelerator.num_processes} "
            "processes without an example"
        )
    if shard and settings.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size {settings.batch_size} does not go into {accelerator.num_processes} processes: "
            "with sharded weights all have to call the model equally often"
        )
    if shard and accelerator.num_processes == 1:
        raise ValueError("shard: there is one process only; start several with `accelerate launch`")
    for kind, part in (("training", examples), ("held-out", held_out)):
        for number, example in enumerate(part):
            if not answer_tokens(example):
                raise ValueError(f"{kind} example {number} has no answer token to learn from")
            if len(example) > settings.max_length:
                raise ValueError(
                    f"{kind} example {number} has {len(example)} tokens, more than "
                    f"max_length={settings.max_length}: encode the records with this max_length"
                )


def _identity(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    examples: Sequence[Example],
    held_out: Sequence[Example],
    settings: TrainingSettings,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """What has to agree for a checkpoint to be this run's. How often it is written need not."""
    fixed = asdict(settings) | {"precision": accelerator.mixed_precision}
    del fixed["checkpoint_every"]
    return {
        "settings": fixed,
        "processes": accelerator.num_processes,
        "parameters": {name: f"{p.dtype} {list(p.shape)}" for name, p in trained.items()},
        "frozen weights": frozen_fingerprint(model),
        "examples": fingerprint(examples),
        "held-out examples": fingerprint(held_out),
    }
