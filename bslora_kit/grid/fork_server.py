"""Starts the jobs of a grid as copies of one process that has imported what they need.

    driver: ForkServer --- server: imports once,     --- job: run_job --- kernel of its notebook
                           has the base of the job   \\-- job ...

Imports are most of what a small job costs besides training and scoring, and a new process pays for them
twice, in the job and in its kernel. Jobs of one base share the memory of its weights. The server has no
other thread when it forks but numpy's, which come again by themselves, and touches no GPU: neither
survives a fork. Whoever dies takes those behind it along, by `end_with_parent`.

multiprocessing has a fork server too. It is one for the whole life of a process, with the environment of
its first start, and its children import the main module of the driver.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bslora_kit.grid.engine import LOG, EngineUnavailable
from bslora_kit.jobs.prctl import end_with_parent, name_process
from bslora_kit.paths import ROOT

_POLL_SECONDS = 0.1
_COMMAND = [sys.executable, "-m", "bslora_kit.grid.fork_server"]


class ForkServer:
    """The driver's side of a server.

    Args:
        environment: of the server, which libraries read when they are imported: threads above all.
        errors: a file for what the server has to say.
    """

    def __init__(self, environment: Mapping[str, str], errors: Path):
        self._errors, self._started = errors, 0
        self._ended: dict[int, int] = {}  # exit statuses by number of the job
        self._connection, theirs = multiprocessing.Pipe()
        with theirs, errors.open("wb") as log:
            self._process = subprocess.Popen(
                [*_COMMAND, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the driver alone
            )

    @property
    def alive(self) -> bool:
        """Whether it can start jobs."""
        return self._process.poll() is None

    def start(
        self, asked: Mapping[str, Any], folder: Path, environment: Mapping[str, str]
    ) -> ForkedProcess:
        """Starts the process of a job; arguments as those of `engine.start_process`."""
        (folder / LOG).write_bytes(b"")  # raises here where it cannot be written
        self._started += 1
        self._send(
            number=self._started, asked=dict(asked), folder=str(folder), environment=dict(environment)
        )
        return ForkedProcess(self, self._started)

    def end(self, number: int) -> None:
        """Kills a job that still runs."""
        self._send(kill=number)

    def status(self, number: int, seconds: float | None = 0) -> int | None:
        """A job's exit status, negative for a signal; None if it does not end within `seconds`.

        Raises:
            EngineUnavailable: if the server has ended with an error of its own.
        """
        try:
            while number not in self._ended and self._connection.poll(seconds):
                ended, status = json.loads(self._connection.recv_bytes())
                self._ended[ended] = status
        except (EOFError, ConnectionError):  # killed, so its jobs are, too
            if self._process.wait() > 0:
                said = self._errors.read_text(encoding="utf-8", errors="replace")
                raise EngineUnavailable(f"no job can be started on this machine:\n{said}") from None
            return self._ended.setdefault(number, -signal.SIGKILL)
        return self._ended.get(number)

    def close(self) -> None:
        """Ends it and whatever jobs it has."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _send(self, **request: Any) -> None:
        try:
            self._connection.send_bytes(json.dumps(request).encode())
        except ConnectionError:
            pass  # `status` says so


class ForkedProcess:
    """A job's process: the part of subprocess.Popen that the local engine uses."""

    def __init__(self, server: ForkServer, number: int):
        self._server, self._number = server, number

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._server.status(self._number)

    def kill(self) -> None:
        """Has the system end it."""
        self._server.end(self._number)

    def wait(self) -> int:
        """Waits for its end."""
        status = self._server.status(self._number, seconds=None)
        assert status is not None
        return status


def _import_all() -> None:
    """Imports what the notebook of a job imports, now or when it loads, trains and scores."""
    import ipykernel.kernelapp  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401  loaded by name, when a base is

    import bslora_kit.evaluation.harness
    import bslora_kit.figures
    import bslora_kit.jobs.job
    import bslora_kit.jobs.notebook
    import bslora_kit.tables.one_run  # noqa: F401


def _compute_alone() -> int:
    """Has torch start no threads in this process, and returns how many it would have used."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return threads


def _prepare(asked: Mapping[str, Any]) -> None:
    """Has the base of a job ready; whatever is wrong with it, or with what is asked, the job says.

    Whatever loading raises, the jobs of other bases go on.
    """
    import torch

    from bslora_kit.device import precision_for
    from bslora_kit.jobs.bases import keep_ready
    from bslora_kit.jobs.parameters import resolve

    with suppress(Exception):
        parameters = resolve(asked, with_inputs=False)
        precision = precision_for(torch.device("cpu"), parameters["precision"])
        keep_ready(parameters["base_model"], precision)
        gc.freeze()  # collections in the copies would touch, so copy, all that is shared


def _serve(driver: Connection) -> dict[str, Any] | None:
    """Starts jobs and says how they end.

    Returns:
        In the copy that is to run a job: the request for it. In the server: None, as the driver is gone.
    """
    jobs: dict[int, int] = {}  # numbers by process
    while True:
        if driver.poll(_POLL_SECONDS if jobs else None):
            try:
                request = json.loads(driver.recv_bytes())
            except EOFError:
                return None
            if "kill" in request:
                for process in [p for p, number in jobs.items() if number == request["kill"]]:
                    os.kill(process, signal.SIGKILL)
            else:
                _prepare(request["asked"])
                process = os.fork()
                if process == 0:
                    driver.close()
                    return request
                jobs[process] = request["number"]
        for process in list(jobs):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                answer = [jobs.pop(process), os.waitstatus_to_exitcode(status)]
                driver.send_bytes(json.dumps(answer).encode())


def _run(asked: Mapping[str, Any], folder: str, environment: Mapping[str, str], threads: int) -> int:
    """Runs a job in this copy of the server as in a process of its own; returns its exit status."""
    import numpy
    import torch

    from bslora_kit.jobs.notebook import StandbyKernel
    from bslora_kit.jobs.run_job import exit_status_of

    os.setsid()
    log = os.open(Path(folder) / LOG, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    numpy.random.seed()  # else all copies would draw the same; random reseeds itself
    return exit_status_of(asked, StandbyKernel())


def main(connection: str) -> int:
    """The server; its copies, too, return from here, with the exit status of their job."""
    end_with_parent()
    name_process("bslora-server")
    _import_all()
    threads = _compute_alone()
    gc.freeze()
    server = os.getpid()
    request = _serve(Connection(int(connection)))
    if request is None:
        return 0
    end_with_parent()
    name_process("bslora-job")
    if os.getppid() != server:  # it has died before this process could be told
        return 1
    return _run(request["asked"], request["folder"], request["environment"], threads)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
