"""The options of `python -m bslora_kit.grid`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from bslora_kit import paths
from bslora_kit.grid.file import BY_OPTION
from bslora_kit.jobs.parameters import DEFAULTS, file_in_the_way
from bslora_kit.jobs.rates import PUBLISHED

LOCAL_JOBS = 2
OF_RAY = ("address", "cpus_per_job", "gpus_per_job")
_SAID_BY = (
    BY_OPTION | {"base_model": "--base-model"} | dict.fromkeys(("row", "grid", "label"), "the grid file")
)
_LEAST = {
    "jobs": 1,
    "seeds": 1,
    "retries": 0,
    "processes_per_job": 1,
    "cpus_per_job": 1,
    "gpus_per_job": 0,
}


def check_options(options: argparse.Namespace) -> None:
    """Refuses numbers out of range and options that do not go together.

    Raises:
        ValueError: naming the option and what is expected.
    """
    for name, least in _LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"{_flag(name)} {value}: expected at least {least}")
    of_ray = [_flag(name) for name in OF_RAY if getattr(options, name) is not None]
    if options.engine == "local" and of_ray:
        raise ValueError(f"{', '.join(of_ray)}: of a Ray cluster alone; add --engine ray")
    seeds = options.seed_list or []
    if len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
        raise ValueError(f"--seed-list {' '.join(map(str, seeds))}: expected each once, and at least 0")
    if file := file_in_the_way(options.out.resolve()):
        raise ValueError(f"--out {options.out}: {file} is a file, expected a folder")
    if options.sweep and (options.lr or any(text.startswith("lr=") for text in options.set)):
        raise ValueError("--sweep looks for learning rates: leave out --lr and --set lr=...")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def assignment(text: str) -> tuple[str, Any]:
    """One --set: the value is YAML, numbers such as 1e-3 included."""
    name, equals, value = text.partition("=")
    if not equals or name not in DEFAULTS:
        raise ValueError(f"--set {text}: expected name=value with one of {', '.join(DEFAULTS)}")
    if name in _SAID_BY:
        raise ValueError(f"--set {text}: {_SAID_BY[name]} says this; use that")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(
            f"--set {text}: {value!r} is not YAML; write {name}=[a, b] for a list"
        ) from error
    if isinstance(DEFAULTS[name], str) or not isinstance(parsed, str):
        return name, parsed
    try:
        return name, float(parsed)
    except ValueError:
        return name, parsed


def _rates(text: str) -> str:
    """--lr: a word or a file; a file of the current folder under the path that jobs find it by."""
    if text == PUBLISHED:
        return text
    path = Path(text).resolve()
    if path.suffix != ".yaml":
        raise argparse.ArgumentTypeError(
            f"{text}: expected {PUBLISHED}, or the .yaml file of a sweep; one number for all rows is "
            "--set lr=NUMBER"
        )
    return str(paths.of_checkout(path))


def _base_model(text: str) -> str:
    """--base-model: a name, or a folder of the current one under the path that jobs find it by."""
    path = Path(text).expanduser().resolve()
    return str(paths.of_checkout(path)) if path.is_dir() else text


def _profile(text: str) -> str:
    """--profile: a name, or a file of the current folder, which is not that of the jobs."""
    return str(Path(text).resolve()) if Path(text).suffix == ".yaml" else text


def parser() -> argparse.ArgumentParser:
    """The command line of a grid."""
    made = argparse.ArgumentParser(
        prog="python -m bslora_kit.grid",
        description="Runs the rows of a grid that have no result yet, and prints the table.",
    )
    made.add_argument("grid", type=Path, help="a file of papermill_runs/grids")
    made.add_argument("--profile", type=_profile, default="demo", help="demo, paper, or a .yaml file")
    made.add_argument(
        "--base-model",
        type=_base_model,
        metavar="PATH_OR_ID",
        help="of every row: the folder of a model, or its name on the hub",
    )
    made.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1")
    made.add_argument("--seed-list", type=int, nargs="+", metavar="SEED", help="these seeds instead")
    made.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help=f"jobs side by side; {LOCAL_JOBS} on this machine, on a cluster what it has room for",
    )
    made.add_argument(
        "--processes-per-job",
        type=int,
        default=1,
        metavar="N",
        help="train each job in N processes, one GPU each where there are GPUs",
    )
    made.add_argument("--engine", choices=("local", "ray"), default="local", help="what runs the jobs")
    made.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster; auto for this machine's"
    )
    made.add_argument("--cpus-per-job", type=int, metavar="N", help="on a Ray cluster; 1 a process")
    made.add_argument(
        "--gpus-per-job",
        type=float,
        metavar="X",
        help="on a Ray cluster; 1 a process where it has GPUs, 0.25 for four jobs on each",
    )
    made.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="how often a job is started again whose process or machine was lost",
    )
    made.add_argument("--quick", action="store_true", help="the profile's few steps and items")
    made.add_argument(
        "--dry-run", action="store_true", help="say what would run, how long, and in how much memory"
    )
    made.add_argument(
        "--lr",
        type=_rates,
        metavar="RATES",
        help=f"learning rates: {PUBLISHED} (one for all rows) or the file of a sweep",
    )
    made.add_argument(
        "--sweep", action="store_true", help="find the learning rate of each method of the grid"
    )
    made.add_argument("--out", type=Path, default=paths.RUNS, metavar="FOLDER", help="of all grids")
    made.add_argument(
        "--again", nargs="+", default=[], metavar="ROW", help="remove these runs first; all for all"
    )
    made.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of every row"
    )
    return made
