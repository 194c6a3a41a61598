"""A real JupyterLab in headless Chromium, for tests of what a reader sees and can press.

`open_notebook(name)` opens a copy of a committed notebook and gives a `NotebookPage`. The server listens
on 127.0.0.1 with a token of its own and keeps its settings in a folder of its own. Where chromium or
playwright is missing, the tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import nbformat
import pytest

from bslora_kit.paths import NOTEBOOKS

START_SECONDS = 180  # the server beside other tests
RUN_MILLISECONDS = 300_000  # all cells of a notebook beside other tests
CONTROLS = "button|checkbox|combobox|link|listbox|slider|spinbutton|textbox"  # roles
PATIENCE = 180_000  # milliseconds, beside other tests
SETTINGS = {  # what JupyterLab would ask, fetch or leave undrawn
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@dataclass(frozen=True)
class Server:
    """A JupyterLab that is up.

    Attributes:
        url: its address, without a slash at the end.
        token: what it asks for.
        folder: its notebooks.
    """

    url: str
    token: str
    folder: Path

    def page_of(self, notebook: str) -> str:
        """The address of a notebook in a workspace of its own."""
        return (
            f"{self.url}/lab/workspaces/{Path(notebook).stem}/tree/{notebook}?token={self.token}&reset"
        )


class NotebookPage:
    """A notebook that is open in JupyterLab.

    Attributes:
        page: playwright's page.
        requests: addresses of everything that the page has asked for.
        failures: exceptions that no script of the page has caught.
        received: characters or bytes that kernels have sent to the page.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.failures: list[str] = []
        self.received = 0
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.failures.append(str(error)))
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def open(self, server: Server, notebook: str) -> None:
        """Opens a notebook and waits for its kernel."""
        self.page.goto(server.page_of(notebook))
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=START_SECONDS * 1000)
        self.page.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel"
            "?.connectionStatus === 'connected'",
            timeout=START_SECONDS * 1000,
        )

    def run_all(self) -> None:
        """Runs all cells and waits for the last."""
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.wait_for_function(
            """() => {
                const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
                return prompts.length && prompts.every(prompt => /\\[\\d+\\]/.test(prompt.textContent))
            }""",
            timeout=RUN_MILLISECONDS,
        )

    def errors(self) -> list[str]:
        """What went wrong: tracebacks, widgets that did not come up, exceptions of the page."""
        shown = self.page.locator("[data-mime-type='application/vnd.jupyter.error']").all_inner_texts()
        text = self.page.locator(".jp-Notebook").inner_text()
        broken = re.findall(r"Error (?:displaying|creating) widget[^\n]*|Javascript Error[^\n]*", text)
        return [*shown, *broken, *self.failures]

    def pictures(self, title: str) -> Any:
        """Figures that are no widgets, by words of their title.

        Args:
            title: a part of one line of it.
        """
        return self.page.locator(".jp-RenderedPlotly.js-plotly-plot").filter(has_text=title)

    def unnamed_controls(self) -> list[str]:
        """Controls of widgets that a screen reader cannot name: lines of the accessibility tree."""
        panels = self.page.locator(
            ".jp-OutputArea-output .jupyter-widgets:not(.jupyter-widgets *)"
        ).all()
        lines = [line.strip() for panel in panels for line in panel.aria_snapshot().splitlines()]
        controls = [line for line in lines if re.match(rf"- ({CONTROLS})\b", line)]
        assert controls, "there is no control in the widgets of this notebook"
        return [line for line in controls if not re.match(r'- \w+ "', line)]

    def _count(self, frame: str | bytes) -> None:
        self.received += len(frame)

    def foreign_requests(self) -> list[str]:
        """Addresses asked for that are not on this machine."""
        addresses = [urlsplit(url) for url in self.requests]
        return [
            address.geturl()
            for address in addresses
            if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1"
        ]


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A JupyterLab on copies of the committed notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS, folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), encoding="utf-8")
    found = Server(f"http://127.0.0.1:{_free_port()}", secrets.token_hex(16), folder / "notebooks")
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", "--allow-root"),
        *(f"--ServerApp.port={urlsplit(found.url).port}", "--ServerApp.port_retries=0"),
        *(f"--ServerApp.root_dir={folder / 'notebooks'}", "--LabApp.expose_app_in_browser=True"),
        *("--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"),
    ]
    environment = os.environ | {
        "JUPYTER_TOKEN": found.token,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait_for(found, process, log)
        yield found
    finally:
        process.terminate()  # shuts its kernels down
        try:
            process.wait(timeout=60)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, the system's own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    reason = "playwright is not installed (pip install playwright; its own browsers are not needed)"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    with api.sync_playwright() as playwright:
        # A container's root may not use Chromium's own sandbox; the pages are the kit's own.
        options = {"executable_path": chromium, "args": ["--no-sandbox"]}
        launched = playwright.chromium.launch(**options)
        yield launched
        launched.close()


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """An empty page of 1280 x 900, without cookies of other tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture
def open_notebook(page, server) -> Callable[[str], NotebookPage]:
    """Opens a notebook by its file name."""

    def open_it(name: str) -> NotebookPage:
        notebook = NotebookPage(page)
        notebook.open(server, name)
        return notebook

    return open_it


@pytest.fixture
def write_notebook(server) -> Callable[[str, list[str]], str]:
    """Writes a notebook of some code cells beside the committed ones and gives its name."""

    def write_it(name: str, sources: list[str]) -> str:
        cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}  # not asked for
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), server.folder / name)
        return name

    return write_it


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(server: Server, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{server.url}/api?token={server.token}", timeout=5):
                return
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
