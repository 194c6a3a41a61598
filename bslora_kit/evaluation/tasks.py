"""The tasks a model is scored on: their names, prompts, splits and metrics.

    name                    items                                   prompt (lm_eval/tasks/...)
    openbookqa ... , mmlu   data/official/<task>/<split>.jsonl      the task's own
                            where that folder exists, else the hub
    mini_openbookqa ...     data/tasks/<task>/<split>.jsonl         that of the task without "mini_"
    mini_mmlu               data/mmlu/<subject>/<split>.jsonl       mmlu/continuation: the texts of
                            the choices are scored, since a base of a million parameters does not
                            learn to point at an answer by its letter

`task_folder` writes the definitions as files, for `bslora_kit.evaluation` and for the stock command
line alike:

    python -m bslora_kit.evaluation.tasks definitions
    lm_eval run --model hf --model_args pretrained=merged --tasks mini_piqa --include_path definitions

Which metric each task reports: BSLoRA's published tables (Zhou et al., ICML 2025).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bslora_kit import paths
from bslora_kit.evaluation.task_files import TaskDefinition, write_definitions

COMMONSENSE: dict[str, str] = {  # in the order of the published tables
    "openbookqa": "acc_norm",
    "arc_challenge": "acc_norm",
    "hellaswag": "acc_norm",
    "arc_easy": "acc",
    "piqa": "acc_norm",
    "winogrande": "acc",
    "boolq": "acc",
    "social_iqa": "acc",
}
MINI = "mini_"
GROUPS: dict[str, list[str]] = {
    "commonsense": list(COMMONSENSE),
    "mini_commonsense": [MINI + task for task in COMMONSENSE],
}
SPLITS = ("test", "validation", "train")

# The installed YAML file and the labelled split that published scores are of: where the labels of the
# test split are withheld, that is the validation split.
_OFFICIAL: dict[str, tuple[str, str]] = {
    "openbookqa": ("openbookqa/openbookqa.yaml", "test"),
    "arc_challenge": ("arc/arc_challenge.yaml", "test"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "validation"),
    "arc_easy": ("arc/arc_easy.yaml", "test"),
    "piqa": ("piqa/piqa.yaml", "validation"),
    "winogrande": ("winogrande/default.yaml", "validation"),
    "boolq": ("super_glue/boolq/default.yaml", "validation"),
    "social_iqa": ("siqa/siqa.yaml", "validation"),
}
_MMLU_TEMPLATE = "mmlu/default/_default_template_yaml"
_MINI_MMLU_TEMPLATE = "mmlu/continuation/_continuation_template_yaml"


def metric_of(task: str) -> str:
    """The published metric of a task: "acc_norm" or "acc" (MMLU: "acc")."""
    return COMMONSENSE.get(task.removeprefix(MINI), "acc")


def known_tasks() -> list[str]:
    """Every name that `expand` takes: tasks, the two MMLU groups and the group words."""
    mini = [MINI + task for task in COMMONSENSE]
    return [*mini, "mini_mmlu", *COMMONSENSE, "mmlu", *GROUPS]


def expand(tasks: str | Sequence[str]) -> list[str]:
    """Replaces group words by their eight tasks, each name once, in the order given.

    Raises:
        ValueError: for no name, an unknown name, or mini tasks beside real ones.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    if not names:
        raise ValueError(f"no task is named; choose from {', '.join(known_tasks())}")
    unknown = [name for name in names if name not in known_tasks()]
    if unknown:
        raise ValueError(
            f"unknown task {', '.join(map(repr, unknown))}; known are {', '.join(known_tasks())}"
        )
    expanded = list(dict.fromkeys(task for name in names for task in GROUPS.get(name, [name])))
    if len({name.startswith(MINI) for name in expanded}) == 2:
        raise ValueError(
            f"{', '.join(expanded)}: mini tasks and real tasks are scored apart, so that their means "
            "cannot be mixed up; call once for each"
        )
    return expanded


