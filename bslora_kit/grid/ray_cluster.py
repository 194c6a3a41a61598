"""Jobs on the machines of a Ray cluster, one GPU each where there are GPUs.

    driver --- Ray --- task on some machine: _run_on_machine --- job: python -m bslora_kit.jobs.run_job

Ray chooses the machine and says when one is lost; starting again is the driver's. The checkout and the
folder of runs lie on a file system that all machines see under the same path: locks, progress and
results are files there, and what Ray remembers is not asked for. Ray comes with the extra `cluster`.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError, RayTaskError

from bslora_kit.grid.engine import LOG, End, EngineUnavailable, end_of, job_environment, start_process
from bslora_kit.grid.rows import Row
from bslora_kit.paths import DATA, ROOT

_POLL_SECONDS = 0.2
_CANCEL_SECONDS = 10.0


class RayJob:
    """A task of the cluster."""

    def __init__(self, reference: ray.ObjectRef, folder: Path):
        self.began: float | None = None
        self.reference = reference
        self._log = folder / LOG

    def poll(self) -> End | None:
        """How it ended; None while it waits or runs."""
        if self.began is None and self._log.is_file():  # its process creates it
            self.began = time.monotonic()
        if not ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            return end_of(ray.get(self.reference))
        except RayTaskError as error:  # raised by _run_on_machine, so another try would be no better
            return End(1, f"{type(error.cause).__name__}: {error.cause}")
        except RayError as error:  # the worker or its machine is gone
            return End(None, f"{type(error).__name__}: {str(error).splitlines()[0]}")

    def stop(self) -> None:
        """Has the cluster end it, or drop it if it waits."""
        ray.cancel(self.reference)


class RayEngine:
    """Runs jobs on a Ray cluster.

    Args:
        address: of the cluster's head, "auto" for the one this machine belongs to; None for the one that
            RAY_ADDRESS names or that runs on this machine, else a new one of this machine alone.
        at_most: how many jobs may be submitted at a time.
        cpus: of one job.
        gpus: of one job, a part of one where several share it; None takes 1 for each of its processes
            where the cluster has any.
        processes: how many train one job together, on one machine.

    Raises:
        ValueError: for fewer GPUs than processes of a job.
    """

    def __init__(
        self,
        address: str | None,
        at_most: int,
        cpus: int = 1,
        gpus: float | None = None,
        processes: int = 1,
    ):
        if gpus and processes > 1 and gpus < processes:
            raise ValueError(f"{processes} processes a job need as many GPUs; {gpus:g} are asked for")
        self.side_by_side, self.at_most = 1, at_most
        self._address, self._cpus, self._gpus = address, cpus, gpus
        self._processes = processes
        self._jobs: list[RayJob] = []

    def __enter__(self) -> Self:
        try:
            ray.init(address=self._address, log_to_driver=False)
        except (ConnectionError, RuntimeError, RayError) as error:
            raise EngineUnavailable(
                f"no Ray cluster at {self._address or 'this machine'}: {error}\nStart one with `ray "
                "start --head`, and give --address HOST:PORT; all machines need the same token "
                "(`ray get-auth-token`)"
            ) from error
        if self._gpus is None:
            self._gpus = self._processes if ray.cluster_resources().get("GPU", 0) else 0
        self.side_by_side = max(1, sum(self._room(node["Resources"]) for node in _alive()))
        self._task = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0, max_calls=1)(
            _run_on_machine
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        references = [job.reference for job in self._jobs]
        if references:  # those that were stopped end their processes now
            ray.wait(references, num_returns=len(references), timeout=_CANCEL_SECONDS)
        ray.shutdown()

    def start(self, row: Row) -> RayJob:
        """Submits the row's job; it begins when a machine has room."""
        reference = self._task.remote(
            dict(row.asked),
            row.folder,
            DATA,
            threads=max(1, self._cpus // self._processes),
            processes=self._processes,
            uses_gpu=self._gpus > 0,
        )
        job = RayJob(reference, row.folder)
        self._jobs.append(job)
        return job

    def _room(self, resources: Mapping[str, float]) -> int:
        """How many jobs a machine takes."""
        rooms = [resources.get("CPU", 0) / self._cpus]
        if self._gpus:
            rooms.append(resources.get("GPU", 0) / self._gpus)
        return int(min(rooms))


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _run_on_machine(
    asked: Mapping[str, Any],
    folder: Path,
    data: Path,
    threads: int,
    processes: int,
    uses_gpu: bool,
) -> int:
    """The task: runs the job's process on this machine and returns its exit status.

    Raises:
        FileNotFoundError: if this machine does not see the checkout and the run folder of the driver.
    """
    if ROOT / asked["out_dir"] != folder or not folder.is_dir():
        raise FileNotFoundError(
            f"{platform.node()} does not see {folder}, which the driver has made; its checkout is "
            f"{ROOT}. Checkout and --out have to lie where all machines see them under the same path"
        )
    with tempfile.TemporaryDirectory(prefix="bslora-") as temporary:
        environment = job_environment(threads, temporary, processes) | {"BSLORA_KIT_DATA": str(data)}
        if not uses_gpu:  # Ray leaves all GPUs visible to a task that asks for none
            environment["CUDA_VISIBLE_DEVICES"] = ""
        process = start_process(asked, folder, environment)
        try:
            # Ray cancels by a flag that Python looks at between instructions, not within a long wait.
            while process.poll() is None:
                time.sleep(_POLL_SECONDS)
            return process.returncode
        finally:
            process.kill()
            process.wait()
