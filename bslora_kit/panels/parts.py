"""Widgets that several panels share."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets as widgets
import traitlets

if TYPE_CHECKING:
    import pandas

_CELL = "text-align:left;padding:1px 16px 1px 0"
WIDE_NAME = {"description_width": "initial"}  # names are not cut

_RANGE_INPUT = """
function render({ model, el }) {
  const input = document.createElement("input")
  input.type = "range"
  input.dataset.lmSuppressShortcuts = ""  // JupyterLab takes the arrow keys otherwise
  input.style.cssText = "width: 100%; height: var(--jp-widgets-inline-height); margin: 0"
  input.title = "arrow keys move by 1, page keys by more"
  const update = () => {
    input.max = model.get("max")  // before the value, which the browser keeps within it
    input.value = model.get("value")
    input.ariaLabel = model.get("name")
  }
  model.on("change:value change:max change:name", update)
  input.addEventListener("input", () => {
    model.set("value", input.valueAsNumber)
    model.save_changes()
  })
  el.append(input)
  update()
}
export default { render }
"""


class NamedSlider(anywidget.AnyWidget):
    """A slider from 0 that screen readers announce by a name, which IntSlider's handle does not have.

    Attributes:
        value: where it stands; kept within 0 and `max`.
        max: its right end.
        name: what it sets.
    """

    _esm = _RANGE_INPUT
    value = traitlets.Int().tag(sync=True)
    max = traitlets.Int(100).tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)

    @traitlets.validate("value")
    def _kept_within(self, proposal: Any) -> int:
        return min(max(proposal["value"], 0), self.max)

    @traitlets.observe("max")
    def _keep_value_within(self, _change: Any) -> None:
        self.value = min(self.value, self.max)


class SliderWithNumber(widgets.HBox):
    """A slider and a number field of the same value and name.

    Attributes:
        slider: observe its `value`.
        number: a BoundedIntText.
    """

    def __init__(self, name: str, value: int, largest: int) -> None:
        self.slider = NamedSlider(
            value=value,
            max=largest,
            name=f"{name}, slider",
            layout=widgets.Layout(flex="1 1 auto", min_width="80px", width="auto"),
        )
        self.number = widgets.BoundedIntText(
            value=value,
            max=largest,
            description=name,
            style={"description_width": "90px"},
            layout=widgets.Layout(width="160px"),
        )
        self._link = widgets.link((self.slider, "value"), (self.number, "value"))
        super().__init__([self.number, self.slider], layout=widgets.Layout(width="100%"))

    def rename(self, name: str, largest: int) -> None:
        """Gives the pair another name and range."""
        self.number.description, self.slider.name = name, f"{name}, slider"
        self.slider.max = self.number.max = largest


def html_table(frame: pandas.DataFrame, sentences: Sequence[str] = (), problem: str = "") -> str:
    """A table with sentences above it, in the colours of the page around it.

    Args:
        frame: text and numbers, one row each.
        sentences: said before the table; a screen reader announces them as they change.
        problem: what is wrong with the controls, said first.
    """
    warning = f"<p role='alert'><b>{html.escape(problem)}</b></p>" if problem else ""
    said = "".join(f"<p style='margin:2px 0'>{html.escape(sentence)}</p>" for sentence in sentences)
    # Styles stand in the elements: code hosts drop style sheets.
    head = "".join(f"<th style='{_CELL}'>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = "".join(
        "<tr>"
        + "".join(f"<td style='{_CELL}'>{html.escape(str(value))}</td>" for value in row)
        + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return (
        f"<div style='line-height:1.4'>{warning}<div role='status' aria-live='polite'>{said}</div>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def with_static(widget: widgets.Widget, static: str, **arguments: Any) -> dict[str, Any]:
    """A widget's MIME bundle with HTML beside it, for pages that show no widgets.

    nbconvert and code hosts fall back to the HTML where a notebook holds no widget state.
    """
    return {**widget._repr_mimebundle_(**arguments), "text/html": static}
