"""Loads a base and its tokenizer: when a job needs them, or before, in the process it is a copy of.

fork server: keep_ready --- job --- kernel: load_base takes what is ready
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from bslora_kit.jobs.inputs import base_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Base(NamedTuple):
    """A base model, on the CPU, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


_Key = tuple[str, str, tuple[tuple[str, int, int], ...]]  # folder, precision, its files
_ready: dict[_Key, Base] = {}  # at most one: a real one takes gigabytes
_THREADS_OF_TRANSFORMERS = "HF_DEACTIVATE_ASYNC_LOAD"


def source_of(name: str) -> Path | str:
    """A base's folder, or its name on the hub; see `inputs.base_folder`."""
    return base_folder(name) or name


def load_base(name: str, precision: str) -> Base:
    """A base that is the caller's to adapt.

    Args:
        name: as in `inputs.base_folder`.
        precision: of its weights, "fp32", "bf16" or "fp16".

    Raises:
        FileNotFoundError: if it cannot be loaded; says what to do.
        ValueError: if its config.json is not a JSON object.
    """
    folder = base_folder(name) if _ready else None
    ready = _ready.pop(_key(folder, precision), None) if folder else None
    return ready or _read(name, precision)


def keep_ready(name: str, precision: str) -> None:
    """Loads a base for the copies of this process, in place of the one that was ready before.

    The copies share its memory as long as none of them writes to it, which training an adapter does not.
    In a process that computes with one thread no other is left, which a fork would lose; so a base of
    the hub, which threads fetch and convert, is left to the copies. Arguments and errors as those of
    `load_base`.
    """
    folder = base_folder(name)
    if folder is None or (key := _key(folder, precision)) in _ready:
        return
    _ready.clear()
    said = os.environ.get(_THREADS_OF_TRANSFORMERS)
    os.environ[_THREADS_OF_TRANSFORMERS] = "1"
    try:
        _ready[key] = _read(name, precision)
    finally:
        del os.environ[_THREADS_OF_TRANSFORMERS]
        if said is not None:
            os.environ[_THREADS_OF_TRANSFORMERS] = said


def _key(folder: Path, precision: str) -> _Key:
    """Tells a base from what the same folder held before: whatever file has changed since."""
    files = sorted((path.name, path.stat()) for path in folder.iterdir())
    return str(folder), precision, tuple((name, of.st_size, of.st_mtime_ns) for name, of in files)


def _read(name: str, precision: str) -> Base:
    disable_progress_bar()  # of loading: an executed notebook would keep each of its frames
    source = source_of(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=_DTYPES[precision])
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(
            f"base_model {name!r} cannot be loaded ({str(error).splitlines()[0]}); give the path "
            "of a folder with config.json, safetensors weights and tokenizer (--base-model PATH), or "
            "fetch it with `hf download` after accepting its licence"
        ) from error
    return Base(model, tokenizer)
