"""Kills a running grid at random moments: its driver, the server that forks jobs, a job's process, a
kernel. What is left has to be whole at every moment, and in the end every row is there once.

    python tests/kill_grid.py --kills 20 --seed 7

Grids are those of test_grid_runs.py in size: two small rows of a base of width 32. When one is done
before all kills have happened, the next begins in another folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pyarrow.parquet
import yaml
from safetensors import safe_open
from tiny_world import COMMONSENSE, make_world

from bslora_kit import paths

LIMIT = 2  # items a task
ROWS = [
    {"row": "base", "method": "none"},
    {"row": "ss-1-1-1", "method": "bslora", "fit": "slice", "ranks": [1, 1, 1]},
]
STEPS = 40
STAGES = ["starting", "loading", "training", "scoring"]
# Seconds of processor time from the begin of a stage to a kill at most; on a busy machine seconds of a
# clock would always end while jobs start.
LATEST = {"starting": 8.0, "loading": 1.0, "training": 2.0, "scoring": 1.0}
TARGETS = {
    "server": "bslora-server",
    "job": "bslora-job",
    "kernel": "bslora-kernel",
}  # names of processes
KINDS = ["driver", *TARGETS]
GRIDS = 40  # at most; a kind that no grid has would be waited for without end


def start_driver(folder: Path, out: Path, rows: list[dict] = ROWS) -> subprocess.Popen[str]:
    """Starts a grid; `folder` takes its file and what the driver says, `out` the runs."""
    grid = folder / "killed.yaml"
    grid.write_text(yaml.safe_dump({"rows": rows}), encoding="utf-8")
    sets = ["--set", f"steps={STEPS}", "--set", f"limit={LIMIT}"]
    with (folder / "driver.log").open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "bslora_kit.grid", str(grid), "--profile", "tiny"]
            + ["--out", str(out), *sets],
            stdout=log,
            stderr=log,
            cwd=paths.ROOT,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},  # jobs are forked where no GPU is seen
        )


def processor_seconds(driver: subprocess.Popen[str]) -> float:
    """What the driver and its living descendants have used."""
    used = 0.0
    try:
        parent = psutil.Process(driver.pid)
        for process in [parent, *parent.children(recursive=True)]:
            times = process.cpu_times()
            used += times.user + times.system
    except psutil.Error:  # one has ended meanwhile: the next look is right
        pass
    return used


def wait_for_a_moment(driver: subprocess.Popen[str], runs: Path, draw: random.Random | None) -> None:
    """Waits for a random moment of a random stage of some job; without `draw` for the driver's end."""
    begin = psutil.Process(driver.pid).create_time()
    stage = draw.choice(STAGES) if draw else "none"
    moment = draw.uniform(0, LATEST[stage]) if draw else 0.0
    reached = 0.0 if stage == "starting" else None  # processor seconds at the begin of the stage
    while driver.poll() is None:
        used = processor_seconds(driver)
        if reached is None and any(
            at["stage"] == stage and at["time"] > begin for at in progress(runs).values()
        ):
            reached = used
        if draw and reached is not None and used >= reached + moment:
            return
        time.sleep(0.05)


