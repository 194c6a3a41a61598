"""The rank picker: drag three ranks, see what they cost, what rank they give and what memory they take.

    picker = RankPicker()     # in a notebook, the last line of a cell shows it
    picker.answer             # the same as plain values, see bslora_kit.panels.choice

The controls only collect a `Choice`; all arithmetic is in `bslora_kit.panels.choice`, all drawing in
`bslora_kit.figures`. JupyterLab may run a callback on another thread while a cell runs, so every
callback holds one lock.
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import RLock
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from bslora_kit import shapes as sizes
from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.figures import rank_budget, redraw_rank_budget
from bslora_kit.jobs.parameters import scaled_size
from bslora_kit.memory import LLAMA_HEAD, Setting
from bslora_kit.panels.choice import (
    RANKS,
    Answer,
    Choice,
    PublishedRow,
    answer,
    rank_within,
)
from bslora_kit.panels.live_figure import LiveFigure
from bslora_kit.panels.parts import SliderWithNumber, html_table, with_static
from bslora_kit.panels.picker_controls import (
    LARGEST,
    LLAMAS,
    LOCAL,
    NONE,
    OWN,
    SHIPPED,
    TARGETS,
    arranged,
    make_config_field,
    make_controls,
    variants_of,
)

_TRAINING = ("batch", "sequence", "dtype", "checkpointing")  # what the parameter counts do not read


class RankPicker:
    """Controls, figure, sentences and table of a rank budget.

    Args:
        choice: where the controls start, on Llama 3-8B; by default the published BSLoRA (SS) 2,4,16.

    Attributes:
        answer: what follows from the controls; the last valid one while they say nothing valid.
        figure: what is shown, made once and given other numbers; `live` draws it in the page.
        controls: name -> widget; `ranks` are the three pairs of slider and number.
        locked: trainable parameters that the lock keeps to; None while it is open.
    """

    def __init__(self, choice: Choice | None = None) -> None:
        self._lock = RLock()
        self._quiet = False  # while the picker itself moves controls
        self._shapes: sizes.Shapes | None = sizes.llama_3_8b()
        self._head_size = LLAMA_HEAD
        self.locked: int | None = None
        self.controls = make_controls()
        self.ranks = [SliderWithNumber(name, 0, LARGEST[name]) for name in ("local", "intra", "inter")]
        self.words, self.config = widgets.HTML(), make_config_field()
        self._set_model_dependent()
        self._set_choice(choice or Choice())
        self.answer: Answer = answer(self.choice, self._shapes, self.setting)
        self.figure = rank_budget(self.answer.budget, self.answer.memories, "")
        self.live = LiveFigure(self.figure)
        self._redraw()
        for name, control in self.controls.items():
            control.observe(lambda _, name=name: self._changed(name), "value")
        for position, pair in enumerate(self.ranks):
            pair.slider.observe(lambda _, position=position: self._changed(position), "value")
        self.box = arranged(self.controls, self.ranks, self.live, self.words, self.config)

    @property
    def choice(self) -> Choice:
        """What the controls say about the adapter."""
        names = ("method", "gate_size", "kron_size")
        variant = self.controls["variant"].value
        return Choice(
            **{name: self.controls[name].value for name in names},
            variant=None if variant == NONE else variant,
            ranks=tuple(pair.slider.value for pair in self.ranks[: self._rank_count]),
            targets=tuple(self.controls["projections"].value),
        )

    @property
    def setting(self) -> Setting:
        """What the controls say about the training."""
        values = {name: self.controls[name].value for name in _TRAINING}
        return Setting(**values, head_size=self._head_size)

    @property
    def picture(self) -> go.Figure:
        """The figure as it stands, without a widget."""
        return go.Figure(self.figure)

    def _repr_mimebundle_(self, **arguments: Any) -> Any:
        return with_static(self.box, self.words.value, **arguments)

    @property
    def _rank_count(self) -> int:
        return len(RANKS.get(self.controls["method"].value, ("rank",)))

    def _changed(self, what: str | int) -> None:
        """A control has moved, a slider by its position: others follow, then all is drawn again."""
        with self._lock:
            if self._quiet:
                return
            self._quiet, problem = True, ""
            try:
                self._follow(what)
                self.answer = answer(self.choice, self._shapes, self.setting)
            except (ValueError, OSError) as error:
                problem = f"{error}. Shown is the last choice that worked."
            finally:
                self._quiet = False
            self._redraw(problem)

    def _redraw(self, problem: str = "") -> None:
        found = self.answer
        said = found.sentences
        redraw_rank_budget(self.figure, found.budget, found.memories, "<br>".join(_halves(said[0])))
        self.live.draw(self.figure)
        if self.locked:
            over = found.budget.trainable - self.locked
            said = [
                *said,
                f"The budget is locked at {self.locked:,}; {abs(over):,} "
                + ("over: the other ranks alone exceed it." if over > 0 else "unused."),
            ]
        self.words.value = html_table(found.table(), said, problem)
        self.config.value = f"{found.choice.python}\n{found.choice.grid_row}"

    def _follow(self, what: str | int) -> None:
        """Moves the controls that depend on one of them.

        Raises:
            ValueError: if there is no model to answer for.
            OSError: if its config cannot be read.
        """
        value = None if isinstance(what, int) else self.controls[what].value
        if what in ("preset", "model", "folder", "method"):
            self.controls["lock"].value, self.locked = False, None  # a budget of something else
        if what not in ("preset", "lock", "give_way", *_TRAINING):
            self.controls["preset"].value = NONE
        if what == "preset" and value != NONE:
            self._show_published(value)
        elif what in ("model", "folder") or self._shapes is None:
            self._load_model()
        elif what == "method":
            self._set_method(value)
        elif what == "targets" and value != OWN:
            self.controls["projections"].value = self._known(TARGETS[value])
        elif what == "projections":
            found = [name for name, kinds in TARGETS.items() if set(kinds) == set(value)]
            self.controls["targets"].value = found[0] if found else OWN
        elif what == "lock":
            self.locked = self.answer.budget.trainable if value else None
        if self.locked and what not in ("lock", "give_way", *_TRAINING):
            self._give_way(what)

    def _give_way(self, moved: str | int) -> None:
        """With a locked budget, one rank moves when another control has moved."""
        position = self.controls["give_way"].value
        if position == moved:
            position = (position + 1) % self._rank_count
        slider = self.ranks[position].slider
        slider.value = rank_within(self.choice, position, self.locked, self._shapes, slider.max)

    def _load_model(self) -> None:
        """Reads the shapes of the chosen model."""
        self._shapes = None  # until the new model is read
        name = self.controls["model"].value
        self.controls["folder"].disabled = name != LOCAL
        if name in LLAMAS:
            self._shapes, self._head_size = LLAMAS[name](), LLAMA_HEAD
        else:
            text = self.controls["folder"].value.strip()
            if name == LOCAL and not text:
                raise ValueError(
                    "Type the folder of a model, one with a config.json, into the field Folder"
                )
            folder = SHIPPED.get(name) or Path(text).expanduser()
            self._shapes = sizes.of_config(folder, name if name in SHIPPED else None)
            self._head_size = _head_size(folder)
        self._set_model_dependent()

    def _set_model_dependent(self) -> None:
        """Projections that the model has, and share sizes: scaled for a shipped base."""
        kinds = tuple(dict.fromkeys(x.kind for x in self._shapes.linears if x.layer))
        shipped = self.controls["model"].value in SHIPPED
        hidden = next((x.in_features for x in self._shapes.linears if x.kind == "q_proj"), 0)
        self.controls["projections"].options = kinds
        self.controls["projections"].value = self._known(sizes.DEFAULT_TARGETS) or kinds
        for name, size in (("gate_size", GATE_SIZE), ("kron_size", KRON_SIZE)):
            self.controls[name].value = scaled_size(size, hidden) if shipped else size

    def _known(self, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some kinds that the model has, in its order."""
        return tuple(kind for kind in self.controls["projections"].options if kind in kinds)

    def _show_published(self, row: PublishedRow) -> None:
        """Sets all controls to a published row."""
        self.controls["model"].value = row.model
        self._load_model()
        self._set_choice(row.choice)

    def _set_choice(self, choice: Choice) -> None:
        self.controls["method"].value = choice.method
        self._set_method(choice.method)
        self.controls["variant"].value = choice.variant or NONE
        self.controls["projections"].value = self._known(choice.targets)
        for name in ("gate_size", "kron_size"):
            self.controls[name].value = getattr(choice, name)
        for pair, rank in zip(self.ranks, choice.ranks, strict=False):
            pair.slider.value = rank

    def _set_method(self, method: str) -> None:
        """Variants and rank sliders that a method has."""
        self.controls["variant"].description, options = variants_of(method)
        self.controls["variant"].options = options
        self.controls["variant"].disabled = len(options) == 1
        names = RANKS.get(method, ("rank",))
        for position, pair in enumerate(self.ranks):
            pair.layout.display = "flex" if position < len(names) else "none"
            if position < len(names):
                pair.rename(names[position], LARGEST[names[position]])
        self.controls["lock"].disabled = self.controls["give_way"].disabled = len(names) == 1


def _head_size(folder: Path) -> int:
    """Width of an attention head, from a model's config.json."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("head_dim"):
        return config["head_dim"]
    heads = config.get("num_attention_heads")
    return config["hidden_size"] // heads if heads and "hidden_size" in config else LLAMA_HEAD


def _halves(sentence: str) -> list[str]:
    """A sentence in two lines, cut where a clause ends."""
    return sentence.replace("; ", ";\n").split("\n")
