"""Two things that Linux has a process set for itself (prctl(2)); elsewhere they do nothing."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def end_with_parent() -> None:
    """Has the system end this process when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Sets the name under which `ps` and `top` list this process, of 15 characters at most.

    A process that was forked would otherwise go by the command line of the one it is a copy of.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
