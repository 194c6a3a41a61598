"""Jobs as processes of this machine, a few side by side.

On Linux they are copies of one process that has imported what they need (see `fork_server`). On other
systems a fork is not safe behind the system's own libraries, and on GPUs, where a job takes far longer
than its imports, CUDA owes nothing to a fork: there each is a new process.

Where there are GPUs each job sees one of them, the one with the fewest jobs: with more jobs than GPUs
several share one, and its memory has to hold them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Self

from bslora_kit.grid.engine import End, end_of, job_environment, start_process
from bslora_kit.grid.fork_server import ForkedProcess, ForkServer
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.provenance import cores


class LocalJob:
    """A process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes] | ForkedProcess, gpus: Sequence[str]):
        self.began: float | None = time.monotonic()
        self.gpus = gpus
        self._process = process

    def poll(self) -> End | None:
        """How it ended; None while it runs."""
        status = self._process.poll()
        return None if status is None else end_of(status)

    def stop(self) -> None:
        """Kills it, and so its kernel."""
        self._process.kill()
        self._process.wait()


class LocalEngine:
    """Runs jobs on this machine.

    Args:
        side_by_side: how many jobs at a time; they share the machine's cores and GPUs evenly.
        processes: how many train one job together, each on a GPU of its own where there are GPUs.

    Raises:
        ValueError: for more processes a job than the machine has GPUs.
    """

    def __init__(self, side_by_side: int, processes: int = 1):
        self.side_by_side = self.at_most = side_by_side
        self._processes, self._gpus = processes, visible_gpus()
        if 0 < len(self._gpus) < processes:
            raise ValueError(
                f"{processes} processes a job need as many GPUs; here are {len(self._gpus)}"
            )
        self._jobs: list[LocalJob] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._server: ForkServer | None = None

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
        if self._server is not None:
            self._server.close()
            self._server = None
        self._temporary.cleanup()

    def start(self, row: Row) -> LocalJob:
        """Starts the row's process."""
        threads = max(1, cores() // (self.side_by_side * self._processes))
        environment = job_environment(threads, self._temporary.name, self._processes)
        gpus = self._least_used()
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        job = LocalJob(self._process_of(row, environment), gpus)
        self._jobs.append(job)
        return job

    def _process_of(
        self, row: Row, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes] | ForkedProcess:
        if self._gpus or sys.platform != "linux":
            return start_process(row.asked, row.folder, environment)
        if self._server is None or not self._server.alive:
            self._server = ForkServer(environment, Path(self._temporary.name) / "server.log")
        return self._server.start(row.asked, row.folder, environment)

    def _least_used(self) -> list[str]:
        """The GPUs for the next job; none where there are none."""
        used = Counter(gpu for job in self._jobs if job.poll() is None for gpu in job.gpus)
        return sorted(self._gpus, key=used.__getitem__)[: self._processes]


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, by index or UUID, without loading CUDA.

    CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists. As CUDA does, it ignores -1 and all
    that stands behind it.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        named = (gpu.strip() for gpu in chosen.split(","))
        return [gpu for gpu in takewhile(lambda gpu: gpu != "-1", named) if gpu]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()
