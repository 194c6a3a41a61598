"""Figures on a dark page: they take its background and ink, and keep the colours that carry meaning.

A Plotly figure is drawn for a light page and knows nothing of the page around it. In a notebook the
page is asked by a style sheet, so that a figure follows the theme at once, without being drawn again,
while a picture that is saved of it stays dark on white, as code hosts and papers want it.
"""

from __future__ import annotations

from pathlib import Path

STYLES = Path(__file__).with_name("theme.css")


def follow_theme() -> None:
    """Lets all figures of a notebook follow the theme of the page; call it in the first cell."""
    from IPython.display import HTML, display

    display(HTML(f"<style>{STYLES.read_text(encoding='utf-8')}</style>"))
