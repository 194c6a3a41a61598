"""Fixtures that several test files of grids and jobs share."""

from __future__ import annotations

from pathlib import Path

import pytest
from grid_files import use_world
from tiny_world import make_world


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A tiny world of a file's own; a file that needs more in it has its own fixture of this name."""
    return make_world(tmp_path_factory.mktemp("data"))


@pytest.fixture
def world(data, monkeypatch) -> Path:
    """Has grids and jobs read the tiny world in place of the shipped data."""
    return use_world(data, monkeypatch)
