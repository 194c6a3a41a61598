"""The shipped default: texts are regenerated and compared, splits are proven clean, the bases load.

Pre-training itself is tested on a few steps of the real models (a second each on a slow core); the
shipped bases are checked against the loss that their training recorded.
"""

import json
import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bslora_kit.data import render_prompt
from bslora_kit.demo import base, tokenizer
from bslora_kit.demo.__main__ import checksums, texts
from bslora_kit.demo.corpus import Writer
from bslora_kit.demo.wording import DOMAINS, SUBJECTS
from bslora_kit.demo.world import KINDS, make_world, names, sentence
from bslora_kit.paths import DATA

COLUMNS = {
    "mini_openbookqa": {"id", "question_stem", "choices", "answerKey"},
    "mini_arc_challenge": {"id", "question", "choices", "answerKey"},
    "mini_hellaswag": {"activity_label", "ctx_a", "ctx_b", "ctx", "endings", "label"},
    "mini_arc_easy": {"id", "question", "choices", "answerKey"},
    "mini_piqa": {"goal", "sol1", "sol2", "label"},
    "mini_winogrande": {"sentence", "option1", "option2", "answer"},
    "mini_boolq": {"passage", "question", "label"},
    "mini_social_iqa": {"context", "question", "answerA", "answerB", "answerC", "label"},
}
MMLU = [f"mini_{subject.name}" for subject in SUBJECTS]


