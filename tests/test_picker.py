"""The rank picker without a browser: set controls, read figure, words and config."""

from __future__ import annotations

import json
import threading

import pytest
import yaml

from bslora_kit import bslora, lora, methods, share_lora, tied_lora
from bslora_kit.branches import Branch
from bslora_kit.budget import budget, triples_within
from bslora_kit.figures import equal_budget_triples
from bslora_kit.figures.style import BRANCH_COLOURS, SCOPE_PATTERNS, SCOPES
from bslora_kit.grid.file import read_grid
from bslora_kit.memory import Setting, memory
from bslora_kit.panels.choice import Choice, nearest_published, published_rows, rank_within
from bslora_kit.panels.parts import html_table
from bslora_kit.panels.picker import RankPicker
from bslora_kit.paths import BASE
from bslora_kit.shapes import llama_1_7b, llama_1_13b, llama_3_8b, of_config

WORDS = {scope: words for scope, (_, words) in SCOPES.items()}


@pytest.fixture
def picker():
    return RankPicker()


def drawn(picker):
    """Scope -> parameters in the first picture, zeros left out."""
    named = {trace.name: trace for trace in picker.figure.data}
    sums = {scope: sum(named[words].y) for scope, words in WORDS.items()}
    return {scope: count for scope, count in sums.items() if count}


def bars(picker, name, row):
    """The values of a trace of the lower pictures."""
    return next(list(t.x) for t in picker.figure.data if t.name == name and t.xaxis == row)


def test_a_slider_moves_number_figure_words_and_config(picker):
    llama = llama_3_8b()
    picker.ranks[0].slider.value = 3
    assert picker.ranks[0].number.value == 3
    expected = budget(bslora(3, 4, 16), llama)
    assert drawn(picker) == expected.by_scope
    assert bars(picker, "inter", "x2") == [16, 16]
    assert f"BSLoRA (SS) 3,4,16 trains {expected.trainable:,} parameters" in picker.words.value
    assert picker.figure.layout.title.text.startswith("BSLoRA (SS) 3,4,16 trains")
    parts = memory(expected.plan, llama, Setting()).parts
    for name, size in parts.items():
        assert bars(picker, name, "x3")[0] == pytest.approx(size / 2**30)
    assert picker.config.value.startswith("bslora(3, 4, 16, fit='slice')\n- {row: ")
    picker.ranks[2].number.value = 5  # the other way
    assert picker.ranks[2].slider.value == 5
    assert drawn(picker) == budget(bslora(3, 4, 5), llama).by_scope


def test_the_bars_stand_over_their_kinds(picker):
    """Llama 3-8B, local rank 2: in + out of q, k, v, up, down; shared pairs serve several kinds."""
    local = next(trace for trace in picker.figure.data if trace.name == WORDS["module"])
    sizes = {"q_proj": 8192, "k_proj": 5120, "v_proj": 5120, "up_proj": 18_432, "down_proj": 18_432}
    counts = dict(zip(local.x, local.y, strict=True))
    assert counts == {**{kind: 32 * 2 * size for kind, size in sizes.items()}, "shared": 0}


def test_colours_have_a_pattern_beside_them(picker):
    found = {t.name: (t.marker.color, t.marker.pattern.shape or "") for t in picker.figure.data[:4]}
    assert found == {words: (colour, SCOPE_PATTERNS[scope]) for scope, (colour, words) in SCOPES.items()}
    assert len(set(SCOPE_PATTERNS.values())) == 4
    labels = [trace.text for trace in picker.figure.data if trace.name in BRANCH_COLOURS]
    assert labels == [("local 2",) * 2, ("intra 4",) * 2, ("inter 16",) * 2, ("", "")]


def test_a_gated_branch_shows_rank_1(picker):
    picker.controls["variant"].value = "gate"
    assert bars(picker, "inter", "x2") == [1, 16]  # the update's, the given
    assert "a gated branch has rank 1 whatever r is" in picker.words.value
    picker.controls["gate_size"].value = 512
    assert drawn(picker) == budget(bslora(2, 4, 16, fit="gate", gate_size=512), llama_3_8b()).by_scope


def test_methods_of_one_rank(picker):
    picker.controls["method"].value = "share_lora"
    picker.controls["variant"].value = "B"
    picker.ranks[0].slider.value = 8
    assert picker.ranks[0].number.description == "rank"
    assert [pair.layout.display for pair in picker.ranks] == ["flex", "none", "none"]
    assert picker.controls["lock"].disabled
    assert drawn(picker) == budget(share_lora(8, share="B"), llama_3_8b()).by_scope
    picker.controls["method"].value = "lora"
    assert (picker.controls["variant"].label, picker.choice.variant) == ("none", None)
    picker.controls["method"].value = "tied_lora"
    assert picker.choice.variant == "tl5"
    assert drawn(picker) == budget(tied_lora(8, variant="tl5"), llama_3_8b()).by_scope
    picker.controls["method"].value = "bslora"
    assert [pair.number.description for pair in picker.ranks] == ["local", "intra", "inter"]


