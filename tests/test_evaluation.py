"""Scoring: equal to the stock lm_eval command line, nothing disturbed, errors that say what to do.

The model has two layers of width 32 and a task 12 items: what is tested is bookkeeping, not skill, and
the command line alone takes 15 s to start.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy
import pandas
import peft
import pytest
import scipy.stats
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from bslora_kit import paths
from bslora_kit.evaluation import tasks
from bslora_kit.evaluation.scores import COMMONSENSE, Evaluation, evaluate, task_folder

ITEMS = 12
SHIPPED = paths.DATA
EIGHT = ["mini_" + task for task in COMMONSENSE]


# ---- a small world in the official schemas, one item at a time ---------------------------------------


def item(task: str, number: int, draw: random.Random) -> dict:
    def thing() -> str:
        return (
            f"{draw.choice(['red', 'old', 'heavy'])} {draw.choice(['lamp', 'boat', 'stone', 'wheel'])}"
        )

    def event() -> str:
        return (
            f"{draw.choice(['Mara', 'Tobin', 'Orin'])} {draw.choice(['finds', 'sells'])} the {thing()}"
        )

    kind = {"kind": ["old", "new", "two_hop"][number % 3], "fact": f"fact-{number // 2}"}
    four = {"text": [thing() + " of " + thing() for _ in range(4)], "label": ["A", "B", "C", "D"]}
    letter, digit = draw.choice("ABCD"), draw.randrange(2)
    columns = {
        "openbookqa": {"question_stem": event() + " near the", "choices": four, "answerKey": letter},
        "arc_easy": {"question": f"What is near the {thing()}?", "choices": four, "answerKey": letter},
        "hellaswag": {
            "activity_label": "Moving", "ctx_a": event() + ".", "ctx_b": "then she",
            "endings": [event() + " [step]" for _ in range(4)], "label": str(draw.randrange(4)),
        },
        "piqa": {"goal": f"to move the {thing()}", "sol1": event(), "sol2": event(), "label": digit},
        "winogrande": {
            "sentence": "Mara met Orin because _ was there today.",
            "option1": thing(), "option2": thing(), "answer": str(digit + 1),
        },
        "boolq": {"passage": event() + ".", "question": f"is the {thing()} sold", "label": digit},
        "social_iqa": {
            "context": event() + ".", "question": "What happens next?", "answerA": event(),
            "answerB": event(), "answerC": event(), "label": draw.choice("123"),
        },
        "mmlu": {
            "question": f" Which {thing()} is it? ", "choices": four["text"],
            "answer": draw.randrange(4), "subject": "stones",
        },
    }  # fmt: skip
    columns["arc_challenge"] = columns["arc_easy"]
    return columns[task] | kind


def write_split(folder: Path, split: str, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root, draw = tmp_path_factory.mktemp("world"), random.Random(0)
    for task in COMMONSENSE:
        for split in ("test", "validation"):
            rows = [item(task, number, draw) for number in range(ITEMS)]
            write_split(root / "tasks" / f"mini_{task}", split, rows)
    for subject, count in {"mini_stones": ITEMS, "mini_old_towns": ITEMS // 2}.items():
        for split, size in {"dev": 5, "validation": 3, "test": count}.items():
            rows = [item("mmlu", number, draw) for number in range(size)]
            write_split(root / "mmlu" / subject, split, rows)
    return root


@pytest.fixture(autouse=True)
def data(world, monkeypatch) -> Path:
    monkeypatch.setattr(paths, "DATA", world)
    return world


@pytest.fixture(scope="module")
def tokenizer(world) -> PreTrainedTokenizerFast:
    texts = [path.read_text() for path in sorted(world.rglob("*.jsonl"))]
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    pairs.train_from_iterator(texts, trainer)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=pairs, **names)


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=320, max_position_embeddings=512, initializer_range=0.3, **sizes, **heads)
    )


@pytest.fixture(scope="module")
def model() -> peft.PeftModel:
    """With an adapter that acts, dropout and training mode: the state after a training step."""
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], lora_dropout=0.5, init_lora_weights=False
    )
    return peft.get_peft_model(small_llama(), config).train()


@pytest.fixture(scope="module")
def result(model, tokenizer, world) -> Evaluation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "DATA", world)
        return evaluate(model, tokenizer, ["mini_commonsense", "mini_mmlu"], batch_size=16)


# ---- against the stock harness -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock(model, tokenizer, world, tmp_path_factory) -> dict:
    """What `lm_eval run` says of the merged model, saved and loaded again."""
    folder = tmp_path_factory.mktemp("stock")
    merged = small_llama()
    merged = peft.get_peft_model(merged, model.peft_config["default"])
    merged.load_state_dict(model.state_dict())
    merged.merge_and_unload().save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    environment = os.environ | {
        "BSLORA_KIT_DATA": str(world), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(paths.ROOT), "HF_HOME": str(folder / "cache"),
    }  # fmt: skip
    calls = (
        ["bslora_kit.evaluation.tasks", "definitions"],
        ["lm_eval", "run", "--model", "hf", "--model_args", "pretrained=merged", "--device", "cpu",
         "--tasks", ",".join([*EIGHT, "mini_mmlu"]), "--include_path", "definitions",
         "--batch_size", "16", "--log_samples", "--output_path", "output"],
    )  # fmt: skip
    for call in calls:
        done = subprocess.run(
            [sys.executable, "-m", *call], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
    (summary,) = folder.glob("output/*/results_*.json")
    lines = [path.read_text().splitlines() for path in folder.glob("output/*/samples_*.jsonl")]
    return {
        "summary": json.loads(summary.read_text())["results"],
        "items": {row["doc_hash"]: row for rows in lines for row in map(json.loads, rows)},
    }


def test_items_scores_and_errors_equal_the_stock_command_line(result, stock):
    assert len(result.items) == len(stock["items"]) == 8 * ITEMS + ITEMS + ITEMS // 2
    for row in result.items.to_dict("records"):
        other = stock["items"][row["doc_hash"]]
        theirs = [float(response[0]) for response in other["filtered_resps"]]
        numpy.testing.assert_allclose(row["log_likelihoods"], theirs, rtol=0, atol=1e-4)
        assert row["doc_id"] == other["doc_id"]
        assert row["correct"] == other[tasks.metric_of(row["task"])]
        assert row["acc"] == other["acc"]
        if "acc_norm" in other:
            assert row["acc_norm"] == other["acc_norm"]
    assert {True, False} == set(result.items["correct"])

    named = result.scores.to_dict("records") + [
        {**row, "task": f"mini_mmlu_{row['subject']}"} for row in result.subjects.to_dict("records")
    ]
    assert len(named) == 8 + 1 + 2
    for row in named:
        theirs = stock["summary"][row["task"]]
        assert row["value"] == pytest.approx(theirs[f"{row['metric']},none"], abs=1e-12)
        assert row["stderr"] == pytest.approx(theirs[f"{row['metric']}_stderr,none"], abs=1e-12)


def test_five_shots_equal_the_stock_evaluator(model, tokenizer, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    chosen = ["mini_mmlu", "mini_piqa", "mini_winogrande"]
    ours = evaluate(model, tokenizer, chosen, shots=5, seed=3, batch_size=16)
    theirs = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16),
        tasks=chosen, num_fewshot=5, fewshot_random_seed=3, bootstrap_iters=0,
        task_manager=TaskManager(include_path=task_folder(tmp_path), include_defaults=False),
    )["samples"]  # fmt: skip
    model.train()
    by_hash = {row["doc_hash"]: row for rows in theirs.values() for row in rows}
    for row in ours.items.to_dict("records"):
        expected = [response[0] for response in by_hash[row["doc_hash"]]["filtered_resps"]]
        numpy.testing.assert_allclose(row["log_likelihoods"], expected, rtol=0, atol=1e-4)
    prompt = theirs["mini_mmlu_stones"][0]["arguments"][0][0]
    assert prompt.startswith("The following are questions (with answers) about stones.")
    assert prompt.count("\nAnswer:") == 6


def test_log_likelihoods_are_sums_of_float32_log_probabilities(tokenizer, data):
    """By hand, in bfloat16: the harness's own default would sum 16-bit log-probabilities."""
    half = small_llama().bfloat16().eval()
    row = json.loads((data / "tasks" / "mini_boolq" / "test.jsonl").read_text().splitlines()[0])
    prompt = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    expected = []
    for answer in (" no", " yes"):
        context, tokens = tokenizer.encode(prompt), tokenizer.encode(prompt + answer)
        with torch.no_grad():
            logits = half(torch.tensor([tokens[:-1]])).logits[0].float()
        log_probabilities = torch.log_softmax(logits, dim=-1)
        places = range(len(context) - 1, len(tokens) - 1)
        expected.append(sum(float(log_probabilities[place, tokens[place + 1]]) for place in places))
    ours = evaluate(half, tokenizer, "mini_boolq", limit=1, batch_size=1).items.iloc[0]
    numpy.testing.assert_allclose(ours["log_likelihoods"], expected, rtol=0, atol=1e-5)


