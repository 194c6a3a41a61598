"""Which GPUs the jobs of one machine get; the machine's own GPUs, if any, are not touched.

The jobs are processes that wait for the end of their input, and are given the environment of a job.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from bslora_kit.grid import local
from bslora_kit.grid.local import LocalEngine, visible_gpus
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.processes import VARIABLE


@pytest.fixture
def started(monkeypatch) -> list[dict[str, str]]:
    """The environments of the jobs that were started."""
    environments = []

    def start(engine, row, environment):
        environments.append(environment)
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    monkeypatch.setattr(LocalEngine, "_process_of", start)
    return environments


def gpus_of(environments: list[dict[str, str]]) -> list[str | None]:
    return [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments]


def test_jobs_spread_over_the_gpus_and_take_the_place_of_those_that_ended(
    started, monkeypatch, tmp_path
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    row = Row({}, tmp_path)
    with LocalEngine(4) as engine:
        jobs = [engine.start(row) for _ in range(4)]
        assert gpus_of(started) == ["GPU-a", "GPU-b", "GPU-a", "GPU-b"]
        jobs[1].stop()
        jobs.append(engine.start(row))
        assert gpus_of(started)[-1] == "GPU-b"
        for job in jobs:
            job.stop()


def test_four_jobs_share_the_only_gpu(started, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with LocalEngine(4) as engine:
        jobs = [engine.start(Row({}, tmp_path)) for _ in range(4)]
        for job in jobs:
            job.stop()
    assert gpus_of(started) == ["3"] * 4


def test_a_job_of_several_processes_gets_as_many_gpus(started, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(local, "cores", lambda: 16)
    with LocalEngine(2, processes=2) as engine:
        jobs = [engine.start(Row({}, tmp_path)) for _ in range(2)]
        for job in jobs:
            job.stop()
    assert gpus_of(started) == ["0,1", "2,3"]
    assert [environment[VARIABLE] for environment in started] == ["2", "2"]
    assert [environment["OMP_NUM_THREADS"] for environment in started] == ["4", "4"]
    with pytest.raises(ValueError, match="5 processes a job need as many GPUs; here are 4"):
        LocalEngine(1, processes=5)


def test_gpus_are_those_that_the_driver_of_nvidia_lists(started, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho GPU-8f1c\necho GPU-77aa\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus() == ["GPU-8f1c", "GPU-77aa"]


def test_without_a_gpu_jobs_keep_their_environment(started, monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local.shutil, "which", lambda name: None)
    with LocalEngine(2, processes=2) as engine:
        engine.start(Row({}, tmp_path)).stop()
    assert gpus_of(started) == [None]


@pytest.mark.parametrize(
    ("system", "gpus", "forked"), [("linux", "", True), ("linux", "0", False), ("darwin", "", False)]
)
def test_jobs_are_forked_on_linux_where_there_are_no_gpus(system, gpus, forked, monkeypatch, tmp_path):
    monkeypatch.setattr(local.sys, "platform", system)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    begun = []

    class Server:
        alive = True

        def __init__(self, environment, errors):
            begun.append(f"server with {environment['OMP_NUM_THREADS']} threads")

        def start(self, asked, folder, environment):
            begun.append(asked["row"])

        def close(self):
            begun.append("closed")

    monkeypatch.setattr(local, "ForkServer", Server)
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.setattr(local, "start_process", lambda asked, folder, environment: None)
    with LocalEngine(2) as engine:
        for name in ("a", "b"):
            engine._process_of(Row({"row": name}, tmp_path), local.job_environment(4, "", 1))
    assert begun == (["server with 4 threads", "a", "b", "closed"] if forked else [])
