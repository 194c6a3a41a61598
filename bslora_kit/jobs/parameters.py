"""The parameters of one job: what may be asked, and what it comes to with its profile.

    asked {method: "bslora", ranks: [2, 4, 16], lr: None, ...} + profile --resolve--> every value known

The names are those of the parameters cell of notebooks/20_run_one_row.ipynb. Values are plain JSON
types, since papermill passes nothing else faithfully. Without torch: the driver of a grid resolves and
compares rows without loading a model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bslora_kit import branches, paths
from bslora_kit.branches import GATE_SIZE, KRON_SIZE, Branch
from bslora_kit.evaluation.tasks import SPLITS, expand
from bslora_kit.files import read_object
from bslora_kit.jobs.inputs import base_folder, input_fingerprints
from bslora_kit.jobs.profiles import PRECISIONS, Profile, load_profile
from bslora_kit.jobs.rates import PUBLISHED, rate_of

UNTRAINED = "none"  # the method that scores the base as it is
DEFAULTS: dict[str, Any] = {
    "profile": "demo",
    "base_model": None,
    "method": "bslora",
    "ranks": [2, 4, 16],
    "fit": None,
    "share": None,
    "variant": None,
    "gate_size": None,
    "kron_size": None,
    "targets": None,
    "steps": None,
    "lr": None,
    "seed": 0,
    "tasks": None,
    "shots": None,
    "limit": None,
    "split": None,
    "precision": None,
    "out_dir": None,
    "row": None,
    "grid": None,
    "label": None,
}
_LARGEST_SEED = 2**32 - 1  # of NumPy's generators
PUBLISHED_HIDDEN = 4096  # hidden size of the model that the published share sizes belong to

_RANK_NAMES = {
    UNTRAINED: (),
    "lora": ("rank",),
    "bslora": ("local", "intra", "inter"),
    "share_lora": ("rank",),
    "tied_lora": ("rank",),
    "vera": ("rank",),
}
METHODS = tuple(_RANK_NAMES)

_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(
        ("steps", "seed", "shots", "limit", "gate_size", "kron_size"), (int, "whole number")
    ),
    **dict.fromkeys(("ranks", "tasks", "targets"), (list, "list")),
    "lr": (float, "number"),
}
# What names a run, or says where it lies or where its learning rate comes from, does not change it.
NAMES = ("out_dir", "row", "grid", "label", "lr_from")
SCORING = ("tasks", "shots", "limit", "split", "scoring_batch_size")  # what training does not depend on


def resolve(asked: Mapping[str, Any], with_inputs: bool = True) -> dict[str, Any]:
    """Checks what is asked and fills in everything that is None.

    Args:
        asked: some of the names of `DEFAULTS`.
        with_inputs: False leaves `inputs` out, so that data need not be there; for estimates.

    Returns:
        All names of `DEFAULTS` but out_dir, values that the method does not read as None; lr_from, where
        the learning rate comes from (`rates`); what the profile adds (batch size, warm-up, ...); and
        `inputs`, the fingerprints of base, instructions and task items where they are local files. Two
        jobs with equal values are the same run.

    Raises:
        ValueError: for an unknown name or a value out of range; says what is expected.
        FileNotFoundError: if the shipped base or a local data file is missing.
    """
    unknown = sorted(set(asked) - set(DEFAULTS))
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(map(repr, unknown))}; known are {', '.join(DEFAULTS)}"
        )
    given = {**DEFAULTS, **asked}
    _check_types(given)
    profile = load_profile(given["profile"])
    training = profile.training
    trained = given["method"] != UNTRAINED
    base_model = given["base_model"] or profile.base_model
    given |= {
        "profile": profile.name,
        "base_model": profile.bases.get(base_model, base_model),
        "targets": given["targets"] or profile.targets if trained else None,
        "ranks": given["ranks"] if trained else [],
    }
    given |= _method_options(given, profile)
    if trained:
        _check_ranks(given)
    steps = _first(given["steps"], training["steps"])
    rate, origin = rate_of(given, profile) if trained else (None, None)
    given |= {
        "steps": steps if trained else 0,
        "lr": rate,
        "lr_from": origin,
        "tasks": expand(_first(given["tasks"], profile.tasks)),
        "shots": _first(given["shots"], profile.shots),
        "limit": _first(given["limit"], profile.limit),
        "split": _first(given["split"], profile.split),
        "precision": _first(given["precision"], training["precision"]),
        "scaling": profile.scaling,
        "dropout": profile.dropout,
        "instructions": profile.instructions,
        "held_out": profile.held_out,
        "scoring_batch_size": profile.scoring_batch_size,
        **{name: value for name, value in training.items() if name not in given},
        "warmup_steps": training["warmup_steps"] * steps // training["steps"] if trained else 0,
    }
    _check_values(given)
    given["row"] = given["row"] or row_name(given)
    given["label"] = given["label"] or given["row"]
    del given["out_dir"]
    return given | ({"inputs": input_fingerprints(given)} if with_inputs else {})


def run_folder_of(asked: Mapping[str, Any], resolved: Mapping[str, Any]) -> Path:
    """Where a job keeps its files: `out_dir`, relative to the checkout, or a folder of its own.

    Without `out_dir` every combination of values has its own folder under papermill_runs/notebook.

    Raises:
        ValueError: if `out_dir` is a file or lies below one.
    """
    if asked.get("out_dir"):
        folder = paths.ROOT / asked["out_dir"]
        if file := file_in_the_way(folder):
            raise ValueError(f"out_dir {asked['out_dir']}: {file} is a file, expected a folder")
        return folder
    values = {name: value for name, value in resolved.items() if name not in NAMES}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return paths.RUNS / "notebook" / f"{row_name(resolved)}-{digest}-s{resolved['seed']}"


def file_in_the_way(folder: Path) -> Path | None:
    """The file that stands where a folder or one of its parents would be; None if there is none."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    return None if place.is_dir() else place


