"""A grid on a real Ray cluster of two nodes on this machine, one of which is killed in the middle.

Ray is the extra `cluster` and not among the packages of the tests; without it this file is skipped.
Nodes of one machine are processes of their own (raylet, workers), which a killed node takes along.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from tiny_world import make_world

from bslora_kit import paths
from bslora_kit.grid.engine import LOG
from bslora_kit.jobs.progress import read_progress

pytestmark = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'bslora_kit[cluster]'"
)
STEPS = 250  # more than are done before the node is killed
PATIENCE = 1500  # seconds; a machine that others use too may need minutes to start Ray
ROWS = ["lora-1", "lora-2", "lora-3", "ss-1-1-1"]
GRID = """
rows:
  - {row: lora-1, method: lora, ranks: [1]}
  - {row: lora-2, method: lora, ranks: [2]}
  - {row: lora-3, method: lora, ranks: [3]}
  - {row: ss-1-1-1, method: bslora, fit: slice, ranks: [1, 1, 1]}
"""


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of one CPU each, which ask for a token."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # A driver waits for the workers that Ray starts beside it, for ever if they register too late.
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", str(PATIENCE))
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20, "wait": False}
    made = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        made.add_node(**size)
        made.wait_for_nodes(timeout=PATIENCE)
        yield made
    finally:
        made.shutdown()


@contextmanager
def driver(cluster, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A running driver, which does not outlive a failed test."""
    grid = folder / "four.yaml"
    grid.write_text(GRID)
    options = ["--profile", "tiny", "--out", str(folder / "runs"), "--set", f"steps={STEPS}"]
    with subprocess.Popen(
        [sys.executable, "-m", "bslora_kit.grid", str(grid), *options, "--set", "limit=2"]
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


def rows_in_training(node, runs: Path) -> list[str]:
    """The rows that a node trains now: of its jobs' processes, each holds the log of its run open."""
    (raylet,) = node.all_processes["raylet"]
    found = []
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        try:
            logs = [Path(file.path) for file in process.open_files() if file.path.endswith(LOG)]
        except psutil.Error:  # it has ended meanwhile
            continue
        found += [log.parent for log in logs if log.is_relative_to(runs)]
    at = {folder.name: read_progress(folder) for folder in found}
    return [row for row, now in at.items() if now.get("stage") == "training" and now["step"]]


def test_a_lost_nodes_jobs_run_elsewhere_and_every_row_is_there_once(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("BSLORA_KIT_DATA", str(make_world(tmp_path / "data")))
    runs = tmp_path / "runs" / "four"

    with driver(cluster, tmp_path) as first:
        (lost,) = cluster.worker_nodes
        wait_until(
            lambda: rows_in_training(lost, runs) or first.poll() is not None, "the other node trains"
        )
        assert first.poll() is None, first.stdout.read()
        cluster.remove_node(lost, allow_graceful=False)
        output = first.communicate()[0]
    assert first.returncode == 0, output
    assert "4 to do, 2 at a time" in output
    again = [line for line in output.splitlines() if "is started again" in line]
    assert len(again) == 1, output
    finished = [
        line.split()[1] for line in output.splitlines() if "parameters" in line and "/4 " in line
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

    with driver(cluster, tmp_path) as second:  # whatever Ray remembers, files say what is done
        output = second.communicate()[0]
    assert second.returncode == 0 and "4 done, 0 to do" in output
    assert written == {row: (runs / f"{row}-s0" / "result.json").stat().st_mtime_ns for row in ROWS}


def test_a_machine_that_does_not_see_the_run_folder_says_so(tmp_path):
    from bslora_kit.grid.ray_cluster import _run_on_machine

    asked = {"out_dir": str(tmp_path / "runs" / "row")}
    with pytest.raises(FileNotFoundError, match="same path"):
        _run_on_machine(
            asked, tmp_path / "runs" / "row", tmp_path, threads=1, processes=1, uses_gpu=False
        )
