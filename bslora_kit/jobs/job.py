"""One job: a base, one method, one seed -> one run folder. The notebook calls it, a grid runs many.

    job = Job.open({"method": "bslora", "ranks": [2, 4, 16], "steps": 120})
    job.train()       checkpointed: killed at any moment and opened again, it goes on; an adapter that
                      another run has trained with the same settings is loaded where the driver put it
    job.evaluate()
    job.finish()      adapter/, items.parquet, and result.json last

A run is done when its result.json is there and its parameters are those asked for. Such a run is
opened as it is, not made again; one with other parameters is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model

import bslora_kit.adapters  # noqa: F401  registers the tuner with PEFT
from bslora_kit import shapes
from bslora_kit.adapters import parameter_scopes
from bslora_kit.budget import Budget, budget
from bslora_kit.data import Example, encode, hold_out, load_instructions
from bslora_kit.device import precision_for, this_process
from bslora_kit.evaluation.scores import Evaluation, evaluate
from bslora_kit.files import read_object, write_json
from bslora_kit.jobs.bases import load_base, source_of
from bslora_kit.jobs.lock import RunLock
from bslora_kit.jobs.outcome import budget_entry, save_adapter, training_entry, write_items
from bslora_kit.jobs.parameters import UNTRAINED, branches_of, differences, resolve, run_folder_of
from bslora_kit.jobs.processes import processes_of_a_job, train_in_processes
from bslora_kit.jobs.progress import JobProgress
from bslora_kit.jobs.provenance import machine, provenance
from bslora_kit.jobs.result_file import ADVICE, FILE, ORIGIN, read_result
from bslora_kit.methods import SharedLoraConfig
from bslora_kit.training import TrainingResult, TrainingSettings, train
from bslora_kit.training.checkpoint import all_checkpoints, load_trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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

    def __init__(self, parameters: dict[str, Any], folder: Path, lock: RunLock | None):
        self.parameters, self.folder, self._lock = parameters, folder, lock
        self.config = config_of(parameters)
        self.result: dict[str, Any] | None = None
        self.model: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.budget: Budget | None = None
        self.training: TrainingResult | None = None
        self.evaluation: Evaluation | None = None
        self._processes = 1
        self._progress = JobProgress(folder)

    @classmethod
    def open(cls, asked: Mapping[str, Any]) -> Job:
        """Checks the parameters, takes the run folder, and loads and adapts the base.

        Args:
            asked: some of the names of `parameters.DEFAULTS`, plain JSON values; None takes the
                profile's.

        Raises:
            ValueError: for an unknown name or a value out of range, or if the folder's result.json or
                params.json is not one.
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
                job.budget = budget(
                    job.config, shapes.of_config(source_of(job.parameters["base_model"]))
                )
        except BaseException:
            job._lock.release()
            raise
        return job

    @classmethod
    def beside(cls, folder: Path) -> Job:
        """The job of a run folder that another process holds, for one of those that train it.

        Args:
            folder: with params.json.
        """
        job = cls(json.loads((folder / "params.json").read_text(encoding="utf-8")), folder, None)
        job._load()
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

    def train(self, processes: int | None = None) -> None:
        """Trains the adapter, from the last checkpoint on where there is one.

        Args:
            processes: how many train it together, each on a GPU of its own where there are GPUs; None
                for what the environment says, see `processes.VARIABLE`.

        Raises:
            ProcessesFailed: if one of several processes fails.
        """
        if self.done or self.parameters["method"] == UNTRAINED:
            return
        if origin := self._origin():
            # Parameters and weights are compared with what the adapter's config says of its file.
            self.model.load_adapter(str(self.folder / "adapter"), "default", is_trainable=True)
            self.training = TrainingResult.of(self.history, stopped=False)
            self._processes = origin.get("processes", 1)
            return
        self._processes = processes_of_a_job() if processes is None else processes
        self._progress.start("training", self.parameters["steps"])
        if self._processes > 1:
            self._train_beside(self._processes)
            return
        training, held_out = self._examples()
        settings = TrainingSettings(**{name: self.parameters[name] for name in _TRAINING})
        together = this_process().num_processes > 1
        if together and not settings.checkpoint_every:
            # The last checkpoint is how the trained parameters reach the process that scores them.
            settings = replace(settings, checkpoint_every=settings.steps)
        self.training = train(
            self.model,
            training,
            settings,
            self.folder,
            pad_id=_pad_id(self.tokenizer),
            held_out=held_out,
            scopes=parameter_scopes(self.model),
            report=lambda entry: self._progress.step(entry["step"], entry["loss"]),
            shard=together,
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
            save_adapter(self.model, self.parameters["base_model"], self.folder / "adapter")
        write_items(self.evaluation, self.folder / "items.parquet")
        precision = precision_for(this_process().device, self.parameters["precision"])
        result = {
            "run": self.parameters | provenance() | self._trained_in(),
            "budget": budget_entry(self.budget),
            "train": training_entry(self.training, precision, self._processes),
            "eval": self.evaluation.to_dict(),
            "machine": machine(),
        }
        write_json(self.folder / FILE, result)
        self.result = result
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        self._progress.start("done")
        self._lock.release()
        return result

    def _origin(self) -> dict[str, Any]:
        """The run that trained this folder's adapter, and in how many processes; {} if this one does."""
        noted = self.folder / ORIGIN
        return read_object(noted, ADVICE) if noted.exists() else {}

    def _trained_in(self) -> dict[str, str]:
        return {name: run for name, run in self._origin().items() if name == "trained_in"}

    def _train_beside(self, processes: int) -> None:
        """Has other processes train, and takes over what they have come to."""
        device = self.model.device
        self.model.to("cpu")  # the GPU is one of theirs meanwhile
        torch.cuda.empty_cache()
        train_in_processes(self.folder, processes)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        load_trained(all_checkpoints(self.folder)[-1], trained)
        self.model.to(device)
        self.training = TrainingResult.of(self.history, stopped=False)

    def _take_folder(self) -> None:
        """Compares the folder's run with the one asked for, and reads its result if it is done."""
        result, noted = self.folder / FILE, self.folder / "params.json"
        if result.exists():
            content = read_result(result)
            self._refuse_others(content["run"])
            self.result = content
            self._lock.release()
        elif noted.exists():
            self._refuse_others(read_object(noted, ADVICE))
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
        process = this_process()
        # What several processes train together may be too big for one GPU: sharding moves it there.
        device = torch.device("cpu") if process.num_processes > 1 else process.device
        precision = precision_for(process.device, self.parameters["precision"])
        model, self.tokenizer = load_base(self.parameters["base_model"], precision)
        if self.config is None:
            self.model = model.to(device)
            return
        self.budget = budget(self.config, shapes.of_model(model))
        torch.manual_seed(self.parameters["seed"])  # of the adapter's initial weights
        self.model = get_peft_model(model, self.config).to(device)

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


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
