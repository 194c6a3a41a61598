"""Jobs as processes of this machine, a few side by side."""

from __future__ import annotations

import subprocess
import tempfile
import time
from types import TracebackType
from typing import Self

from bslora_kit.grid.engine import End, end_of, job_environment, start_process
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.provenance import cores


class LocalJob:
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.began: float | None = time.monotonic()
        self._process = process

    def poll(self) -> End | None:
        """How it ended; None while it runs."""
        status = self._process.poll()
        return None if status is None else end_of(status)

    def stop(self) -> None:
        """Kills it; its kernel sees that and ends within a second."""
        self._process.kill()
        self._process.wait()


class LocalEngine:
    """Runs jobs on this machine.

    Args:
        side_by_side: how many jobs at a time; they share the machine's cores evenly.
    """

    def __init__(self, side_by_side: int):
        self.side_by_side = self.at_most = side_by_side
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        # Sockets and scratch files of jobs lie where they are removed when the driver ends.
        self._temporary = tempfile.TemporaryDirectory(prefix="bslora-")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._temporary.cleanup()

    def start(self, row: Row) -> LocalJob:
        """Starts the row's process."""
        threads = max(1, cores() // self.side_by_side)
        environment = job_environment(threads, self._temporary.name)
        return LocalJob(start_process(row.asked, row.folder, environment))
