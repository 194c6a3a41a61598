"""A grid file (papermill_runs/grids/*.yaml) -> the jobs it asks for.

    title: ...
    parameters: {split: validation}          # of every row; optional
    rows:
      - {row: ss-2-4-16, label: BSLoRA (SS), method: bslora, fit: slice, ranks: [2, 4, 16]}
      - {row: lora-8, label: LoRA, method: lora, ranks: [8], vary: {lr: [0.004, 0.008]}}

A row names a job's parameters that differ from the profile's; published_parameters and published_ratio
are for the table. `vary` stands for one row per value, here lora-8-lr-0.004 and lora-8-lr-0.008. The
command line names profile, seeds and place.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bslora_kit.jobs.parameters import DEFAULTS, UNTRAINED
from bslora_kit.jobs.profiles import read_yaml

_FOR_TABLES = ("published_parameters", "published_ratio")
_KEYS = ("title", "parameters", "rows")
BY_OPTION = {"profile": "--profile", "seed": "--seeds or --seed-list", "out_dir": "--out"}
_OF_A_ROW = [name for name in DEFAULTS if name not in (*BY_OPTION, "grid")]
_OF_ALL_ROWS = [name for name in _OF_A_ROW if name not in ("row", "label")]
_NAME = re.compile(r"[^/\\.\s][^/\\]*")
_KINDS = {
    "label": (str, "text"),
    "published_parameters": (int, "a whole number"),
    "published_ratio": (str, "text such as 0.10%"),
}


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
        ValueError: for unknown or missing keys, values of another kind, and names that repeat; names
            file and row.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no grid file {path}; the kit's own lie in papermill_runs/grids")
    content = read_yaml(path)
    unknown = sorted(set(content) - set(_KEYS))
    if unknown or not content.get("rows"):
        raise ValueError(f"{path}: unknown keys {unknown} or no rows; a grid has {', '.join(_KEYS)}")
    title = content.get("title", path.stem)
    if not isinstance(title, str):
        raise ValueError(f"{path}: title is {title!r}, expected text; put it in quotes")
    if not isinstance(content["rows"], list):
        raise ValueError(f"{path}: rows is {content['rows']!r}, expected a list")
    common = content.get("parameters", {})
    check_names(common, _OF_ALL_ROWS, f"{path}, parameters")
    rows = [row for given in content["rows"] for row in _expanded(given, path)]
    names = [row["row"] for row in rows]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"{path}: rows {repeated} appear twice; give each its own name")
    return Grid(path.stem, title, tuple(rows), common)


def _expanded(given: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(given, dict) or not {"row", "method"} <= set(given):
        raise ValueError(f"{path}: row {given!r} needs at least `row` (its name) and `method`")
    where = f"{path}, row {given['row']!r}"
    if not isinstance(given["row"], str) or not _NAME.fullmatch(given["row"]):
        raise ValueError(
            f"{where}: the name becomes that of a folder; expected text without slashes that does not "
            "begin with a dot or a space"
        )
    check_names(given, [*_OF_A_ROW, *_FOR_TABLES, "vary"], where)
    for name, (kind, words) in _KINDS.items():
        if name in given and type(given[name]) is not kind:
            raise ValueError(f"{where}: {name} is {given[name]!r}, expected {words}")
    row = {"label": given["row"], **given}
    if "vary" not in row:
        return [row]
    vary = row.pop("vary")
    check_names(vary, _OF_ALL_ROWS, f"{where}, vary")
    for name, values in vary.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where}, vary: {name} is {values!r}, expected a list of values to try")
    expanded = []
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        ending = "".join(f"-{name}-{value}" for name, value in chosen.items()).replace("/", "-")
        varied = {"of": row["row"], "values": chosen}
        expanded.append({**row, **chosen, "row": row["row"] + ending, "varied": varied})
    return expanded


def check_names(found: Any, known: Collection[str], where: str) -> None:
    """Refuses anything but a mapping whose keys are all known.

    Raises:
        ValueError: naming `where`, the unknown keys and those that are known.
    """
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected names and values, found {found!r}")
    for name in found:
        if name in BY_OPTION and name not in known:
            raise ValueError(f"{where}: {BY_OPTION[name]} says {name!r} for all rows; leave it out")
    unknown = sorted(map(str, set(found) - set(known)))
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ValueError(f"{where}: unknown {names}; known are {', '.join(known)}")