def definitions(tasks: Sequence[str], split: str = "test") -> list[TaskDefinition]:
    """The definitions behind the names of `expand`; a group becomes one definition per subject.

    Args:
        tasks: names from `expand`.
        split: "test" is the split whose score is published (for hellaswag, piqa, winogrande, boolq and
            social_iqa the labelled validation split); "validation", "train": to choose settings.

    Raises:
        ValueError: for an unknown split, or one whose items are the published test items.
        FileNotFoundError: for a local task without its folder or file; names the file.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    found: list[TaskDefinition] = []
    for task in tasks:
        if task == "mini_mmlu":
            found += _mini_mmlu(split)
        elif task == "mmlu":
            found += _mmlu(split)
        elif task.startswith(MINI):
            folder = paths.DATA / "tasks" / task
            template, _ = _OFFICIAL[task.removeprefix(MINI)]
            found.append(_local(task, task, None, template, split, folder))
        else:
            found.append(_official(task, split))
    return found


def task_folder(folder: str | Path, tasks: Sequence[str] = (), split: str = "test") -> Path:
    """Writes the definitions into a folder that `lm_eval --include_path` takes.

    Args:
        folder: made if missing; one YAML file per task or subject, one per MMLU group.
        tasks: names as for `expand`; by default the nine mini tasks.
        split: as for `definitions`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_definitions(folder, definitions(expand(tasks or ["mini_commonsense", "mini_mmlu"]), split))
    return folder


def _official(task: str, split: str) -> TaskDefinition:
    template, reported = _OFFICIAL[task]
    if split == reported != "test":
        raise ValueError(
            f"the published score of {task} is of its validation split: settings chosen there would be "
            "chosen on the test items; use split='train'"
        )
    scored = reported if split == "test" else split
    folder = paths.DATA / "official" / task
    if folder.is_dir():
        return _local(task, task, None, template, scored, folder)
    return TaskDefinition(task, task, None, _installed(template), scored, None)


def _mmlu(split: str) -> list[TaskDefinition]:
    if split == "train":
        raise ValueError("mmlu has no train split per subject; use split='validation'")
    local = paths.DATA / "official" / "mmlu"
    found = []
    for path in sorted(_installed(_MMLU_TEMPLATE).parent.glob("mmlu_*.yaml")):
        subject = path.stem.removeprefix("mmlu_")
        template = f"mmlu/default/{path.name}"
        if local.is_dir():
            found.append(_local(path.stem, "mmlu", subject, template, split, local / subject))
        else:
            found.append(TaskDefinition(path.stem, "mmlu", subject, path, split, None))
    return found


def _mini_mmlu(split: str) -> list[TaskDefinition]:
    root = paths.DATA / "mmlu"
    folders = sorted(path for path in root.glob("*") if path.is_dir())
    if not folders:
        raise FileNotFoundError(f"{root}: no folder of a subject; run `make demo` to make the data")
    found = []
    for folder in folders:
        subject = folder.name.removeprefix(MINI)
        description = (
            f"The following are questions (with answers) about {subject.replace('_', ' ')}.\n\n"
        )
        name = f"mini_mmlu_{subject}"
        found.append(_local(name, "mini_mmlu", subject, _MINI_MMLU_TEMPLATE, split, folder, description))
    return found


def _local(
    name: str,
    task: str,
    subject: str | None,
    template: str,
    split: str,
    folder: Path,
    description: str | None = None,
) -> TaskDefinition:
    # lm_eval looks into an MMLU subject's dev split even when no solved example is asked for.
    for needed in (split, "dev") if subject is not None else (split,):
        file = folder / f"{needed}.jsonl"
        if not file.is_file():
            remedy = (
                "run `make demo` to make the data"
                if task.startswith(MINI)
                else "put the split there, one JSON object per line in the official columns"
            )
            raise FileNotFoundError(f"{file}: the items of {task} are missing; {remedy}")
    return TaskDefinition(name, task, subject, _installed(template), split, folder, description)


def _installed(template: str) -> Path:
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "scoring needs lm-evaluation-harness; install it with `pip install lm-eval`"
        )
    path = Path(spec.submodule_search_locations[0]) / "tasks" / template
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed lm_eval has no tasks/{template}; install the version of requirements.txt"
        )
    return path


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m bslora_kit.evaluation.tasks FOLDER [TASK ...]")
    print(task_folder(sys.argv[1], sys.argv[2:]))
