"""Widgets that several panels share."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

if TYPE_CHECKING:
    import pandas

_CELL = "text-align:left;padding:1px 16px 1px 0"
WIDE_NAME = {"description_width": "initial"}  # names are not cut


class SliderWithNumber(widgets.HBox):
    """A slider and a number field of the same value: the field carries the name that the slider lacks.

    Attributes:
        slider: the IntSlider; observe its `value`.
        number: the BoundedIntText, which a screen reader announces by its name.
    """

    def __init__(self, name: str, value: int, largest: int) -> None:
        self.slider = widgets.IntSlider(
            value=value,
            max=largest,
            readout=False,
            continuous_update=True,
            layout=widgets.Layout(flex="1 1 auto", min_width="80px", width="auto"),
            tooltip=f"{name}: arrow keys move by 1, page keys by more",
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
        self.number.description = name
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