def differences(found: Mapping[str, Any], resolved: Mapping[str, Any]) -> list[str]:
    """What keeps a run on disk from being the run that is asked for, one sentence part a value.

    Args:
        found: params.json, or `run` of a result.json.
        resolved: from `resolve`.
    """
    return [
        f"{name}: {found.get(name)!r} there, {value!r} asked"
        for name, value in resolved.items()
        if name not in NAMES and found.get(name) != value
    ]


def same_training(found: Mapping[str, Any], resolved: Mapping[str, Any]) -> bool:
    """Whether a run on disk trained the adapter that is asked for, whatever it was scored on.

    Args:
        found: `run` of a result.json.
        resolved: from `resolve`.
    """

    def training(run: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {name: value for name, value in run.get("inputs", {}).items() if name != "tasks"}
        return {**run, "inputs": inputs} | dict.fromkeys(SCORING)

    return not differences(training(found), training(resolved))


def row_name(given: Mapping[str, Any]) -> str:
    """A name for a row that has none, such as "bslora-slice-2-4-16"."""
    options = (given.get(name) for name in ("fit", "share", "variant"))
    parts = [given["method"], *(option for option in options if option), *given["ranks"]]
    return "-".join(str(part).lower() for part in parts)


def branches_of(given: Mapping[str, Any]) -> list[Branch]:
    """The branches of a trained method, from its ranks and options.

    Raises:
        ValueError: for ranks or options out of range.
    """
    ranks = given["ranks"]
    make: dict[str, Callable[[], list[Branch]]] = {
        "lora": lambda: branches.lora_branches(*ranks),
        "bslora": lambda: branches.bslora_branches(
            *ranks, given["fit"], given["gate_size"], given["kron_size"]
        ),
        "share_lora": lambda: branches.share_lora_branches(*ranks, given["share"]),
        "tied_lora": lambda: branches.tied_lora_branches(*ranks, given["variant"]),
        "vera": lambda: branches.vera_branches(*ranks),
    }
    return make[given["method"]]()


def scaled_size(published: int, hidden: int) -> int:
    """A gate or Kronecker size for a model of another hidden size than the published one's."""
    return max(1, round(published * hidden / PUBLISHED_HIDDEN))


def _check_types(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        kind, words = _TYPES.get(name, (str, "text"))
        allowed = (int, float) if kind is float else kind
        required = DEFAULTS[name] is not None
        if value is None and not required:
            continue
        if name == "lr" and isinstance(value, str) and (value == PUBLISHED or value.endswith(".yaml")):
            continue
        if not isinstance(value, allowed) or isinstance(value, bool):
            hint = f", {PUBLISHED!r} or the .yaml file of a sweep" if kind is float else ""
            hint += "; YAML reads 1e-3 as text: write 1.0e-3" if kind is float else ""
            hint = "; tuples arrive as text from papermill: write [2, 4, 16]" if kind is list else hint
            raise ValueError(
                f"{name} is {value!r}, expected a {words}{'' if required else ' or None'}{hint}"
            )
    method, ranks = given["method"], given["ranks"]
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    names = _RANK_NAMES[method]
    if names and len(ranks) != len(names):
        raise ValueError(f"ranks is {ranks!r}; {method} takes {len(names)}: [{', '.join(names)}]")


def _method_options(given: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """fit, share, variant and sizes: with defaults where the method reads them, else None."""
    method = given["method"]
    options: dict[str, Any] = dict.fromkeys(("fit", "share", "variant", "gate_size", "kron_size"))
    if method == "share_lora":
        options["share"] = given["share"] or "A"
    if method == "tied_lora":
        options["variant"] = given["variant"] or "tl6"
    if method == "bslora":
        options["fit"] = given["fit"] or "slice"
        for fit, name, published in (
            ("gate", "gate_size", GATE_SIZE),
            ("kron", "kron_size", KRON_SIZE),
        ):
            if options["fit"] == fit:
                options[name] = _first(given[name], _share_size(published, given, profile))
    return options


def _share_size(published: int, given: Mapping[str, Any], profile: Profile) -> int:
    if profile.share_sizes == "published":
        return published
    folder = base_folder(given["base_model"])
    if folder is None:
        raise ValueError(
            f"profile {profile.name} scales share sizes to the hidden size of {given['base_model']}, "
            "which is not a local folder; set gate_size and kron_size, or use a local folder"
        )
    hidden = read_object(folder / "config.json", "copy the model again").get("hidden_size")
    if not isinstance(hidden, int):
        raise ValueError(
            f"profile {profile.name} scales share sizes to a hidden_size, which "
            f"{folder / 'config.json'} does not name; set gate_size and kron_size"
        )
    return scaled_size(published, hidden)


def _check_ranks(given: Mapping[str, Any]) -> None:
    if not any(branch.rank for branch in branches_of(given)):
        raise ValueError(f"ranks {given['ranks']} switch every branch off; give one above 0")


def _check_values(given: Mapping[str, Any]) -> None:
    trained = given["method"] != UNTRAINED
    least = {"steps": 1 if trained else 0, "seed": 0, "shots": 0, "limit": 1}
    for name, smallest in least.items():
        if given[name] is not None and given[name] < smallest:
            raise ValueError(f"{name} is {given[name]}, expected at least {smallest}")
    if given["seed"] > _LARGEST_SEED:
        raise ValueError(f"seed is {given['seed']}, expected at most {_LARGEST_SEED}")
    if trained and not 0 < given["lr"] < float("inf"):
        raise ValueError(f"lr is {given['lr']}, expected a finite number above 0")
    for name, allowed in (("split", SPLITS), ("precision", PRECISIONS)):
        if given[name] not in allowed:
            raise ValueError(f"{name} is {given[name]!r}, expected one of {', '.join(allowed)}")


def _first(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
