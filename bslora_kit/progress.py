"""A text progress line for terminals and notebook logs: now and then one short line, never a flood.

    step 120/312  loss 1.234  4,210 tokens/s  0:19 left

Plain lines instead of a bar that redraws itself: an executed notebook keeps every redrawn frame, or
shows only the first one.
"""

from __future__ import annotations

import time

SECONDS_BETWEEN_LINES = 5.0


class ProgressLines:
    """Prints where a loop stands, at most once every few seconds.

    Args:
        total: number of steps of the whole run.
        done: steps that were done before this process started (a resumed run).
        silent: print nothing, for all but the first of several processes.
    """

    def __init__(self, total: int, done: int = 0, silent: bool = False):
        self._total = total
        self._first = self._done = done
        self._silent = silent
        self._began = self._last_line = time.monotonic()
        self._measured = ""

    def update(self, done: int, loss: float, tokens_per_s: float) -> None:
        """Takes the state after a step, and prints it where a line is due."""
        self._done = done
        self._measured = f"  loss {loss:.3f}  {tokens_per_s:,.0f} tokens/s"
        if done == self._total:
            self._print(f"in {_clock(time.monotonic() - self._began)}")
        else:
            self.keep_alive()

    def keep_alive(self, doing: str = "") -> None:
        """Prints a line if one is due; for places inside a long step.

        Args:
            doing: what takes the time, for example "evaluating".
        """
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._print(doing or self._time_left())

    def _time_left(self) -> str:
        steps = self._done - self._first
        if steps == 0:
            return ""
        seconds_per_step = (time.monotonic() - self._began) / steps
        return f"{_clock(seconds_per_step * (self._total - self._done))} left"

    def _print(self, ending: str) -> None:
        if not self._silent:
            line = f"step {self._done}/{self._total}{self._measured}  {ending}"
            print(line.rstrip(), flush=True)
        self._last_line = time.monotonic()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
