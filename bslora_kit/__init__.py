"""bslora_kit: an exploration kit for LoRA methods that share parameters.

The constructors below are loaded on first use, so that `bslora_kit.plan`, `.shapes` and `.budget`
can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_CONSTRUCTORS = ("lora", "bslora", "share_lora", "tied_lora", "vera", "SharedLoraConfig")
__all__ = [*_CONSTRUCTORS, "Branch", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Branch":
        return importlib.import_module("bslora_kit.branches").Branch
    if name in _CONSTRUCTORS:
        # Registers the tuner with PEFT, so that get_peft_model knows the config.
        importlib.import_module("bslora_kit.adapters")
        return getattr(importlib.import_module("bslora_kit.methods"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
