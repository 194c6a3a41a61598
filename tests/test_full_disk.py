"""A real grid on a full disk: it says so, leaves nothing half, and goes on when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import full_disk
import pytest

from bslora_kit import paths


def test_a_grid_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("no unshare (util-linux) on this machine, so no disk of its own for this test")
    own_mounts = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]
    tried = subprocess.run([*own_mounts, *mount], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this user may not mount a disk here: {tried.stderr.strip()}")
    finished = subprocess.run(
        [*own_mounts, sys.executable, full_disk.__file__, "--free", "128"],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr[-4000:]
    assert "No space left on device" in finished.stdout
