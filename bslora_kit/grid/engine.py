"""What the driver needs from whatever runs the jobs: this machine's processes, or a Ray cluster.

    driver --start(row)--> engine --> RunningJob: began, poll(), stop()

Both engines run a job as a process of `bslora_kit.jobs.run_job`, a new one or a copy of one that has
imported what it needs (`fork_server`), in a folder that the driver sees too: its progress, its result
and its errors are files there, so an engine only has to say whether the process still runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bslora_kit.grid.rows import Row
from bslora_kit.jobs.processes import VARIABLE
from bslora_kit.paths import ROOT

LOG = "output.log"  # in the run folder: what the job's process writes to the terminal
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class EngineUnavailable(RuntimeError):
    """An engine cannot be reached; the message says what to do."""


@dataclass(frozen=True)
class End:
    """How a job's process ended.

    Attributes:
        status: its exit status; None if there is none because what ran the job was lost.
        reason: why there is none, in words.
    """

    status: int | None
    reason: str = ""

    @property
    def lost(self) -> bool:
        """Whether the process was ended from outside, so that the job is worth another start."""
        return self.status is None


class RunningJob(Protocol):
    """A job that was started.

    Attributes:
        began: when its process began (`time.monotonic`); None while it waits for a machine.
    """

    began: float | None

    def poll(self) -> End | None:
        """How it ended; None while it waits or runs. Returns at once."""

    def stop(self) -> None:
        """Ends the job, its kernel included, if it still runs."""


class Engine(Protocol):
    """Runs jobs, from `__enter__` to `__exit__`, which leaves none running.

    Attributes:
        side_by_side: how many jobs it has room for, for estimates.
        at_most: how many jobs may be started and not yet ended.
    """

    side_by_side: int
    at_most: int

    def __enter__(self) -> Self:
        """Makes it ready."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Gives back what it holds."""

    def start(self, row: Row) -> RunningJob:
        """Starts a job; its folder exists."""


def job_environment(threads: int, temporary: str, processes: int) -> dict[str, str]:
    """The environment of a job's process.

    Args:
        threads: of torch and the tokenizer, which read this when they are imported.
        temporary: a folder for sockets and scratch files, which the caller removes.
        processes: how many train the job together; each has so many threads.
    """
    counts = dict.fromkeys(_THREADS, str(threads))
    return {**os.environ, **counts, "TMPDIR": temporary, VARIABLE: str(processes)}


def start_process(
    asked: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Starts the process of a job; it ends with the process that calls this.

    Args:
        asked: the job's parameters.
        folder: its run folder, where its output goes.
        environment: from `job_environment`.
    """
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bslora_kit.jobs.run_job"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends its jobs
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(dict(asked)).encode())
    process.stdin.close()
    return process


def end_of(status: int) -> End:
    """The end of a process from its exit status, negative for the signal that ended it."""
    return End(status) if status >= 0 else End(None, f"the job's process was ended by signal {-status}")
