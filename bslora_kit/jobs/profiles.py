"""Profiles: at what scale a job runs. Each is a file data/profiles/<name>.yaml, data and not code.

    demo    the shipped base, instruction set and mini tasks, minutes on a CPU
    paper   the published protocol on a Llama (Zhou et al., ICML 2025), for a CUDA machine

A job's parameters name a profile and what differs from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from bslora_kit.paths import DATA

FOLDER = DATA / "profiles"
# libyaml's reads the rates of all rows of a grid ten times faster; not every build of PyYAML has it.
_SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SHARE_SIZES = ("scaled", "published")
# As in `training`, which would import torch here.
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("linear", "cosine")

_Kind = tuple[Callable[[Any], bool], str]  # a check, and what it expects in words


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_held_out(value: Any) -> bool:
    if _is_mapping(value):
        return set(value) == {"count", "seed"} and all(map(_is_whole, value.values())) and value["count"]
    return _is_text(value)


_TEXT: _Kind = (_is_text, "text")
_WHOLE: _Kind = (_is_whole, "a whole number, 0 or more")
_POSITIVE: _Kind = (lambda x: _is_whole(x, 1), "a whole number above 0")
_NUMBER = "a number (YAML reads 1e-3 as text: write 1.0e-3)"
_ABOVE_0: _Kind = (lambda x: _is_number(x) and x > 0, f"{_NUMBER}, above 0")
_PARAMETERS: _Kind = (_is_mapping, "names of job parameters and values")
_KINDS: dict[str, _Kind | dict[str, _Kind]] = {
    **dict.fromkeys(("base_model", "instructions", "split"), _TEXT),
    "shots": _WHOLE,
    "scoring_batch_size": _POSITIVE,
    "learning_rate": _ABOVE_0,
    "scaling": (lambda x: _is_number(x) and isfinite(x) and x != 0, "a finite number other than 0"),
    "dropout": (lambda x: _is_number(x) and 0 <= x < 1, "a number in [0, 1)"),
    **dict.fromkeys(("sweep", "quick"), _PARAMETERS),
    "held_out": (_is_held_out, "text, or {count, seed} with whole numbers, count above 0"),
    "targets": (lambda x: x is None or _is_list_of_text(x), "a list of names, or null"),
    "share_sizes": (lambda x: x in SHARE_SIZES, f"one of {', '.join(SHARE_SIZES)}"),
    "tasks": (_is_list_of_text, "a list of names"),
    "limit": (lambda x: x is None or _is_whole(x, 1), "a whole number above 0, or null"),
    "bases": (
        lambda x: _is_mapping(x) and all(map(_is_text, [*x, *x.values()])),
        "names and the folder or hub name of each",
    ),
    "learning_rates": (lambda x: x is None or _is_text(x), "the .yaml file of a sweep, or null"),
    "training": {
        **dict.fromkeys(("steps", "batch_size", "micro_batch_size", "max_length"), _POSITIVE),
        **dict.fromkeys(("warmup_steps", "evaluate_every", "checkpoint_every"), _WHOLE),
        "weight_decay": (lambda x: _is_number(x) and x >= 0, f"{_NUMBER}, 0 or more"),
        "max_grad_norm": _ABOVE_0,
        "schedule": (lambda x: x in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
        "precision": (lambda x: x in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
        "gradient_checkpointing": (lambda x: isinstance(x, bool), "true or false"),
    },
    "measured": dict.fromkeys(
        ("start_seconds", "tokens_per_step", "tokens_per_second", "items_per_second"), _ABOVE_0
    ),
    "assumed": dict.fromkeys(
        ("start_seconds", "operations_per_second", "tokens_per_sequence"), _ABOVE_0
    ),
}


@dataclass(frozen=True)
class Profile:
    """One profile, checked key by key.

    Attributes:
        name: the file's name without its ending.
        base_model: one of `bases`, a folder ("data/base" is shipped), or a name on the hub.
        bases: name that a grid's row may give as its base_model -> folder or name on the hub, so that
            one grid runs on small models and on large ones.
        instructions: name or path for `data.load_instructions`.
        held_out: another such name or path, or {count, seed} to hold out rows of `instructions`.
        targets: names of the adapted linears; None takes the kit's default for the model.
        scaling: s in W + s * B_eff A_eff.
        dropout: on the adapters' input.
        share_sizes: "published" (gate 1024, Kronecker 256), or "scaled" as the model's hidden size is
            to 4096.
        tasks, shots, split, limit: for `evaluation.evaluate`.
        scoring_batch_size: sequences a forward pass in scoring.
        training: all fields of TrainingSettings but lr and seed.
        learning_rate: of methods that `learning_rates` has no rate for.
        learning_rates: the outcome of a sweep, a file relative to the checkout (see `rates`); None where
            there has been none.
        sweep: job parameters that a sweep of learning rates puts in place of the profile's and the
            grid's, so that it never looks at test items.
        quick: job parameters that a quick run puts in place of the profile's.
        measured: start_seconds, tokens_per_step, tokens_per_second, items_per_second of one job, for
            estimates.
        assumed: start_seconds, operations_per_second, tokens_per_sequence (of a scored ending with its
            prompt), for estimates where nothing is measured.
    """

    name: str
    base_model: str
    instructions: str
    held_out: str | dict[str, int]
    targets: list[str] | None
    scaling: float
    dropout: float
    share_sizes: str
    tasks: list[str]
    shots: int
    split: str
    limit: int | None
    scoring_batch_size: int
    training: dict[str, Any]
    learning_rate: float
    bases: dict[str, str] = field(default_factory=dict)
    learning_rates: str | None = None
    sweep: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    assumed: dict[str, float] = field(default_factory=dict)


def load_profile(name_or_path: str | Path) -> Profile:
    """Reads a profile by name ("demo", "paper") or from a .yaml file.

    Raises:
        ValueError: if there is none of this name, if keys are missing or unknown, or if a value is not
            of its kind; names file and key.
    """
    path = Path(name_or_path)
    if path.suffix != ".yaml":
        path = FOLDER / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in FOLDER.glob("*.yaml"))
        raise ValueError(
            f"profile {str(name_or_path)!r} is unknown: no file {path}; use one of "
            f"{', '.join(known) or 'none'}, or the path of a .yaml file"
        )
    return _checked(read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        ValueError: if it is not YAML or not a mapping; names the file.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SAFE)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def _checked(content: dict[str, Any], path: Path) -> Profile:
    known = {item.name for item in fields(Profile)} - {"name"}
    optional = {"bases", "learning_rates", "sweep", "quick", "measured", "assumed"}
    unknown, missing = set(content) - known, known - optional - set(content)
    if unknown or missing:
        raise ValueError(
            f"profile {path}: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; "
            f"a profile has {', '.join(sorted(known))}"
        )
    for key, value in content.items():
        _check(value, _KINDS[key], f"profile {path}: {key}")
    return Profile(name=path.stem, **content)


def _check(value: Any, kind: _Kind | dict[str, _Kind], where: str) -> None:
    """Refuses a value that is not of its kind, or a mapping whose keys are not those of its parts."""
    if isinstance(kind, dict):
        if not _is_mapping(value) or set(value) != set(kind):
            raise ValueError(f"{where} is {value!r}, expected a value each of {', '.join(kind)}")
        for name, part in kind.items():
            _check(value[name], part, f"{where}: {name}")
    elif not kind[0](value):
        raise ValueError(f"{where} is {value!r}, expected {kind[1]}")
