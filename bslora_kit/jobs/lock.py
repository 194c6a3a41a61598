"""One process per run folder: a lock that the operating system drops when its process dies."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


class RunInUse(RuntimeError):
    """Another process is at this run."""


class RunLock:
    """Holds a run folder until `release` or the end of the process.

    A process that holds a folder may take it again, as when all cells of a notebook run a second
    time: these locks belong to processes, not to objects.

    Raises:
        RunInUse: if another process holds it.
    """

    def __init__(self, folder: Path):
        self._file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks
                raise
            raise RunInUse(
                f"{folder} is in use by another process; wait for it, or end it, and try again"
            ) from error

    def release(self) -> None:
        """Lets others in; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def is_locked(folder: Path) -> bool:
    """Whether another process holds the folder now."""
    if not (folder / ".lock").exists():
        return False
    try:
        RunLock(folder).release()
    except RunInUse:
        return True
    return False
