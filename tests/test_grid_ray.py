"""A grid on a real Ray cluster of two nodes on this machine, one of which is killed in the middle; then
on a third one with a GPU by name alone, which two jobs share.

Nodes of one machine are processes of their own (raylet, workers), which a killed node takes along.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from tiny_world import make_world

from bslora_kit import paths
from bslora_kit.grid.engine import LOG
from bslora_kit.jobs.progress import read_progress

STEPS = 250  # more than are done before the node is killed
NODE = {"object_store_memory": 80 * 2**20, "wait": False}
TRIES = 10
PATIENCE = 1500  # seconds; a machine that others use too may need minutes to start Ray
Started = TypeVar("Started")
ROWS = {
    "lora-1": "{row: lora-1, method: lora, ranks: [1]}",
    "lora-2": "{row: lora-2, method: lora, ranks: [2]}",
    "ss-1-1-1": "{row: ss-1-1-1, method: bslora, fit: slice, ranks: [1, 1, 1]}",
}


def started(start: Callable[[], Started]) -> Started:
    """What `start` gives, which may take some tries.

    A node that has not found its agents within 15 s ends, whatever Ray is told, and Ray waits 30 s for
    it: too short where other processes want the same cores.
    """
    this = psutil.Process()
    before = set(this.children(recursive=True))
    for _ in range(TRIES):
        try:
            return start()
        except Exception as error:  # of no kind of its own
            if "node timed out during startup" not in str(error):
                raise
        for process in set(this.children(recursive=True)) - before:
            process.kill()
    pytest.fail(f"Ray starts no node in {TRIES} tries")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one CPU each, which ask for a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BSLORA_KIT_DATA", str(make_world(tmp_path_factory.mktemp("world") / "data")))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A driver waits for the workers that Ray starts beside it, for ever if they register too late.
        patch.setenv("RAY_worker_register_timeout_seconds", str(PATIENCE))
        patch.setenv("RAY_gcs_server_port_wait_time_s", str(PATIENCE))
        patch.setenv("RAY_health_check_timeout_ms", str(1000 * PATIENCE))
        from ray.cluster_utils import Cluster

        head = {
            **NODE,
            "num_cpus": 1,
            "num_gpus": 0,
            "include_dashboard": False,
            "dashboard_agent_listen_port": 0,  # any that is free, as other nodes have it
            "include_log_monitor": False,
            "no_monitor": True,
        }
        made = started(lambda: Cluster(initialize_head=True, head_node_args=head))
        try:
            started(lambda: made.add_node(**NODE, num_cpus=1, num_gpus=0))
            made.wait_for_nodes(timeout=PATIENCE)
            yield made
        finally:
            made.shutdown()


@contextmanager
def driver(cluster, folder: Path, rows: list[str], *more: str) -> Iterator[subprocess.Popen[str]]:
    """A running driver, which does not outlive a failed test."""
    grid = folder / "some.yaml"
    grid.write_text("\n".join(["rows:", *(f"  - {ROWS[row]}" for row in rows)]))
    options = ["--profile", "tiny", "--out", str(folder / "runs"), "--set", "limit=2", *more]
    with subprocess.Popen(
        [sys.executable, "-m", "bslora_kit.grid", str(grid), *options]
        + ["--engine", "ray", "--address", cluster.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=paths.ROOT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true, what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def jobs_of(node, runs: Path) -> dict[Path, psutil.Process]:
    """Run folder -> process of each job on a node.

    Those that start a job hold its log open too for a moment, and so does the child that has not become
    the job yet: the command line tells them apart.
    """
    (raylet,) = node.all_processes["raylet"]
    found = {}
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        try:
            if "bslora_kit.jobs.run_job" not in process.cmdline():
                continue
            logs = [Path(file.path) for file in process.open_files() if file.path.endswith(LOG)]
        except psutil.Error:  # it has ended meanwhile
            continue
        found |= {log.parent: process for log in logs if log.is_relative_to(runs)}
    return found


def rows_in_training(node, runs: Path) -> list[str]:
    """The rows that a node trains now."""
    at = {folder.name: read_progress(folder) for folder in jobs_of(node, runs)}
    return [row for row, now in at.items() if now.get("stage") == "training" and now["step"]]


def gpus_shared(node, runs: Path) -> list[str]:
    """The GPUs that two jobs of a node see now; none while there are not two.

    A job that is alone is held until it is not: how late the other starts is the machine's affair.
    """
    jobs = jobs_of(node, runs).values()
    try:
        for job in jobs:
            if len(jobs) == 1:
                job.suspend()
            else:
                job.resume()
        seen = [job.environ().get("CUDA_VISIBLE_DEVICES", "all") for job in jobs]
    except psutil.Error:  # one has ended meanwhile
        return []
    return seen if len(seen) == 2 else []


def test_a_lost_nodes_jobs_run_elsewhere_and_every_row_is_there_once(cluster, tmp_path):
    runs, steps = tmp_path / "runs" / "some", ("--set", f"steps={STEPS}")

    with driver(cluster, tmp_path, list(ROWS), *steps) as first:
        (lost,) = cluster.worker_nodes
        wait_until(
            lambda: rows_in_training(lost, runs) or first.poll() is not None, "the other node trains"
        )
        assert first.poll() is None, first.stdout.read()
        cluster.remove_node(lost, allow_graceful=False)
        output = first.communicate()[0]
    assert first.returncode == 0, output
    assert "3 to do, 2 at a time" in output
    again = [line for line in output.splitlines() if "is started again" in line]
    assert len(again) == 1, output
    finished = [
        line.split()[1] for line in output.splitlines() if "parameters" in line and "/3 " in line
    ]
    assert sorted(finished) == [f"{row}-s0" for row in ROWS]
    written = {}
    for row in ROWS:
        folder = runs / f"{row}-s0"
        history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in history] == list(range(1, STEPS + 1))
        result = json.loads((folder / "result.json").read_text())
        assert (result["run"]["row"], result["train"]["status"]) == (row, "done")
        assert result["machine"]["threads"] == 1
        assert (folder / "run.ipynb").is_file() and not list(folder.glob("*.part*"))
        written[row] = (folder / "result.json").stat().st_mtime_ns
    assert sorted(path.parent.name for path in runs.glob("*/result.json")) == [
        f"{row}-s0" for row in ROWS
    ]

    # Whatever Ray remembers, files say what is done.
    with driver(cluster, tmp_path, list(ROWS), *steps) as second:
        output = second.communicate()[0]
    assert second.returncode == 0 and "3 done, 0 to do" in output
    assert written == {row: (runs / f"{row}-s0" / "result.json").stat().st_mtime_ns for row in ROWS}


def test_small_jobs_share_a_gpu(cluster, tmp_path):
    """The GPU is one by name alone, so the jobs compute on the CPU; Ray hands it out all the same."""
    runs, rows = tmp_path / "runs" / "some", ["lora-1", "lora-2"]
    node = started(lambda: cluster.add_node(**NODE, num_cpus=4, num_gpus=1))
    seen = []
    with driver(cluster, tmp_path, rows, "--set", "steps=2", "--gpus-per-job", "0.5") as running:
        wait_until(
            lambda: seen.extend(gpus_shared(node, runs)) or seen or running.poll() is not None,
            "two jobs run on the GPU's node",
        )
        output = running.communicate()[0]
    assert running.returncode == 0, output
    assert "2 to do, 2 at a time" in output
    assert seen == ["0", "0"]
    assert len(list(runs.glob("*/result.json"))) == len(rows)


def test_a_machine_that_does_not_see_the_run_folder_says_so(tmp_path):
    from bslora_kit.grid.ray_cluster import _run_on_machine

    asked = {"out_dir": str(tmp_path / "runs" / "row")}
    with pytest.raises(FileNotFoundError, match="same path"):
        _run_on_machine(
            asked, tmp_path / "runs" / "row", tmp_path, threads=1, processes=1, uses_gpu=False
        )
