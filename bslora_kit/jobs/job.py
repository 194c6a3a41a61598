"""One job: a base, one method, one seed -> one run folder. The notebook calls it, a grid runs many.

    job = Job.open({"method": "bslora", "ranks": [2, 4, 16], "steps": 120})
    job.train()       checkpointed: killed at any moment and opened again, it goes on
    job.evaluate()
    job.finish()      adapter/, items.parquet, and result.json last

A run is done when its result.json is there and its parameters are those asked for. Such a run is
opened as it is, not made again; one with other parameters is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import bslora_kit.adapters  # noqa: F401  registers the tuner with PEFT
from bslora_kit import shapes
from bslora_kit.adapters import parameter_scopes
from bslora_kit.budget import Budget, budget
from bslora_kit.data import Example, encode, hold_out, load_instructions
from bslora_kit.device import precision_for
from bslora_kit.evaluation.scores import Evaluation, evaluate
from bslora_kit.files import write_json
from bslora_kit.jobs.inputs import base_folder
from bslora_kit.jobs.lock import RunLock
from bslora_kit.jobs.parameters import UNTRAINED, branches_of, differences, resolve, run_folder_of
from bslora_kit.jobs.progress import JobProgress
from bslora_kit.jobs.provenance import machine, provenance
from bslora_kit.methods import SharedLoraConfig
from bslora_kit.training import TrainingResult, TrainingSettings, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TRAINING = (
    "steps lr batch_size micro_batch_size warmup_steps schedule weight_decay max_grad_norm precision "
    "max_length seed evaluate_every checkpoint_every gradient_checkpointing"
).split()


class ParametersDiffer(ValueError):
    """A run folder holds a run with other parameters than those asked for."""


def config_of(parameters: Mapping[str, Any]) -> SharedLoraConfig | None:
    """The adapter of a job; None for the untouched base.

    Args:
        parameters: from `parameters.resolve`.
    """
    if parameters["method"] == UNTRAINED:
        return None
    options = (parameters["method"], parameters["fit"], parameters["share"], parameters["variant"])
    return SharedLoraConfig(
        branches=branches_of(parameters),
        method="_".join(option.lower() for option in options if option),
        scaling=parameters["scaling"],
        dropout=parameters["dropout"],
        target_modules=parameters["targets"],
        task_type="CAUSAL_LM",
    )


class Job:
    """One run and its folder; made by `Job.open`.

    Attributes:
        parameters: every value of the run, from `parameters.resolve`.
        folder: the run folder.
        config: of the adapter; None for the untouched base.
        result: the content of result.json once the run is done, else None.
        model, tokenizer: the adapted base; None where the run was done before.
        budget: what the adapter costs; None for the untouched base.
        training: None before `train`, for the untouched base, and where the run was done before.
        evaluation: None before `evaluate`, and where the run was done before.
    """

    def __init__(self, parameters: dict[str, Any], folder: Path, lock: RunLock):
        self.parameters, self.folder, self._lock = parameters, folder, lock
        self.config = config_of(parameters)
        self.result: dict[str, Any] | None = None
        self.model: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.budget: Budget | None = None
        self.training: TrainingResult | None = None
        self.evaluation: Evaluation | None = None
        self._progress = JobProgress(folder)

    @classmethod
    def open(cls, asked: Mapping[str, Any]) -> Job:
        """Checks the parameters, takes the run folder, and loads and adapts the base.

        Args:
            asked: some of the names of `parameters.DEFAULTS`, plain JSON values; None takes the
                profile's.

        Raises:
            ValueError: for an unknown name or a value out of range.
            FileNotFoundError: if the base, instructions or items are not there; says what to fetch.
            ParametersDiffer: if the folder holds a run with other parameters; names them.
            RunInUse: if another process is at this run.
        """
        parameters = resolve(asked)
        folder = run_folder_of(asked, parameters)
        folder.mkdir(parents=True, exist_ok=True)
        job = cls(parameters, folder, RunLock(folder))
        try:
            job._take_folder()
            if job.result is None:
                job._load()
            elif job.config is not None:
                job.budget = budget(job.config, shapes.of_config(job._source()))
        except BaseException:
            job._lock.release()
            raise
        return job

    @property
    def done(self) -> bool:
        """Whether result.json is there."""
        return self.result is not None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The entries of history.jsonl, one a step; empty for the untouched base."""
        path = self.folder / "history.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def train(self) -> None:
        """Trains the adapter, from the last checkpoint on where there is one."""
        if self.done or self.parameters["method"] == UNTRAINED:
            return
        training, held_out = self._examples()
        self._progress.start("training", self.parameters["steps"])
        self.training = train(
            self.model,
            training,
            TrainingSettings(**{name: self.parameters[name] for name in _TRAINING}),
            self.folder,
            pad_id=_pad_id(self.tokenizer),
            held_out=held_out,
            scopes=parameter_scopes(self.model),
            report=lambda entry: self._progress.step(entry["step"], entry["loss"]),
        )

    def evaluate(self) -> None:
        """Scores the model on the tasks."""
        if self.done:
            return
        self._progress.start("scoring")
        self.evaluation = evaluate(
            self.model,
            self.tokenizer,
            self.parameters["tasks"],
            shots=self.parameters["shots"],
            split=self.parameters["split"],
            limit=self.parameters["limit"],
            batch_size=self.parameters["scoring_batch_size"],
            seed=self.parameters["seed"],
        )

    def finish(self) -> dict[str, Any]:
        """Writes adapter, items and, last, result.json; then removes the checkpoints.

        Returns:
            The content of result.json.

        Raises:
            RuntimeError: before `train` or `evaluate`.
        """
        if self.result is not None:
            return self.result
        if self.evaluation is None or (self.training is None) == (self.parameters["steps"] > 0):
            raise RuntimeError("finish comes after train() and evaluate()")
        if self.training is not None:
            _save_adapter(self.model, self.parameters["base_model"], self.folder / "adapter")
        _write_items(self.evaluation, self.folder / "items.parquet")
        result = {
            "run": self.parameters | provenance(),
            "budget": _budget_entry(self.budget),
            "train": self._training_entry(),
            "eval": self.evaluation.to_dict(),
            "machine": machine(),
        }
        write_json(self.folder / "result.json", result)
        self.result = result
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        self._progress.start("done")
        self._lock.release()
        return result

    def _take_folder(self) -> None:
        """Compares the folder's run with the one asked for, and reads its result if it is done."""
        result, noted = self.folder / "result.json", self.folder / "params.json"
        if result.is_file():
            content = json.loads(result.read_text(encoding="utf-8"))
            self._refuse_others(content["run"])
            self.result = content
            self._lock.release()
        elif noted.is_file():
            self._refuse_others(json.loads(noted.read_text(encoding="utf-8")))
        else:
            write_json(noted, self.parameters)

    def _refuse_others(self, found: Mapping[str, Any]) -> None:
        different = differences(found, self.parameters)
        if different:
            raise ParametersDiffer(
                f"{self.folder} holds a run with other parameters ({'; '.join(different)}); choose "
                "another out_dir, or remove the folder to run it again (in a grid: --again ROW)"
            )

    def _load(self) -> None:
        self._progress.start("loading")
        name = self.parameters["base_model"]
        device = PartialState().device
        precision = precision_for(device, self.parameters["precision"])
        disable_progress_bar()  # of loading: an executed notebook would keep each of its frames
        try:
            source = self._source()
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForCausalLM.from_pretrained(source, dtype=_DTYPES[precision])
        except OSError as error:
            raise FileNotFoundError(
                f"base_model {name!r} cannot be loaded ({str(error).splitlines()[0]}); give the path "
                "of a folder with config.json, safetensors weights and tokenizer (--set "
                "base_model=PATH), or fetch it with `hf download` after accepting its licence"
            ) from error
        if self.config is None:
            self.model = model.to(device)
            return
        self.budget = budget(self.config, shapes.of_model(model))
        torch.manual_seed(self.parameters["seed"])  # of the adapter's initial weights
        with warnings.catch_warnings():
            # peft reads an attribute that transformers has renamed.
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")
            self.model = get_peft_model(model, self.config).to(device)

    def _source(self) -> Path | str:
        """The base's folder, or its name on the hub."""
        return base_folder(self.parameters["base_model"]) or self.parameters["base_model"]

    def _examples(self) -> tuple[list[Example], list[Example]]:
        """Training and held-out examples."""
        records = load_instructions(self.parameters["instructions"])
        held_out = self.parameters["held_out"]
        if isinstance(held_out, str):
            others = load_instructions(held_out)
        else:
            records, others = hold_out(records, **held_out)
        length = self.parameters["max_length"]
        return encode(records, self.tokenizer, length), encode(others, self.tokenizer, length)

    def _training_entry(self) -> dict[str, Any]:
        if self.training is None:
            return {"status": "untrained", "steps": 0}
        return {
            "status": "stopped" if self.training.stopped else "done",
            "steps": self.training.steps,
            "tokens": self.training.tokens,
            "tokens_per_s": self.training.tokens_per_s,
            "peak_memory_bytes": self.training.peak_memory_bytes,
            "loss_first": self.training.history[0]["loss"],
            "loss_last": self.training.loss,
            "eval_loss": self.training.eval_loss,
            "seconds": self.training.seconds,
            "precision": precision_for(PartialState().device, self.parameters["precision"]),
        }


def _budget_entry(spent: Budget | None) -> dict[str, Any]:
    if spent is None:
        return {"trainable": 0, "total": 0, "ratio": 0.0, "by_scope": {}, "by_kind": {}, "rank": 0}
    names = ("trainable", "total", "ratio", "by_scope", "by_branch", "by_kind", "rank")
    return {name: getattr(spent, name) for name in names}


def _save_adapter(model: Any, base_name: str, folder: Path) -> None:
    """Saves the adapter, its base by the name it was asked for, in one move."""
    beside = folder.with_name(f"adapter.{os.getpid()}.part")
    model.peft_config["default"].base_model_name_or_path = base_name
    # "auto" would ask the hub whether the vocabulary has grown; the kit adapts no embedding.
    model.save_pretrained(beside, save_embedding_layers=False)
    (beside / "README.md").unlink()  # an empty form; what the adapter is stands in result.json
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def _write_items(evaluation: Evaluation, path: Path) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    evaluation.items.to_parquet(beside, index=False)
    os.replace(beside, path)


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
