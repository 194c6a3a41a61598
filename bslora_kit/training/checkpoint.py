"""Checkpoints of a training run that survive a kill at any moment.

    <run folder>/checkpoints/step-00000120/   trainable.safetensors   the trained parameters
                                              optimizer.safetensors   the optimizer's tensors
                                              state.json              step, identity, loss scale

A checkpoint is written as `.writing` and then renamed, so a folder with a step in its name is
always whole; the two newest are kept. Random numbers need no place in it: the training loop draws
those of a step from (seed, step). Nothing is pickled. The identity says which run the checkpoint
belongs to (settings, parameters, data, frozen weights); another run is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

KEPT = 2  # generations: the newest, and one to fall back to by hand
_SAMPLED = 64  # elements of each frozen tensor that enter its fingerprint


class CheckpointMismatch(ValueError):
    """A checkpoint belongs to another run than the one that would resume from it."""


def all_checkpoints(run_folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted((run_folder / "checkpoints").glob("step-*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """How many steps were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(
    run_folder: Path,
    step: int,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> Path:
    """Writes a checkpoint beside the others, moves it into place and removes the oldest.

    Args:
        run_folder: the run's folder.
        step: steps done so far.
        parameters: the trained parameters by name, in the optimizer's order.
        optimizer: the optimizer of exactly these parameters.
        state: what else to keep, as JSON can hold it; among it "identity".

    Returns:
        The folder of the new checkpoint.
    """
    folder = run_folder / "checkpoints"
    writing, final = folder / ".writing", folder / f"step-{step:08}"
    writing.mkdir(parents=True)
    save_file(_copies(parameters), writing / "trainable.safetensors")
    save_file(_copies(_optimizer_tensors(parameters, optimizer)), writing / "optimizer.safetensors")
    (writing / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
    for path in [*writing.iterdir(), writing]:
        _sync(path)
    os.rename(writing, final)
    _sync(folder)
    remove_superseded(run_folder)
    return final


def remove_superseded(run_folder: Path) -> None:
    """Removes all but the newest checkpoints, and one that a kill left half written."""
    shutil.rmtree(run_folder / "checkpoints" / ".writing", ignore_errors=True)
    for old in all_checkpoints(run_folder)[:-KEPT]:
        shutil.rmtree(old)


def load_checkpoint(
    path: Path,
    parameters: Mapping[str, Parameter],
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> dict[str, Any]:
    """Restores parameters and optimizer in place.

    Returns:
        The state that was saved with it.

    Raises:
        CheckpointMismatch: the checkpoint belongs to another run; names what differs.
    """
    state = json.loads((path / "state.json").read_text())
    differences = list(_differences(state["identity"], json.loads(json.dumps(identity))))
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise CheckpointMismatch(
            f"{path} belongs to another run: {'; '.join(differences[:5])}{more}. Train into "
            f"another folder, or remove {path.parent} to start this one from the beginning."
        )
    load_trained(path, parameters)
    tensors = load_file(path / "optimizer.safetensors")
    per_parameter: dict[int, dict[str, Tensor]] = {}
    indices = {name: index for index, name in enumerate(parameters)}
    for key, tensor in tensors.items():
        name, field = key.split("::")
        per_parameter.setdefault(indices[name], {})[field] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": per_parameter})
    return state


def load_trained(path: Path, parameters: Mapping[str, Parameter]) -> None:
    """Restores the trained parameters of a checkpoint in place, whatever run it belongs to."""
    trained = load_file(path / "trainable.safetensors")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(trained[name])


def frozen_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a few elements of every frozen tensor: tells one base model from another."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, flat.numel() // _SAMPLED)].contiguous().cpu()
            digest.update(name.encode() + sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _optimizer_tensors(
    parameters: Mapping[str, Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Tensor]:
    return {
        f"{name}::{field}": tensor
        for name, parameter in parameters.items()
        for field, tensor in optimizer.state.get(parameter, {}).items()
    }


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}


def _differences(saved: Any, current: Any, where: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(current, dict):
        for key in sorted(saved.keys() | current.keys()):
            inner = f"{where}.{key}" if where else key
            yield from _differences(saved.get(key), current.get(key), inner)
    elif saved != current:
        yield f"{where} is {saved!r} there and {current!r} here"


def _sync(path: Path) -> None:
    """Forces a file or folder to disk, so that the rename cannot overtake its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
