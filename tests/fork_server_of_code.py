"""A fork server whose jobs run code of a test in place of a notebook.

    python tests/fork_server_of_code.py [MODULE TO IMPORT ...] CONNECTION

Started by `bslora_kit.grid.fork_server.ForkServer` as the server of a grid is.
"""

from __future__ import annotations

import importlib
import sys
import types

from bslora_kit.grid import fork_server
from bslora_kit.jobs import run_job


def import_little() -> None:
    for name in ("bslora_kit.jobs.notebook", *sys.argv[1:-1]):
        importlib.import_module(name)
    sys.modules["state_of_jobs"] = types.ModuleType("state_of_jobs")


def run_code(asked: dict, standby: object) -> int:
    names: dict[str, object] = {"kernel": standby}
    exec(asked["code"], names)
    return int(names.get("status", 0))


if __name__ == "__main__":
    fork_server._import_all = import_little
    fork_server._prepare = lambda asked: None
    run_job.exit_status_of = run_code
    sys.exit(fork_server.main(sys.argv[-1]))
