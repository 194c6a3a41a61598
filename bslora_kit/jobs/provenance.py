"""Where a result comes from: machine, versions, commit, time. For result.json."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import bslora_kit
from bslora_kit.paths import ROOT

_PACKAGES = ("torch", "transformers", "peft", "accelerate", "lm_eval")


def provenance() -> dict[str, Any]:
    """versions (package -> version), git_commit (None outside a repository), created (UTC, ISO 8601)."""
    packages = {name: version(name) for name in _PACKAGES}
    return {
        "versions": {"bslora_kit": bslora_kit.__version__, **packages},
        "git_commit": _git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """cpu (model), cores (that this process may use), threads (of torch), gpu (name or None), os."""
    import torch  # the driver of a grid needs `cores` alone

    return {
        "cpu": _cpu(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it."""
    if not (ROOT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