# ---- the numbers in themselves -----------------------------------------------------------------------


def test_mean_is_of_unrounded_values_and_errors_are_closed_form(result):
    items = result.items
    values, variances = [], []
    for task, metric in COMMONSENSE.items():
        correct = items.loc[items["task"] == f"mini_{task}", metric].to_numpy()
        values.append(sum(correct) / ITEMS)
        variances.append(scipy.stats.sem(correct) ** 2)
    assert result.mean == pytest.approx(sum(values) / 8, abs=1e-15)
    assert result.mean_stderr == pytest.approx(sum(variances) ** 0.5 / 8, abs=1e-15)
    assert list(result.scores["task"]) == [*EIGHT, "mini_mmlu"]


def test_prediction_is_the_best_choice_under_the_published_metric(result, data):
    lines = (data / "tasks" / "mini_openbookqa" / "test.jsonl").read_text().splitlines()
    for row in result.items.query("task == 'mini_openbookqa'").to_dict("records"):
        texts = json.loads(lines[row["doc_id"]])["choices"]["text"]
        per_letter = [
            total / len(text) for total, text in zip(row["log_likelihoods"], texts, strict=True)
        ]
        assert row["prediction"] == per_letter.index(max(per_letter))
    assert ((result.items["prediction"] == result.items["gold"]) == result.items["correct"]).all()


