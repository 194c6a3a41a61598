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

from bslora_kit.files import fingerprint_of
from bslora_kit.jobs.inputs import base_files, base_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Base(NamedTuple):
    """A base model, on the CPU, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


_ready: dict[tuple[str, str, str], Base] = {}  # at most one: a real one takes gigabytes


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
    """
    return _ready.pop(_key(name, precision), None) or _read(name, precision)


def keep_ready(name: str, precision: str) -> None:
    """Loads a base for the copies of this process, in place of the one that was ready before.

    The copies share its memory as long as none of them writes to it, which training an adapter does not.
    Starts no thread that a fork would lose. Arguments and errors as those of `load_base`.
    """
    key = _key(name, precision)
    if key in _ready:
        return
    _ready.clear()
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # transformers reads files in threads otherwise
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _ready[key] = _read(name, precision)
    finally:
        torch.set_num_threads(threads)


def _key(name: str, precision: str) -> tuple[str, str, str]:
    folder = base_folder(name)
    return str(folder or name), precision, fingerprint_of(base_files(folder)) if folder else ""


def _read(name: str, precision: str) -> Base:
    disable_progress_bar()  # of loading: an executed notebook would keep each of its frames
    try:
        source = source_of(name)
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=_DTYPES[precision])
    except (OSError, ValueError, SafetensorError) as error:
        raise FileNotFoundError(
            f"base_model {name!r} cannot be loaded ({str(error).splitlines()[0]}); give the path "
            "of a folder with config.json, safetensors weights and tokenizer (--set "
            "base_model=PATH), or fetch it with `hf download` after accepting its licence"
        ) from error
    return Base(model, tokenizer)
