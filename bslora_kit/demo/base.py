"""The demo bases: three small Llamas, pre-trained on the demo corpus.

The proportions are those of the three models of the published tables:

    base          Llama 3-8B (Grattafiori et al., 2024)   4 query heads to a key/value head, MLP 3.5
    base-1-7b     Llama 1-7B (Touvron et al., 2023)       multi-head, MLP 2.69, hidden and depth of 3-8B
    base-1-13b    Llama 1-13B                             multi-head, MLP 2.7, 1.25 times as wide, deeper

MLP is its size as a multiple of the hidden size. Tokenizer, corpus and steps are the same for the three.
The embedding is tied, which theirs is not: at this size it would be a third of all weights otherwise.
The order of the training windows follows from the step number alone, so a run that was killed goes on
from its checkpoint to the same weights.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit.demo.tokenizer import CONTEXT, VOCABULARY, encode_corpus, make_tokenizer
from bslora_kit.demo.world import World


class Shape(NamedTuple):
    """Sizes of a base."""

    hidden: int
    mlp: int
    layers: int
    heads: int
    key_value_heads: int


SHAPES = {  # folder under data/ -> sizes
    "base": Shape(hidden=128, mlp=448, layers=6, heads=4, key_value_heads=1),
    "base-1-7b": Shape(hidden=128, mlp=344, layers=6, heads=4, key_value_heads=4),
    "base-1-13b": Shape(hidden=160, mlp=432, layers=8, heads=5, key_value_heads=5),
}
STEPS = 4_800
STEP_TOKENS = 1_024
SHORT, LONG, LONG_EVERY = 128, 512, 5  # window lengths; every fifth step has long windows
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, CLIP = 2e-3, 200, 0.05, 1.0
CHECKPOINT_EVERY = 400


def untrained(shape: Shape, vocabulary: int) -> LlamaForCausalLM:
    """A base before training, with weights drawn from a fixed seed.

    Args:
        shape: Its sizes.
        vocabulary: Number of ids.
    """
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )


def window_batch(tokens: np.ndarray, step: int) -> torch.Tensor:
    """The windows of a step, a function of its number: int64 [windows, window length]."""
    length = LONG if step % LONG_EVERY == LONG_EVERY - 1 else SHORT
    part = tokens[step * STEP_TOKENS : (step + 1) * STEP_TOKENS]
    return torch.from_numpy(part.astype(np.int64)).reshape(-1, length)


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth of the peak."""
    if step < WARM_UP:
        return LEARNING_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / (STEPS - WARM_UP)
    return LEARNING_RATE * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


def make_bases(world: World, data: Path, names: Iterable[str] = SHAPES) -> None:
    """Makes the tokenizer and the pre-trained bases, or keeps those that are up to date.

    Each base has a folder of its own with tokenizer, config, weights and `training.json`, which records
    a fingerprint of the corpus tokens and the settings, and the loss that was reached.

    Args:
        world: The demo world.
        data: Folder of the bases' folders. A checkpoint lies there as `<name>.checkpoint` until its base
            is done.
        names: Keys of `SHAPES`.
    """
    with tempfile.TemporaryDirectory() as place:
        tokenizer = make_tokenizer(world, Path(place))
        tokens = encode_corpus(world, tokenizer, STEPS * STEP_TOKENS)
        for name in names:
            _make_base(name, tokens, Path(place), data)


def _make_base(name: str, tokens: np.ndarray, tokenizer: Path, data: Path) -> None:
    """Makes one base of the corpus tokens and the folder of the tokenizer that made them."""
    folder, work = data / name, data / f"{name}.checkpoint"
    shape, record = SHAPES[name], folder / "training.json"
    fingerprint = _fingerprint(shape, tokens)
    export = work.with_suffix(".export")
    shutil.rmtree(export, ignore_errors=True)
    shutil.copytree(tokenizer, export)
    if _is_up_to_date(folder, fingerprint):
        print(f"{name} is up to date", flush=True)
    else:
        print(f"pre-training {name}", flush=True)
        model, losses = pretrain(shape, tokens, VOCABULARY, work, fingerprint)
        model.half().save_pretrained(export)
        summary = {
            "fingerprint": fingerprint,
            "steps": STEPS,
            "tokens": STEPS * STEP_TOKENS,
            "parameters": sum(p.numel() for p in model.parameters()),
            "loss_of_last_100_steps": round(float(np.mean(losses[-100:])), 4),
        }
        (export / record.name).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        record.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    # The record says that all else is there, so it comes last.
    for file in sorted(export.iterdir(), key=lambda file: file.name == record.name):
        os.replace(file, folder / file.name)
    export.rmdir()
    shutil.rmtree(work, ignore_errors=True)


