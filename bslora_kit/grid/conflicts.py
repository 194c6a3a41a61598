"""Runs on disk that are in the way of those asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bslora_kit.grid.rows import Row
from bslora_kit.jobs.parameters import differences
from bslora_kit.jobs.result_file import FILE, read_result


class Refused(ValueError):
    """Runs on disk are in the way of those asked for."""


def refuse_conflicts(rows: Sequence[Row]) -> None:
    """Refuses what would not fit into the table, before anything runs.

    Args:
        rows: of one grid.

    Raises:
        Refused: for runs on disk that are others than those asked for; says what to do with them.
    """
    conflicts = [row for row in rows if row.state == "conflict"]
    if conflicts:
        names = "all" if len(conflicts) > 3 else " ".join(row.name for row in conflicts)
        raise Refused(
            f"{len(conflicts)} rows in {rows[0].folder.parent} hold other runs:\n"
            f"{_first_five(f'{row.name}: {row.problem}' for row in conflicts)}\nKeep them and write "
            f"elsewhere with --out FOLDER, or run them again with --again {names}"
        )
    unlike = _unlike_seeds(rows)
    if unlike:
        raise Refused(
            f"{len(unlike)} runs in {rows[0].folder.parent} are seeds of these rows with other "
            f"parameters, and one row of a table has one set of them:\n{_first_five(unlike)}\nKeep them "
            "and write elsewhere with --out FOLDER, or remove their folders"
        )


def _unlike_seeds(rows: Sequence[Row]) -> list[str]:
    """What keeps runs of other seeds from standing in the rows of the same name."""
    asked = {row.asked["row"]: row.resolved for row in rows if row.resolved}
    folders = {row.folder for row in rows}
    unlike = []
    for path in sorted(rows[0].folder.parent.glob(f"*/{FILE}")):
        if path.parent in folders:
            continue
        try:
            run = read_result(path)["run"]
        except ValueError as error:
            raise Refused(str(error)) from error
        wanted = asked.get(run["row"])
        different = differences(run, wanted | {"seed": run["seed"]}) if wanted else []
        if different:
            unlike.append(f"{path.parent.name}: {'; '.join(different)}")
    return unlike


def _first_five(lines: Iterable[str]) -> str:
    shown = [f"  {line}" for line in lines]
    more = [f"  and {len(shown) - 5} more"] if len(shown) > 5 else []
    return "\n".join([*shown[:5], *more])
