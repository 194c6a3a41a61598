"""progress.json in the run folder: how far a job is, for whoever watches it from outside.

    {"stage": "training", "step": 40, "steps": 120, "loss": 1.23, "seconds_left": 14.2, "time": ...}

Stages: loading, training, scoring, done. Written at most once a second, in one move.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from bslora_kit.files import write_json

FILE = "progress.json"
_SECONDS_BETWEEN = 1.0


class JobProgress:
    """Writes a job's progress into its folder."""

    def __init__(self, folder: Path):
        self._path = folder / FILE
        self._stage, self._steps = "", 0
        self._first: tuple[int, float] | None = None  # step and time of the stage's first report
        self._written = 0.0

    def start(self, stage: str, steps: int = 0) -> None:
        """Begins a stage; `steps` is how many it takes, 0 where that is not known."""
        self._stage, self._steps, self._first = stage, steps, None
        self._write(0, None, None)

    def step(self, step: int, loss: float) -> None:
        """Takes a step's number, from 1, and its loss in nats."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        first, began = self._first
        if now - self._written >= _SECONDS_BETWEEN:
            left = (now - began) / (step - first) * (self._steps - step) if step > first else None
            self._write(step, loss, left)

    def _write(self, step: int, loss: float | None, left: float | None) -> None:
        self._written = time.monotonic()
        content = {
            "stage": self._stage,
            "step": step,
            "steps": self._steps,
            "loss": loss,
            "seconds_left": left,
            "time": time.time(),
        }
        write_json(self._path, content)


def read_progress(folder: Path) -> dict[str, Any]:
    """The progress of the job in `folder`; empty where none has begun.

    A machine that lost its power may leave the file empty, which stops nobody.
    """
    path = folder / FILE
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        return {}
