"""Makes the shipped default: `python -m bslora_kit.demo` (what `make demo` calls).

    world --> instruction set, mini tasks, mini MMLU      seconds, byte-equal at the shipped seed
          --> corpus --> tokenizer --> pre-trained bases  20 to 35 minutes of CPU time each

Everything is written beside its place and moved there. A finished base is kept as long as it
belongs to the present corpus and settings; a killed pre-training goes on from its checkpoint.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import logging

from bslora_kit import paths
from bslora_kit.demo import base
from bslora_kit.demo.instructions import Teacher
from bslora_kit.demo.tasks import Examiner
from bslora_kit.demo.world import World, make_world

MADE = (*base.SHAPES, "instructions", "tasks", "mmlu", "world")


def _lines(records: Iterable[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def texts(world: World) -> dict[str, str]:
    """All text files of the shipped default.

    Args:
        world: The demo world.

    Returns:
        Path relative to `data/` -> content.
    """
    train, held_out = Teacher(world).records()
    files = {
        "world/facts.jsonl": _lines(
            {
                "fact": fact.id,
                "subject": fact.subject,
                "relation": fact.relation.name,
                "value": fact.value,
                "kind": fact.kind,
            }
            for fact in world.facts
        ),
        "world/activities.jsonl": _lines(
            {
                "activity": a.name,
                "steps": [a.plain(i) for i in range(len(a.steps))],
                "kind": a.kind,
                "like": a.like,
            }
            for a in world.activities
        ),
        "instructions/train.jsonl": _lines(train),
        "instructions/heldout.jsonl": _lines(held_out),
    }
    examiner = Examiner(world)
    for folder, tasks in (("tasks", examiner.tasks()), ("mmlu", examiner.mmlu())):
        for name, splits in tasks.items():
            for split, items in splits.items():
                files[f"{folder}/{name}/{split}.jsonl"] = _lines(items)
    return files


def checksums(data: Path) -> dict[str, str]:
    """SHA-256 of every made file: path relative to `data` -> hexadecimal digest."""
    files = sorted(path for name in MADE for path in (data / name).rglob("*") if path.is_file())
    return {
        path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def write(path: Path, content: str) -> None:
    """Writes a text file beside its place and moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8", newline="\n")
    os.replace(part, path)


def main() -> None:
    """Makes everything under `data/` that this package owns, then the checksums."""
    logging.disable_progress_bar()
    data = paths.DATA
    world = make_world()
    files = texts(world)
    for name, content in files.items():
        write(data / name, content)
    print(f"wrote {len(files)} text files under {data}", flush=True)
    base.make_bases(world, data)
    write(data / "checksums.json", json.dumps(checksums(data), indent=1) + "\n")
    print("wrote checksums.json", flush=True)


if __name__ == "__main__":
    main()
