"""Runs the missing rows of a grid on an engine, and starts again what a lost machine left.

    driver --- engine --- job: bslora_kit.jobs.run_job --- kernel of the notebook
                      \\-- job ...

A job tells how it is by files in its folder (progress.json, result.json, error.txt), so the driver can
die at any moment: its jobs end with it, and the next driver finds what is missing. What an engine
remembers counts for nothing beside these files.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bslora_kit.grid.engine import LOG, End, Engine, RunningJob
from bslora_kit.grid.rows import Row
from bslora_kit.grid.status_lines import StatusLines
from bslora_kit.jobs.lock import is_locked
from bslora_kit.jobs.run_job import EXIT_DISK_FULL, EXIT_IN_USE, record_failure

_POLL_SECONDS = 0.3


def run_rows(rows: Sequence[Row], engine: Engine, status: StatusLines, retries: int) -> None:
    """Runs the rows in state "missing"; afterwards each is "done" or "failed".

    Args:
        rows: of one grid, in the order in which they are to run.
        engine: entered.
        status: told of every change and asked to speak now and then.
        retries: how often a job is started again whose process or machine was lost; it goes on from
            its last checkpoint. A job that ends by itself without a result has failed at once.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the jobs are ended.
        OSError: if a row finds the disk full, after the jobs are ended: every further row would train
            for nothing. What is missing is whatever the disk did not take.
    """
    waiting = [row for row in rows if row.state == "missing"]
    for row in rows:
        if row.state == "done":
            _drop_checkpoints(row.folder)
    running: list[tuple[Row, RunningJob]] = []
    losses: Counter[str] = Counter()
    with _terminable():
        try:
            while waiting or running:
                ended = [(row, job, end) for row, job in running if (end := job.poll()) is not None]
                now = time.monotonic()  # of all, before the first is told of
                for row, job, _ in ended:
                    row.seconds = now - job.began if job.began else 0.0
                for row, job, end in ended:
                    running.remove((row, job))
                    losses[row.name] += end.lost
                    if _collect(row, end, final=losses[row.name] > retries):
                        status.finished(row)
                        if row.state == "failed" and end.status == EXIT_DISK_FULL:
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(row.folder))
                    else:
                        waiting.insert(0, row)
                        if end.lost:
                            status.lost(row, end.reason)
                for row in list(waiting):
                    if len(running) < engine.at_most and not is_locked(row.folder):
                        waiting.remove(row)
                        row.look()  # another driver may have been faster
                        if row.state == "missing":
                            running.append((row, _start(row, engine)))
                        else:
                            status.finished(row)
                now = time.monotonic()
                seconds = {row.name: job.began and now - job.began for row, job in running}
                status.tell({row.name: (row, seconds[row.name]) for row, _ in running}, waiting)
                time.sleep(_POLL_SECONDS)
        finally:
            for _, job in running:
                job.stop()


def _start(row: Row, engine: Engine) -> RunningJob:
    row.state = "running"
    row.folder.mkdir(parents=True, exist_ok=True)
    _remove(row.folder, LOG, "error.txt", "failed.ipynb", "*.part*")
    return engine.start(row)


def _remove(folder: Path, *patterns: str) -> None:
    """Removes files and folders of a run."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _collect(row: Row, end: End, final: bool) -> bool:
    """Reads how a job ended; False if the row has to be started again.

    Args:
        row: of the job.
        end: of its process.
        final: whether a lost job has failed.
    """
    log = row.folder / LOG
    row.state = "missing"
    row.look()
    if row.state == "missing" and (end.status == EXIT_IN_USE or (end.lost and not final)):
        return False
    if row.state == "missing":
        row.state = "failed"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        _tidy(row)  # before error.txt, which may need their room
        error = row.folder / "error.txt"
        if not error.is_file():
            ended = end.reason or f"the job's process ended with status {end.status}"
            if end.status == EXIT_DISK_FULL:
                ended = os.strerror(errno.ENOSPC)
            record_failure(row.folder, ended, text[-4000:])
        row.problem = error.read_text(encoding="utf-8").splitlines()[0]
    _tidy(row)
    return True


def _tidy(row: Row) -> None:
    """Removes what nobody reads again, which a killed job leaves behind."""
    _remove(row.folder, LOG, "*.part*")
    if row.state == "done":
        _drop_checkpoints(row.folder)


def _drop_checkpoints(folder: Path) -> None:
    """Removes those of a row that is done, unless another process is at it or the folder is not ours."""
    checkpoints = folder / "checkpoints"
    with suppress(OSError):
        if checkpoints.exists() and not is_locked(folder):
            shutil.rmtree(checkpoints)


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
