"""What a training run keeps on disk: history.jsonl, one line a step, and its checkpoints.

History and checkpoint stay together: before a run goes on from the checkpoint of step n, the
history is cut to its first n lines, so steps that a killed run did after it are neither lost nor
counted twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import Parameter

from bslora_kit.training.checkpoint import (
    all_checkpoints,
    load_checkpoint,
    remove_superseded,
    save_checkpoint,
    step_of,
)


class RunFolder:
    """History and checkpoints of one run; opened, it stands where the last checkpoint left off.

    Args:
        folder: the run's folder, made where it is missing.
        parameters: the trained parameters by name, in the optimizer's order; restored in place.
        optimizer: the optimizer of exactly these parameters; restored in place.
        scaler: the fp16 loss scaler, or None; restored in place.
        identity: what makes this run this run, as JSON can hold it.
        writes: False in all but the first of several processes.

    Raises:
        CheckpointMismatch: the folder's checkpoint has another identity.
    """

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, Parameter],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
        identity: Mapping[str, Any],
        writes: bool = True,
    ):
        self._folder, self._history_file = folder, folder / "history.jsonl"
        self._parameters, self._optimizer, self._scaler = parameters, optimizer, scaler
        self._identity, self._writes = identity, writes
        self.history: list[dict[str, Any]] = []
        checkpoints = all_checkpoints(folder)
        if checkpoints:
            state = load_checkpoint(checkpoints[-1], parameters, optimizer, identity)
            if scaler is not None:
                scaler.load_state_dict(state["scaler"])
            self.history = self._history_until(state["step"])
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            remove_superseded(folder)
            self._rewrite_history()

    def log(self, entry: dict[str, Any]) -> None:
        """Appends the entry of a step to the history."""
        self.history.append(entry)
        if self._writes:
            with self._history_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """Writes a checkpoint of the step that the history has reached."""
        if self._writes:
            scaler = None if self._scaler is None else self._scaler.state_dict()
            save_checkpoint(
                self._folder,
                len(self.history),
                self._parameters,
                self._optimizer,
                {"identity": self._identity, "scaler": scaler},
            )

    def last_good_checkpoint(self) -> Path | None:
        """The newest checkpoint from which at least one more step was done, or None."""
        older = [c for c in all_checkpoints(self._folder) if step_of(c) < len(self.history)]
        return older[-1] if older else None

    def _history_until(self, step: int) -> list[dict[str, Any]]:
        lines = []
        if self._history_file.exists():
            lines = self._history_file.read_text(encoding="utf-8").splitlines()[:step]
        if len(lines) < step:
            raise ValueError(
                f"{self._history_file} has {len(lines)} lines, its checkpoint is of step {step}: "
                "put the file back, or remove the checkpoints to start from the beginning"
            )
        return [json.loads(line) for line in lines]

    def _rewrite_history(self) -> None:
        beside = self._history_file.with_suffix(".jsonl.part")
        beside.write_text("".join(json.dumps(e) + "\n" for e in self.history), encoding="utf-8")
        os.replace(beside, self._history_file)
