"""Real grids: rows run by real drivers, killed in the middle and resumed; jobs that die.

A width of 32 and two items a task: a job spends its time on imports anyway.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from kill_grid import KINDS, kill_at_random
from tiny_world import make_world

from bslora_kit import paths
from bslora_kit.jobs.lock import is_locked
from bslora_kit.jobs.progress import read_progress
from bslora_kit.jobs.run_job import NOTEBOOK, JobFailed, run_job

GRID = """
title: Two rows
rows:
  - {row: base, label: Untouched base, method: none}
  - {row: ss-1-1-1, label: BSLoRA (SS), method: bslora, fit: slice, ranks: [1, 1, 1]}
"""
STEPS = 250  # more than are done before the driver is killed


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def environment(data, monkeypatch) -> None:
    monkeypatch.setenv("BSLORA_KIT_DATA", str(data))


@contextmanager
def driver(folder: Path, steps: int) -> Iterator[subprocess.Popen]:
    """A running driver, which does not outlive a failed test."""
    grid = folder / "two.yaml"
    grid.write_text(GRID)
    options = ["--profile", "tiny", "--jobs", "2", "--out", str(folder / "runs")]
    sets = ["--set", f"steps={steps}", "--set", "limit=2"]
    with subprocess.Popen(
        [sys.executable, "-m", "bslora_kit.grid", str(grid), *options, *sets],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=paths.ROOT,
        # A shell starts what it puts in the background deaf to SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true, what: str, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.1)


def test_a_killed_driver_takes_its_jobs_along_and_the_next_one_goes_on(tmp_path):
    folder = tmp_path / "runs" / "two"
    base, trained = folder / "base-s0", folder / "ss-1-1-1-s0"
    with driver(tmp_path, STEPS) as first:
        wait_until((base / "result.json").is_file, "the base is done")
        wait_until(lambda: (trained / "checkpoints").is_dir(), "the other row has a checkpoint")
        first.kill()
    wait_until(lambda: not is_locked(trained), "the killed driver's job ends")
    reached = len((trained / "history.jsonl").read_text().splitlines())
    assert 0 < reached < STEPS and not (trained / "result.json").exists()
    written = (base / "result.json").stat().st_mtime_ns

    with driver(tmp_path, STEPS + 1) as other:
        output = other.communicate()[0]
    assert other.returncode == 2
    assert f"ss-1-1-1-s0: steps: {STEPS} there, {STEPS + 1} asked" in output

    with driver(tmp_path, STEPS) as second:
        output = second.communicate()[0]
    assert second.returncode == 0, output
    assert (base / "result.json").stat().st_mtime_ns == written
    assert sorted(path.parent.name for path in folder.glob("*/result.json")) == [base.name, trained.name]
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == list(range(1, STEPS + 1))
    nbformat.validate(nbformat.read(trained / "run.ipynb", as_version=4))
    assert not list(trained.glob("*.part*")) and not (trained / "error.txt").exists()
    machine = json.loads((trained / "result.json").read_text())["machine"]
    assert machine["threads"] == max(1, machine["cores"] // 2)
    assert (folder / "table.html").is_file() and "BSLoRA (SS)" in output
    # How many lines say how long it still takes is a matter of the machine.
    assert len([line for line in output.splitlines() if " left  |  " not in line]) < 40

    with driver(tmp_path, STEPS) as third:
        output = third.communicate()[0]
    assert third.returncode == 0 and "2 done, 0 to do" in output and "BSLoRA (SS)" in output
    assert (base / "result.json").stat().st_mtime_ns == written


def test_an_interrupted_driver_ends_its_jobs_and_says_how_to_go_on(tmp_path):
    trained = tmp_path / "runs" / "two" / "ss-1-1-1-s0"
    with driver(tmp_path, 100 * STEPS) as stopped:
        wait_until(lambda: read_progress(trained).get("step", 0) > 0, "training has begun")
        stopped.send_signal(signal.SIGINT)
        output = stopped.communicate()[0]
    assert stopped.returncode == 130
    assert "of 2 runs done; the same command goes on" in output
    wait_until(lambda: not is_locked(trained), "the job ends")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are not forked")
def test_five_kills_at_random_moments_lose_double_and_halve_nothing(tmp_path):
    seed = random.randrange(10**6)
    print(f"python tests/kill_grid.py --kills 5 --seed {seed}")  # the same choices, other moments
    killed = [line.split()[0] for line in kill_at_random(tmp_path, 5, random.Random(seed))]
    assert len(killed) == 5 and set(killed) == set(KINDS)


def notebook_with(code: str, folder: Path) -> Path:
    """The job's notebook, with a cell behind its parameters."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(2, nbformat.v4.new_code_cell(code))
    path = folder / "job.ipynb"
    nbformat.write(notebook, path)
    return path


def test_a_kernel_that_dies_leaves_a_notebook_and_a_reason(tmp_path):
    notebook = notebook_with("import os; os._exit(9)", tmp_path)
    folder = tmp_path / "run"
    with pytest.raises(JobFailed, match="the kernel died"):
        run_job({"profile": "tiny", "out_dir": str(folder)}, notebook)
    assert "memory" in (folder / "error.txt").read_text()
    assert (folder / "failed.ipynb").is_file() and not (folder / "run.ipynb").exists()


def test_a_misspelt_method_leaves_the_error_and_the_known_ones(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(JobFailed, match="'lroa' is unknown; use one of none, lora, bslora"):
        run_job({"profile": "tiny", "method": "lroa", "ranks": [2], "out_dir": str(folder)})
    assert (folder / "error.txt").read_text().startswith("ValueError: method 'lroa' is unknown")
    failed = nbformat.read(folder / "failed.ipynb", as_version=4)
    outputs = [output for cell in failed.cells for output in cell.get("outputs", [])]
    assert [output.ename for output in outputs if output.output_type == "error"] == ["ValueError"]
    assert not os.path.lexists(folder / "result.json")
