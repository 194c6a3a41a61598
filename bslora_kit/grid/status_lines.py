"""What a grid says while it runs: one line for each finished row, and how far the others are.

On a terminal one live line at the bottom; elsewhere (a log, a pipe) a short line every few seconds:
neither silence nor a flood.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from bslora_kit.grid.estimate import Expected
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.progress import read_progress

_SECONDS_BETWEEN_LINES = 9.0
_SECONDS_BETWEEN_REDRAWS = 1.0
_ENDED = ("done", "diverged", "failed")
_CLEAR_LINE = "\r\x1b[K"


class StatusLines:
    """Prints the state of a grid.

    Args:
        rows: of the grid.
        side_by_side: how many jobs run at a time.
        expected: how long each row is expected to take, by its name.
        stream: where to print.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        side_by_side: int,
        expected: Mapping[str, Expected],
        stream: TextIO = sys.stdout,
    ):
        self._rows, self._side_by_side, self._expected = rows, side_by_side, expected
        self._stream, self._live = stream, stream.isatty()
        self._width = max(len(row.name) for row in rows)
        self._printed = 0.0

    def finished(self, row: Row) -> None:
        """Prints the line of a row that is done, has diverged or has failed."""
        counted = f"{sum(r.state in _ENDED for r in self._rows):3}/{len(self._rows)}"
        self._print(f"{counted}  {row.name:{self._width}}  {describe(row)}")

    def lost(self, row: Row, reason: str) -> None:
        """Prints the line of a row that is started again because its process or machine was lost."""
        self._print(f"     {row.name:{self._width}}  is started again: {reason}"[:160])

    def tell(self, started: Mapping[str, tuple[Row, float | None]], waiting: Sequence[Row]) -> None:
        """Prints how far the rows are, where a line is due.

        Args:
            started: name -> row and the seconds since its process began, None while it waits for a
                machine.
            waiting: rows that have not been started.
        """
        running = {
            name: (row, seconds) for name, (row, seconds) in started.items() if seconds is not None
        }
        queued = [row for row, seconds in started.values() if seconds is None]
        pause = _SECONDS_BETWEEN_REDRAWS if self._live else _SECONDS_BETWEEN_LINES
        if time.monotonic() - self._printed < pause or not (started or waiting):
            return
        parts = [f"{name} {_stage(row)}" for name, (row, _) in running.items()]
        if not started:
            parts = [f"another process is at {', '.join(row.name for row in waiting)}"]
        if queued:
            parts.append(f"{len(queued)} wait for a machine")
        left = _clock(self._seconds_left(running, [*queued, *waiting]))
        done = sum(row.state == "done" for row in self._rows)
        line = f"{done:3}/{len(self._rows)}  about {left} left  |  {'  |  '.join(parts)}"
        if self._live:
            columns = shutil.get_terminal_size().columns
            self._stream.write(_CLEAR_LINE + line[: columns - 1])
            self._stream.flush()
            self._printed = time.monotonic()
        else:
            self._print(line)

    def close(self) -> None:
        """Removes the live line."""
        if self._live:
            self._stream.write(_CLEAR_LINE)
            self._stream.flush()

    def _seconds_left(self, running: Mapping[str, tuple[Row, float]], waiting: Sequence[Row]) -> float:
        """From the expected times, corrected by what the finished rows took."""
        finished = [row for row in self._rows if row.seconds and row.state == "done"]
        hoped = sum(self._expected[row.name].total for row in finished)
        factor = sum(row.seconds for row in finished) / hoped if hoped else 1.0
        left = [factor * self._expected[row.name].total for row in waiting]
        left += [
            _row_left(read_progress(row.folder), self._expected[name], seconds, factor)
            for name, (row, seconds) in running.items()
        ]
        return max([sum(left) / self._side_by_side, *left])

    def _print(self, line: str) -> None:
        self._stream.write((_CLEAR_LINE if self._live else "") + line + "\n")
        self._stream.flush()
        self._printed = time.monotonic()


def describe(row: Row) -> str:
    """A finished row in words: its score, parameters and time, or why it failed."""
    if row.state != "done":
        return f"{row.state}: {row.problem}"[:160]
    from bslora_kit.tables.results import score_of  # pandas takes seconds: help and errors come at once

    found, _ = score_of(row.result["eval"])
    if found is None:
        score = f"{len(row.result['eval']['tasks'])} tasks"
    else:
        score = f"{found:6.2f}{_error_of(row)} %"
    parameters = f"{row.result['budget']['trainable']:10,} parameters"
    return f"{score}  {parameters}  {row.seconds:4.0f} s" if row.seconds else f"{score}  {parameters}"


def _error_of(row: Row) -> str:
    """The standard error of this run's score, by fact; nothing where its items do not tell."""
    from bslora_kit.tables.one_run import score_of_items
    from bslora_kit.tables.results import items_of

    try:
        score = score_of_items(items_of(row.folder))
    except ValueError:  # the table says what is wrong with them
        return ""
    return "" if score is None or math.isnan(score.stderr) else f" ± {score.stderr:.2f}"


def _row_left(progress: Mapping[str, Any], expected: Expected, seconds: float, factor: float) -> float:
    """Seconds that a running row still takes.

    Args:
        progress: its progress.json.
        expected: of its stages.
        seconds: since its start.
        factor: how much slower than expected the rows before it were.
    """
    training, scoring = factor * expected.training, factor * expected.scoring
    stage = progress.get("stage", "starting")
    if stage == "training":
        measured = progress["seconds_left"]
        return (training if measured is None else measured) + scoring
    if stage in ("scoring", "done"):
        return max(1.0, scoring - (time.time() - progress["time"]))
    return max(factor * expected.start - seconds, 1.0) + training + scoring


def _stage(row: Row) -> str:
    progress = read_progress(row.folder)
    stage = progress.get("stage", "starting")
    if stage == "training" and progress["step"]:
        return f"step {progress['step']}/{progress['steps']}, loss {progress['loss']:.2f}"
    return stage


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
