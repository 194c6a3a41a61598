"""One task as a definition file of lm-evaluation-harness, and the reader of its local items.

A definition `include:`s the YAML file of the installed lm_eval, so prompt, choices and answer key stay
the official ones; it changes the name, the split and where the items come from. Items are read by a
function and not by `data_files`, which would depend on the current directory and fill a cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bslora_kit.files import write_text

if TYPE_CHECKING:
    import datasets


class MalformedItems(ValueError):
    """Items that cannot be read, or are not in the columns of their official task."""


@dataclass(frozen=True)
class TaskDefinition:
    """One task as lm-evaluation-harness is to see it.

    Attributes:
        name: the name lm_eval knows it by, unique.
        task: the name it is reported under: the same, or "mmlu" / "mini_mmlu" for a subject.
        subject: the MMLU subject, None for other tasks.
        template: the installed YAML file with the official prompt.
        split: the split that is scored.
        folder: where <split>.jsonl files lie; None where the datasets library fetches them.
        description: text before the prompt; None keeps the template's.
    """

    name: str
    task: str
    subject: str | None
    template: Path
    split: str
    folder: Path | None
    description: str | None = None

    def yaml(self) -> str:
        """The definition as a YAML file of lm_eval (a JSON string is a YAML string)."""
        lines = [f"include: {json.dumps(str(self.template))}", f"task: {self.name}"]
        solved = "train" if self.split == "train" else None
        if self.folder is not None:
            splits = {path.stem for path in self.folder.glob("*.jsonl")}
            lines += [
                "custom_dataset: !function bslora_kit.evaluation.task_files.read_items",
                f"dataset_kwargs: {json.dumps({'folder': str(self.folder)})}",
                f"training_split: {'train' if 'train' in splits else 'null'}",
                f"validation_split: {'validation' if 'validation' in splits else 'null'}",
            ]
            solved = next((name for name in ("train", "validation") if name in splits), None)
        lines.append(f"test_split: {self.split}")
        if self.subject is None and solved is not None:
            # Named, so that the harness leaves the question itself out of its solved examples.
            lines.append(f"fewshot_split: {solved}")
        if self.description is not None:
            lines.append(f"description: {json.dumps(self.description)}")
        return "\n".join(lines) + "\n"


def write_definitions(folder: Path, found: Sequence[TaskDefinition]) -> None:
    """Writes one YAML file per definition and one per MMLU group into an existing folder."""
    subjects: dict[str, list[str]] = {}
    for definition in found:
        write_text(folder / f"{definition.name}.yaml", definition.yaml())
        if definition.subject is not None:
            subjects.setdefault(definition.task, []).append(definition.name)
    for group, members in subjects.items():
        config = {
            "group": group,
            "task": members,
            "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
        }
        write_text(folder / f"{group}.yaml", json.dumps(config, indent=2))


def read_items(folder: str, **_metadata: Any) -> dict[str, datasets.Dataset]:
    """The items of a local task by split; lm_eval calls it with the task's metadata.

    Args:
        folder: holds one <split>.jsonl per split, one JSON object per line.

    Raises:
        MalformedItems: for a file without items or a line that is no JSON object; names file and line.
    """
    from datasets import Dataset

    return {
        path.stem: Dataset.from_list(_read_lines(path)) for path in sorted(Path(folder).glob("*.jsonl"))
    }


def _read_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise MalformedItems(f"{path}, line {number}: no valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise MalformedItems(
                    f"{path}, line {number}: expected a JSON object, found {line[:60]!r}"
                )
            rows.append(row)
    if not rows:
        raise MalformedItems(f"{path} has no items; fill it with one JSON object per line")
    return rows
