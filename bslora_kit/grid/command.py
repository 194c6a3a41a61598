"""Runs a grid of rows and seeds, and ends with its table.

    python -m bslora_kit.grid papermill_runs/grids/similar_budget.yaml --seeds 3 --jobs 2

Each row is a run of notebooks/20_run_one_row.ipynb in papermill_runs/<grid>/<row>-s<seed>/. What has a
result is not run again, nor what another grid has run with the same parameters; what fails does not stop
the rest; the same command goes on where an earlier one was stopped. The table lies in
papermill_runs/<grid>/ as table.md, .csv, .tex and .html.

Learning rates are the profile's; with --lr published the paper's for all rows, with --lr FILE those of
a sweep. --sweep looks for them: several for each method of the grid, scored on a split that no table is
of; papermill_runs/<grid>/learning_rates.yaml then holds the best (see `bslora_kit.grid.sweep`):

    python -m bslora_kit.grid papermill_runs/grids/rates.yaml --sweep

With --engine ray the jobs run on the machines of a Ray cluster (see `bslora_kit.grid.ray_cluster`):

    python -m bslora_kit.grid papermill_runs/grids/fair.yaml --profile paper --engine ray --address auto
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bslora_kit import paths
from bslora_kit.grid import estimate, sweep
from bslora_kit.grid.conflicts import Refused, refuse_conflicts
from bslora_kit.grid.driver import run_rows
from bslora_kit.grid.dry_run import print_plan
from bslora_kit.grid.engine import Engine, EngineUnavailable
from bslora_kit.grid.file import Grid, check_names, read_grid
from bslora_kit.grid.local import LocalEngine
from bslora_kit.grid.options import LOCAL_JOBS, assignment, check_options, parser
from bslora_kit.grid.report import report
from bslora_kit.grid.rows import Row, again, rows_of
from bslora_kit.grid.status_lines import StatusLines, describe
from bslora_kit.grid.takeover import equal_runs, take_over, take_training, trained_runs
from bslora_kit.jobs.parameters import DEFAULTS, UNTRAINED
from bslora_kit.jobs.profiles import Profile, load_profile
from bslora_kit.jobs.rates import PUBLISHED, read_outcome
from bslora_kit.jobs.result_file import finished_runs
from bslora_kit.jobs.run_job import DISK_FULL, record_failure, run_job

__all__ = ["main", "run_job"]

EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None, end: Callable[[Grid, Path], bool] = report) -> int:
    """The command line.

    Args:
        arguments: of the command; by default those of this process.
        end: makes the table, as `report.report` does.

    Returns:
        The exit status: 0 all done, 1 some failed, 2 refused.
    """
    options = parser().parse_args(arguments)
    try:
        profile = load_profile(options.profile)
        grid, common = _grid(options, profile)
        rows = _rows(grid, options, common)
        cleared = again(rows, options.again)
        refuse_conflicts(rows)
        if options.dry_run or not estimate.all_shipped([row for row in rows if row.resolved]):
            _fail_wrong_targets(rows)  # an estimate is made of them
        engine = _engine(options)
        if options.dry_run:
            _dry_run(grid, rows, cleared, profile, engine, options)
            return 0
        for row in cleared:
            shutil.rmtree(row.folder, ignore_errors=True)
        _take_over([row for row in rows if row not in cleared], options)
    except (ValueError, OSError) as error:
        print(f"bslora_kit.grid: {error}", file=sys.stderr)
        return EXIT_REFUSED
    try:
        _run(grid, rows, profile, engine, options)
        while options.sweep and (further := _further(grid, rows)):
            grid = replace(grid, rows=(*grid.rows, *further))
            rows = _rows(grid, options, common)
            refuse_conflicts(rows)
            _run(grid, rows, profile, engine, options)
        return _end(grid, rows, options.sweep, end)
    except (EngineUnavailable, Refused) as error:
        print(f"bslora_kit.grid: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        print(f"bslora_kit.grid: {error}: name another folder with --out", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        done = sum(row.state == "done" for row in rows)
        print(
            f"bslora_kit.grid: {error.strerror} in {rows[0].folder.parent}: stopped with {done} of "
            f"{len(rows)} runs done. Make room; the same command goes on from here",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except KeyboardInterrupt:
        done = sum(row.state == "done" for row in rows)
        print(f"\nstopped with {done} of {len(rows)} runs done; the same command goes on from here")
        return EXIT_INTERRUPTED


def _dry_run(
    grid: Grid,
    rows: list[Row],
    cleared: Sequence[Row],
    profile: Profile,
    engine: Engine,
    options: Any,
) -> None:
    kept, out = [row for row in rows if row not in cleared], options.out.resolve()
    finished = _finished(kept, out)
    equal = equal_runs(kept, finished)
    trained = trained_runs([row for row in kept if row.name not in equal], finished)
    for row in rows:
        row.trained |= row.name in trained
    # A row whose data are still to be fetched counts too.
    counted = [row for row in rows if row.resolved and row.state in ("missing", "failed")]
    to_do = [row for row in counted if row.name not in equal]
    print_plan(grid, rows, equal, trained, _estimate(to_do, profile, engine, options))


def _estimate(rows: Sequence[Row], profile: Profile, engine: Engine, options: Any) -> list[str]:
    here = estimate.device if options.engine == "local" else None
    return estimate.lines(rows, profile, engine.side_by_side, here)


def _take_over(rows: Sequence[Row], options: Any) -> None:
    """Takes over finished runs and trained adapters of other grids and says so."""
    finished = _finished(rows, options.out.resolve())
    equal = equal_runs(rows, finished)
    taken = [row.name for row in rows if row.name in equal and take_over(row, equal[row.name])]
    if taken:
        print(
            f"{len(taken)} rows have run elsewhere with the same parameters; their runs are taken over:"
        )
        for name in taken:
            print(f"  {name} from {'/'.join(equal[name].parts[-2:])}")
    trained = trained_runs(rows, finished)
    scored = [row.name for row in rows if row.name in trained and take_training(row, trained[row.name])]
    if scored:
        print(f"{len(scored)} rows need only be scored: their adapters have been trained elsewhere;")
        for name in scored:
            print(f"  {name} in {'/'.join(trained[name].parts[-2:])}")


def _finished(rows: Sequence[Row], out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The runs of all grids, if any row could do with one."""
    return finished_runs(out) if any(row.state == "missing" for row in rows) else []


