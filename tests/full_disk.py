"""Runs a grid on a small disk that is full, says what happened, makes room, and runs it to its end.

    unshare --mount python tests/full_disk.py --free 0 64 256

The disk is a tmpfs. `unshare` gives this process mounts of its own, which end with it; where the user
is not root it is `unshare --map-root-user --mount`. Each number is one grid, with
the trained row of kill_grid.py, on a disk with so many KiB left: it fills up at another moment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from kill_grid import ROWS, check_done, check_files, progress, start_driver
from tiny_world import make_world

SIZE = 16 * 2**20  # bytes; a whole grid takes a tenth
TRAINED = ROWS[1:]


def fill(disk: Path, free: int) -> Path:
    """Writes a file that leaves `free` KiB of the disk; returns it."""
    filler, left = disk / "filler", os.statvfs(disk)
    filler.write_bytes(bytes(left.f_bavail * left.f_frsize - free * 1024))
    return filler


def run_full(root: Path, free: int) -> str:
    """One grid on a disk with `free` KiB left; returns what its driver said last.

    Raises:
        AssertionError: if it does not say so, leaves a half file, or does not go on when there is room.
    """
    folder, disk = root / str(free), root / str(free) / "disk"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk], check=True)
    runs = disk / "killed"
    try:
        filler = fill(disk, free)
        status = start_driver(folder, disk, TRAINED).wait()
        said = (folder / "driver.log").read_text(encoding="utf-8").splitlines()[-1]
        assert status == 1 and "No space left on device" in said and "Make room" in said, said
        at = ", ".join(f"{now['stage']} {now['step']}" for now in progress(runs).values())
        check_files(runs)
        assert not list(runs.glob("*/result.json"))
        filler.unlink()
        assert start_driver(folder, disk, TRAINED).wait() == 0, (folder / "driver.log").read_text(
            encoding="utf-8"
        )
        check_files(runs)
        check_done(runs, TRAINED)
    finally:
        subprocess.run(["umount", disk], check=True)
    return f"full at {at or 'the start'}; {said}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs grids on a full disk and checks their files.")
    parser.add_argument("--free", type=int, nargs="+", default=[0], metavar="KIB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["BSLORA_KIT_DATA"] = str(make_world(Path(temporary) / "data"))
        for free in options.free:
            print(f"{free} KiB free: {run_full(Path(temporary), free)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