def test_the_locked_budget(picker):
    """One local rank of slice sharing costs 1,769,472, one inter rank 28,672: 61.7 of them."""
    picker.ranks[2].slider.value = 100
    picker.controls["lock"].value = True
    locked = 2 * 1_769_472 + 4 * 917_504 + 100 * 28_672
    assert picker.locked == locked
    picker.ranks[0].slider.value = 3
    assert [pair.slider.value for pair in picker.ranks] == [3, 4, 38]
    assert picker.answer.budget.trainable == 3 * 1_769_472 + 4 * 917_504 + 38 * 28_672
    picker.ranks[2].slider.value = 128  # the one that gives way moves: the next one does
    assert [pair.slider.value for pair in picker.ranks] == [1, 4, 128]
    assert f"locked at {locked:,}" in picker.words.value
    picker.ranks[2].slider.value = 8
    picker.controls["give_way"].value = 0
    picker.controls["variant"].value = "gate"  # another fit at the same budget
    gates = [budget(bslora(a, 4, 8, fit="gate"), llama_3_8b()).trainable for a in range(8)]
    assert picker.ranks[0].slider.value == sum(count <= locked for count in gates) - 1


def test_a_lock_that_cannot_hold_says_so(picker):
    picker.controls["lock"].value = True
    picker.ranks[0].slider.value = 10
    assert picker.ranks[2].slider.value == 0
    over = 10 * 1_769_472 + 4 * 917_504 - 7_667_712
    assert f"{over:,} over: the other ranks alone exceed it" in picker.words.value
    picker.controls["method"].value = "lora"
    assert picker.locked is None and not picker.controls["lock"].value


def test_rank_within_uses_a_budget_up():
    llama = llama_3_8b()
    choice = Choice("bslora", "kron", (2, 8, 0))
    rank = rank_within(choice, 2, 4_000_000, llama, 1000)
    counts = [budget(bslora(2, 8, r, fit="kron"), llama).trainable for r in (rank, rank + 1)]
    assert counts[0] <= 4_000_000 < counts[1]
    assert rank_within(choice, 2, 4_000_000, llama, 7) == 7
    assert rank_within(choice, 2, 1_000, llama, 7) == 0


def test_targets(picker):
    picker.controls["targets"].value = "MLP"
    assert picker.choice.targets == ("up_proj", "down_proj")
    assert (
        drawn(picker)
        == budget(bslora(2, 4, 16, target_modules=["up_proj", "down_proj"]), llama_3_8b()).by_scope
    )
    picker.controls["projections"].value = ("q_proj", "o_proj")
    assert picker.controls["targets"].value == "own choice"
    assert "target_modules=['q_proj', 'o_proj']" in picker.config.value
    picker.controls["projections"].value = ()
    assert "no projection is chosen" in picker.words.value
    assert picker.choice.targets == () and picker.answer.choice.targets == ("q_proj", "o_proj")


def test_all_ranks_zero_is_said_and_the_last_choice_stays(picker):
    for pair in picker.ranks:
        pair.slider.value = 0
    assert "switch every branch off" in picker.words.value
    assert picker.answer.choice.ranks == (0, 0, 16)
    picker.ranks[0].slider.value = 1
    assert "switch every branch off" not in picker.words.value


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: row.label)
def test_presets_give_the_published_counts(row):
    llama = {"Llama 3-8B": llama_3_8b, "Llama 1-7B": llama_1_7b, "Llama 1-13B": llama_1_13b}[row.model]()
    unexplained = {(2, 8, 32): 3_700_224, (4, 8, 8): 7_226_880}  # KE rows whose print no k = 256 gives
    wanted = row.parameters if row.choice.variant != "kron" else unexplained.get(row.choice.ranks)
    counted = budget(row.choice.config, llama).trainable
    assert counted == (wanted or row.parameters)


def test_a_preset_sets_everything(picker):
    rows = {row.label: row for row in published_rows()}
    picker.controls["model"].value = "the shipped base"
    picker.controls["preset"].value = rows["Tied-LoRA (TL6) 8 on Llama 1-7B"]
    assert picker.answer.choice == Choice("tied_lora", "tl6", (8,))
    assert picker.answer.budget.trainable == 1_316_096
    assert picker.controls["model"].value == "Llama 1-7B"
    picker.ranks[0].slider.value = 9
    assert picker.controls["preset"].label == "none"  # no longer a published row