def _run(grid: Grid, rows: list[Row], profile: Profile, engine: Engine, options: Any) -> None:
    """Runs the rows that are missing; afterwards each is done or has failed."""
    missing = [row for row in rows if row.state == "missing"]
    done = sum(row.state == "done" for row in rows)
    for row in rows:
        if row.state == "failed":
            record_failure(row.folder, row.problem)
            print(f"{row.name}: {describe(row)}")
    with engine if missing else nullcontext(engine):
        at_a_time = min(engine.side_by_side, engine.at_most)
        print(
            f"{grid.title}: {len(rows)} runs, {done} done, {len(missing)} to do, {at_a_time} at a time"
        )
        if not estimate.all_shipped(missing):  # those fit everywhere, and the line below tells the time
            print("\n".join(_estimate(missing, profile, engine, options)))
        expected = {row.name: estimate.expected_seconds(row, profile) for row in rows}
        status = StatusLines(rows, at_a_time, expected)
        try:
            run_rows(rows, engine, status, options.retries)
        finally:
            status.close()


def _further(grid: Grid, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of the next round of a sweep; says for what they are."""
    from bslora_kit.tables import read_results  # pandas and plotly take seconds

    results = read_results(rows[0].folder.parent)
    further = sweep.widened(grid, results, _diverged(rows))
    for row in further:
        print(f"{row['varied']['of']}: its best rate is at the edge, so {row['lr']:g} is tried too")
    return further


def _end(grid: Grid, rows: Sequence[Row], swept: bool, end: Callable[[Grid, Path], bool]) -> int:
    """Prints the table, the outcome of a sweep and the failures; returns the exit status."""
    folder = rows[0].folder.parent
    told = end(grid, folder)
    found = swept and any(row.state == "done" for row in rows)
    if found:
        print("\n".join(sweep.end(folder, grid, _diverged(rows))))
    diverged = [row for row in rows if row.state == "diverged"]
    if diverged and not found:
        print(f"\n{len(diverged)} of {len(rows)} runs diverged, which one seed does every time; another")
        print("rate (--lr, or lr in the grid file) or --again NAME makes them anew:")
        for row in diverged:
            print(f"  {row.name}: {row.problem[:120]}")
    failed = [row for row in rows if row.state not in ("done", "diverged")]
    if failed:
        print(f"\n{len(failed)} of {len(rows)} runs failed; the same command tries them again:")
        for row in failed:
            print(f"  {row.name}: {row.problem[:120]}\n    {row.folder / 'error.txt'}")
    return EXIT_FAILED if failed or (diverged and not found) or not told else 0


def _diverged(rows: Sequence[Row]) -> set[str]:
    """Names of the grid's rows whose training diverged."""
    return {row.asked["row"] for row in rows if row.state == "diverged"}


def _engine(options: Any) -> Engine:
    """The engine that is asked for, not yet entered."""
    if options.engine == "local":
        return LocalEngine(options.jobs or LOCAL_JOBS, options.processes_per_job)
    try:
        from bslora_kit.grid.ray_cluster import RayEngine
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError(
            "--engine ray: Ray is not installed; pip install 'bslora_kit[cluster]'"
        ) from error
    cpus, gpus = options.cpus_per_job, options.gpus_per_job
    processes = options.processes_per_job
    return RayEngine(
        options.address,
        options.jobs or sys.maxsize,
        processes if cpus is None else cpus,
        gpus,
        processes,
    )


def _grid(options: Any, profile: Profile) -> tuple[Grid, dict[str, Any]]:
    """The grid, or the sweep of it, and the parameters of all its rows."""
    check_options(options)
    grid = read_grid(options.grid)
    common: dict[str, Any] = {"profile": options.profile}
    if options.base_model is not None:
        named = sorted({row["base_model"] for row in grid.rows if row.get("base_model")})
        if named:
            raise ValueError(
                f"--base-model {options.base_model}: the rows of {grid.name} name theirs "
                f"({', '.join(named)}); say where these are under `bases` of a profile of your own "
                "(--profile FILE.yaml)"
            )
        common["base_model"] = options.base_model
    if options.sweep:
        if "split" not in profile.sweep:
            raise ValueError(
                f"--sweep: profile {profile.name} does not say on which split rates are chosen; give it "
                "sweep: {split: validation}, so that test items stay unseen"
            )
        check_names(profile.sweep, DEFAULTS, f"profile {profile.name}, sweep")
        common |= profile.sweep
    if options.quick:
        check_names(profile.quick, DEFAULTS, f"profile {profile.name}, quick")
        common |= profile.quick
    common |= dict(assignment(text) for text in options.set)
    if options.sweep:
        return sweep.sweep_grid(grid, common), common
    return (grid if options.lr is None else _with_rate(grid, options.lr)), common


def _with_rate(grid: Grid, rate: str) -> Grid:
    """The grid with one source of learning rates for all trained rows."""
    if rate != PUBLISHED:
        read_outcome(rate)
    rows = [row if row["method"] == UNTRAINED else {**row, "lr": rate} for row in grid.rows]
    return replace(grid, rows=tuple(rows))


def _rows(grid: Grid, options: Any, common: Mapping[str, Any]) -> list[Row]:
    seeds = options.seed_list if options.seed_list is not None else list(range(options.seeds))
    place = paths.of_checkout(options.out.resolve())
    return rows_of(grid.jobs(seeds, str(place), common))


def _fail_wrong_targets(rows: Sequence[Row]) -> None:
    """Marks rows as failed whose targets are no linears of their base, where its shapes are known."""
    for row in rows:
        if row.state == "failed" or not row.resolved:
            continue
        base = estimate.base_shapes(row.resolved["base_model"])
        try:
            if base is not None:
                estimate.plan_of_row(row.resolved, base)
        except ValueError as error:
            kinds = ", ".join(dict.fromkeys(linear.kind for linear in base.linears))
            row.state, row.problem = (
                "failed",
                f"targets {row.resolved['targets']}: {error}; it has {kinds}",
            )
            row.resolved = {}
