"""Instruction data: records in the Alpaca schema, as prompts, as token ids, as padded batches.

    file (json, jsonl) --> records {instruction, input, output} --> Example(input_ids, labels)
                           step, seed --> which examples --> micro-batches --> padded tensors

The prompt is that of Stanford Alpaca (Taori et al., 2023), word for word. The loss is on the answer
only, an end-of-text token closes the answer, and 256 tokens is the published cutoff (Zhou et al.,
ICML 2025). The batch of a step is a function of (seed, step) alone: a run that starts again at step
1,234 sees the same examples as one that was never interrupted, without any state to restore.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bslora_kit.paths import DATA

IGNORED = -100  # label of a token that carries no loss, as in PyTorch and transformers

NAMED_FILES = {
    "demo": DATA / "instructions" / "train.jsonl",
    "demo-heldout": DATA / "instructions" / "heldout.jsonl",
    "alpaca-cleaned": DATA / "instructions" / "alpaca_data_cleaned.json",
}

PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
PROMPT_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Example:
    """One record as token ids.

    Attributes:
        input_ids: prompt, answer and end-of-text token.
        labels: as long as input_ids: -100 on the prompt, the token itself on the answer.
    """

    input_ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)


def load_instructions(name_or_path: str | Path) -> list[dict[str, Any]]:
    """Reads an instruction set by name or from a file.

    Args:
        name_or_path: "demo" and "demo-heldout" (shipped with the kit), "alpaca-cleaned" (the
            published runs' set, to be fetched once), or the path of a .json or .jsonl file.

    Raises:
        FileNotFoundError: the file is not there; says what to fetch and where to put it.
    """
    path = Path(NAMED_FILES.get(str(name_or_path), name_or_path))
    if path.is_file():
        return read_records(path)
    wanted = NAMED_FILES["alpaca-cleaned"]
    if path == wanted:
        raise FileNotFoundError(
            f"{path} is not there. The kit does not ship alpaca-cleaned: fetch {wanted.name} from "
            "github.com/gururise/AlpacaDataCleaned (or the hub's yahma/alpaca-cleaned) and put it "
            f"into {wanted.parent}, or pass the path where you keep it."
        )
    raise FileNotFoundError(
        f"no instruction file {path}: expected a .json or .jsonl file of records with "
        f"instruction, input and output, or one of the names {', '.join(NAMED_FILES)}"
    )


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Reads records in the Alpaca schema.

    Args:
        path: a .jsonl file with one record a line, or a .json file with a list of records. A record
            has the strings `instruction` and `output`, and may have `input`; other fields are kept.

    Raises:
        ValueError: the file is not such a file; names the line or record, and the field.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    numbered: Iterable[tuple[str, Any]]
    if path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)
        numbered = [
            (f"{path}, line {n}", _parse(line, f"{path}, line {n}"))
            for n, line in lines
            if line.strip()
        ]
    else:
        whole = _parse(text, str(path))
        if not isinstance(whole, list):
            raise ValueError(f"{path}: expected a list of records, found {type(whole).__name__}")
        numbered = [(f"{path}, record {n}", record) for n, record in enumerate(whole, start=1)]
    records = [_checked(record, where) for where, record in numbered]
    if not records:
        raise ValueError(f"{path} holds no records")
    return records


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error


def _checked(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object, found {type(record).__name__}")
    record = {"input": "", **record}
    for field in ("instruction", "input", "output"):
        if field not in record:
            raise ValueError(
                f"{where}: no field {field!r}; it has {', '.join(sorted(record)) or 'none'}"
            )
        if not isinstance(record[field], str):
            raise ValueError(f"{where}: {field!r} is {record[field]!r}, expected a string")
    if not record["instruction"].strip():
        raise ValueError(f"{where}: 'instruction' is empty")
    return record


def hold_out(
    records: Sequence[dict[str, Any]], count: int = 2000, seed: int = 42
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Splits records into a training part and a held-out part of `count` records.

    The split is that of `datasets.Dataset.train_test_split(test_size=count, seed=seed)`, which the
    published runs used with 2,000 rows and seed 42.

    Returns:
        (training records, held-out records), both in shuffled order.
    """
    if not 0 < count < len(records):
        raise ValueError(
            f"cannot hold out {count} of {len(records)} records: expected 1 to {len(records) - 1}"
        )
    order = np.random.default_rng(seed).permutation(len(records))
    return [records[i] for i in order[count:]], [records[i] for i in order[:count]]


def render_prompt(record: dict[str, Any]) -> str:
    """The Alpaca prompt of a record, up to where the answer begins."""
    template = PROMPT_WITH_INPUT if record.get("input") else PROMPT_WITHOUT_INPUT
    return template.format(instruction=record["instruction"], input=record.get("input", ""))


def encode(records: Sequence[dict[str, Any]], tokenizer: Any, max_length: int) -> list[Example]:
    """Turns records into token ids with labels on the answer.

    Prompt and answer are tokenized together, as a model reads them later, and a token that reaches
    over the border counts as answer. A record longer than `max_length` loses its end, and with it
    the end-of-text token: a cut answer must not teach the model to stop there.

    Args:
        records: as from `read_records`.
        tokenizer: a transformers tokenizer with an end-of-text token.
        max_length: longest example, in tokens.

    Returns:
        One example a record, in order. A record whose answer is cut away entirely is left out, and
        a warning says how many were.

    Raises:
        ValueError: max_length is not positive, the tokenizer has no end-of-text token, or no
            record keeps any part of its answer.
    """
    if max_length <= 0:
        raise ValueError(f"max_length is {max_length}, expected a positive number of tokens")
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-text token: set tokenizer.eos_token")
    if not records:
        raise ValueError("no records to encode")
    prompts = [render_prompt(record) for record in records]
    texts = [prompt + record["output"] for prompt, record in zip(prompts, records, strict=True)]
    examples = []
    for prompt_ids, text_ids in zip(
        tokenizer(prompts)["input_ids"], tokenizer(texts)["input_ids"], strict=True
    ):
        if text_ids[-1] != tokenizer.eos_token_id:
            text_ids = [*text_ids, tokenizer.eos_token_id]
        start = _common_prefix(prompt_ids, text_ids)
        if start < max_length:
            ids = text_ids[:max_length]
            examples.append(Example(ids, [IGNORED] * start + ids[start:]))
    left_out = len(records) - len(examples)
    if not examples:
        raise ValueError(
            f"none of the {len(records)} records has an answer within max_length={max_length} "
            "tokens: the prompts alone are longer; raise max_length"
        )
    if left_out:
        warnings.warn(
            f"{left_out} of {len(records)} records left out: their prompt alone fills "
            f"max_length={max_length} tokens",
            stacklevel=2,
        )
    return examples


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """Pads examples on the right to the longest of them.

    Returns:
        input_ids, attention_mask and labels, each int64 [examples, tokens].
    """
    longest = max(len(example) for example in examples)
    input_ids = torch.full((len(examples), longest), pad_id)
    labels = torch.full((len(examples), longest), IGNORED)
    attention_mask = torch.zeros(len(examples), longest, dtype=torch.int64)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = torch.tensor(example.input_ids)
        labels[row, : len(example)] = torch.tensor(example.labels)
        attention_mask[row, : len(example)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which examples make up the batch of a step (from 0): every epoch is a fresh shuffle of all.

    Epochs follow each other without a gap, so a batch may hold the end of one and the start of
    the next, and every example is seen once an epoch whatever the batch size.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [int(_epoch_order(count, seed, p // count)[p % count]) for p in positions]


@lru_cache(maxsize=4)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of the tokens, labels and order of examples: tells one data set from another."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(np.array([example.input_ids, example.labels], dtype=np.int64).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def micro_batches(
    examples: Sequence[Example], size: int, rank: int = 0, processes: int = 1
) -> Iterator[Sequence[Example]]:
    """Cuts one process's share of a batch into micro-batches of similar lengths.

    Sorting inside the batch spares padding (about a seventh of the time on short records) and
    leaves the batch, hence the gradient, as it is. Dealing the sorted examples out in turn gives
    every process the same work.
    """
    share = sorted(examples, key=len)[rank::processes]
    for start in range(0, len(share), size):
        yield share[start : start + size]
