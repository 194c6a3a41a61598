"""lm-evaluation-harness on a model in memory; the one module of the kit that imports lm_eval.

`score` runs the definitions of `tasks` and returns one record per item. It differs from
`lm_eval.simple_evaluate` in four things; times are CPU seconds of one thread with lm_eval 0.4.13, the
shipped base and the eight mini tasks (4,320 items):
    - jinja templates are compiled once each, not once per item and use: 15 s instead of 25 s
    - lm_eval's own task folder is not indexed: 8 s less
    - a task's items are processed once, not at each look at them
    - no reseeding, no change of mode, no log line or bar per task
Numbers are those of the stock command line (tests/test_evaluation.py compares them item by item).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy
import torch
from jinja2 import UndefinedError
from lm_eval import utils
from lm_eval.api import task as task_module
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from bslora_kit import paths
from bslora_kit.evaluation.task_files import MalformedItems, TaskDefinition, write_definitions
from bslora_kit.evaluation.tasks import metric_of
from bslora_kit.progress import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class ModelInMemory(HFLM):
    """HFLM for a ready model: stops at NaN and prints a progress line."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int
    ) -> None:
        # Sums of log-probabilities over a vocabulary need more digits than 16-bit numbers have.
        half = next(model.parameters()).dtype in (torch.bfloat16, torch.float16)
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            softmax_dtype="float32" if half else None,
        )

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """One (log-likelihood in nats, is greedy) per request, without a bar for tokenizing."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list, disable_tqdm: bool = True, **options: Any
    ) -> list[tuple[float, bool]]:
        self._warn_of_truncation(requests)
        # The harness runs requests that differ in their last token alone as one sequence.
        self._total = len({tuple(context + answer[:-1]) for _, context, answer in requests})
        self._done, self._began = 0, time.monotonic()
        self._last_line = self._began
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, **options)

    def _model_call(self, inps: torch.Tensor, **options: Any) -> torch.Tensor:
        logits = super()._model_call(inps, **options)  # [batch, tokens, vocabulary]
        if not (logits < torch.inf).all():  # false for NaN too; -inf is a legal mask
            raise FloatingPointError(
                f"the model's logits hold NaN or +inf (batch of {len(inps)} x {inps.shape[1]} tokens): "
                "the weights have diverged or 16-bit numbers overflow; check the training loss, or "
                "score in float32 or bfloat16"
            )
        self._done += len(inps)
        self._print_progress()
        return logits

    def _print_progress(self) -> None:
        now = time.monotonic()
        elapsed = now - self._began
        # Rarer in long runs: a log of half an hour has some fifty lines.
        if now - self._last_line < min(60, max(SECONDS_BETWEEN_LINES, elapsed / 10)):
            return
        self._last_line = now
        # Long sequences come first, so the time left is rather too long than too short.
        left = elapsed * (self._total - self._done) / self._done
        print(f"scoring {self._done:,}/{self._total:,} sequences  {left:.0f} s left", flush=True)

    def _warn_of_truncation(self, requests: list) -> None:
        cut = sum(len(context) + len(answer) > self.max_length + 1 for _, context, answer in requests)
        if cut:
            warnings.warn(
                f"{cut} of {len(requests)} prompts are longer than the model's {self.max_length} tokens "
                "and lose their beginning; use fewer shots",
                stacklevel=2,
            )


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    definitions: Sequence[TaskDefinition],
    *,
    shots: int,
    limit: int | None,
    batch_size: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Scores every definition; arguments as in `bslora_kit.evaluation.evaluate`.

    Returns:
        One record per item, with the keys of `Evaluation.items`.
    """
    with undisturbed(model), _quiet(), _templates_compiled_once():
        tasks = _load(definitions, shots, seed)
        chosen = {}
        for name, task in tasks.items():
            total = len(task.eval_docs)
            if limit is not None and limit < total:
                # Spread evenly over the split: official files are sorted by source.
                chosen[name] = [position * total // limit for position in range(limit)]
        output = evaluate(
            lm=ModelInMemory(model, tokenizer, batch_size),
            task_dict={"tasks": tasks},
            samples=chosen or None,
            bootstrap_iters=0,
        )
        return [
            _record(definition, tasks[definition.name], sample)
            for definition in definitions
            for sample in output["samples"][definition.name]
        ]


def _record(
    definition: TaskDefinition, task: ConfigurableTask, sample: dict[str, Any]
) -> dict[str, Any]:
    doc = sample["doc"]
    choices = task.doc_to_choice(doc)
    # Where the choice is part of the prompt (winogrande), the harness keeps its index as the "text".
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise MalformedItems(
            f"{definition.name}, item {sample['doc_id']}: the answer is {gold!r}, expected an index "
            f"below {len(choices)}; correct the item's label"
        )
    log_likelihoods = [float(response[0]) for response in sample["filtered_resps"]]
    metric = metric_of(definition.task)
    lengths = [len(choice) for choice in choices] if metric == "acc_norm" else 1
    return {
        "task": definition.task,
        "subject": definition.subject,
        "doc_id": sample["doc_id"],
        "doc_hash": sample["doc_hash"],
        "kind": doc.get("kind"),
        "fact": doc.get("fact"),
        "gold": int(gold),
        "prediction": int(numpy.argmax(numpy.asarray(log_likelihoods) / lengths)),
        "log_likelihoods": log_likelihoods,
        "correct": bool(sample[metric]),
        "acc": sample["acc"],
        "acc_norm": sample.get("acc_norm", float("nan")),
    }


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Gives back every module's mode, all random states and the gradient switch, errors or not."""
    modes = [(module, module.training) for module in model.modules()]
    python, array, gradients = random.getstate(), numpy.random.get_state(), torch.is_grad_enabled()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        numpy.random.set_state(array)
        torch.set_grad_enabled(gradients)


def _load(definitions: Sequence[TaskDefinition], shots: int, seed: int) -> dict[str, ConfigurableTask]:
    tasks = {}
    with tempfile.TemporaryDirectory(prefix="bslora_kit_") as folder:
        write_definitions(Path(folder), definitions)
        manager = TaskManager(include_path=folder, include_defaults=False)
        for definition in definitions:
            try:
                task = manager.load([definition.name])["tasks"][definition.name]
            except (LookupError, OSError, SyntaxError, ValueError, UndefinedError) as error:
                if definition.folder is None:
                    config = manager.task_index[definition.name].cfg
                    raise ConnectionError(_how_to_fetch(definition, config, error)) from error
                if isinstance(error, (MalformedItems, OSError)):
                    raise
                raise MalformedItems(
                    f"the first item of {definition.name} ({definition.folder}) does not fit the "
                    f"official {definition.template.name}: a column is missing or the label is not "
                    f"as there ({error})"
                ) from error
            # The harness goes through the items several times, and has them processed anew each time.
            task.test_docs = functools.cache(task.task_docs.to_list)
            task.set_config(key="num_fewshot", value=shots)
            task.set_fewshot_seed(seed=seed)
            tasks[definition.name] = task
    return tasks


def _how_to_fetch(definition: TaskDefinition, config: dict[str, Any], error: Exception) -> str:
    source, name = config["dataset_path"], config.get("dataset_name")
    folder = paths.DATA / "official" / definition.task / (definition.subject or "")
    arguments = f'"{source}", "{name}"' if name else f'"{source}"'
    reason = str(error).strip().splitlines()
    return (
        f"the items of {definition.name} cannot be fetched "
        f"({type(error).__name__}: {reason[0] if reason else 'no message'}). On a machine with access "
        f"to the Hugging Face hub run `for split, items in datasets.load_dataset({arguments}).items(): "
        'items.to_json(f"{split}.jsonl")` and put the files into ' + str(folder)
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the harness's log line and progress bar per task; `ModelInMemory` has its own line."""
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, task_module.tqdm
    bars_on = not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    task_module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        task_module.tqdm = bar
        if bars_on:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """The harness compiles a template anew for every item; the compiled one has no state to share."""
    utils.env.from_string = functools.cache(utils.env.from_string)
    try:
        yield
    finally:
        del utils.env.from_string
