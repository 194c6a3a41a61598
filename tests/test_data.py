"""Records, prompts, tokens and batches. The tokenizer is trained on five texts, in no time."""

import json
import warnings

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bslora_kit import data
from bslora_kit.data import (
    Example,
    batch_indices,
    collate,
    encode,
    fingerprint,
    hold_out,
    load_instructions,
    micro_batches,
    read_records,
    render_prompt,
)

TAG = {"instruction": "Name the colour.", "input": "a ripe tomato", "output": "Red"}
PLAIN = {"instruction": "Say hello.", "input": "", "output": "Hello there"}


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE that opens every text with <s>, as Llama's does."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        [render_prompt(TAG), render_prompt(PLAIN), "Red", "Hello there", "a\n\n\nb"],
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


# ---- files


def test_reads_json_and_jsonl_alike(tmp_path):
    records = [TAG | {"kind": "new"}, PLAIN]
    (tmp_path / "a.json").write_text(json.dumps(records))
    lines = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "a.jsonl").write_text(lines + "\n\n")
    assert read_records(tmp_path / "a.json") == read_records(tmp_path / "a.jsonl") == records


def test_a_unicode_line_separator_inside_a_string_does_not_end_the_line(tmp_path):
    record = PLAIN | {"output": "one\u2028two"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    assert read_records(tmp_path / "a.jsonl") == [record]


def test_input_may_be_missing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"instruction": "Go.", "output": "Gone."}')
    assert read_records(tmp_path / "a.jsonl")[0]["input"] == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a"}', "line 2: no field 'output'"),
        ('{"instruction": "a", "output": 7}', "line 1: 'output' is 7, expected a string"),
        ('{"instruction": "a", "input": null, "output": "b"}', "'input' is None"),
        ('{"instruction": " ", "output": "b"}', "'instruction' is empty"),
        ("\n\n{oops", "line 3: not JSON"),
        ("[1]", "line 1: expected an object, found list"),
        ("\n", "holds no records"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path / "a.jsonl")


def test_a_json_file_must_be_a_list(tmp_path):
    (tmp_path / "a.json").write_text('{"instruction": "a"}')
    with pytest.raises(ValueError, match="expected a list of records, found dict"):
        read_records(tmp_path / "a.json")


def test_missing_files_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(data.NAMED_FILES, "alpaca-cleaned", tmp_path / "alpaca_data_cleaned.json")
    with pytest.raises(FileNotFoundError, match="fetch alpaca_data_cleaned.json from .* into"):
        load_instructions("alpaca-cleaned")
    with pytest.raises(FileNotFoundError, match="expected a .json or .jsonl file"):
        load_instructions(tmp_path / "mine.jsonl")
    (tmp_path / "alpaca_data_cleaned.json").write_text(json.dumps([TAG]))
    assert load_instructions("alpaca-cleaned") == [TAG]


def test_hold_out_is_the_split_of_the_datasets_library():
    records = [{"instruction": f"i{n}", "input": "", "output": f"o{n}"} for n in range(50)]
    train, held_out = hold_out(records, count=12, seed=42)
    split = Dataset.from_list(records).train_test_split(test_size=12, shuffle=True, seed=42)
    assert train == split["train"].to_list()
    assert held_out == split["test"].to_list()


@pytest.mark.parametrize("count", [0, 2, 3])
def test_hold_out_leaves_something_on_both_sides(count):
    with pytest.raises(ValueError, match=f"cannot hold out {count} of 2 records"):
        hold_out([TAG, PLAIN], count)


# ---- prompts and tokens


def test_prompts_are_alpacas():
    assert render_prompt(TAG) == (
        "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
        "Name the colour.\n\n### Input:\na ripe tomato\n\n### Response:\n"
    )
    assert render_prompt(PLAIN) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSay hello.\n\n### Response:\n"
    )


def test_braces_in_a_record_are_text():
    record = {"instruction": "Explain {x}.", "input": "{0}", "output": "{}"}
    assert "Explain {x}." in render_prompt(record)
    assert "{0}" in render_prompt(record)


