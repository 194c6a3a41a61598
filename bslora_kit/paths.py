"""Where the kit's own files lie: the data folder of the checkout, or BSLORA_KIT_DATA."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("BSLORA_KIT_DATA", ROOT / "data"))
BASE = DATA / "base"
NOTEBOOKS = ROOT / "notebooks"
RUNS = ROOT / "papermill_runs"
REFERENCE = RUNS / "reference"


def of_checkout(path: Path) -> Path:
    """An absolute path as jobs name it: relative to the checkout if it lies there, else as it is."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
