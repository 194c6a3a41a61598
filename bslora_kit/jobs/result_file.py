"""Reading result.json: whole and of this kit, or an error that names the file and what to do.

A job moves its result into place, so a file that is empty, cut short or of another program was copied
or edited by hand. In the folder of one's own grid that is an error; what lies in the folder of another
grid is passed over.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bslora_kit.files import read_object

FILE = "result.json"
ORIGIN = "trained_in.json"  # beside an adapter that another run has trained: which one
HASH_DIGITS = 12  # of each item's hash that items.parquet keeps
_PARTS = ("run", "budget", "eval")
_OF_A_RUN = ("row", "method", "seed")
ADVICE = "remove it and run the row again"


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result.json.

    Args:
        path: of the file.

    Raises:
        ValueError: for a file that is not the result of a run; names it and what it lacks.
        OSError: for a file that cannot be read.
    """
    result = read_object(path, ADVICE)
    if not all(isinstance(result.get(part), dict) for part in _PARTS):
        raise ValueError(f"{path} lacks {', '.join(_PARTS[:-1])} or {_PARTS[-1]}; {ADVICE}")
    missing = [name for name in _OF_A_RUN if name not in result["run"]]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)} of its run; {ADVICE}")
    return result


def finished_runs(out: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The finished runs of all grids; a file that is not the result of a run is named and passed over.

    Args:
        out: folder of all grids; holds <grid>/<row>-s<seed>/result.json.

    Returns:
        Run folder and `run` of its result, sorted by folder.
    """
    found = []
    for path in sorted(out.glob(f"*/*/{FILE}")):
        try:
            found.append((path.parent, read_result(path)["run"]))
        except (ValueError, OSError) as error:
            print(f"passed over: {error}", file=sys.stderr)
    return found
