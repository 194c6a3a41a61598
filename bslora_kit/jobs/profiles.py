"""Profiles: at what scale a job runs. Each is a file data/profiles/<name>.yaml, data and not code.

    demo    the shipped base, instruction set and mini tasks, minutes on a CPU
    paper   the published protocol on a Llama (Zhou et al., ICML 2025), for a CUDA machine

A job's parameters name a profile and what differs from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from bslora_kit.paths import DATA

FOLDER = DATA / "profiles"
SHARE_SIZES = ("scaled", "published")


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
        training: fields of TrainingSettings but lr and seed.
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
        ValueError: if there is none of this name, or keys are missing or unknown.
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
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
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
    if content["share_sizes"] not in SHARE_SIZES:
        raise ValueError(
            f"profile {path}: share_sizes is {content['share_sizes']!r}, expected one of "
            f"{', '.join(SHARE_SIZES)}"
        )
    return Profile(name=path.stem, **content)
