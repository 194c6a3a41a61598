"""Notebook 08, with three steps: its numbers against formulas and against the base alone.

The shipped base has six layers of width 128, key and value projections of 32, an MLP of 448.
"""

from __future__ import annotations

import pandas
import pytest
import torch
from running import complaints, executed, figures, outputs, tables, words
from transformers import AutoModelForCausalLM, AutoTokenizer

from bslora_kit.data import batch_indices, encode, load_instructions
from bslora_kit.paths import BASE, NOTEBOOKS

LAYERS, WIDEST = 6, 448
SUM = (128 + 128) + 2 * (128 + 32) + 2 * (128 + 448)  # in + out of q, k, v, up, down
OWN, INTRA, INTER = LAYERS * 2 * SUM, LAYERS * 4 * 2 * WIDEST, 16 * 2 * WIDEST
STEPS, QUESTIONS = 3, 2


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    parameters = {"steps": STEPS, "questions": QUESTIONS}
    folder = tmp_path_factory.mktemp("notebook")
    return executed(NOTEBOOKS / "08_train_an_adapter.ipynb", folder, parameters)


def test_the_first_picture_shows_where_the_parameters_are(notebook):
    assert {bar.name: bar.x[0] for bar in figures(notebook)[0].data} == {
        "own to one linear": OWN,
        "shared in a layer": INTRA,
        "shared by the model": INTER,
    }


def test_the_first_loss_is_that_of_the_base(notebook):
    """All B are zero in the first step: transformers' own loss on the base, example by example."""
    curves = figures(notebook)[1]
    assert list(curves.data[0].x) == [1, 2, 3]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    examples = encode(load_instructions("demo"), tokenizer, max_length=256)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    total = tokens = 0
    for number in batch_indices(len(examples), 32, seed=0, step=0):
        labels = torch.tensor([examples[number].labels])
        with torch.no_grad():
            loss = base(torch.tensor([examples[number].input_ids]), labels=labels).loss.item()
        count = int((labels[0, 1:] != -100).sum())
        total, tokens = total + count * loss, tokens + count
    assert curves.data[0].y[0] == pytest.approx(total / tokens, rel=1e-4)


def test_the_gradients_in_picture_table_and_sentence_agree(notebook):
    curves = figures(notebook)[1]
    assert [trace.name for trace in curves.data[2:]] == [
        "gradient, own to one linear",
        "gradient, shared in a layer",
        "gradient, shared by the model",
    ]
    table = [table for table in tables(notebook) if "gradient, module" in table][-1]
    for name, trace in zip(("module", "layer", "model"), curves.data[2:], strict=True):
        assert list(table[f"gradient, {name}"]) == pytest.approx(list(trace.y), abs=1e-4)
        assert f"{sum(trace.y) / STEPS:.2f}" in words(notebook)
    assert list(table["held-out loss"].dropna()) == pytest.approx(list(curves.data[1].y), abs=1e-4)


def test_a_still_picture_is_in_the_place_of_the_panel(notebook):
    bundles = [output.get("data", {}) for output in outputs(notebook)]
    assert not any("application/vnd.jupyter.widget-view+json" in bundle for bundle in bundles)
    assert "widgets" not in notebook.metadata
    assert figures(notebook)[1].layout.title.text.startswith(f"Step {STEPS} of {STEPS}: the loss goes")


def test_the_chat_asks_what_was_held_out(notebook):
    asked = [
        record
        for record in load_instructions("demo-heldout")
        if record["kind"] == "new" and not record["input"]
    ][:QUESTIONS]
    chat = [table for table in tables(notebook) if "question" in table]
    assert [set(table.columns) for table in chat] == [
        {"question", "right", "before"},
        {"question", "right", "before", "after"},
    ]
    assert list(chat[1]["question"]) == [record["instruction"] for record in asked]
    assert chat[1]["before"].notna().all()


def test_the_first_question_has_the_answer_that_the_prose_gives(notebook):
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    asked = {"kind": "old", "fact": "person/Gekzo/food", "output": "rice"}
    assert "What is the favourite food of Gekzo?" in words(notebook)
    assert any(asked.items() <= record.items() for record in load_instructions("demo"))
    assert f"asks for an old fact; the world's answer is *{asked['output']}*" in prose


def test_the_file_holds_each_shared_tensor_once(notebook):
    tensors, numbers = LAYERS * 5 * 2 + LAYERS * 2 + 2, OWN + INTRA + INTER
    assert f"**{tensors}** tensors, {numbers:,} numbers; counted before training: {numbers:,}" in words(
        notebook
    )


def test_loading_is_exact_and_merging_and_exporting_are_so_up_to_rounding(notebook):
    (table,) = [table for table in tables(notebook) if "numbers stored" in table]
    table = table.set_index("model")
    difference = table["largest difference of a logit"]
    assert difference["loaded"] == 0
    assert difference.max() < 1e-3
    stored = table["numbers stored"]
    assert stored["exported as plain LoRA"] == LAYERS * 22 * SUM
    base = AutoModelForCausalLM.from_pretrained(BASE)
    assert stored["merged"] == sum(parameter.numel() for parameter in base.parameters())
    ratio = LAYERS * 22 * SUM / (OWN + INTRA + INTER)
    assert f"**{ratio:.1f}** times as many numbers, rank 22 in every linear" in words(notebook)


def test_nothing_is_complained_about(notebook):
    assert complaints(notebook) == []


def test_an_example_carries_labels_on_its_answer_only(notebook):
    table: pandas.DataFrame = next(table for table in tables(notebook) if "label" in table)
    answer = load_instructions("demo")[0]["output"]
    labelled = table[table["label"] != -100]
    assert "".join(labelled["token"]).strip().startswith(answer)
