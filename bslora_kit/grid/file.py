"""A grid file (papermill_runs/grids/*.yaml) -> the jobs it asks for.

    title: ...
    parameters: {split: validation}          # of every row; optional
    rows:
      - {row: ss-2-4-16, label: BSLoRA (SS), method: bslora, fit: slice, ranks: [2, 4, 16]}
      - {row: lora-8, label: LoRA, method: lora, ranks: [8], vary: {lr: [0.004, 0.008]}}

A row names a job's parameters that differ from the profile's; published_parameters and published_ratio
are for the table. `vary` stands for one row per value, here lora-8-lr-0.004 and lora-8-lr-0.008.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bslora_kit.jobs.parameters import DEFAULTS, UNTRAINED
from bslora_kit.jobs.profiles import read_yaml

_FOR_TABLES = ("published_parameters", "published_ratio")
_KEYS = ("title", "parameters", "rows")


@dataclass(frozen=True)
class Grid:
    """A grid file, `vary` expanded.

    Attributes:
        name: the file's name without its ending.
        title: heading of its table.
        rows: the rows as mappings, as `tables.table` takes them; one that `vary` made has the key
            "varied": {"of": the original row, "values": {parameter: value}}.
        parameters: of every row.
    """

    name: str
    title: str
    rows: tuple[dict[str, Any], ...]
    parameters: dict[str, Any]

    def jobs(self, seeds: Sequence[int], out: str, common: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The parameters of every job, seed by seed, so that a first full table comes early.

        Args:
            seeds: one job per row and seed; the untouched base, which no seed changes, once.
            out: folder of all grids, relative to the checkout or absolute.
            common: parameters of the command line, which win over the file's.
        """
        jobs = []
        for seed, row in itertools.product(seeds, self.rows):
            if row["method"] == UNTRAINED and seed != seeds[0]:
                continue
            own = {name: value for name, value in row.items() if name in DEFAULTS}
            place = {"grid": self.name, "out_dir": str(Path(out) / self.name / f"{row['row']}-s{seed}")}
            jobs.append({**DEFAULTS, **self.parameters, **own, **common, "seed": seed, **place})
        return jobs


def read_grid(path: str | Path) -> Grid:
    """Reads a grid file.

    Raises:
        ValueError: for unknown or missing keys and for names that repeat; names file and row.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no grid file {path}; the kit's own lie in papermill_runs/grids")
    content = read_yaml(path)
    unknown = sorted(set(content) - set(_KEYS))
    if unknown or not content.get("rows"):
        raise ValueError(f"{path}: unknown keys {unknown} or no rows; a grid has {', '.join(_KEYS)}")
    common = content.get("parameters", {})
    _check_names(common, DEFAULTS, f"{path}, parameters")
    rows = [row for given in content["rows"] for row in _expanded(given, path)]
    names = [row["row"] for row in rows]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: rows {repeated} appear twice; give each its own name")
    return Grid(path.stem, content.get("title", path.stem), tuple(rows), common)


def _expanded(given: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(given, dict) or not {"row", "method"} <= set(given):
        raise ValueError(f"{path}: row {given!r} needs at least `row` (its name) and `method`")
    where = f"{path}, row {given['row']!r}"
    _check_names(given, [*DEFAULTS, *_FOR_TABLES, "vary"], where)
    row = {"label": given["row"], **given}
    vary = row.pop("vary", None)
    if vary is None:
        return [row]
    _check_names(vary, DEFAULTS, f"{where}, vary")
    expanded = []
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        ending = "".join(f"-{name}-{value}" for name, value in chosen.items())
        varied = {"of": row["row"], "values": chosen}
        expanded.append({**row, **chosen, "row": row["row"] + ending, "varied": varied})
    return expanded


def _check_names(found: Any, known: Any, where: str) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected names and values, found {found!r}")
    unknown = sorted(set(found) - set(known))
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"{where}: unknown {names}; known are {', '.join(known)}")
