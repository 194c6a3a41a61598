"""Colours, symbols and layout of all figures of the kit: what means the same looks the same.

Colours are those of Okabe & Ito (2008), which people with any colour vision tell apart; a method has a
symbol besides.
"""

from __future__ import annotations

import plotly.graph_objects as go

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"  # the untouched base, and methods without a style of their own

BRANCH_COLOURS = {"local": BLUE, "intra": ORANGE, "inter": GREEN, "shared": PURPLE}
SCOPES = {  # scope -> (colour, words): a scope has the colour of the BSLoRA branch that lives on it
    "module": (BRANCH_COLOURS["local"], "own to one linear"),
    "layer": (BRANCH_COLOURS["intra"], "shared in a layer"),
    "type": (BRANCH_COLOURS["shared"], "shared by a projection type"),
    "model": (BRANCH_COLOURS["inter"], "shared by the model"),
}
SCOPE_PATTERNS = {"module": "", "layer": "/", "type": "x", "model": "."}  # beside the colour
METHOD_STYLES = {  # label of a grid row -> (colour, symbol)
    "LoRA": (BLACK, "circle"),
    "ShareLoRA": (VERMILION, "square"),
    "BSLoRA (SS)": (BLUE, "diamond"),
    "BSLoRA (GT)": (ORANGE, "triangle-up"),
    "BSLoRA (KE)": (GREEN, "cross"),
    "Tied-LoRA (TL5)": (PURPLE, "x"),
    "Tied-LoRA (TL6)": (SKY, "star"),
    "VeRA": (YELLOW, "hexagon"),
}
ERROR_BAR = 1.96  # standard errors: a 95 % interval


def style_name(label: str) -> str | None:
    """The key of `METHOD_STYLES` for a row's label, the longest that it holds; None for no method.

    "MLP, BSLoRA (SS)" and "BSLoRA (SS) local only" look like BSLoRA (SS).
    """
    return max((name for name in METHOD_STYLES if name in label), key=len, default=None)


def blank(title: str, x: str, y: str | None) -> go.Figure:
    """An empty figure in the kit's style."""
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 15}},
        xaxis_title=x,
        yaxis_title=y,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.25},
        margin={"l": 70, "r": 30, "t": 60, "b": 60},
    )
    return figure
