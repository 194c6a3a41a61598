"""Files that are either whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_READ_WHOLE = 64 * 2**20  # bytes; of a larger file the fingerprint takes name and size


def write_text(path: Path, text: str) -> None:
    """Writes a text file in one move; a reader sees the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_json(path: Path, content: Any) -> None:
    """Writes plain data as indented JSON in one move.

    Raises:
        ValueError: for NaN or infinity, which JSON does not know.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The content of a JSON file that holds an object, such as params.json.

    Args:
        path: of the file.
        advice: what to do about a file that does not.

    Raises:
        ValueError: for a file that is not a JSON object; names it.
        OSError: for a file that cannot be read.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file; {advice}")
    text = path.read_bytes()
    if not text.strip():
        raise ValueError(f"{path} is empty; {advice}")
    try:
        content = json.loads(text)
    except ValueError as error:  # not JSON, or not even text
        raise ValueError(f"{path} is not JSON ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object; {advice}")
    return content


def fingerprint_of(paths: Iterable[Path]) -> str:
    """Tells one set of files from another: the first 16 hex digits of a SHA-256.

    Args:
        paths: files; their order and folders do not count. Files above 64 MB count by name and size.

    Raises:
        OSError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: (path.name, path.parent.name)):
        size = path.stat().st_size
        digest.update(f"{path.parent.name}/{path.name} {size}\n".encode())
        if size <= _READ_WHOLE:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
