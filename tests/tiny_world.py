"""A data folder as the kit's own, with a random Llama of width 32 and a handful of items a task.

For tests of jobs and grids: what counts there is what is run, kept and refused, not how well it scores,
and a real row takes half a minute.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ITEMS = 3
SHIPPED = Path(__file__).parent.parent / "data"
THINGS = ["lamp", "boat", "stone", "wheel", "bell", "rope"]
COMMONSENSE = "openbookqa arc_challenge hellaswag arc_easy piqa winogrande boolq social_iqa".split()


def make_world(root: Path) -> Path:
    """Writes base/, instructions/, tasks/, mmlu/, official/, published/, profiles/; returns `root`."""
    write_base(root / "base")
    write_instructions(root / "instructions")
    draw = random.Random(0)
    for task in COMMONSENSE:
        for place in (root / "tasks" / f"mini_{task}", root / "official" / task):
            for split in ("train", "validation", "test"):
                rows = [_item(task, number, draw) for number in range(ITEMS)]
                write_lines(place / f"{split}.jsonl", rows)
    for split in ("dev", "validation", "test"):
        rows = [_question(number, draw) for number in range(ITEMS)]
        write_lines(root / "mmlu" / "mini_music" / f"{split}.jsonl", rows)
    write_profile(root / "profiles" / "tiny.yaml")
    shutil.copytree(SHIPPED / "published", root / "published")
    return root


def write_base(folder: Path) -> None:
    """A random Llama of 2 layers with a byte-level tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *alphabet]
    tokenizer = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 112, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=512, **sizes, **heads)
    LlamaForCausalLM(config).save_pretrained(folder)


def write_instructions(folder: Path) -> None:
    draw = random.Random(1)
    records = [
        {"instruction": f"Where is the {a}?", "input": "", "output": f"Near the {b}."}
        for a, b in (draw.choices(THINGS, k=2) for _ in range(24))
    ]
    write_lines(folder / "train.jsonl", records[:20])
    write_lines(folder / "heldout.jsonl", records[20:])
    (folder / "alpaca_data_cleaned.json").write_text(json.dumps(records), encoding="utf-8")


def write_profile(path: Path, **changes: object) -> Path:
    """The demo profile with few short steps and precise names of this world's files."""
    root = path.parent.parent
    profile = yaml.safe_load((SHIPPED / "profiles" / "demo.yaml").read_text(encoding="utf-8"))
    profile["instructions"] = str(root / "instructions" / "train.jsonl")
    profile["held_out"] = str(root / "instructions" / "heldout.jsonl")
    few = {"steps": 4, "batch_size": 4, "micro_batch_size": 4, "warmup_steps": 2, "max_length": 256}
    profile["training"] |= few | {"evaluate_every": 2, "checkpoint_every": 2}
    profile["quick"] = {"steps": 2, "limit": 2}
    profile["bases"] = dict.fromkeys(profile["bases"], "data/base")  # the one of this world
    profile |= {"learning_rate": 0.005, "learning_rates": None} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _question(number: int, draw: random.Random) -> dict:
    """One item in the columns of MMLU."""
    choices = draw.sample([f"the {thing}" for thing in THINGS], 4)
    question = {"question": f"What is near the {draw.choice(THINGS)}?", "subject": "mini_music"}
    answer = {"choices": choices, "answer": draw.randrange(4)}
    return question | answer | {"kind": "old", "fact": f"fact-{number}"}


def _item(task: str, number: int, draw: random.Random) -> dict:
    """One item in the official columns of a task."""

    def thing() -> str:
        return f"the {draw.choice(['red', 'old', 'heavy'])} {draw.choice(THINGS)}"

    kind = {"kind": ["old", "new", "two_hop"][number % 3], "fact": f"fact-{number // 2}"}
    four = {"text": [thing() for _ in range(4)], "label": ["A", "B", "C", "D"]}
    letter, digit = draw.choice("ABCD"), draw.randrange(2)
    question = {"question": f"What is near {thing()}?", "choices": four, "answerKey": letter}
    columns = {
        "openbookqa": {"question_stem": f"{thing()} is near", "choices": four, "answerKey": letter},
        "arc_easy": question,
        "arc_challenge": question,
        "hellaswag": {
            "activity_label": "Moving",
            "ctx_a": f"Mara lifts {thing()}.",
            "ctx_b": "then she",
            "endings": [f"moves {thing()}." for _ in range(4)],
            "label": str(draw.randrange(4)),
        },
        "piqa": {"goal": f"to move {thing()}", "sol1": "pull", "sol2": "push it", "label": digit},
        "winogrande": {
            "sentence": "Mara met Orin because _ was there today.",
            "option1": thing(),
            "option2": thing(),
            "answer": str(digit + 1),
        },
        "boolq": {"passage": f"Here is {thing()}.", "question": "is it sold", "label": digit},
        "social_iqa": {
            "context": f"Mara sells {thing()}.",
            "question": "What happens next?",
            "answerA": "she leaves",
            "answerB": "she waits",
            "answerC": "she sings",
            "label": draw.choice("123"),
        },
    }
    return columns[task] | kind
