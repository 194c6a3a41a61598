"""Loading over an adapter that is there: what the weights do not show is compared first.

`PeftModel.load_adapter` reads the config of a folder only for a name that is new. For a name that is
there, as when the Trainer resumes, it copies the weights and keeps the settings: weights trained with
scaling 4 would act with scaling 2. A tuner is handed the tensors but not the folder they come from, so
the method itself is wrapped; adapters of other methods pass through. Written against peft 0.21.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from peft import PeftModel

from bslora_kit.adapters.matching import linears_difference
from bslora_kit.methods import SETTINGS, SharedLoraConfig


def check_settings_on_reload() -> None:
    """Makes `PeftModel.load_adapter` refuse a file that was saved with other settings. Acts once."""
    load_adapter = PeftModel.load_adapter
    if hasattr(load_adapter, "checks_settings"):
        return

    @functools.wraps(load_adapter)
    def checked(
        self: PeftModel, model_id: str | os.PathLike[str], adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        config = self.peft_config.get(adapter_name)
        if isinstance(config, SharedLoraConfig):
            _compare(config, model_id, adapter_name, self._split_kwargs(kwargs)[0])
        return load_adapter(self, model_id, adapter_name, *args, **kwargs)

    checked.checks_settings = True
    PeftModel.load_adapter = checked


def _compare(
    config: SharedLoraConfig, folder: str | os.PathLike[str], name: str, download: dict[str, Any]
) -> None:
    """Refuses the adapter in a folder if it was saved with other settings than `config` has.

    A config that awaits weights was read from a file. Had that file the settings of this one, then what
    differs now was changed on purpose; only its linears are compared, by `SharedLoraModel`.

    Raises:
        ValueError: if a setting differs or the weights are not those that were saved.
    """
    saved = SharedLoraConfig.from_pretrained(folder, **download)
    if not isinstance(saved, SharedLoraConfig):
        return  # the entries of its file do not fit, which is said when they are compared
    if config.awaits_weights:
        config.linears_in_file = saved.adapted_linears
        if config.settings_in_file == saved.settings_in_file:
            return
    problem = linears_difference(saved.adapted_linears, config.adapted_linears)
    for setting in SETTINGS:
        here, there = getattr(config, setting), getattr(saved, setting)
        if here != there and not problem:
            problem = f"it was saved with {setting} {there!r} and the adapter here has {here!r}"
    if problem:
        raise ValueError(
            f"{folder} does not fit adapter {name!r}: {problem}. Loading under a name that is there "
            f"keeps its settings; load under another name, or call delete_adapter({name!r}) first. The "
            "weights that are here stay as they were"
        )