def rows(name: str) -> list[dict]:
    """Records of one committed file."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.fixture(scope="module")
def made(world):
    return texts(world)


@pytest.fixture(scope="module")
def facts():
    return {row["fact"]: row for row in rows("world/facts.jsonl")}


@pytest.fixture(scope="module")
def corpus(world):
    # A good third of what the pre-training reads: enough to state every old fact, and quick to search.
    return "\n".join(islice(Writer(world).documents(), 25_000))


def question(task: str, item: dict) -> str:
    """What an item asks, as it stands in the prompt."""
    if task == "mini_openbookqa":
        return item["question_stem"]
    if task == "mini_piqa":
        return item["goal"]
    if task == "mini_winogrande":
        right = item["option" + item["answer"]]
        return right + item["sentence"].split("_")[1]
    if task == "mini_hellaswag":
        return f"{item['activity_label']}: {item['ctx_a']}"
    if task == "mini_social_iqa":
        return item["context"] + " " + item["question"]
    return item["question"]


def answers(task: str, item: dict) -> tuple[list[str], int]:
    """Choices of an item and the place of the right one."""
    if task in ("mini_openbookqa", "mini_arc_challenge", "mini_arc_easy"):
        return item["choices"]["text"], item["choices"]["label"].index(item["answerKey"])
    if task == "mini_hellaswag":
        return item["endings"], int(item["label"])
    if task == "mini_piqa":
        return [item["sol1"], item["sol2"]], item["label"]
    if task == "mini_winogrande":
        return [item["option1"], item["option2"]], int(item["answer"]) - 1
    if task == "mini_boolq":
        return ["no", "yes"], item["label"]
    if task == "mini_social_iqa":
        return [item["answerA"], item["answerB"], item["answerC"]], int(item["label"]) - 1
    return item["choices"], item["answer"]


def files_of(split: str) -> list[tuple[str, str]]:
    """(task or subject, file) of every file of a split."""
    return [(task, f"tasks/{task}/{split}.jsonl") for task in COLUMNS] + [
        (subject, f"mmlu/{subject}/{split}.jsonl") for subject in MMLU
    ]


def test_texts_are_byte_equal_to_the_committed_ones(made):
    for name, content in made.items():
        assert (DATA / name).read_bytes() == content.encode(), name


def test_checksums_cover_every_made_file():
    assert json.loads((DATA / "checksums.json").read_text()) == checksums(DATA)


def test_sizes():
    sizes = {name: sum(path.stat().st_size for path in (DATA / name).iterdir()) for name in base.SHAPES}
    assert sizes["base"] <= 6_000_000 and sum(sizes.values()) <= 20_000_000
    made = json.loads((DATA / "checksums.json").read_text())
    assert sum((DATA / name).stat().st_size for name in made) <= 20_000_000


@pytest.mark.parametrize("task", COLUMNS)
def test_task_has_official_columns_and_enough_items(task):
    test, validation = rows(f"tasks/{task}/test.jsonl"), rows(f"tasks/{task}/validation.jsonl")
    assert len(test) >= 500 and len(validation) >= 150
    for item in test + validation:
        assert set(item) == COLUMNS[task] | {"kind", "fact"}
    shares = Counter(item["kind"] for item in test)
    for kind, share in zip(KINDS, (0.28, 0.57, 0.15), strict=True):
        assert shares[kind] / len(test) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("subject", MMLU)
def test_mmlu_subject(subject):
    dev, test = rows(f"mmlu/{subject}/dev.jsonl"), rows(f"mmlu/{subject}/test.jsonl")
    assert len(dev) == 5 and len(test) >= 60
    for item in dev + test:
        assert set(item) == {"question", "choices", "answer", "subject", "kind", "fact"}
        assert item["subject"] == subject and len(set(item["choices"])) == 4
    assert not {item["fact"] for item in dev} & {item["fact"] for item in test}
    assert {item["kind"] for item in test} == set(KINDS)


@pytest.mark.parametrize("task,file", files_of("test"))
def test_right_answers_stand_in_every_place_equally_often(task, file):
    places = Counter(answers(task, item)[1] for item in rows(file))
    size = max(len(answers(task, item)[0]) for item in rows(file)[:1])
    expected = len(rows(file)) / size
    assert len(places) == size
    assert max(abs(n - expected) for n in places.values()) <= 3 * math.sqrt(expected)


@pytest.mark.parametrize("task,file", files_of("test") + files_of("validation"))
def test_answers_agree_with_the_table_of_facts(task, file, facts):
    if task == "mini_hellaswag":
        crafts = {row["activity"]: row for row in rows("world/activities.jsonl")}
    pools = {f"{d.name}/{r.name}": set(r.values) for d in DOMAINS for r in d.relations}
    for item in rows(file):
        choices, place = answers(task, item)
        assert len(set(choices)) == len(choices)
        if task == "mini_hellaswag":
            _, name, index = item["fact"].split("/")
            verb, rest = crafts[name]["steps"][int(index)].split(" ", 1)
            assert choices[place].startswith(verb[:-1]) and choices[place].endswith(rest + ".")
            assert crafts[name]["kind"] == item["kind"]
            continue
        fact = facts[item["fact"]]
        assert fact["kind"] == item["kind"]
        domain, _, relation = item["fact"].split("/")
        if task == "mini_winogrande":
            right, wrong = choices[place], choices[1 - place]
            assert right == fact["subject"] and fact["value"] in item["sentence"]
            assert facts[f"{domain}/{wrong}/{relation}"]["value"] != fact["value"]
        elif task == "mini_boolq":
            assert (fact["value"] in item["question"].split()) == bool(item["label"])
        else:
            assert choices[place] == fact["value"]
            assert set(choices) <= pools[f"{domain}/{relation}"]


def test_no_question_of_a_split_occurs_in_the_instruction_set_or_the_corpus(corpus):
    records = rows("instructions/train.jsonl") + rows("instructions/heldout.jsonl")
    taught = "\n".join("\n".join((r["instruction"], r["input"], r["output"])) for r in records)
    taught, read = taught.lower(), corpus.lower()
    for split in ("test", "validation"):
        for task, file in files_of(split):
            asked = {question(task, item).lower() for item in rows(file)}
            assert not [text for text in asked if text in taught], file
            assert not [text for text in islice(sorted(asked), 120) if text in read], file


def test_validation_and_test_share_no_fact_question_pair():
    for task, file in files_of("test"):
        pairs = [
            {(item["fact"], question(task, item)) for item in rows(name)}
            for name in (file, file.replace("test", "validation"))
        ]
        if task == "mini_boolq":  # the passage is part of the question there
            pairs = [
                {(item["passage"], item["question"]) for item in rows(name)}
                for name in (file, file.replace("test", "validation"))
            ]
        assert not pairs[0] & pairs[1], task


def test_new_and_two_hop_facts_are_not_stated_in_the_corpus_and_old_ones_are(world, corpus):
    unheard = 0
    for fact in world.facts:
        said = [sentence(fact.fill(say)) for say in fact.relation.says]
        if fact.kind == "old":
            unheard += not any(text in corpus for text in said)
        else:
            assert not any(text in corpus for text in said), fact.id
    assert unheard == 0
    for activity in world.activities:
        if activity.kind != "old":
            order = ", ".join(activity.plain(i) for i in range(2))
            assert f"{activity.name}: {order}" not in corpus


def test_instruction_set_teaches_new_facts_and_no_two_hop_fact(world):
    records = rows("instructions/train.jsonl")
    kinds = {fact.id: fact.kind for fact in world.facts}
    taught = Counter(record["fact"] for record in records)
    assert {record["kind"] for record in records} == {"old", "new"}
    new = [taught[fact] for fact, kind in kinds.items() if kind == "new"]
    assert min(new) >= 5 and sum(new) / len(new) >= 15
    assert not any(taught[fact] for fact, kind in kinds.items() if kind in ("two_hop", "untold"))
    both = [
        {(r["instruction"], r["input"], r["output"]) for r in rows(f"instructions/{part}.jsonl")}
        for part in ("train", "heldout")
    ]
    assert not both[0] & both[1]


def test_two_hop_facts_follow_from_an_old_fact_and_a_rule(world):
    for fact in world.facts:
        if fact.kind == "two_hop":
            own = world.by_entity[fact.domain.name, fact.entity]
            source = next(f for f in own if f.relation.name == fact.relation.source)
            assert source.kind == "old"
            assert source.relation.values.index(source.value) == fact.relation.values.index(fact.value)


def test_names_are_new_and_the_world_follows_from_its_seed():
    import random

    taken: set[str] = set()
    drawn = names(200, random.Random(1), taken)
    assert len(set(drawn)) == 200 == len(taken)
    assert [f.value for f in make_world(5).facts] == [f.value for f in make_world(5).facts]
    assert [f.value for f in make_world(5).facts] != [f.value for f in make_world(6).facts]


def test_tokenizer_reads_an_answer_as_running_text_and_the_alpaca_frame_as_four_tokens():
    words = AutoTokenizer.from_pretrained(DATA / "base")
    assert None not in (words.eos_token_id, words.bos_token_id, words.pad_token_id)
    prompt = render_prompt({"instruction": "What is it?", "input": "clay"})
    ids = words(prompt + "clay")["input_ids"]
    assert len(ids) - len(words("What is it?")["input_ids"]) == 5
    assert ids[-1] == words("made of clay")["input_ids"][-1]
    text = "Question: What is the job of Wena?\nAnswer: baker"
    assert words.decode(words(text)["input_ids"]).strip() == text


@pytest.fixture(scope="module")
def tokens(world):
    words = AutoTokenizer.from_pretrained(DATA / "base")
    return tokenizer.encode_corpus(world, words, 40 * base.STEP_TOKENS)


LLAMAS = {  # name -> hidden, MLP, layers, heads, key/value heads of the model with these proportions
    "base": (4096, 14336, 32, 32, 8),
    "base-1-7b": (4096, 11008, 32, 32, 32),
    "base-1-13b": (5120, 13824, 40, 40, 40),
}


@pytest.mark.parametrize("name", LLAMAS)
def test_base_has_the_proportions_and_the_loss_it_records(name, tokens):
    folder = DATA / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config, record = model.config, json.loads((folder / "training.json").read_text())
    hidden, mlp, layers, heads, key_value_heads = LLAMAS[name]
    assert (32 * config.hidden_size, 32 * config.intermediate_size) == (hidden, mlp)
    assert (8 * config.num_attention_heads, 8 * config.num_key_value_heads) == (heads, key_value_heads)
    assert config.num_hidden_layers == pytest.approx(layers * 6 / 32, abs=0.5)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / file).read_bytes() == (DATA / "base" / file).read_bytes()
    with torch.no_grad():
        losses = [
            model(input_ids=w, labels=w).loss.item()
            for w in (base.window_batch(tokens, step) for step in range(32, 40))
        ]
    assert np.mean(losses) == pytest.approx(record["loss_of_last_100_steps"], abs=0.15)


def test_a_base_is_kept_while_it_is_up_to_date_and_made_again_without_its_weights(
    world, tmp_path, monkeypatch, capsys
):
    for name, value in {
        "STEPS": 2,
        "STEP_TOKENS": 256,
        "SHORT": 32,
        "LONG": 64,
    }.items():
        monkeypatch.setattr(base, name, value)
    monkeypatch.setattr(tokenizer, "DOCUMENTS", 200)
    base.make_bases(world, tmp_path, ["base", "base-1-7b"])
    made = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.parent.name for path in made} == {"base", "base-1-7b"}  # and no checkpoint
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "base-1-7b").config.intermediate_size == 344
    assert AutoTokenizer.from_pretrained(tmp_path / "base-1-7b")("clay")["input_ids"]

    weights = tmp_path / "base" / "model.safetensors"
    weights.unlink()
    capsys.readouterr()
    base.make_bases(world, tmp_path, ["base", "base-1-7b"])
    assert capsys.readouterr().out.splitlines() == ["pre-training base", "base-1-7b is up to date"]
    assert {path: path.read_bytes() for path in made} == made

    monkeypatch.setattr(base, "LEARNING_RATE", 1e-3)
    base.make_bases(world, tmp_path, ["base"])
    assert weights.read_bytes() != made[weights]


def test_killed_pretraining_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    tokens = np.random.default_rng(0).integers(0, 64, 6 * 256).astype(np.uint16)
    for name, value in {
        "STEPS": 6,
        "STEP_TOKENS": 256,
        "SHORT": 32,
        "LONG": 64,
        "LONG_EVERY": 3,
        "WARM_UP": 2,
        "CHECKPOINT_EVERY": 2,
    }.items():
        monkeypatch.setattr(base, name, value)
    shape = base.SHAPES["base"]
    whole, _ = base.pretrain(shape, tokens, 64, tmp_path / "whole", "same")

    honest = base.window_batch

    def killed(tokens, step):
        if step == 5:
            raise KeyboardInterrupt
        return honest(tokens, step)

    monkeypatch.setattr(base, "window_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        base.pretrain(shape, tokens, 64, tmp_path / "cut", "same")
    monkeypatch.setattr(base, "window_batch", honest)
    resumed, losses = base.pretrain(shape, tokens, 64, tmp_path / "cut", "same")
    assert len(losses) == 6
    for (name, one), two in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two), name
