"""Before PEFT loads or saves: what the tuner cannot see is checked, while nothing is changed.

    load_adapter       weights  are those that the config was saved with, also from a hub
                       settings are those of an adapter of that name
    save_pretrained    weights  are safetensors, the only file that a config vouches for

`PeftModel.load_adapter` reads the config of a folder only for a name that is new. For a name that is
there, as when the Trainer resumes, it copies the weights and keeps the settings: weights trained with
scaling 4 would act with scaling 2. A tuner is handed the tensors but not the file they come from, so
the methods themselves are wrapped; adapters of other methods pass through. Written against peft 0.21.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME

from bslora_kit.adapters.matching import linears_difference
from bslora_kit.adapters.model import take_out
from bslora_kit.methods import SETTINGS, SharedLoraConfig

_NOWHERE_ELSE = "adapters of this kit have their weights there and nowhere else"


def check_files() -> None:
    """Makes `PeftModel` refuse files that do not belong together. Acts once."""
    load_adapter, save_pretrained = PeftModel.load_adapter, PeftModel.save_pretrained
    if hasattr(load_adapter, "checks_files"):
        return

    @functools.wraps(load_adapter)
    def checked_load(
        self: PeftModel, model_id: str | os.PathLike[str], adapter_name: str, *args: Any, **kwargs: Any
    ) -> Any:
        if _is_of_this_kit(self):
            _check(self, model_id, adapter_name, self._split_kwargs(kwargs)[0])
        return load_adapter(self, model_id, adapter_name, *args, **kwargs)

    @functools.wraps(save_pretrained)
    def checked_save(
        self: PeftModel,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if _is_of_this_kit(self) and not safe_serialization:
            raise ValueError(
                "safe_serialization=False would pickle the weights; adapters of this kit are saved as "
                f"{SAFETENSORS_WEIGHTS_NAME}: leave the argument out"
            )
        return save_pretrained(self, save_directory, safe_serialization, *args, **kwargs)

    checked_load.checks_files = True
    PeftModel.load_adapter, PeftModel.save_pretrained = checked_load, checked_save


def _is_of_this_kit(model: PeftModel) -> bool:
    return any(isinstance(config, SharedLoraConfig) for config in model.peft_config.values())


def _check(model: PeftModel, place: str | os.PathLike[str], name: str, download: dict[str, Any]) -> None:
    """Refuses an adapter whose weights or settings are not those that are expected.

    Args:
        model: that the adapter is loaded into.
        place: folder or hub name of the adapter.
        name: that the adapter gets, or has if it is there.
        download: options of `hf_hub_download`.

    Raises:
        ValueError: if the weights are not those that the config was saved with, or if an adapter of
            that name has other settings.
    """
    config = model.peft_config.get(name)
    hub = not Path(place).is_dir()
    if config is None and not hub:
        _require_weights(Path(place, download.get("subfolder") or ""))
        return  # PEFT reads the config, which checks the weights beside it
    saved = SharedLoraConfig.from_pretrained(place, **download)
    if not isinstance(saved, SharedLoraConfig):
        return  # the entries of its file do not fit, which is said when they are compared
    try:
        if hub:
            saved.check_weights(_downloaded(place, download))
        else:
            _require_weights(Path(place, download.get("subfolder") or ""))
    except ValueError:
        if config is not None and config.awaits_weights:
            take_out(model.base_model, name)
        raise
    if config is not None:
        _compare(config, saved, place, name)


def _downloaded(place: str | os.PathLike[str], download: dict[str, Any]) -> Path:
    """The weights of an adapter of a hub, in the cache, from which PEFT reads them afterwards."""
    options = {key: value for key, value in download.items() if key != "use_auth_token"}
    try:
        return Path(hf_hub_download(str(place), SAFETENSORS_WEIGHTS_NAME, **options))
    except EntryNotFoundError as error:
        raise ValueError(
            f"{place} has no {SAFETENSORS_WEIGHTS_NAME} that can be read ({error}); {_NOWHERE_ELSE}"
        ) from error


def _require_weights(folder: Path) -> None:
    """Refuses a folder whose weights PEFT would have to unpickle, or to look for on a hub."""
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise ValueError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}; {_NOWHERE_ELSE}")


def _compare(
    config: SharedLoraConfig, saved: SharedLoraConfig, place: str | os.PathLike[str], name: str
) -> None:
    """Refuses an adapter that was saved with other settings than `config` has.

    A config that awaits weights was read from a file. Had that file the settings of this one, then what
    differs now was changed on purpose; only its linears are compared, by `SharedLoraModel`.

    Raises:
        ValueError: if a setting differs.
    """
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
            f"{place} does not fit adapter {name!r}: {problem}. Loading under a name that is there "
            f"keeps its settings; load under another name, or call delete_adapter({name!r}) first. The "
            "weights that are here stay as they were"
        )
