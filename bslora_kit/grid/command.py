"""Runs a grid of rows and seeds, and ends with its table.

    python -m bslora_kit.grid papermill_runs/grids/similar_budget.yaml --seeds 3 --jobs 2

Each row is a run of notebooks/20_run_one_row.ipynb in papermill_runs/<grid>/<row>-s<seed>/. What has a
result is not run again; what fails does not stop the rest; the same command goes on where an earlier
one was stopped. The table lies in papermill_runs/<grid>/ as table.md, .csv, .tex and .html.

With --engine ray the jobs run on the machines of a Ray cluster (see `bslora_kit.grid.ray_cluster`):

    python -m bslora_kit.grid papermill_runs/grids/fair.yaml --profile paper --engine ray --address auto
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from bslora_kit import paths
from bslora_kit.grid.driver import run_rows
from bslora_kit.grid.engine import Engine, EngineUnavailable
from bslora_kit.grid.file import Grid, read_grid
from bslora_kit.grid.local import LocalEngine
from bslora_kit.grid.report import print_plan, report
from bslora_kit.grid.rows import Expected, Row, clear, expected_seconds, rows_of
from bslora_kit.grid.status_lines import StatusLines, describe
from bslora_kit.jobs.parameters import DEFAULTS
from bslora_kit.jobs.profiles import Profile, load_profile
from bslora_kit.jobs.run_job import record_failure, run_job

__all__ = ["main", "run_job"]

_LOCAL_JOBS = 2
_OF_RAY = ("address", "cpus_per_job", "gpus_per_job")
EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all done, 1 some failed, 2 refused."""
    options = _parser().parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        grid, rows = _rows(options, profile)
        clear(rows, options.again)
        _refuse_conflicts(rows)
        engine = _engine(options)
    except (ValueError, OSError) as error:
        print(f"bslora_kit.grid: {error}", file=sys.stderr)
        return EXIT_REFUSED
    expected = {row.name: expected_seconds(row, profile) for row in rows}
    if options.dry_run:
        print_plan(grid, rows, expected, engine.side_by_side)
        return 0
    missing = [row for row in rows if row.state == "missing"]
    try:
        with engine if missing else nullcontext(engine):
            return _run(grid, rows, missing, expected, engine, options.retries)
    except EngineUnavailable as error:
        print(f"bslora_kit.grid: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        done = sum(row.state == "done" for row in rows)
        print(f"\nstopped with {done} of {len(rows)} runs done; the same command goes on from here")
        return EXIT_INTERRUPTED


def _run(
    grid: Grid,
    rows: list[Row],
    missing: list[Row],
    expected: dict[str, Expected],
    engine: Engine,
    retries: int,
) -> int:
    done = sum(row.state == "done" for row in rows)
    at_a_time = min(engine.side_by_side, engine.at_most)
    print(f"{grid.title}: {len(rows)} runs, {done} done, {len(missing)} to do, {at_a_time} at a time")
    for row in rows:
        if row.state == "failed":
            record_failure(row.folder, row.problem)
            print(f"{row.name}: {describe(row)}")
    status = StatusLines(rows, at_a_time, expected)
    try:
        run_rows(rows, engine, status, retries)
    finally:
        status.close()
    report(grid, rows[0].folder.parent)
    failed = [row for row in rows if row.state != "done"]
    if failed:
        print(f"\n{len(failed)} of {len(rows)} runs failed; the same command tries them again:")
        for row in failed:
            print(f"  {row.name}: {row.problem[:120]}\n    {row.folder / 'error.txt'}")
    return EXIT_FAILED if failed else 0


def _engine(options: Any) -> Engine:
    """The engine that is asked for, not yet entered."""
    if options.engine == "local":
        given = [f"--{name.replace('_', '-')}" for name in _OF_RAY if getattr(options, name) is not None]
        if given:
            raise ValueError(f"{', '.join(given)}: of a Ray cluster alone; add --engine ray")
        return LocalEngine(options.jobs or _LOCAL_JOBS)
    try:
        from bslora_kit.grid.ray_cluster import RayEngine
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError(
            "--engine ray: Ray is not installed; pip install 'bslora_kit[cluster]'"
        ) from error
    cpus, gpus = options.cpus_per_job, options.gpus_per_job
    return RayEngine(options.address, options.jobs or sys.maxsize, 1 if cpus is None else cpus, gpus)


def _rows(options: Any, profile: Profile) -> tuple[Grid, list[Row]]:
    for name, least in {
        "jobs": 1,
        "seeds": 1,
        "retries": 0,
        "cpus_per_job": 1,
        "gpus_per_job": 0,
    }.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    grid = read_grid(options.grid)
    common: dict[str, Any] = {"profile": options.profile}
    if options.quick:
        common |= profile.quick
    common |= dict(_assignment(text) for text in options.set)
    seeds = options.seed_list if options.seed_list is not None else list(range(options.seeds))
    out = options.out.resolve()
    place = out.relative_to(paths.ROOT) if out.is_relative_to(paths.ROOT) else out
    return grid, rows_of(grid.jobs(seeds, str(place), common))


def _refuse_conflicts(rows: Sequence[Row]) -> None:
    conflicts = [row for row in rows if row.state == "conflict"]
    if not conflicts:
        return
    shown = "\n".join(f"  {row.name}: {row.problem}" for row in conflicts[:5])
    more = f"\n  and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
    names = "all" if len(conflicts) > 3 else " ".join(row.name for row in conflicts)
    raise ValueError(
        f"{len(conflicts)} rows in {rows[0].folder.parent} are runs with other parameters:\n"
        f"{shown}{more}\nKeep them and write elsewhere with --out FOLDER, or run them again with "
        f"--again {names}"
    )


def _assignment(text: str) -> tuple[str, Any]:
    """One --set: the value is YAML, numbers such as 1e-3 included."""
    name, equals, value = text.partition("=")
    if not equals or name not in DEFAULTS:
        raise ValueError(f"--set {text}: expected name=value with one of {', '.join(DEFAULTS)}")
    parsed = yaml.safe_load(value)
    if isinstance(DEFAULTS[name], str) or not isinstance(parsed, str):
        return name, parsed
    try:
        return name, float(parsed)
    except ValueError:
        return name, parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bslora_kit.grid",
        description="Runs the rows of a grid that have no result yet, and prints the table.",
    )
    parser.add_argument("grid", type=Path, help="a file of papermill_runs/grids")
    parser.add_argument("--profile", default="demo", help="demo, paper, or a .yaml file")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--seed-list", type=int, nargs="+", metavar="SEED", help="these seeds instead")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help=f"jobs side by side; {_LOCAL_JOBS} on this machine, on a cluster what it has room for",
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="what runs the jobs")
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of the Ray cluster; auto for this machine's"
    )
    parser.add_argument("--cpus-per-job", type=int, metavar="N", help="on a Ray cluster; 1")
    parser.add_argument(
        "--gpus-per-job",
        type=float,
        metavar="X",
        help="on a Ray cluster; 1 where it has GPUs, 0.25 for four jobs on each",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="how often a job is started again whose process or machine was lost",
    )
    parser.add_argument("--quick", action="store_true", help="the profile's few steps and items")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and how long")
    parser.add_argument("--out", type=Path, default=paths.RUNS, metavar="FOLDER", help="of all grids")
    parser.add_argument(
        "--again", nargs="+", default=[], metavar="ROW", help="remove these runs first; all for all"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of every row"
    )
    return parser
