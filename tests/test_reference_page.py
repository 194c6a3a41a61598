"""The page of the committed reference run: it says what the runs say, and needs no network."""

import html
import re
from collections import Counter

import pandas
import pytest

from bslora_kit import tables
from bslora_kit.grid import reference_page
from bslora_kit.grid.finished import read_finished
from bslora_kit.grid.reference_page import PAGE, to_html, write_page
from bslora_kit.paths import REFERENCE
from bslora_kit.tables.questions import QUESTIONS


@pytest.fixture(scope="module")
def page():
    return (REFERENCE / PAGE).read_text()


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_committed_page_answers_each_question_as_the_runs_do(page, question):
    name, rows_of = QUESTIONS[question]
    run = read_finished(name)
    found = tables.contrasts(run.results, run.grid, rows_of(run.grid, run.table))
    answer = html.unescape(page.split(f"<h3>{question}</h3>")[1].split("</ul>")[0])
    assert len(found) and answer.count("<li>") == len(tables.conclusions(found))
    for line in tables.conclusions(found):
        assert line in answer


def test_the_committed_tables_are_those_of_the_page(page):
    for name, _ in QUESTIONS.values():
        means = pandas.read_csv(REFERENCE / name / "table.csv")["mean"]
        section = page.split(f'<div id="{name}">')[1].split("<h3>")[0]
        assert len(means) > 5 and all(f">{mean:.2f}</td>" in section for mean in means)


def test_the_page_needs_no_network_and_names_no_element_twice(page):
    body = page.split("</head>")[1]
    assert not re.search(r"""(src|href)\s*=\s*["'](?!\#)""", body)
    named = Counter(re.findall(r'\sid="([^"]+)"', body))
    assert named and {name: count for name, count in named.items() if count > 1} == {}
    drawn = re.findall(r'Plotly\.newPlot\(\s*"([^"]+)"', body)
    assert len(drawn) > 3 * len(QUESTIONS) and set(drawn) <= set(named)


def test_the_committed_page_is_that_of_this_code(page):
    said = html.unescape(page)
    assert all(words in said for words in (reference_page._LEAD, reference_page._HOW_TO_READ))


def test_equal_runs_give_an_equal_page(tmp_path):
    (tmp_path / "range").symlink_to(REFERENCE / "range")
    path = write_page(["range", "fair"], tmp_path)
    assert path.read_text() == to_html(["range", "fair"], tmp_path)
    said = html.unescape(path.read_text())
    assert '<div id="range">' in said and '<div id="fair">' not in said
    assert f"python -m bslora_kit.grid papermill_runs/grids/fair.yaml --seeds 5 --out {tmp_path}" in said
