"""Notebook 07: its numbers against formulas of the methods, its pictures against its tables."""

from __future__ import annotations

import re

import pytest
from nbconvert import HTMLExporter
from running import complaints, executed, figures, outputs, tables, words

from bslora_kit.paths import NOTEBOOKS

# Llama 3-8B, q, k, v, up, down: 32 layers, sums of inputs and outputs, largest input and output.
LAYERS, SUM, LARGEST = 32, 55_296, 14_336


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return executed(NOTEBOOKS / "07_rank_budgets.ipynb", tmp_path_factory.mktemp("notebook"))


def test_the_first_picture_and_table_show_the_published_triple(notebook):
    local, intra, inter = LAYERS * 2 * SUM, LAYERS * 4 * 2 * LARGEST, 16 * 2 * LARGEST
    bars = {bar.name: sum(bar.y) for bar in figures(notebook)[0].data[:4]}
    assert bars["own to one linear"] == local
    assert bars["shared in a layer"] == intra
    assert bars["shared by the model"] == inter
    frame = tables(notebook)[0]
    assert frame.groupby("branch")["elements"].sum().to_dict() == {
        "local": local,
        "intra": intra,
        "inter": inter,
    }
    share = (intra + inter) / (local + intra + inter)
    assert figures(notebook)[0].layout.title.text.startswith(f"{share:.0%} of 7,667,712 parameters")


def test_the_shipped_model_trains_what_was_planned(notebook):
    """Hidden 128, one kv head of 32, MLP 448, six layers; the largest sides are 448."""
    shipped = 6 * 2 * (256 + 160 + 160 + 576 + 576) + (6 * 4 + 16) * 2 * 448
    assert f"Planned: **{shipped:,}**, trained: **{shipped:,}**." in words(notebook)


def test_the_picker_shows_a_table_where_widgets_do_not_show(notebook):
    bundles = [output.get("data", {}) for output in outputs(notebook)]
    (shown,) = [data for data in bundles if "application/vnd.jupyter.widget-view+json" in data]
    assert "BSLoRA (SS) 2,4,16 trains 7,667,712 parameters" in shown["text/html"]
    assert "widgets" not in notebook.metadata
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert re.search(r'role="status"[^>]*><p[^>]*>BSLoRA \(SS\) 2,4,16 trains 7,667,712', page)


def test_prices_of_a_rank(notebook):
    prices = {"local": LAYERS * SUM, "intra": LAYERS * 2 * LARGEST, "inter": 2 * LARGEST}
    (table,) = [table for table in tables(notebook) if "difference of two plans" in table]
    assert table["equation"].to_dict() == table["difference of two plans"].to_dict() == prices
    (figure,) = [f for f in figures(notebook) if "costs as much as" in (f.layout.title.text or "")]
    assert {bar.y[0]: bar.x[0] for bar in figure.data} == prices
    assert figure.layout.title.text == "One local rank costs as much as 62 inter ranks"
    assert "One intra rank buys **32** inter ranks" in words(notebook)
    assert "local rank buys **61.7**" in words(notebook)


def test_equal_budget_triples(notebook):
    limit = 8_060_928
    most = limit // (2 * LARGEST)  # inter ranks that the budget alone would buy
    found = [
        (a, b, c)
        for a in range(most + 1)
        if LAYERS * a * SUM <= limit
        for b in range(most + 1)
        for c in range(most + 1)
        if 0.95 * limit <= LAYERS * a * SUM + (LAYERS * b + c) * 2 * LARGEST <= limit
    ]
    (figure,) = [f for f in figures(notebook) if "triples for" in (f.layout.title.text or "")]
    points = {
        (x, *triple[:2]) for x, triple in zip(figure.data[0].x, figure.data[0].customdata, strict=True)
    }
    assert points == set(found)
    ranks = [sum(triple) for triple in found]
    assert list(figure.data[0].y) == [
        sum(point)
        for point in zip(
            figure.data[0].x, *list(zip(*figure.data[0].customdata, strict=True))[:2], strict=True
        )
    ]
    said = words(notebook)
    assert f"{len(found)} triples use this budget up" in said
    assert f"from **{min(ranks)}**" in said and f"to **{most}** (0,0,{most})" in said
    assert max(ranks) == most
    assert "a plain LoRA gets rank **4**" in said


def test_triples_for_a_model_of_ones_own(notebook):
    """At first the shipped one: sums of inputs and outputs 960 + 768, largest sides 448."""
    limit = 6 * 8 * (960 + 768)
    (table,) = [table for table in tables(notebook) if "parameters" in table]
    for local, intra, inter, parameters in table.itertuples(index=False):
        assert parameters == 6 * local * (960 + 768) + (6 * intra + inter) * 2 * 448
        assert 0.95 * limit <= parameters <= limit
    assert len(table) == 5 and f"**{limit:,}** parameters" in words(notebook)


def test_the_prices_in_the_prose(notebook):
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for share in (1024, 256):
        assert f"{2 * share:,}" in prose and f"{2 * share * LAYERS:,}" in prose


def test_the_floor_of_gates(notebook):
    g, k = 1024, 256
    gates = 2 * LAYERS * (SUM + 5 * 2 * g)
    expected = {
        "SS": (33 * 2 * LARGEST, 0),
        "GT": (33 * 2 * g, gates),
        "KE": (33 * 2 * k, 2 * LAYERS * SUM // k),
    }
    (table,) = [table for table in tables(notebook) if "vectors" in table]
    assert {fit: (row["pairs"], row["vectors"]) for fit, row in table.iterrows()} == expected
    (figure,) = [f for f in figures(notebook) if "At rank 1 each" in (f.layout.title.text or "")]
    assert [tuple(values) for values in zip(figure.data[0].x, figure.data[1].x, strict=True)] == list(
        expected.values()
    )
    (rows,) = [table for table in tables(notebook) if "gates" in table]
    assert set(rows["gates"]) == {gates}
    assert rows["rank of the update"].to_list() == [2, 4, 6, 18]
    assert rows["trainable"].to_list() == [4_472_832, 8_028_160, 12_386_304, 33_046_528]  # as printed


def test_memory_beside_plain_lora(notebook):
    (table,) = [table for table in tables(notebook) if "LoRA 4 in PEFT" in table]
    weights = 2 * 8_030_261_248 / 2**30
    assert table.loc["weights"].to_list() == pytest.approx([weights] * 2, abs=1e-3)
    assert table.loc["gradients", "BSLoRA (SS) 2,4,16"] == pytest.approx(4 * 7_667_712 / 2**30, abs=1e-3)
    activations = table.loc["activations"]
    ratio = activations["LoRA 4 in PEFT"] / activations["BSLoRA (SS) 2,4,16"]
    assert f"keeps **{ratio:.2f}** times the activations" in words(notebook)
    assert 1 < ratio < 3


def test_nothing_went_to_the_error_stream(notebook):
    assert complaints(notebook) == []
