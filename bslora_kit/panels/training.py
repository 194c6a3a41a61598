"""The live training panel: loss and gradient norms while a run goes on, and a button that ends it.

    panel = TrainingPanel(settings.steps, parameter_scopes(model).values())
    result = await panel.run(train, model, examples, settings, folder, ...)

Training runs on a thread of its own while the cell awaits it: a cell that computes on the kernel's main
thread keeps ipykernel 7.4 from handing the button's message on. The button only sets an event, which the
training loop asks for after every step; whatever touches widgets holds one lock. In the end a picture
without widgets takes the panel's place in the page, so that a saved notebook and a run by papermill,
where nobody sees widgets, show the run as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from threading import Event, RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import ipywidgets as widgets
import plotly.graph_objects as go
from IPython.display import display

from bslora_kit.figures.style import SCOPES
from bslora_kit.figures.training import redraw_training_curves, training_curves
from bslora_kit.panels.live_figure import LiveFigure
from bslora_kit.panels.parts import html_table

if TYPE_CHECKING:
    import pandas

Result = TypeVar("Result")

SECONDS_BETWEEN_REDRAWS = 0.25


class TrainingPanel:
    """Shows a training run while it goes on.

    `run` does it all. As a context manager the panel shows itself around a loop that calls `report` and
    asks `should_stop`.

    Args:
        steps: of the whole run.
        scopes: the scopes that `train` was given, in any order; without any, the one scope "all".

    Attributes:
        history: the entries reported so far.
        figure: what is shown, made once and given other numbers; `live` draws it in the page.
        stop_button: ends the run after the step that is under way.
    """

    def __init__(self, steps: int, scopes: Iterable[str] = ()) -> None:
        given = set(scopes)
        self._steps = steps
        self._scopes = [scope for scope in SCOPES if scope in given] or ["all"]
        self._lock, self._stop = RLock(), Event()
        self._drawn_at = float("-inf")
        self._handle: Any = None
        self.history: list[Mapping[str, Any]] = []
        self.figure = training_curves([], self._scopes, steps)
        self.live = LiveFigure(self.figure)
        # Without an icon, whose glyph a screen reader would read out before the name.
        self.stop_button = widgets.Button(
            description="Stop", tooltip="End training after the step that is under way"
        )
        self.stop_button.on_click(lambda _: self.stop())
        self.progress = widgets.IntProgress(max=steps, description="step", tooltip="Steps done")
        self.words = widgets.HTML(_words([], steps))
        line = widgets.HBox([self.stop_button, self.progress, self.words])
        self.box = widgets.VBox([line, self.live])

    async def run(self, train: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Calls `train` on another thread and shows what it reports until it is done.

        Interrupting the kernel is a Stop as well: the run ends after the step that is under way.

        Args:
            train: `bslora_kit.training.train`, or a function that takes `report` and `should_stop` too.
            *arguments: passed on.
            **options: passed on.

        Returns:
            What `train` returns.
        """
        hooks = {"report": self.report, "should_stop": self.should_stop}
        with self:
            try:
                return await asyncio.to_thread(train, *arguments, **options, **hooks)
            finally:
                self._stop.set()

    def report(self, entry: Mapping[str, Any]) -> None:
        """Takes the entry of a step; draws at most four times a second."""
        with self._lock:
            self.history.append(entry)
            if time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_REDRAWS:
                self._redraw()

    def should_stop(self) -> bool:
        """Whether the run should end now."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Asks the run to end; safe on any thread."""
        self._stop.set()  # before the lock: a redraw under way does not hold the answer up
        with self._lock:
            self.stop_button.disabled = True
            self.words.value = _words(self.history, self._steps, "stopping after this step")

    def picture(self) -> go.Figure:
        """The run so far, without a widget."""
        with self._lock:
            return training_curves(self.history, self._scopes, self._steps)

    def table(self, rows: int = 8) -> pandas.DataFrame:
        """The numbers of the picture at evenly spread steps, the last and those with a held-out loss.

        Args:
            rows: about how many evenly spread steps to show.
        """
        import pandas

        norms = {f"grad_norm_{scope}": f"gradient, {scope}" for scope in self._scopes}
        names = {
            "step": "step",
            "loss": "training loss",
            "eval_loss": "held-out loss",
            "lr": "lr",
        } | norms
        with self._lock:
            last, every = len(self.history) - 1, max(1, len(self.history) // rows)
            shown = [
                entry
                for number, entry in enumerate(self.history)
                if (last - number) % every == 0 or "eval_loss" in entry
            ]
            frame = pandas.DataFrame(shown, columns=list(names))
        return frame.rename(columns=names)

    def __enter__(self) -> TrainingPanel:
        self._handle = display(self.box, display_id=True)
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._redraw()
            if self.history and self.history[-1]["step"] < self._steps:
                self.words.value = _words(self.history, self._steps, "stopped")
            self.stop_button.disabled = True
        if self._handle is not None:  # None outside of a notebook
            # As a bundle: a Plotly figure displays itself otherwise, in a new place of the page.
            still = self.picture()
            shown = self.table().round(4).astype(object)
            said = still.layout.title.text.split("<br>")
            table = html_table(shown.where(shown.notna(), ""), said)
            self._handle.update({"text/html": table} | still._repr_mimebundle_(), raw=True)

    def _redraw(self) -> None:
        redraw_training_curves(self.figure, self.history, self._scopes, self._steps)
        self.live.draw(self.figure)
        self.progress.value = self.history[-1]["step"] if self.history else 0
        self.words.value = _words(self.history, self._steps)
        self._drawn_at = time.monotonic()


def _words(history: list[Mapping[str, Any]], steps: int, state: str = "") -> str:
    """Where the run stands, in a line that ends with its state or with the time that is left."""
    if not history:
        return state or "waiting for the first step"
    last = history[-1]
    left = (steps - last["step"]) * last["seconds"] / last["step"]
    state = state or (f"about {left:.0f} s left" if left else "done")
    return f"loss {last['loss']:.3f}, {last['tokens_per_s']:,.0f} tokens/s, {state}"
