"""Learning rates: which one a job takes, and where it comes from.

    lr: 0.01          that number                                       "given"
    lr: published     that of data/profiles/paper.yaml for all methods  "published"
    lr: FILE.yaml     the outcome of a sweep, by base and method        "tuned on BASE, FILE.yaml"
    lr: None          the profile's: its sweep's outcome for the base,
                      or else for the profile's own base;               "tuned on BASE, FILE.yaml"
                      or one rate for all methods                       "profile"

A sweep (`python -m bslora_kit.grid GRID --sweep`) writes its outcome as such a file:

    bases:
      data/base:
        lora: {lr: 0.006, row: lora-8, scores: {0.003: 64.79, 0.006: 70.49, 0.012: 68.89}, inside: true}
    ...
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bslora_kit import paths
from bslora_kit.jobs.profiles import Profile, load_profile, read_yaml

PUBLISHED = "published"
GIVEN, OF_PROFILE, TUNED = "given", "profile", "tuned"
OUTCOME = "learning_rates.yaml"  # in the folder of a sweep's runs


def rate_of(given: Mapping[str, Any], profile: Profile) -> tuple[float, str]:
    """The learning rate of a trained job, and where it comes from (see the module's table).

    Args:
        given: the job's parameters, base_model, method and its options filled in.
        profile: of the job.

    Raises:
        ValueError: for a text that names no file of a sweep, or one without this base and method.
    """
    asked, base = given["lr"], given["base_model"]
    if asked == PUBLISHED:
        return load_profile("paper").learning_rate, PUBLISHED
    if isinstance(asked, str):
        found = _tuned(asked, base, given)
        if found is None:
            raise ValueError(
                f"lr: {asked} has no rate of {rate_key(given)} on {base}; sweep a grid with this method "
                "(--sweep), or give a number"
            )
        return found
    if asked is not None:
        return asked, GIVEN
    if profile.learning_rates:
        for name in (base, profile.base_model):
            found = _tuned(profile.learning_rates, profile.bases.get(name, name), given)
            if found is not None:
                return found
    return profile.learning_rate, OF_PROFILE


def origin_of(run: Mapping[str, Any]) -> str:
    """Where the rate of a finished run comes from, as `rate_of` says it.

    A run that does not say so itself has the profile's rate if that is the one it was trained with.

    Args:
        run: of a result.json, trained.
    """
    if run.get("lr_from"):
        return run["lr_from"]
    try:
        rate, origin = rate_of({**run, "lr": None}, load_profile(run["profile"]))
    except ValueError:  # a profile of another machine
        return GIVEN
    return origin if rate == run["lr"] else GIVEN


def rate_key(given: Mapping[str, Any]) -> str:
    """The name under which methods that share a learning rate are swept and found again.

    BSLoRA goes by its fit; without a local pair, or with one of its pairs alone, it is another adapter
    with a rate of its own. A local pair alone is LoRA.
    """
    method = given["method"]
    if method != "bslora":
        option = given.get("share") or given.get("variant")
        return f"{method}_{option.lower()}" if option else method
    local, intra, inter = (bool(rank) for rank in given["ranks"])
    if not (intra or inter):
        return "lora"
    ending = "" if local else "_no_local" if intra and inter else "_intra" if intra else "_inter"
    return f"bslora_{given['fit']}{ending}"


def read_outcome(path: str | Path) -> dict[str, Any]:
    """Reads the outcome of a sweep.

    Args:
        path: relative to the checkout, or absolute.

    Raises:
        ValueError: if there is none, or it is not one; says what writes it.
    """
    file = paths.ROOT / path
    if not file.is_file():
        raise ValueError(
            f"lr: no file {path}; expected a number, {PUBLISHED!r}, or the {OUTCOME} that a sweep "
            "writes (python -m bslora_kit.grid GRID --sweep)"
        )
    content = read_yaml(file)
    bases = content.get("bases")
    if not isinstance(bases, dict) or not all(isinstance(rates, dict) for rates in bases.values()):
        raise ValueError(f"lr: {path} is not the outcome of a sweep: it has no bases with rates")
    return content


def _tuned(path: str, base: str, given: Mapping[str, Any]) -> tuple[float, str] | None:
    """The rate that a sweep found for a base and a method, and its name; None where it tried neither."""
    entry = read_outcome(path)["bases"].get(base, {}).get(rate_key(given))
    if entry is None:
        return None
    base, path = (Path(x).name if Path(x).is_absolute() else x for x in (base, path))
    return float(entry["lr"]), f"{TUNED} on {base}, {path}"
