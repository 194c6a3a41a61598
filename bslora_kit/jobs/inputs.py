"""The files that a run reads: base model, instructions, task items; where they lie and what they are.

Their fingerprints are part of a run's parameters, so that a score of one base is never taken for that
of another base of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bslora_kit import paths
from bslora_kit.evaluation.tasks import definitions
from bslora_kit.files import fingerprint_of, read_object

SHIPPED_BASES = ("data/base", "data/base-1-7b", "data/base-1-13b")  # what bslora_kit.demo makes


def base_folder(name: str) -> Path | None:
    """The local folder of a base model; None where the name is one of the hub.

    Args:
        name: one of `SHIPPED_BASES`, another folder (relative to the checkout or absolute), or a name on
            the hub.

    Raises:
        FileNotFoundError: if the name is a path and there is no model; says what to do.
        ValueError: if its config.json is not a JSON object.
    """
    shipped = name in SHIPPED_BASES
    folder = paths.BASE.with_name(Path(name).name) if shipped else paths.ROOT / Path(name).expanduser()
    if (folder / "config.json").exists():
        read_object(folder / "config.json", "copy the model again")
        return folder
    if shipped:
        raise FileNotFoundError(f"{folder} holds no model; `make demo` makes the shipped bases again")
    if folder.exists() or Path(name).is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(
            f"base_model {name!r}: {folder} has no config.json; give a folder written by "
            "save_pretrained, or a name on the hub"
        )
    return None


def base_files(folder: Path) -> list[Path]:
    """The files of a base that decide what it is: weights, configuration and tokenizer."""
    return [*folder.glob("*.json"), *folder.glob("*.safetensors")]


def input_fingerprints(given: Mapping[str, Any]) -> dict[str, str | None]:
    """Fingerprints of base, instructions and task items; None for what comes from a hub.

    Args:
        given: the resolved parameters base_model, instructions, held_out, tasks, split, steps.

    Raises:
        FileNotFoundError: if local files are missing; says what to fetch and where to put it.
    """
    folder = base_folder(given["base_model"])
    files = {
        "base": base_files(folder) if folder else [],
        "instructions": _instruction_files(given) if given["steps"] else [],
        "tasks": task_files(given["tasks"], given["split"]),
    }
    return {name: fingerprint_of(found) if found else None for name, found in files.items()}


def _instruction_files(given: Mapping[str, Any]) -> list[Path]:
    from bslora_kit.data import NAMED_FILES, load_instructions  # torch, which nothing else here needs

    names = [given["instructions"]]
    if isinstance(given["held_out"], str):
        names.append(given["held_out"])
    found = [Path(NAMED_FILES.get(name, name)) for name in names]
    for name, path in zip(names, found, strict=True):
        if not path.is_file():
            load_instructions(name)  # says what to fetch
    return found


def task_files(tasks: Sequence[str], split: str) -> list[Path]:
    """The local files of tasks, few-shot splits included; those on a hub left out."""
    folders = [definition.folder for definition in definitions(tasks, split)]
    return [file for folder in folders if folder for file in folder.glob("*.jsonl")]