def progress(runs: Path) -> dict[str, dict]:
    """What the jobs' progress.json say, by row."""
    paths = sorted(runs.glob("*/progress.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def kill(driver: subprocess.Popen[str], target: str, draw: random.Random) -> bool:
    """Ends one process with SIGKILL; False if there is none of this kind now."""
    if target == "driver":
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        _, alive = psutil.wait_procs(family, timeout=120)
        assert not alive, f"{alive} outlive their driver"
        return True
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if process.name() == TARGETS[target]:
                found.append(process)
        except psutil.Error:  # it has ended meanwhile
            continue
    try:
        if found:
            draw.choice(found).kill()
    except psutil.NoSuchProcess:
        return False
    return bool(found)


def check_files(runs: Path) -> None:
    """Every file that has its final name is whole; history.jsonl grows line by line until the end."""
    # Unlike rglob, walk does not mind a folder that a job removes meanwhile.
    for path in [Path(folder, name) for folder, _, names in os.walk(runs) for name in names]:
        name = str(path.relative_to(runs))
        if ".part" in name or ".writing" in name:
            continue
        try:
            if path.suffix in (".json", ".ipynb"):
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".parquet":
                pyarrow.parquet.read_table(path)
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as tensors:
                    assert list(tensors.keys())
        except FileNotFoundError:  # an older checkpoint that a job has removed meanwhile
            continue
        except Exception as error:
            raise AssertionError(f"{path} is not whole") from error


def check_done(runs: Path, rows: list[dict] = ROWS) -> None:
    """Every row is there once, with all its steps and items."""
    assert sorted(path.name for path in runs.iterdir() if path.is_dir()) == sorted(
        f"{row['row']}-s0" for row in rows
    )
    for row in rows:
        folder = runs / f"{row['row']}-s0"
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        assert (result["run"]["row"], result["run"]["method"]) == (row["row"], row["method"])
        items = pyarrow.parquet.read_table(folder / "items.parquet").to_pylist()
        asked = [(item["task"], item["doc_id"]) for item in items]
        assert len(asked) == len(set(asked)) == LIMIT * len(COMMONSENSE)
        assert not (folder / "checkpoints").exists() and not (folder / "error.txt").exists()
        if (folder / "run.ipynb").is_file():  # a kill behind result.json may cost the notebook
            nbformat.validate(nbformat.read(folder / "run.ipynb", as_version=4))
        if row["method"] != "none":
            history = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line)["step"] for line in history] == list(range(1, STEPS + 1))
            assert (folder / "adapter" / "adapter_model.safetensors").is_file()


def kill_at_random(root: Path, kills: int, draw: random.Random) -> Iterator[str]:
    """Runs grids under `root` with so many kills; says what was killed and when.

    Each kind is killed once before any is killed again; one that is not there at a moment waits for
    another.

    Raises:
        AssertionError: if something is lost, doubled or half.
    """
    targets = itertools.chain.from_iterable(draw.sample(KINDS, len(KINDS)) for _ in itertools.count())
    target = next(targets)
    for number in itertools.count():
        assert number < GRIDS, f"no {target} was found to be killed in {GRIDS} grids"
        folder = root / str(number)
        folder.mkdir()
        runs = folder / "runs" / "killed"
        finished: dict[Path, tuple[int, bytes]] = {}
        driver, unharmed = start_driver(folder, runs.parent), 0
        try:
            while not _all_done(runs) or driver.poll() is None:
                if driver.poll() is not None:  # killed, or a kernel's death has failed a row
                    unharmed += not kills
                    assert unharmed < 3, (folder / "driver.log").read_text(encoding="utf-8")[-4000:]
                    driver = start_driver(folder, runs.parent)
                wait_for_a_moment(driver, runs, draw if kills else None)
                if kills and driver.poll() is None:
                    for path in runs.glob("*/result.json"):
                        finished.setdefault(path, (path.stat().st_mtime_ns, path.read_bytes()))
                    at = ", ".join(
                        f"{row} {now['stage']} {now['step']}" for row, now in progress(runs).items()
                    )
                    if kill(driver, target, draw):
                        kills -= 1
                        check_files(runs)
                        yield f"{target} killed; rows were at {at or 'nothing'}"
                        target = next(targets)
        finally:
            if driver.poll() is None:
                kill(driver, "driver", draw)
        check_files(runs)
        check_done(runs)
        for path, before in finished.items():
            assert (path.stat().st_mtime_ns, path.read_bytes()) == before, f"{path} was made twice"
        if not kills:
            return


def _all_done(runs: Path) -> bool:
    return len(list(runs.glob("*/result.json"))) == len(ROWS)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills a grid at random moments and checks its files.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of what is killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["BSLORA_KIT_DATA"] = str(make_world(Path(temporary) / "data"))
        runs = Path(temporary) / "grids"
        runs.mkdir()
        draw = random.Random(options.seed)
        for number, line in enumerate(kill_at_random(runs, options.kills, draw), 1):
            print(f"{number:3}/{options.kills}  {line}", flush=True)
    print("nothing lost, nothing doubled, no half file")
    return 0


if __name__ == "__main__":
    sys.exit(main())
