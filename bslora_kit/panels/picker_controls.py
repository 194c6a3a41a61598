"""The controls of the rank picker and how they are arranged; what they do is in `picker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from bslora_kit import shapes as sizes
from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.budget import BYTES
from bslora_kit.panels.choice import VARIANT_NAMES, published_rows
from bslora_kit.panels.parts import WIDE_NAME
from bslora_kit.paths import BASE

NONE = "none"  # a dropdown cannot show an option whose value is None
LOCAL, OWN = "a folder", "own choice"
SHIPPED = {  # name -> folder; of the proportions of Llama 3-8B, 1-7B and 1-13B
    "the shipped base": BASE,
    "the shipped base, 1-7B": BASE.with_name("base-1-7b"),
    "the shipped base, 1-13B": BASE.with_name("base-1-13b"),
}
LLAMAS: dict[str, Callable[[], sizes.Shapes]] = {  # by the names of the published tables
    "Llama 3-8B": sizes.llama_3_8b,
    "Llama 1-7B": sizes.llama_1_7b,
    "Llama 1-13B": sizes.llama_1_13b,
}
TARGETS = {
    "attention and MLP": sizes.DEFAULT_TARGETS,
    "attention": ("q_proj", "k_proj", "v_proj"),
    "MLP": ("up_proj", "down_proj"),
}
LARGEST = {"local": 64, "intra": 64, "inter": 128, "rank": 256}  # ends of the sliders
_METHODS = {
    "BSLoRA": "bslora",
    "LoRA": "lora",
    "ShareLoRA": "share_lora",
    "Tied-LoRA": "tied_lora",
    "VeRA": "vera",
}
_VARIANTS = {  # method -> what a dropdown offers
    "bslora": [("slice (SS)", "slice"), ("gate (GT)", "gate"), ("Kronecker (KE)", "kron")],
    "share_lora": [("A shared", "A"), ("B shared", "B"), ("A and B shared", "AB")],
    "tied_lora": [("TL5", "tl5"), ("TL6, with gains", "tl6")],
}


def variants_of(method: str) -> tuple[str, list[tuple[str, str]]]:
    """What a method calls its variants, and the variants as (words, value)."""
    return VARIANT_NAMES.get(method, "fit").capitalize(), _VARIANTS.get(method, [(NONE, NONE)])


def make_controls() -> dict[str, Any]:
    """The controls but for the ranks, by name; each has a description, which names it to a reader."""
    presets = [(NONE, NONE), *((row.label, row) for row in published_rows())]
    fields = {
        "preset": widgets.Dropdown(description="Published row", options=presets),
        "model": widgets.Dropdown(description="Model", options=[*LLAMAS, *SHIPPED, LOCAL]),
        "folder": widgets.Text(description="Folder", placeholder="of a model with a config.json"),
        "method": widgets.Dropdown(description="Method", options=list(_METHODS.items())),
        "variant": widgets.Dropdown(description="Fit", options=_VARIANTS["bslora"]),
        "gate_size": _number("Gate size", GATE_SIZE, 65_536),
        "kron_size": _number("Kronecker size", KRON_SIZE, 65_536),
        "targets": widgets.Dropdown(description="Targets", options=[*TARGETS, OWN]),
        "projections": widgets.SelectMultiple(description="Projections", rows=7),
        "batch": _number("Batch", 4, 4096),
        "sequence": _number("Tokens", 256, 1_048_576),
        "dtype": widgets.Dropdown(
            description="Base in", options=[x for x in BYTES if x != "float64"], value="bfloat16"
        ),
        "checkpointing": widgets.Checkbox(description="Gradient checkpointing", indent=False),
        "lock": widgets.Checkbox(description="Lock the budget", indent=False),
        "give_way": widgets.Dropdown(
            description="Gives way", options=[("local", 0), ("intra", 1), ("inter", 2)], value=2
        ),
    }
    for control in fields.values():
        control.style.description_width = "105px"
        control.layout.width = "auto"
    for name in ("checkpointing", "lock"):
        fields[name].style = WIDE_NAME
    return fields


def make_config_field() -> widgets.Textarea:
    """Text to copy: a line of Python and a row of a grid file."""
    return widgets.Textarea(
        description="Copy the config",
        rows=3,
        style={"description_width": "105px"},
        layout=widgets.Layout(width="100%"),
    )


def arranged(
    controls: Mapping[str, Any],
    ranks: Sequence[widgets.Widget],
    figure: widgets.Widget,
    words: widgets.Widget,
    config: widgets.Widget,
) -> widgets.VBox:
    """Choices in three columns, then ranks and lock, figure, sentences with table, and the config."""
    columns = (
        ("preset", "model", "folder", "method", "variant"),
        ("targets", "projections"),
        ("gate_size", "kron_size", "batch", "sequence", "dtype", "checkpointing"),
    )
    choices = widgets.GridBox(
        [widgets.VBox([controls[name] for name in column]) for column in columns],
        layout=widgets.Layout(
            grid_template_columns="repeat(auto-fit, minmax(270px, 1fr))", grid_gap="0 8px", width="100%"
        ),
    )
    lock = widgets.HBox([controls["lock"], controls["give_way"]])
    return widgets.VBox([choices, *ranks, lock, figure, words, config])


def _number(name: str, value: int, largest: int) -> widgets.BoundedIntText:
    return widgets.BoundedIntText(description=name, value=value, min=1, max=largest)