def test_mmlu_is_weighted_by_size(result):
    sizes = result.subjects.set_index("subject")["n"]
    assert dict(sizes) == {"old_towns": ITEMS // 2, "stones": ITEMS}
    mmlu = result.scores.set_index("task").loc["mini_mmlu"]
    right = (result.subjects["value"] * result.subjects["n"]).sum()
    assert mmlu["value"] == pytest.approx(right / mmlu["n"])


def test_kinds_partition_the_items(result):
    kinds = result.by_kind
    assert set(kinds["kind"]) == {"old", "new", "two_hop"}
    assert dict(kinds.groupby("task")["n"].sum()) == dict(result.scores.set_index("task")["n"])


def test_record_survives_json_and_parquet(result, tmp_path):
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["mean"] == result.mean
    assert record["tasks"]["mini_piqa"]["by_kind"]["old"]["n"] == ITEMS // 3
    result.items.to_parquet(tmp_path / "items.parquet")
    again = Evaluation(pandas.read_parquet(tmp_path / "items.parquet"), 0, "test", None, 0, 16)
    assert again.to_dict() == result.to_dict()


def test_no_mean_without_all_eight(model, tokenizer):
    some = evaluate(model, tokenizer, EIGHT[:7], limit=1)
    assert some.mean is None and some.mean_stderr is None
    assert some.to_dict()["tasks"]["mini_piqa"]["stderr"] is None


def test_limit_spreads_over_the_split_and_hashes_stay(model, tokenizer, result):
    some = evaluate(model, tokenizer, "mini_piqa", limit=4, batch_size=3)
    assert list(some.items["doc_id"]) == [0, 3, 6, 9]
    whole = result.items.query("task == 'mini_piqa'").set_index("doc_id")
    for row in some.items.to_dict("records"):
        assert row["doc_hash"] == whole.loc[row["doc_id"], "doc_hash"]
        numpy.testing.assert_allclose(
            row["log_likelihoods"], whole.loc[row["doc_id"], "log_likelihoods"], atol=1e-4
        )


def test_validation_split_holds_other_items(model, tokenizer, result):
    validation = evaluate(model, tokenizer, "mini_piqa", split="validation")
    assert len(validation.items) == ITEMS
    assert not set(validation.items["doc_hash"]) & set(result.items["doc_hash"])


# ---- nothing else changes ----------------------------------------------------------------------------


def states() -> list:
    return [
        random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_mode_random_states_and_weights_are_as_before(model, tokenizer, monkeypatch, fails):
    next(iter(model.modules())).train()
    model.get_submodule("base_model.model.model.layers.1").eval()  # a mixed mode must survive too
    modes, before = [module.training for module in model.modules()], states()
    weights = {name: (id(value), value.clone()) for name, value in model.named_parameters()}
    if fails:
        with torch.no_grad():
            model.base_model.model.model.norm.weight[0] = torch.nan
        with pytest.raises(FloatingPointError, match="NaN.*check the training loss"):
            evaluate(model, tokenizer, "mini_piqa")
        with torch.no_grad():
            model.base_model.model.model.norm.weight.copy_(
                weights["base_model.model.model.norm.weight"][1]
            )
    else:
        evaluate(model, tokenizer, "mini_hellaswag", shots=1)
    assert [module.training for module in model.modules()] == modes
    assert states() == before
    for name, value in model.named_parameters():
        assert id(value) == weights[name][0] and torch.equal(value, weights[name][1])
    model.train()


def test_module_imports_without_lm_eval_and_torch():
    code = "import sys; sys.modules['lm_eval'] = sys.modules['torch'] = None"
    code += "; import bslora_kit.evaluation"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)


# ---- real tasks --------------------------------------------------------------------------------------


def test_local_copy_of_a_real_task_uses_the_official_prompt(
    model, tokenizer, data, tmp_path, monkeypatch
):
    for task, mini in {"openbookqa": "test", "hellaswag": "validation"}.items():
        rows = (data / "tasks" / f"mini_{task}" / "test.jsonl").read_text().splitlines()
        write_split(tmp_path / "official" / task, mini, [json.loads(row) for row in rows])
    expected = evaluate(model, tokenizer, ["mini_openbookqa", "mini_hellaswag"]).items
    monkeypatch.setattr(paths, "DATA", tmp_path)
    ours = evaluate(model, tokenizer, ["openbookqa", "hellaswag"]).items
    assert list(ours["doc_hash"]) == list(expected["doc_hash"])
    assert list(ours["log_likelihoods"]) == list(expected["log_likelihoods"])
    with pytest.raises(ValueError, match="hellaswag is of its validation split.*use split='train'"):
        evaluate(model, tokenizer, "hellaswag", split="validation")


def test_every_real_definition_is_installed(tmp_path):
    task_folder(tmp_path, ["commonsense", "mmlu"])
    assert len(list(tmp_path.glob("mmlu_*.yaml"))) == 57
    assert {path.stem for path in tmp_path.glob("*.yaml")} >= {*COMMONSENSE, "mmlu"}


def test_hub_out_of_reach_says_what_to_fetch(model, tokenizer, monkeypatch):
    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach 'baber/piqa' on the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ConnectionError, match=r'load_dataset\("baber/piqa"\).*official/piqa'):
        evaluate(model, tokenizer, "piqa")


