"""Trains a job in several processes, one GPU each where there are GPUs, from the one of its notebook.

    kernel: Job.train() --- launcher: accelerate launch --- process 0: train() --> history, checkpoints
                                                        \\-- process 1: train()
            reads the last checkpoint into its own model and scores it

The notebook's kernel is one process and cannot become several. So the launcher starts them beside it
(`bslora_kit.jobs.take_part`), each with a part of every batch and of the frozen weights
(`bslora_kit.sharding`); the kernel shows what they say. Whoever dies takes those behind it along: the
kernel the launcher, the launcher its processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bslora_kit import paths
from bslora_kit.jobs.prctl import end_with_parent

VARIABLE = "BSLORA_KIT_PROCESSES"  # of the environment: how many processes train a job
PROBLEM = "cannot take part: "  # before the line in which a process says why it has failed


class ProcessesFailed(RuntimeError):
    """One of the processes that train a job has failed; says why."""


def processes_of_a_job() -> int:
    """How many processes train a job: `VARIABLE`, which a grid sets, or 1.

    Raises:
        ValueError: if it is not a whole number above 0.
    """
    text = os.environ.get(VARIABLE, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{VARIABLE} is {text!r}, expected how many processes train a job, 1 or more")
    return int(text)


def train_in_processes(folder: Path, processes: int) -> None:
    """Trains the job whose params.json lies in `folder`; what is trained is in its last checkpoint.

    Args:
        folder: the run folder, which this process holds.
        processes: how many, at least 2 and at most as many as GPUs are visible.

    Raises:
        ProcessesFailed: if one of them fails.
    """
    # As given, and not as installed: the caller may have set another data folder by hand.
    environment = {**os.environ, "BSLORA_KIT_DATA": str(paths.DATA)}
    command = [sys.executable, "-m", __name__, str(processes), str(folder)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=paths.ROOT,
            env=environment,
        ) as launcher,
    ):
        try:
            for line in launcher.stdout:
                print(line, end="", flush=True)
        except BaseException:
            launcher.kill()
            raise
        if launcher.wait() != 0:
            errors.seek(0)
            raise ProcessesFailed(_why(errors.read(), processes, launcher.returncode))


def _why(errors: str, processes: int, status: int) -> str:
    said = [line.partition(PROBLEM)[2] for line in errors.splitlines() if PROBLEM in line]
    reason = said[0] if said else f"they ended with status {status}"
    return f"training in {processes} processes: {reason}\n\n{errors[-4000:]}"


def _launch(processes: str, folder: str) -> None:
    """Runs `accelerate launch` in this process, which ends with the kernel that has started it."""
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser

    end_with_parent()
    if not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    # Of accelerate's launchers, --multi_gpu is the one that starts several processes; without a GPU
    # they talk by gloo. The precision is the job's own.
    options = "--multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    options += ["--num_processes", processes, "--main_process_port", "0"]
    launch_command(
        launch_command_parser().parse_args([*options, "-m", "bslora_kit.jobs.take_part", folder])
    )


if __name__ == "__main__":
    _launch(*sys.argv[1:])
