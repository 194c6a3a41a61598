"""Jobs forked from one server: what is a job's own, and what ends with what.

Jobs run a few lines of code in place of a notebook, from a server that imports little
(fork_server_of_code.py); test_grid_runs.py runs and kills real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fork_server_of_code
import nbformat
import psutil
import pytest
from nbformat import v4

from bslora_kit import paths
from bslora_kit.grid import fork_server
from bslora_kit.grid.engine import LOG, EngineUnavailable, job_environment
from bslora_kit.grid.fork_server import ForkedProcess, ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are not forked")

SECONDS = 60  # far more than an end takes, on a busy machine too
SERVER_OF_CODE = [sys.executable, fork_server_of_code.__file__]
ENVIRONMENT = f"""
import json, os, sys, time, psutil, torch
latest = time.monotonic() + {SECONDS}
while kernel.name() == psutil.Process().name() and time.monotonic() < latest:
    time.sleep(0.01)  # a copy names itself, as soon as it runs
group = os.getsid(0) == os.getpid()
print(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("ONLY_FIRST"), os.getcwd(), group]))
print(psutil.Process().name(), kernel.name(), file=sys.stderr)
"""
STATE = """
import json, random, state_of_jobs, numpy, torch
seen = [torch.initial_seed(), torch.get_num_threads(), torch.cuda.is_initialized()]
seen += [vars(state_of_jobs).get("mark")]
print(json.dumps([seen, random.random(), numpy.random.random()]))
torch.manual_seed(7); torch.set_num_threads(2); state_of_jobs.mark = "first"
"""
NOTEBOOK = """
import tempfile
from pathlib import Path
from bslora_kit.jobs.notebook import execute
folder = Path(%r)
with tempfile.TemporaryDirectory() as sockets:
    try:
        execute(folder / "in.ipynb", folder / "out.ipynb", {"x": 3}, Path(sockets), kernel)
    except Exception as error:
        print(type(error).__name__)
print(kernel.poll())
"""
# Written at once: where output is not buffered, print writes part by part.
WAIT = "import os, time; os.write(1, f'{os.getpid()} {kernel.pid}\\n'.encode()); time.sleep(600)"


@pytest.fixture(scope="module")
def temporary(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(temporary) -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_COMMAND", [*SERVER_OF_CODE, "torch"])
        server = ForkServer(job_environment(1, str(temporary), 1), temporary / "server.log")
    yield server
    server.close()


def start(server: ForkServer, folder: Path, code: str, **variables: str) -> ForkedProcess:
    folder.mkdir(exist_ok=True)
    return server.start({"code": code}, folder, job_environment(1, str(folder), 1) | variables)


def output(folder: Path) -> list[str]:
    return (folder / LOG).read_text().splitlines()


def processes_of(folder: Path) -> list[psutil.Process]:
    """The job that has begun to wait, and its kernel."""
    return [psutil.Process(int(number)) for number in output(folder)[0].split()]


def wait_for_output(job: ForkedProcess | subprocess.Popen, folder: Path) -> None:
    """Waits for a line; `job` runs until then."""
    while not (folder / LOG).is_file() or not (folder / LOG).read_text().endswith("\n"):
        assert job.poll() is None
        time.sleep(0.01)


def test_each_job_has_its_environment_its_log_and_its_session(server, tmp_path):
    first = start(server, tmp_path / "a", ENVIRONMENT, CUDA_VISIBLE_DEVICES="3", ONLY_FIRST="yes")
    second = start(server, tmp_path / "b", ENVIRONMENT, CUDA_VISIBLE_DEVICES="GPU-b")
    assert (first.wait(), second.wait()) == (0, 0)
    ran_in = str(paths.ROOT)
    assert json.loads(output(tmp_path / "a")[0]) == ["3", "yes", ran_in, True]
    assert json.loads(output(tmp_path / "b")[0]) == ["GPU-b", None, ran_in, True]
    assert output(tmp_path / "a")[1] == "bslora-job bslora-kernel"


def test_no_job_sees_what_another_has_changed(server, tmp_path):
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert start(server, folder, STATE).wait() == 0
        found.append(json.loads(output(folder)[0]))
    (state, python, array), (other_state, other_python, other_array) = found
    assert state == other_state == [state[0], 1, False, None]
    assert python != other_python and array != other_array  # as in processes of their own


def run_notebook(server: ForkServer, folder: Path, code: str) -> tuple[list[str], list[str]]:
    """What a job's notebook with this cell prints, and what its job: an error, the kernel's status."""
    folder.mkdir()
    cells = [v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]}), v4.new_code_cell(code)]
    notebook = v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    nbformat.write(notebook, folder / "in.ipynb")
    assert start(server, folder, NOTEBOOK % str(folder), ONLY_FIRST="yes").wait() == 0
    executed = nbformat.read(folder / "out.ipynb", as_version=4)
    return [one.text.strip() for one in executed.cells[-1].outputs], output(folder)


def test_a_kernel_forked_from_the_server_is_like_one_of_its_own(server, tmp_path):
    code = """import json, os, sys
