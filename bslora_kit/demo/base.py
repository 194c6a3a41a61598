"""The demo base: byte-level BPE tokenizer and a small Llama, pre-trained on the demo corpus.

The proportions are those of Llama 3-8B (Grattafiori et al., 2024): four query heads to a key/value
head, an MLP of 3.5 times the hidden size. The embedding is tied, which Llama 3-8B's is not: at this
size it would be a third of all weights otherwise. The order of the training windows follows from the
step number alone, so a run that was killed goes on from its checkpoint to the same weights.
"""

import hashlib
import json
import math
import os
import shutil
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bslora_kit.data import PROMPT_WITH_INPUT, PROMPT_WITHOUT_INPUT
from bslora_kit.demo.corpus import Writer
from bslora_kit.demo.world import World

VOCABULARY = 3328
CONTEXT = 512
TOKENIZER_DOCUMENTS = 12_000
STEPS = 4_800
STEP_TOKENS = 1_024
SHORT, LONG, LONG_EVERY = 128, 512, 5  # window lengths; every fifth step has long windows
LEARNING_RATE, WARM_UP, WEIGHT_DECAY, CLIP = 2e-3, 200, 0.05, 1.0
CHECKPOINT_EVERY = 400
END, PAD = "<|endoftext|>", "<|pad|>"


def alpaca_frames() -> list[str]:
    """The fixed parts of the Alpaca prompt.

    Each becomes one token, so that a record costs four positions more than its own words, not
    forty; the text of the prompt stays the well-known one.
    """
    head, rest = PROMPT_WITHOUT_INPUT.split("{instruction}")
    long_head, middle = PROMPT_WITH_INPUT.split("{instruction}")
    return [head, long_head, middle.split("{input}")[0], rest]


def make_tokenizer(world: World, folder: Path) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on the first documents of the corpus and saves it.

    A space is put before the first word, also before the first word after a part of the Alpaca
    prompt: an answer "clay" then has the same token in a record, in running text and in a task.

    Args:
        world: The demo world.
        folder: Where the tokenizer's files go.

    Returns:
        The tokenizer, as AutoTokenizer loads it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    frames = alpaca_frames()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(frames), special_tokens=[END, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(islice(Writer(world).documents(), TOKENIZER_DOCUMENTS), trainer)
    tokenizer.add_tokens([AddedToken(frame, normalized=False) for frame in frames])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END,
                                   pad_token=PAD, model_max_length=CONTEXT,
                                   clean_up_tokenization_spaces=False)
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def encode_corpus(world: World, tokenizer: PreTrainedTokenizerFast, count: int) -> np.ndarray:
    """Writes and encodes the corpus, documents separated by the end-of-text token.

    Args:
        world: The demo world.
        tokenizer: The demo tokenizer.
        count: Number of tokens.

    Returns:
        Token ids, uint16 [count].
    """
    documents = Writer(world).documents()
    tokens = np.empty(count, dtype=np.uint16)
    filled = 0
    while filled < count:
        for ids in tokenizer(list(islice(documents, 2_000)))["input_ids"]:
            piece = [*ids, tokenizer.eos_token_id][: count - filled]
            tokens[filled : filled + len(piece)] = piece
            filled += len(piece)
    return tokens


def untrained(vocabulary: int) -> LlamaForCausalLM:
    """The base before training, with weights drawn from a fixed seed."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=448, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=CONTEXT,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=1))


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


def make_base(world: World, folder: Path, work: Path) -> None:
    """Makes the tokenizer and the pre-trained base, or keeps them where they are up to date.

    `training.json` beside the weights records a fingerprint of the corpus tokens and the settings,
    and the loss that was reached.

    Args:
        world: The demo world.
        folder: Folder for the tokenizer, config and weights.
        work: Folder of the checkpoint; removed at the end.
    """
    tokenizer = make_tokenizer(world, folder)
    tokens = encode_corpus(world, tokenizer, STEPS * STEP_TOKENS)
    fingerprint = _fingerprint(tokens)
    record = folder / "training.json"
    if record.exists() and (folder / "model.safetensors").exists():
        if json.loads(record.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
            print("the base is up to date", flush=True)
            return
    record.unlink(missing_ok=True)
    model, losses = pretrain(tokens, len(tokenizer), work, fingerprint)
    export = work.with_suffix(".export")
    model.half().save_pretrained(export)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        os.replace(export / name, folder / name)
    summary = {"fingerprint": fingerprint, "steps": STEPS, "tokens": STEPS * STEP_TOKENS,
               "parameters": sum(p.numel() for p in model.parameters()),
               "loss_of_last_100_steps": round(float(np.mean(losses[-100:])), 4)}
    part = export / record.name
    part.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    os.replace(part, record)
    shutil.rmtree(export)
    shutil.rmtree(work, ignore_errors=True)


def _fingerprint(tokens: np.ndarray) -> str:
    """Names what the weights depend on: corpus, order, sizes and settings."""
    settings = (untrained(VOCABULARY).config.to_diff_dict(), STEPS, STEP_TOKENS, SHORT, LONG,
                LONG_EVERY, LEARNING_RATE, WARM_UP, WEIGHT_DECAY, CLIP)
    settings[0].pop("transformers_version", None)
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(tokens.tobytes() + text.encode()).hexdigest()


def pretrain(tokens: np.ndarray, vocabulary: int, work: Path,
             fingerprint: str) -> tuple[LlamaForCausalLM, list[float]]:
    """Pre-trains the base, or goes on from its checkpoint.

    Args:
        tokens: Ids of the corpus, uint16 [STEPS * STEP_TOKENS].
        vocabulary: Number of ids.
        work: Folder of the checkpoint.
        fingerprint: A checkpoint with another one is ignored.

    Returns:
        The model in fp32 and the loss of every step, in nats per token.
    """
    model = untrained(vocabulary)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.98))
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
            print(f"pre-training step {step + 1}/{STEPS}  loss {np.mean(losses[-100:]):.3f}  "
                  f"{left / 60:.1f} min left", flush=True)
        if (step + 1) % CHECKPOINT_EVERY == 0:
            _save_checkpoint(work, model, optimizer, losses, fingerprint)
    return model, losses


def _save_checkpoint(work: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer,
                     losses: list[float], fingerprint: str) -> None:
    """Writes weights, AdamW's moments and the losses beside the old checkpoint, then moves them."""
    part, done = work.with_suffix(".part"), work
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tensors = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"weight/{name}": parameter.data, f"mean/{name}": state["exp_avg"],
                    f"square/{name}": state["exp_avg_sq"], f"step/{name}": state["step"]}
    save_file(tensors, part / "state.safetensors")
    (part / "state.json").write_text(
        json.dumps({"fingerprint": fingerprint, "losses": losses}), encoding="utf-8")
    old = work.with_suffix(".old")
    if done.exists():
        os.replace(done, old)
    os.replace(part, done)
    shutil.rmtree(old, ignore_errors=True)


def _load_checkpoint(work: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer,
                     fingerprint: str) -> list[float]:
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
                "step": tensors[f"step/{name}"], "exp_avg": tensors[f"mean/{name}"],
                "exp_avg_sq": tensors[f"square/{name}"]}
    print(f"pre-training goes on at step {len(state['losses'])}", flush=True)
    return state["losses"]