# ---- the shipped data --------------------------------------------------------------------------------


@pytest.mark.skipif(not SHIPPED.joinpath("base").is_dir(), reason="data/ is not made yet: `make demo`")
def test_the_shipped_base_is_scored_on_every_shipped_task(monkeypatch):
    monkeypatch.setattr(paths, "DATA", SHIPPED)
    base = AutoModelForCausalLM.from_pretrained(SHIPPED / "base", dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(SHIPPED / "base")
    shipped = evaluate(base, words, ["mini_commonsense", "mini_mmlu"], limit=6)
    assert list(shipped.scores["task"]) == [*EIGHT, "mini_mmlu"]
    assert len(shipped.subjects) >= 6
    assert set(shipped.by_kind["kind"]) <= {"old", "new", "two_hop"}
    assert shipped.items["fact"].notna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # five solved examples fit into the base's context
        evaluate(base, words, "mini_mmlu", shots=5, limit=2)


# ---- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["mini_pika"], {}, "unknown task 'mini_pika'; known are mini_openbookqa"),
        ([], {}, "no task is named; choose from"),
        (["mini_piqa", "piqa"], {}, "scored apart"),
        (["mini_piqa"], {"split": "dev"}, "split is 'dev'; expected one of test"),
        (["mini_piqa"], {"limit": 0}, "limit is 0; expected a whole number of at least 1"),
        (["mini_piqa"], {"shots": -1}, "shots is -1"),
        (["mini_piqa"], {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_arguments_are_named(model, tokenizer, names, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model, tokenizer, names, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"mini_piqa/test\.jsonl has no items"),
        ('{"goal": "x"\n', r"test\.jsonl, line 1: no valid JSON"),
        ("[1]\n", r"line 1: expected a JSON object, found '\[1\]"),
        ('{"goal": "x", "sol1": "a", "label": 0}\n', r"first item of mini_piqa .* official piqa\.yaml"),
        ('{"goal": "x", "sol1": "a", "sol2": "b", "label": 2}\n', "first item of mini_piqa .*index out"),
        (
            '{"goal": "x", "sol1": "a", "sol2": "b", "label": 0}\n'
            '{"goal": "x", "sol1": "a", "sol2": "b", "label": 2}\n',
            "mini_piqa, item 1: the answer is 2, expected an index below 2",
        ),
    ],
)
def test_bad_items_are_named(model, tokenizer, tmp_path, monkeypatch, text, message):
    folder = tmp_path / "tasks" / "mini_piqa"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text(text)
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(ValueError, match=message):
        evaluate(model, tokenizer, "mini_piqa")


def test_missing_files_are_named(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mini_piqa/test\.jsonl.*make demo"):
        evaluate(model, tokenizer, "mini_piqa")
    with pytest.raises(FileNotFoundError, match=r"no folder of a subject.*make demo"):
        evaluate(model, tokenizer, "mini_mmlu")


def test_a_subject_without_solved_examples_is_named(model, tokenizer, data, tmp_path, monkeypatch):
    rows = (data / "mmlu" / "mini_stones" / "test.jsonl").read_text().splitlines()
    write_split(tmp_path / "mmlu" / "mini_stones", "test", [json.loads(row) for row in rows])
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mini_stones/dev\.jsonl"):
        evaluate(model, tokenizer, "mini_mmlu")


def test_prompts_that_do_not_fit_are_reported(tokenizer):
    short = LlamaForCausalLM(
        LlamaConfig(**small_llama().config.to_dict() | {"max_position_embeddings": 48})
    )
    with pytest.warns(UserWarning, match="longer than the model's 48 tokens.*fewer shots"):
        evaluate(short, tokenizer, "mini_mmlu", shots=5, limit=2)
