"""The sharing map against counts and shapes worked out from the methods' definitions.

The shapes are made up and small: 3 layers of q_proj [8, 8], k_proj [8 -> 2] and up_proj [8 -> 20].
"""

from collections import Counter

import pytest

from bslora_kit import bslora, lora, share_lora, tied_lora, vera
from bslora_kit.figures import sharing_map, sharing_maps, sharing_summary, sharing_table
from bslora_kit.figures.style import SCOPES
from bslora_kit.plan import plan_of
from bslora_kit.shapes import Shapes, linear_at, llama_3_8b

LAYERS = 3
SIZES = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (8, 2), "mlp.up_proj": (8, 20)}
TARGETS = ["q_proj", "k_proj", "up_proj"]
SHAPES = Shapes(
    "small",
    "llama",
    tuple(
        linear_at(f"model.layers.{n}.{path}", *size)
        for n in range(LAYERS)
        for path, size in SIZES.items()
    ),
    10_000,
)


def small(config):
    config.target_modules = set(TARGETS)
    return plan_of(config, SHAPES)


def owners_by_field(figure, columns):
    """Field number -> how often each scope and shade is drawn in it."""
    found = {}
    for trace in figure.data:
        for start in trace.base:
            field = int(start // (columns + 0.6))
            found.setdefault(field, Counter())[trace.name, trace.marker.color] += 1
    return found


def test_a_band_for_each_branch_of_each_linear_as_wide_as_its_rank():
    figure = sharing_map(small(bslora(2, 1, 5)), "SS")
    widths = Counter()
    for trace in figure.data:
        widths.update((trace.name, round(width / 0.92 * 8, 6)) for width in trace.x)
    assert widths == {
        ("own to one linear", 2): 2 * LAYERS * 3,
        ("shared in a layer", 1): 2 * LAYERS * 3,
        ("shared by the model", 5): 2 * LAYERS * 3,
    }
    local = 2 * LAYERS * ((8 + 8) + (8 + 2) + (8 + 20))
    shared = (LAYERS * 1 + 5) * (8 + 20)
    assert figure.layout.title.text == (
        f"SS: {2 * (9 + 3 + 1)} tensors for 9 linears,<br>"
        f"{shared / (local + shared):.0%} of {local + shared} trainable parameters are shared"
    )


def test_each_factor_has_its_owners_colour():
    """ShareLoRA B: A chequered in the linears' own colour, B in stripes by projection type."""
    own, by_type = SCOPES["module"], SCOPES["type"]
    first, second = owners_by_field(sharing_map(small(share_lora(4, share="B")), "B"), 3).values()
    assert {name for name, _ in first} == {own[1]} and {name for name, _ in second} == {by_type[1]}
    assert first[own[1], own[0]] == 5 and len(first) == 2  # of 9 chequered cells
    assert second[by_type[1], by_type[0]] == 2 * LAYERS and len(second) == 2  # columns 1 and 3


def test_bands_of_a_layer_share_a_shade_and_neighbouring_layers_differ():
    figure = sharing_map(small(bslora(0, 4, 0)), "intra")
    bands = Counter((row, trace.marker.color) for trace in figure.data for row in trace.y)
    assert [(row, count) for (row, _), count in sorted(bands.items())] == [(0, 6), (1, 6), (2, 6)]
    shade = dict(bands.keys())
    assert shade[0] == shade[2] != shade[1]


def test_hovering_gives_owner_shape_users_and_parameters():
    figure = sharing_map(small(bslora(0, 0, 5)), "inter")
    texts = {text for trace in figure.data for text in trace.hovertext}
    assert (
        "model.layers.2.self_attn.k_proj reads<br>"
        "inter B [20 x 5] of model: 100 parameters, used by 9 linears"
    ) in texts


@pytest.mark.parametrize(
    ("config", "vectors"),
    [(tied_lora(4), 9), (bslora(1, 2, 2, fit="kron", kron_size=4), 18), (vera(4), 9)],
    ids=["gains", "kron", "vera"],
)
def test_vectors_have_a_field_of_their_own(config, vectors):
    fields = owners_by_field(sharing_map(small(config), "x"), 3)
    assert sum(fields[2].values()) == vectors
    assert {name for name, _ in fields[2]} == {"own to one linear"}


def test_frozen_tensors_are_named_so():
    names = {trace.name for trace in sharing_map(small(vera(4)), "VeRA").data}
    assert names == {"shared by the model, frozen", "own to one linear"}


def test_the_table_has_each_tensor_once():
    table = sharing_table(small(share_lora(4, share="A")))
    assert list(table["scope"]) == ["type"] * 3 + ["module"] * 9
    assert table["parameters"].sum() == 4 * (3 * 8 + LAYERS * (8 + 2 + 20))
    row = table.set_index("tensor").loc["shared.A.up_proj"]
    assert (row["shape"], row["users"], row["first_user"]) == ("4 x 8", 3, "model.layers.0.mlp.up_proj")


def test_the_summary_adds_up_to_the_published_counts():
    """Llama-3-8B, ranks 8 and 2,4,16: counts as printed in the published tables."""
    plans = {
        "ShareLoRA B": plan_of(share_lora(8, share="B"), llama_3_8b()),
        "BSLoRA": plan_of(bslora(2, 4, 16), llama_3_8b()),
        "TL6": plan_of(tied_lora(8), llama_3_8b()),
    }
    summary = sharing_summary(plans)
    assert dict(summary["trainable"]) == {
        "ShareLoRA B": 8_060_928,
        "BSLoRA": 7_667_712,
        "TL6": 1_230_080,
    }
    assert list(summary.columns) == ["tensors", "module", "layer", "type", "model", "trainable"]
    scopes = summary[["module", "layer", "type", "model"]].sum(axis=1)
    assert (scopes == summary["trainable"]).all()
    assert list(summary["tensors"]) == [165, 386, 330]
    assert list(sharing_summary({"LoRA": plans["BSLoRA"]}).columns) == [
        "tensors",
        "module",
        "layer",
        "model",
        "trainable",
    ]


def test_maps_side_by_side():
    plans = {"LoRA": small(lora(4)), "TL5": small(tied_lora(4, variant="tl5"))}
    figure = sharing_maps(plans)
    assert figure.layout.title.text.startswith("From 648 parameters (LoRA) to 216 (TL5)")
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"}
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "own to one linear",
        "shared by a projection type",
    ]
    assert list(figure.layout.xaxis.ticktext) == ["q", "k", "up"] * 2
    with pytest.raises(ValueError, match="no plan to draw"):
        sharing_maps({})


def test_rows_are_layers_and_every_fourth_of_many_is_labelled():
    axis = sharing_map(plan_of(lora(2), llama_3_8b()), "LoRA").layout.yaxis
    assert list(axis.ticktext) == ["0", "4", "8", "12", "16", "20", "24", "28"]
    assert axis.range[0] > axis.range[1]  # the first layer on top


def test_linears_outside_the_layers_have_a_row():
    shapes = Shapes("headed", "llama", (*SHAPES.linears, linear_at("lm_head", 8, 30)), 10_000)
    figure = sharing_map(plan_of(lora(2, target_modules=[*TARGETS, "lm_head"]), shapes), "LoRA")
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "2", "none"]
    assert list(figure.layout.xaxis.ticktext)[:4] == ["q", "k", "up", "lm_head"]