def test_loss_is_on_the_answer_and_the_end_of_text(tokenizer):
    for record in (TAG, PLAIN):
        (example,) = encode([record], tokenizer, max_length=256)
        answer = [label for label in example.labels if label != -100]
        masked = example.input_ids[: len(example) - len(answer)]
        assert example.input_ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(masked[1:]) == render_prompt(record)
        assert tokenizer.decode(answer[:-1]) == record["output"]
        assert answer[-1] == tokenizer.eos_token_id
        assert example.labels[-len(answer) :] == example.input_ids[-len(answer) :]


def test_a_token_across_the_border_belongs_to_the_answer(tokenizer):
    # Two line ends are one token: the answer's first one takes in the prompt's last character.
    record = PLAIN | {"output": "\n\nHello"}
    (example,) = encode([record], tokenizer, max_length=256)
    answer = [label for label in example.labels if label != -100]
    assert tokenizer.decode(answer[:-1]) == "\n\n\nHello"


def test_a_tokenizer_that_ends_texts_itself_gets_no_second_end(tokenizer):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<s>",
        eos_token="</s>",
    )
    end = tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", end)]
    )
    (example,) = encode([TAG], tokenizer, max_length=256)
    assert example.input_ids.count(end) == 1
    answer = [label for label in example.labels if label != -100]
    assert tokenizer.decode(answer) == "Red</s>"


def test_a_cut_answer_has_no_end_of_text(tokenizer):
    (whole,) = encode([PLAIN], tokenizer, max_length=256)
    (cut,) = encode([PLAIN], tokenizer, max_length=len(whole) - 2)
    assert cut.input_ids == whole.input_ids[:-2]
    assert tokenizer.eos_token_id not in cut.input_ids


def test_records_without_an_answer_left_are_counted(tokenizer):
    long = PLAIN | {"instruction": "Say hello. " * 40}
    (short,) = encode([PLAIN], tokenizer, max_length=256)
    with pytest.warns(UserWarning, match="2 of 3 records left out"):
        examples = encode([long, PLAIN, long], tokenizer, max_length=len(short))
    assert examples == [short]
    with pytest.raises(ValueError, match=r"none of the 1 records.*raise max_length"):
        encode([long], tokenizer, max_length=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode([PLAIN], tokenizer, max_length=256)


def test_encode_refuses_what_cannot_work(tokenizer):
    with pytest.raises(ValueError, match="max_length is 0"):
        encode([PLAIN], tokenizer, max_length=0)
    with pytest.raises(ValueError, match="no records"):
        encode([], tokenizer, max_length=8)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no end-of-text token"):
        encode([PLAIN], bare, max_length=8)


# ---- batches


def test_collate_pads_on_the_right():
    batch = collate([Example([5, 6, 7], [-100, 6, 7]), Example([8], [8])], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**31))
def test_every_epoch_has_every_example_once(count, batch_size, seed):
    steps = -(-3 * count // batch_size)
    stream = [i for step in range(steps) for i in batch_indices(count, batch_size, seed, step)]
    for epoch in range(3):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ_and_steps_repeat():
    def order(seed, step):
        return batch_indices(100, 100, seed, step)

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(0, 0)), tuple(order(0, 1)), tuple(order(1, 0))}) == 3


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=4, max_size=40),
    size=st.integers(1, 9),
    processes=st.integers(1, 4),
)
def test_micro_batches_split_a_batch_without_loss_and_evenly(lengths, size, processes):
    examples = [Example([n] * length, [n] * length) for n, length in enumerate(lengths)]
    shares = [list(micro_batches(examples, size, rank, processes)) for rank in range(processes)]
    seen = [example.input_ids[0] for share in shares for micro in share for example in micro]
    assert sorted(seen) == list(range(len(examples)))
    assert all(len(micro) <= size for share in shares for micro in share)
    counts = [sum(map(len, share)) for share in shares]
    assert max(counts) - min(counts) <= 1
    for share in shares:  # a later micro-batch never has a shorter example than an earlier one
        flat = [len(example) for micro in share for example in micro]
        assert flat == sorted(flat)


def test_fingerprint_sees_tokens_labels_and_order():
    a, b = Example([1, 2], [-100, 2]), Example([3], [3])
    others = [[b, a], [a], [Example([1, 2], [1, 2]), b], [Example([1, 2, 3], [-100, 2, 3])]]
    assert len({fingerprint(part) for part in [[a, b], *others]}) == 5
    assert fingerprint([a, b]) == fingerprint([Example([1, 2], [-100, 2]), Example([3], [3])])
