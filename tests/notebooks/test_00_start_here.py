"""Notebook 00: its picture, its counts, and that it leads to every other notebook."""

import re

import nbformat
from running import executed, figures, tables

from bslora_kit.paths import NOTEBOOKS

PATH = NOTEBOOKS / "00_start_here.ipynb"
LAYERS, RANK = 6, 8
INS, OUTS = 4 * 128 + 448, 128 + 32 + 32 + 448 + 128  # q, k, v, up, down of the shipped model


def test_the_picture_and_the_counts(tmp_path):
    notebook = executed(PATH, tmp_path)
    assert len(figures(notebook)) == 1
    (summary,) = tables(notebook)
    assert dict(summary["trainable"]) == {
        "LoRA 8": LAYERS * RANK * (INS + OUTS),
        "ShareLoRA (B) 8": RANK * (LAYERS * INS + OUTS),
        "Tied-LoRA (TL6) 8": RANK * (INS + OUTS) + LAYERS * (OUTS + 5 * RANK),
        "BSLoRA (SS) 2,4,16": LAYERS * 2 * (INS + OUTS) + (LAYERS * 4 + 16) * (448 + 448),
    }


def test_it_leads_to_every_other_notebook():
    text = "\n".join(cell.source for cell in nbformat.read(PATH, as_version=4).cells)
    linked = set(re.findall(r"\]\(([^)]+\.ipynb)\)", text))
    assert linked == {path.name for path in NOTEBOOKS.glob("*.ipynb")} - {PATH.name}
