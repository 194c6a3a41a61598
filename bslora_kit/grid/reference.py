"""Resumes the committed reference run, every grid of it, and writes its tables and its page again.

    python -m bslora_kit.grid.reference [options of bslora_kit.grid, such as --jobs 4 or --dry-run]

papermill_runs/reference/runs.yaml lists the grids with their seeds, and which of them is the sweep that
the demo's learning rates come from. What is there is not run again; a row that was removed is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bslora_kit.grid.command import EXIT_INTERRUPTED, EXIT_REFUSED, main, parser
from bslora_kit.grid.report import report
from bslora_kit.jobs.profiles import read_yaml
from bslora_kit.paths import REFERENCE, RUNS

LIST = "runs.yaml"


def listed(folder: Path = REFERENCE) -> list[list[str]]:
    """The command line of each grid of a reference run, its place left out.

    Args:
        folder: holds runs.yaml and a folder for each grid.

    Raises:
        ValueError: if runs.yaml is missing or names something else than grids, their seeds and sweep.
    """
    path = folder / LIST
    if not path.is_file():
        raise ValueError(f"no file {path}: it lists the grids of a reference run and their seeds")
    grids = read_yaml(path)
    if not grids:
        raise ValueError(f"{path} names no grid; expected lines such as similar_budget: {{seeds: [0]}}")
    commands = []
    for name, how in grids.items():
        grid = RUNS / "grids" / f"{name}.yaml"
        if not grid.is_file():
            raise ValueError(f"{path}: no grid {name} in papermill_runs/grids")
        seeds = how.get("seeds") if isinstance(how, dict) else None
        if not seeds or not isinstance(seeds, list) or set(how) - {"seeds", "sweep"}:
            raise ValueError(
                f"{path}: {name}: {how!r}; expected seeds, a list, and sweep: true for a sweep of rates"
            )
        sweep = ["--sweep"] * bool(how.get("sweep"))
        commands.append([str(grid), "--seed-list", *map(str, seeds), *sweep])
    return commands


def resume(options: Sequence[str], folder: Path = REFERENCE) -> int:
    """Runs the command of each grid until one is refused or stopped, then writes the page of all.

    Returns:
        The highest exit status.
    """
    try:
        commands = listed(folder)
    except ValueError as error:
        print(f"bslora_kit.grid.reference: {error}", file=sys.stderr)
        return EXIT_REFUSED
    worst, kept = 0, {}
    for command in commands:
        status = main(
            [*command, "--out", str(folder), *options],
            end=partial(report, kept=kept),
        )
        worst = max(worst, status)
        if status in (EXIT_REFUSED, EXIT_INTERRUPTED):
            break
    else:
        asked = parser().parse_args([*commands[0], "--out", str(folder), *options])
        if not asked.dry_run:
            # pandas and plotly, which no running grid needs
            from bslora_kit.grid.reference_page import write_page

            names = [Path(command[0]).stem for command in commands if "--sweep" not in command]
            print(f"page of all grids: {write_page(names, asked.out, kept)}")
    return worst


if __name__ == "__main__":
    sys.exit(resume(sys.argv[1:]))
