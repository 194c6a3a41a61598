"""Runs the missing rows of a grid: one operating system process per job, a few side by side.

    driver --- job: python -m bslora_kit.jobs.run_job --- kernel of the notebook
           \\-- job ...

A job tells how it is by files in its folder (progress.json, result.json, error.txt), so the driver can
die at any moment: its jobs end with it, and the next driver finds what is missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bslora_kit.grid.rows import Row
from bslora_kit.grid.status_lines import StatusLines
from bslora_kit.jobs.lock import is_locked
from bslora_kit.jobs.provenance import cores
from bslora_kit.jobs.run_job import EXIT_IN_USE, record_failure
from bslora_kit.paths import ROOT

_POLL_SECONDS = 0.3
_LOG = "output.log"  # what a job's process writes to the terminal
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def run_rows(rows: Sequence[Row], side_by_side: int, status: StatusLines) -> None:
    """Runs the rows in state "missing"; afterwards each is "done" or "failed".

    Args:
        rows: of one grid, in the order in which they are to run.
        side_by_side: how many jobs at a time; they share the machine's cores evenly.
        status: told of every change and asked to speak now and then.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the jobs are ended.
    """
    waiting = [row for row in rows if row.state == "missing"]
    running: dict[subprocess.Popen[bytes], tuple[Row, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bslora-") as temporary, _terminable():
        environment = _environment(side_by_side, temporary)
        try:
            while waiting or running:
                for process in [process for process in running if process.poll() is not None]:
                    row, began = running.pop(process)
                    row.seconds = time.monotonic() - began
                    if _collect(row, process.returncode):
                        status.finished(row)
                    else:
                        waiting.append(row)
                for row in list(waiting):
                    if len(running) < side_by_side and not is_locked(row.folder):
                        waiting.remove(row)
                        row.look()  # another driver may have been faster
                        if row.state == "missing":
                            running[_start(row, environment)] = (row, time.monotonic())
                        else:
                            status.finished(row)
                now = time.monotonic()
                status.tell({row.name: (row, now - began) for row, began in running.values()}, waiting)
                time.sleep(_POLL_SECONDS)
        finally:
            for process in running:
                process.kill()  # its kernel sees that and ends within a second
                process.wait()


def _start(row: Row, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    row.state = "running"
    row.folder.mkdir(parents=True, exist_ok=True)
    leftovers = [*row.folder.glob("*.part*"), row.folder / "error.txt", row.folder / "failed.ipynb"]
    for path in leftovers:
        if not path.is_dir():
            path.unlink(missing_ok=True)
    with (row.folder / _LOG).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bslora_kit.jobs.run_job"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the driver alone, which then ends its jobs
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(dict(row.asked)).encode())
    process.stdin.close()
    return process


def _collect(row: Row, status: int) -> bool:
    """Reads how a job ended; False if the row has to wait for another process."""
    log = row.folder / _LOG
    row.state = "missing"
    row.look()
    if row.state == "missing" and status == EXIT_IN_USE:
        return False
    if row.state == "missing":
        row.state = "failed"
        error = row.folder / "error.txt"
        if not error.is_file():
            ended = f"signal {-status}" if status < 0 else f"status {status}"
            record_failure(row.folder, f"the job's process ended with {ended}", _tail(log))
        row.problem = error.read_text(encoding="utf-8").splitlines()[0]
    log.unlink(missing_ok=True)
    return True


def _tail(log: Path, characters: int = 4000) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-characters:] if log.is_file() else ""


def _environment(side_by_side: int, temporary: str) -> dict[str, str]:
    """Each job gets its share of the cores; torch reads these when it is imported."""
    threads = str(max(1, cores() // side_by_side))
    # Sockets and scratch files of jobs lie where they are removed when the driver ends.
    return {**os.environ, **dict.fromkeys(_THREADS, threads), "TMPDIR": temporary}


@contextmanager
def _terminable() -> Iterator[None]:
    """Has SIGTERM end the driver as Ctrl-C does, so that its jobs are ended too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