got = [x, os.environ["ONLY_FIRST"], os.getcwd(), __name__, sys.path[0] in sys.path[1:]]
print(json.dumps([*got, os.getsid(0) == os.getpid(), "state_of_jobs" in sys.modules]))"""
    printed, said = run_notebook(server, tmp_path / "run", code)
    assert json.loads(printed[0]) == [3, "yes", str(paths.NOTEBOOKS), "__main__", False, True, True]
    # jupyter_client terminates one that is slow to end, and kills one that is slow to do that.
    assert int(said[-1]) in (0, -signal.SIGTERM, -signal.SIGKILL)


def test_the_death_of_a_forked_kernel_is_seen(server, tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    printed, said = run_notebook(server, tmp_path / "run", code)
    assert printed == [] and said[-2:] == ["DeadKernelError", str(-signal.SIGKILL)]


def test_exit_statuses_are_those_of_the_jobs(server, tmp_path):
    assert start(server, tmp_path / "status", "status = 3").wait() == 3
    assert start(server, tmp_path / "error", "1 / 0").wait() == 1
    assert "ZeroDivisionError" in output(tmp_path / "error")[-1]
    waiting = start(server, tmp_path / "killed", WAIT)
    assert waiting.poll() is None
    wait_for_output(waiting, tmp_path / "killed")
    job, kernel = processes_of(tmp_path / "killed")
    waiting.kill()
    assert waiting.wait() == waiting.poll() == -signal.SIGKILL
    assert not psutil.wait_procs([job, kernel], SECONDS)[1]
    assert start(server, tmp_path / "next", "status = 0").wait() == 0


def test_a_killed_server_takes_its_jobs_along_and_they_count_as_lost(monkeypatch, tmp_path):
    monkeypatch.setattr(fork_server, "_COMMAND", SERVER_OF_CODE)
    server = ForkServer(job_environment(1, str(tmp_path), 1), tmp_path / "server.log")
    waiting = start(server, tmp_path / "job", WAIT)
    wait_for_output(waiting, tmp_path / "job")
    job, kernel = processes_of(tmp_path / "job")
    assert server.alive
    job.parent().kill()
    assert waiting.wait() == -signal.SIGKILL
    assert not psutil.wait_procs([job, kernel], SECONDS)[1] and not server.alive
    late = start(server, tmp_path / "late", WAIT)
    assert late.wait() == -signal.SIGKILL
    server.close()


DRIVER = """
import sys
from pathlib import Path
from bslora_kit.grid import fork_server
from bslora_kit.grid.engine import job_environment
fork_server._COMMAND, folder = sys.argv[2:], Path(sys.argv[1])
server = fork_server.ForkServer(job_environment(1, str(folder), 1), folder / "server.log")
server.start({"code": %r}, folder, job_environment(1, str(folder), 1)).wait()
"""


def test_a_killed_driver_takes_server_job_and_kernel_along(tmp_path):
    command = [sys.executable, "-c", DRIVER % WAIT, str(tmp_path), *SERVER_OF_CODE]
    with subprocess.Popen(command, cwd=paths.ROOT) as driver:
        wait_for_output(driver, tmp_path)
        family = psutil.Process(driver.pid).children(recursive=True)
        assert {process.pid for process in processes_of(tmp_path)} < {one.pid for one in family}
        driver.kill()
    assert len(family) == 3 and not psutil.wait_procs(family, SECONDS)[1]


def test_a_server_that_cannot_import_says_why(monkeypatch, tmp_path):
    broken = "import no_such_module_as_this"
    monkeypatch.setattr(fork_server, "_COMMAND", [sys.executable, "-c", broken])
    server = ForkServer(dict(os.environ), tmp_path / "server.log")
    with pytest.raises(EngineUnavailable, match="No module named 'no_such_module_as_this'"):
        start(server, tmp_path / "job", WAIT).wait()
    server.close()
