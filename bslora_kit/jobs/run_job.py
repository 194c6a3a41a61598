"""Runs one job as the notebook 20_run_one_row, by papermill, in this process and one kernel.

    python -m bslora_kit.jobs.run_job < parameters.json

The folder of the job then holds run.ipynb, or failed.ipynb and error.txt. Whether it succeeded is
decided by result.json alone: a notebook saved after the death of its kernel looks like a good one.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bslora_kit.files import write_text
from bslora_kit.jobs.lock import RunInUse
from bslora_kit.jobs.parameters import differences, resolve
from bslora_kit.jobs.prctl import end_with_parent, name_process
from bslora_kit.jobs.progress import read_progress
from bslora_kit.paths import NOTEBOOKS, ROOT

if TYPE_CHECKING:
    from bslora_kit.jobs.notebook import StandbyKernel

NOTEBOOK = NOTEBOOKS / "20_run_one_row.ipynb"
EXIT_FAILED, EXIT_IN_USE, EXIT_DISK_FULL = 1, 3, 4
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class JobFailed(RuntimeError):
    """A job left no result; `error_file` says why."""

    def __init__(self, summary: str, error_file: Path):
        super().__init__(f"{summary}; see {error_file}")
        self.summary, self.error_file = summary, error_file


def run_job(
    params: Mapping[str, Any], notebook: Path = NOTEBOOK, standby: StandbyKernel | None = None
) -> dict[str, Any]:
    """Executes the notebook with these parameters.

    Args:
        params: of `parameters.DEFAULTS`; out_dir has to be among them.
        notebook: the job's notebook.
        standby: the process that becomes its kernel; None starts a new one.

    Returns:
        The content of result.json.

    Raises:
        JobFailed: if there is no result; failed.ipynb and error.txt are kept.
        RunInUse: if another process is at this run; nothing is touched.
        OSError: if the run folder takes no file, not even error.txt.
    """
    from bslora_kit.jobs.notebook import execute  # papermill, which the driver of a grid can do without

    folder = ROOT / params["out_dir"]
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"run.part.{os.getpid()}.ipynb"
    with tempfile.TemporaryDirectory(prefix="bslora-") as sockets:
        try:
            execute(notebook, part, params, Path(sockets), standby)
            error = None
        except Exception as raised:  # whatever a notebook may raise, the result file decides
            error = raised
    if getattr(error, "ename", "") == RunInUse.__name__:
        part.unlink(missing_ok=True)
        raise RunInUse(f"{folder} is in use by another process")
    result = folder / "result.json"
    if result.is_file() and (error is None or _is_of(result, params)):
        _keep(part, folder / "run.ipynb")
        for stale in ("failed.ipynb", "error.txt"):
            (folder / stale).unlink(missing_ok=True)
        return json.loads(result.read_text(encoding="utf-8"))
    failure = record_failure(folder, *_why(error, folder))
    _keep(part, folder / "failed.ipynb")
    raise failure


def record_failure(folder: Path, summary: str, details: str = "") -> JobFailed:
    """Writes error.txt; returns the exception to raise."""
    path = folder / "error.txt"
    write_text(path, f"{summary}\n\n{details}".rstrip() + "\n")
    return JobFailed(summary, path)


def _is_of(result: Path, params: Mapping[str, Any]) -> bool:
    """Whether a result belongs to these parameters: an error may have come after it, or before."""
    try:
        return not differences(json.loads(result.read_text(encoding="utf-8"))["run"], resolve(params))
    except (ValueError, OSError):
        return False


def _keep(part: Path, target: Path) -> None:
    """Moves the executed notebook into place, without papermill's paths of this machine.

    Drops one that is not whole: papermill writes in place, which a full disk cuts short.
    """
    try:
        notebook = json.loads(part.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        part.unlink(missing_ok=True)
        return
    for name in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(name, None)
    write_text(target, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    part.unlink()


def _why(error: Exception | None, folder: Path) -> tuple[str, str]:
    """One line for the terminal and the rest for error.txt."""
    if hasattr(error, "ename"):  # papermill's PapermillExecutionError: a cell raised
        return f"{error.ename}: {error.evalue}", "\n".join(error.traceback)
    progress = read_progress(folder)
    stage = f" while {progress['stage']}, step {progress['step']}" if progress else ""
    if error is None or type(error).__name__ == "DeadKernelError":
        return f"the kernel died{stage} without an error of Python", (
            "Something ended its process from outside or from below: most often the system, because "
            "memory ran out (fewer --jobs, or a smaller micro_batch_size), else a crash in native "
            f"code. failed.ipynb shows the cells that ran.\n\n{error or ''}"
        )
    return f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def main() -> int:
    """Reads the parameters from standard input; the exit status says how it went."""
    end_with_parent()
    name_process("bslora-job")
    return exit_status_of(json.load(sys.stdin))


def exit_status_of(params: Mapping[str, Any], standby: StandbyKernel | None = None) -> int:
    """Runs a job as the only thing that a process does; arguments as those of `run_job`."""
    try:
        run_job(params, standby=standby)
    except RunInUse as error:
        print(error, file=sys.stderr)
        return EXIT_IN_USE
    except JobFailed as error:
        print(error, file=sys.stderr)
        return EXIT_DISK_FULL if _names_a_full_disk(error.summary) else EXIT_FAILED
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        return EXIT_DISK_FULL
    return 0


def _names_a_full_disk(summary: str) -> bool:
    """Libraries that write tensors and tables have exceptions of their own, with the system's words."""
    return any(os.strerror(number) in summary for number in DISK_FULL)


if __name__ == "__main__":
    sys.exit(main())
