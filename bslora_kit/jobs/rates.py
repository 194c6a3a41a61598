"""Learning rates: which one a job takes, and where it comes from.

    lr: 0.01          that number                                       "given"
    lr: published     that of data/profiles/paper.yaml for all methods  "published"
    lr: FILE.yaml     the outcome of a sweep: base, method, rank, size  "tuned on BASE, FILE.yaml"
    lr: None          the profile's: its sweep's outcome for the base,
                      or else for the profile's own base;               "tuned on BASE, FILE.yaml"
                      or one rate for all methods                       "profile"

A sweep (`python -m bslora_kit.grid GRID --sweep`) writes its outcome as such a file:

    bases:
      data/base:
        lora:
        - {rank: 8, lr: 0.006, row: lora-8, scores: {0.003: 64.79, 0.006: 70.49, 0.012: 68.89},
           diverged: [], inside: true}
        - ...
        bslora_gate:
        - {rank: 22, share_size: 32, lr: 0.012, ...}

An adapter takes the rate of the nearest rank that was tried, by ratio: at one rate and one scaling an
update of many ranks moves farther than one of few, so the best rate falls with the rank. Among rates of
one rank the nearest gate or Kronecker size counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bslora_kit import paths
from bslora_kit.jobs.profiles import Profile, load_profile, read_yaml

PUBLISHED = "published"
GIVEN, OF_PROFILE, TUNED = "given", "profile", "tuned"
OUTCOME = "learning_rates.yaml"  # in the folder of a sweep's runs
_PLACES = {
    "attention": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mlp": {"gate_proj", "up_proj", "down_proj"},
}


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

    A run that does not say so itself has the profile's rate if that is the one it was trained with, and
    is no part of a search for it.

    Args:
        run: of a result.json, trained.
    """
    if run.get("lr_from"):
        return run["lr_from"]
    try:
        profile = load_profile(run["profile"])
        rate, origin = rate_of({**run, "lr": None}, profile)
    except ValueError:  # a profile of another machine
        return GIVEN
    searched = run.get("split") is not None and run["split"] == profile.sweep.get("split")
    return origin if rate == run["lr"] and not searched else GIVEN


def search_of(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry of a sweep's outcome that the rate of a finished run comes from.

    None where the rate was not tuned, or where the outcome is not there or has another rate by now.

    Args:
        run: of a result.json.
    """
    origin = run.get("lr_from") or ""
    base, _, path = origin.removeprefix(f"{TUNED} on ").partition(", ")
    if not origin.startswith(TUNED):
        return None
    try:
        entry = _entry(path, base, run)
    except ValueError:
        return None
    return entry if entry and entry["lr"] == run["lr"] else None


def origins_of(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Origin of a rate, as `origin_of` says it -> row -> its rate; untrained runs are left out.

    Args:
        runs: each of a result.json.
    """
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        if run.get("lr") is not None:
            found.setdefault(origin_of(run), {})[run["row"]] = run["lr"]
    return found


def rate_key(given: Mapping[str, Any]) -> str:
    """The name under which methods that share a learning rate are swept and found again.

    BSLoRA goes by its fit; without a local pair, or with one of its pairs alone, it is another adapter
    with a rate of its own. A local pair alone is LoRA. An adapter in attention alone,
    or in the MLP alone, is another one too.

    Args:
        given: a job's parameters, trained; targets may be left out.
    """
    targets = set(given.get("targets") or ())
    place = next((name for name, kinds in _PLACES.items() if targets and targets <= kinds), "")
    return f"{_method_key(given)}{f'_{place}' if place else ''}"


def rank_of(given: Mapping[str, Any]) -> int:
    """The rank that a rate is looked up by: the sum over an adapter's pairs, what fits them left out.

    Args:
        given: a job's parameters, trained.
    """
    return sum(given["ranks"])


def share_size_of(given: Mapping[str, Any]) -> int | None:
    """Gate or Kronecker size of a job whose method uses one: a local pair alone does not.

    Args:
        given: a job's parameters, or `run` of a result.json.
    """
    if given.get("method") != "bslora" or not any(given["ranks"][1:]):
        return None
    return given.get({"gate": "gate_size", "kron": "kron_size"}.get(given["fit"], ""))


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
    if not isinstance(bases, dict) or not all(isinstance(methods, dict) for methods in bases.values()):
        raise ValueError(f"lr: {path} is not the outcome of a sweep: it has no bases with methods")
    for base, methods in bases.items():
        for method, entries in methods.items():
            if not _is_list_of_rates(entries):
                raise ValueError(
                    f"lr: {path}: bases: {base}: {method}: {entries!r}; expected a list of entries with "
                    "a rank and perhaps a share_size, integers from 1, and an lr above 0, such as "
                    "[{rank: 8, lr: 0.006}]"
                )
    return content


def _is_list_of_rates(entries: Any) -> bool:
    return (
        isinstance(entries, list)
        and bool(entries)
        and all(
            isinstance(entry, dict)
            and _is_size(entry.get("rank"))
            and _is_size(entry.get("share_size", 1))
            and type(entry.get("lr")) in (int, float)
            and 0 < entry["lr"] < math.inf
            for entry in entries
        )
    )


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1


def _method_key(given: Mapping[str, Any]) -> str:
    """The name of a method, wherever it is placed."""
    method = given["method"]
    if method != "bslora":
        option = given.get("share") or given.get("variant")
        return f"{method}_{option.lower()}" if option else method
    local, intra, inter = (bool(rank) for rank in given["ranks"])
    if not (intra or inter):
        return "lora"
    ending = "" if local else "_no_local" if intra and inter else "_intra" if intra else "_inter"
    return f"bslora_{given['fit']}{ending}"


def _tuned(path: str, base: str, given: Mapping[str, Any]) -> tuple[float, str] | None:
    """The rate that a sweep found for an adapter, and its name; None where it has none."""
    entry = _entry(path, base, given)
    if entry is None:
        return None
    base, path = (Path(x).name if Path(x).is_absolute() else x for x in (base, path))
    return float(entry["lr"]), f"{TUNED} on {base}, {path}"


def _entry(path: str, base: str, given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a sweep found for a base, a method, its rank and share size.

    None where the sweep has not tried the base and method. Where it has not tried the adapter's place,
    the rate of the method elsewhere counts; of two ranks or sizes as near, the smaller.
    """
    methods = read_outcome(path)["bases"].get(base, {})
    entries = methods.get(rate_key(given)) or methods.get(_method_key(given))
    if entries is None:
        return None
    rank, size = rank_of(given), share_size_of(given)

    def distance(entry: Mapping[str, Any]) -> tuple[float, ...]:
        of_rank = abs(math.log(entry["rank"] / rank))
        tried = entry.get("share_size", size)
        apart = abs(math.log(tried / size)) if size else 0.0
        return (of_rank, entry["rank"], apart, "share_size" not in entry, tried or 0)

    return min(entries, key=distance)
