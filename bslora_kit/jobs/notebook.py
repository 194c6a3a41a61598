"""Executes a notebook by papermill, in a kernel of its own: a new process, or one forked before.

    job --- papermill --- jupyter_client --- ForkedKernel: tells StandbyKernel, a copy of the job's
                                             process that waits for it, to become the kernel

jupyter_client leaves to a provisioner how a kernel is started; its own starts a new process, which
imports everything anew. A copy of a process that has imported torch and transformers begins with them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from bslora_kit.jobs.prctl import end_with_parent, name_process
from bslora_kit.paths import NOTEBOOKS


@contextmanager
def kept_out(name: str) -> Iterator[None]:
    """Has imports go without a module that they can do without."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # importing it now raises ImportError
    try:
        yield
    finally:
        del sys.modules[name]


# jsonschema builds a grammar of international addresses for a check of formats that notebooks do not
# ask for: 1.8 of the 2.6 s that the import of papermill takes.
with kept_out("rfc3987_syntax"):
    import papermill
    from jupyter_client import AsyncKernelManager
    from jupyter_client.connect import KernelConnectionInfo
    from jupyter_client.provisioning import LocalProvisioner

_START_TIMEOUT = 300  # seconds; a kernel starts slowly beside many others


class StandbyKernel(psutil.Process):
    """A copy of this process, which waits for the command of a kernel and becomes it.

    Made while this process has one thread and no CUDA, neither of which survives a fork, and outside of
    `with` and `try`: the copy leaves this call by SystemExit, through the frames of its caller.

    The methods are those of subprocess.Popen, which jupyter_client uses.
    """

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        orders, self._orders = multiprocessing.Pipe(duplex=False)
        process = os.fork()
        if process == 0:
            end_with_parent()
            name_process("bslora-kernel")
            self._orders.close()
            try:
                order = json.loads(orders.recv_bytes())
            except EOFError:  # the job ends without a kernel
                sys.exit()
            _become(**order)
        orders.close()
        super().__init__(process)

    def become(self, command: list[str], environment: Mapping[str, str], folder: str) -> None:
        """Has the copy run `python -m ...` in this environment and folder, as a new process would."""
        order = {"command": command, "environment": dict(environment), "folder": folder}
        try:
            self._orders.send_bytes(json.dumps(order).encode())
        except BrokenPipeError:  # killed while it waited, which `poll` says, as of any kernel
            pass

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        try:
            return self.wait(timeout=0)
        except psutil.TimeoutExpired:
            return None


def _become(command: list[str], environment: dict[str, str], folder: str) -> None:
    """Runs the module of a kernel's command in this process, as its main module."""
    python, option, module, *arguments = command
    if option != "-m":
        raise ValueError(f"the kernel is started by {command}, expected python -m MODULE ...")
    os.setsid()  # signals to the kernel's group are not for the job
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    # The kernel is told of its parent, since it may run without a terminal only where it has one.
    sys.argv = [module, *arguments, f"--IPKernelApp.parent_handle={os.getppid()}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


class ForkedKernel(LocalProvisioner):
    """Starts the kernel from a process that stands by."""

    def __init__(self, standby: StandbyKernel, **options: Any):
        super().__init__(**options)
        self._standby = standby

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Launches the kernel; a job has one, which is never restarted."""
        self.cwd = kwargs.get("cwd") or os.getcwd()
        self._standby.become(cmd, kwargs["env"], str(self.cwd))
        self.process = self._standby
        self.pid = self.pgid = self._standby.pid
        return self.connection_info


def execute(
    notebook: Path,
    output: Path,
    params: Mapping[str, Any],
    sockets: Path,
    standby: StandbyKernel | None = None,
) -> None:
    """Executes a notebook.

    Args:
        notebook: to execute.
        output: takes the executed notebook, cell by cell.
        params: go into the cell behind the one tagged "parameters".
        sockets: an empty folder for the kernel's.
        standby: becomes the kernel; None for a new process.

    Raises:
        papermill.PapermillExecutionError: where a cell raises.
        nbclient.exceptions.DeadKernelError: if the kernel dies.
    """

    class KernelManager(AsyncKernelManager):
        """Sockets in a folder of their own: TCP ports of kernels that start together can clash."""

        def __init__(self, **options: Any):
            super().__init__(transport="ipc", ip=str(sockets / "k"), **options)
            if standby is not None:
                self.kernel_id = str(uuid.uuid4())
                self.provisioner = ForkedKernel(
                    standby, kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
                )

    papermill.execute_notebook(
        notebook,
        output,
        parameters=dict(params),
        kernel_name="python3",
        progress_bar=False,
        start_timeout=_START_TIMEOUT,
        iopub_timeout=_START_TIMEOUT,  # between a cell's reply and the kernel being idle; 4 by default
        cwd=NOTEBOOKS,
        kernel_manager_class=KernelManager,
        store_widget_state=False,
    )