def _is_up_to_date(folder: Path, fingerprint: str) -> bool:
    record = folder / "training.json"
    if not (record.exists() and (folder / "model.safetensors").exists()):
        return False
    return json.loads(record.read_text(encoding="utf-8"))["fingerprint"] == fingerprint


def _fingerprint(shape: Shape, tokens: np.ndarray) -> str:
    """Names what the weights depend on: corpus, order, sizes and settings."""
    settings = (
        untrained(shape, VOCABULARY).config.to_diff_dict(),
        STEPS,
        STEP_TOKENS,
        SHORT,
        LONG,
        LONG_EVERY,
        LEARNING_RATE,
        WARM_UP,
        WEIGHT_DECAY,
        CLIP,
    )
    settings[0].pop("transformers_version", None)
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(tokens.tobytes() + text.encode()).hexdigest()


def pretrain(
    shape: Shape, tokens: np.ndarray, vocabulary: int, work: Path, fingerprint: str
) -> tuple[LlamaForCausalLM, list[float]]:
    """Pre-trains a base, or goes on from its checkpoint.

    Args:
        shape: Its sizes.
        tokens: Ids of the corpus, uint16 [STEPS * STEP_TOKENS].
        vocabulary: Number of ids.
        work: Folder of the checkpoint.
        fingerprint: A checkpoint with another one is ignored.

    Returns:
        The model in fp32 and the loss of every step, in nats per token.
    """
    model = untrained(shape, vocabulary)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    losses = _load_checkpoint(work, model, optimizer, fingerprint)
    first, started = len(losses), time.perf_counter()
    model.train()
    for step in range(first, STEPS):
        windows = window_batch(tokens, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        loss = model(input_ids=windows, labels=windows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            left = (time.perf_counter() - started) / (step + 1 - first) * (STEPS - step - 1)
            print(
                f"pre-training step {step + 1}/{STEPS}  loss {np.mean(losses[-100:]):.3f}  "
                f"{left / 60:.1f} min left",
                flush=True,
            )
        if (step + 1) % CHECKPOINT_EVERY == 0:
            _save_checkpoint(work, model, optimizer, losses, fingerprint)
    return model, losses


def _save_checkpoint(
    work: Path,
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    losses: list[float],
    fingerprint: str,
) -> None:
    """Writes weights, AdamW's moments and the losses beside the old checkpoint, then moves them."""
    part, done = work.with_suffix(".part"), work
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {
            f"weight/{name}": parameter.data,
            f"mean/{name}": state["exp_avg"],
            f"square/{name}": state["exp_avg_sq"],
            f"step/{name}": state["step"],
        }
    save_file(tensors, part / "state.safetensors")
    (part / "state.json").write_text(
        json.dumps({"fingerprint": fingerprint, "losses": losses}), encoding="utf-8"
    )
    old = work.with_suffix(".old")
    if done.exists():
        os.replace(done, old)
    os.replace(part, done)
    shutil.rmtree(old, ignore_errors=True)


def _load_checkpoint(
    work: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, fingerprint: str
) -> list[float]:
    """Restores the last checkpoint of this corpus and these settings, if there is one.

    Returns:
        The losses of the steps that are done.
    """
    old = work.with_suffix(".old")
    source = work if work.exists() else old
    if not source.exists():
        return []
    state = json.loads((source / "state.json").read_text(encoding="utf-8"))
    if state["fingerprint"] != fingerprint:
        return []
    tensors = load_file(source / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"weight/{name}"])
            optimizer.state[parameter] = {
                "step": tensors[f"step/{name}"],
                "exp_avg": tensors[f"mean/{name}"],
                "exp_avg_sq": tensors[f"square/{name}"],
            }
    print(f"pre-training goes on at step {len(state['losses'])}", flush=True)
    return state["losses"]