def test_other_models(picker, tmp_path):
    picker.controls["model"].value = "the shipped base"
    assert picker.controls["gate_size"].value == 32  # 1024 as 128 is to 4096
    assert drawn(picker) == budget(bslora(2, 4, 16), of_config(BASE)).by_scope
    picker.controls["model"].value = "the shipped base, 1-13B"
    assert picker.controls["gate_size"].value == 40  # 1024 as 160 is to 4096
    assert {x.in_features for x in picker.answer.shapes.linears if x.kind == "q_proj"} == {160}
    picker.controls["model"].value = "a folder"
    assert "Type the folder of a model" in picker.words.value
    picker.ranks[0].slider.value = 5
    assert "Type the folder of a model" in picker.words.value  # still no model to answer for
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 2})
    )
    picker.controls["folder"].value = str(tmp_path)
    assert picker.choice.targets == ("c_attn", "c_proj", "c_fc")
    assert picker.answer.shapes.model_type == "gpt2" and picker.answer.memories == {}
    assert sum(drawn(picker).values()) == picker.answer.budget.trainable


def test_the_words_name_an_equal_lora_and_the_nearest_row(picker):
    """7,667,712 / 3,538,944 * 2 = 4.3: rank 4; the printed row has the same count."""
    assert picker.answer.equal == (4, 7_077_888)
    assert picker.answer.nearest.choice == Choice("bslora", "slice", (2, 4, 16))
    assert nearest_published(1e-9).parameters == min(
        row.parameters for row in published_rows() if row.choice.method != "tied_lora"
    )
    picker.controls["variant"].value = "kron"
    picker.ranks[0].slider.value = 0
    assert picker.answer.equal == (0, 1_769_472)
    assert "Not even a plain LoRA of rank 1 fits: it takes 1,769,472" in picker.words.value


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice("bslora", "gate", (0, 4, 8), gate_size=64),
        Choice("bslora", "kron", (2, 8, 32), ("q_proj", "o_proj"), kron_size=16),
        Choice("share_lora", "AB", (8,)),
        Choice("tied_lora", "tl6", (8,)),
        Choice("vera", None, (256,)),
        Choice("lora", None, (8,), ("up_proj",)),
    ],
    ids=lambda choice: choice.label,
)
def test_the_copied_config_is_the_choice(choice, tmp_path):
    names = {
        name: getattr(methods, name) for name in ("lora", "bslora", "share_lora", "tied_lora", "vera")
    }
    line = eval(choice.python, names)
    assert line.branches == choice.config.branches and all(isinstance(b, Branch) for b in line.branches)
    llama = llama_3_8b()
    assert budget(line, llama).trainable == budget(choice.config, llama).trainable
    (tmp_path / "grid.yaml").write_text(f"rows:\n  {choice.grid_row}\n")
    (row,) = read_grid(tmp_path / "grid.yaml").rows
    assert (row["method"], tuple(row["ranks"])) == (choice.method, choice.ranks)
    assert {name: row[name] for name in choice.options} == choice.options
    assert tuple(row.get("targets", choice.targets)) == choice.targets


def test_a_page_without_widgets_gets_the_table(picker):
    bundle = picker._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    for text in ("7,667,712", "rank of one linear", "<table"):
        assert text in bundle["text/html"]
    picture = picker.picture
    assert type(picture).__name__ == "Figure" and len(picture.data) == len(picker.figure.data)


def test_words_are_escaped(picker):
    shown = html_table(picker.answer.table(), ["<b>&"], "<script>")
    assert "&lt;b&gt;&amp;" in shown and "<script>" not in shown


def test_callbacks_of_several_threads_end_in_one_state(picker):
    def drag(position):
        for rank in range(8):
            picker.ranks[position].slider.value = rank

    threads = [threading.Thread(target=drag, args=(position,)) for position in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert picker.answer.choice.ranks == (7, 7, 7)
    assert drawn(picker) == budget(bslora(7, 7, 7), llama_3_8b()).by_scope


def test_plain_lora_in_peft_stands_beside(picker):
    llama = llama_3_8b()
    plan = budget(lora(4), llama).plan
    label, found = list(picker.answer.memories.items())[1]
    assert label == "LoRA 4 in PEFT"
    assert found == memory(plan, llama, Setting(keeps="peft"))
    picker.controls["batch"].value = 8
    picker.controls["checkpointing"].value = True
    again = picker.answer.memories[label]
    assert again == memory(plan, llama, Setting(batch=8, checkpointing=True, keeps="peft"))
    assert bars(picker, "activations", "x3")[1] == pytest.approx(again.parts["activations"] / 2**30)


def test_a_budget_without_triples_is_refused():
    assert triples_within(10, llama_3_8b()) == []
    with pytest.raises(ValueError, match="no triple uses 10 parameters up; allow a larger tolerance"):
        equal_budget_triples([], 10)


def test_the_grid_row_is_one_line_of_yaml():
    (row,) = yaml.safe_load(Choice().grid_row)
    assert row == {
        "row": "bslora-slice-2-4-16",
        "label": "BSLoRA (SS)",
        "method": "bslora",
        "fit": "slice",
        "ranks": [2, 4, 16],
    }
    assert "\n" not in Choice().grid_row
