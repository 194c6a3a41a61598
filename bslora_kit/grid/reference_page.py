"""One page that needs no network of all grids of a reference run: what they say, then each table.

write_page(["similar_budget", "fair"])      papermill_runs/reference/tables.html
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pandas

from bslora_kit import figures, tables
from bslora_kit.files import write_text
from bslora_kit.grid.finished import how_to_run, read_finished
from bslora_kit.paths import REFERENCE
from bslora_kit.tables import Finished
from bslora_kit.tables.forms import texts
from bslora_kit.tables.page import drawn, page, plain_table, section
from bslora_kit.tables.pair_forms import intervals
from bslora_kit.tables.questions import (
    QUESTIONS,
    led_by_seed,
    led_in_words,
    noise_in_words,
    scaled_down,
)
from bslora_kit.tables.rates_used import rate_doubts, searches

PAGE = "tables.html"
_NOTHING: Mapping[str, Finished] = MappingProxyType({})
_AGAIN = (
    "make tables, in a checkout of the kit, makes this page and the tables from the runs; a row whose "
    "folder was removed is trained again, with equal numbers on the same kind of machine. Each score of "
    "a task has its errors under its table, and in cells.md beside the runs; pairs.md has all pairs."
)
_TITLE = "LoRA methods that share parameters: the published tables, run again on small models"
_LEAD = (
    "The four published tables (MMLU without examples and with five), one of comparisons that they "
    "lack, and one of how far apart rows can be, run again on the small models that ship with "
    "bslora_kit. Names such as llama-3-8b or 1-7B stand for three of these that have the proportions of "
    "Llama 3-8B, 1-7B and 1-13B and about two million parameters: thousands of times fewer than a "
    "Llama, in a made-up world. So none of the numbers is the paper's; what carries over are the "
    "methods, what they share, and how such tables have to be read. BSLoRA gives"
    " each projection three low-rank pairs: its own (local), one of its decoder layer (intra), one of"
    " the model (inter). SS, GT and KE fit the shared ones to a projection by slices, gates or "
    "Kronecker products; a triple such as 2,4,16 holds the three ranks. ShareLoRA and Tied-LoRA share"
    " over the layers, for each type of projection; TL6 has trained gains for each layer, which TL5 "
    "has not. BSLoRA with a local pair alone (4,0,0) shares nothing: it is LoRA 4 and has its numbers."
)
_HOW_TO_READ = (
    "Rows are compared item by item and seed by seed; intervals are 95 %, clustered by the fact that "
    "items ask for. Not distinguishable means that these runs cannot tell two rows apart, and not "
    "that the rows are equal: the smallest visible difference is the true one that 8 of 10 such "
    "comparisons would have shown. Holm's method keeps the chance of any false alarm among the "
    "comparisons of a question, or of a table, below 5 % (the questions share no correction); an "
    "interval is of one comparison alone, so it may leave out 0 where Holm's method does not call the "
    "pair distinguishable. Each table takes the noise of seeds from its own rows, so a pair that stands "
    "in two tables has two intervals. A number in brackets behind a row is its count of trained "
    "parameters. At equal budget means: of the other method's rows the one with the nearest count, at "
    "most 1.25 times apart; a row without such a partner is left out."
)


def write_page(
    names: Sequence[str], folder: Path = REFERENCE, known: Mapping[str, Finished] = _NOTHING
) -> Path:
    """Writes tables.html into the folder of a reference run, moved into place; returns its path.

    The same runs give the same text.

    Args:
        names: of the grids, in the order of their sections.
        folder: holds a folder of runs for each.
        known: grids that have been read already, by name.
    """
    path = folder / PAGE
    write_text(path, to_html(names, folder, known))
    return path


def to_html(
    names: Sequence[str], folder: Path = REFERENCE, known: Mapping[str, Finished] = _NOTHING
) -> str:
    """The page; a grid without finished runs, or whose runs cannot be compared, has a line that says so.

    Arguments as in `write_page`.
    """
    runs: dict[str, Finished] = {}
    sections = []
    for name in names:
        try:
            run = _read(name, folder, known)
        except ValueError as error:  # not run, rows that one table cannot hold, or too few items
            sections.append(f"<p>{html.escape(f'{name}: {error}')}</p>")
            continue
        runs[name] = run
        sections.append(f'<div id="{_id_of(name)}">\n{section(run, _id_of(name), level=2)}\n</div>')
    links = "".join(
        f'<li><a href="#{_id_of(name)}">{html.escape(run.title)}</a></li>' for name, run in runs.items()
    )
    parts = [f"<h1>{_TITLE}</h1>", *(f"<p>{html.escape(x)}</p>" for x in (_LEAD, _HOW_TO_READ, _AGAIN))]
    parts += ["<h2>What the runs say</h2>", *_answers(runs)]
    if runs:
        parts += ["<h2>Which rows may have had the wrong learning rate</h2>", *_rates(runs)]
        parts += ["<h2>What is noise</h2>", *_noise(runs)]
        first = next(iter(runs.values()))
        parts.append(f"<h2>What was scaled down: {html.escape(first.title)}</h2>")
        parts.append(plain_table(_named(scaled_down(first.results))))
    parts += ["<h2>The tables</h2>", f"<ul>{links}</ul>", *sections]
    return page(_TITLE, "\n".join(parts))


def _read(name: str, folder: Path, known: Mapping[str, Finished]) -> Finished:
    run = known.get(name) or read_finished(name, folder)
    if run is None:
        raise ValueError(how_to_run(name, folder).replace("`", ""))
    if run.problem:
        raise ValueError(run.problem)
    return run


def _answers(runs: dict[str, Finished]) -> list[str]:
    """Each question with its figure, its numbers and what they carry."""
    parts = []
    for number, (question, (name, asked)) in enumerate(QUESTIONS.items()):
        if name not in runs:
            continue
        run = runs[name]
        found = run.contrasts(asked(run.grid, run.table))
        parts.append(f"<h3>{html.escape(question)}</h3>")
        said = "".join(f"<li>{html.escape(line)}</li>" for line in tables.conclusions(found))
        parts.append(f"<ul>{said}</ul>")
        if len(found):
            parts += [drawn(figures.contrast_plot(found), f"question-{number}"), _numbers(found)]
    return parts


def _rates(runs: dict[str, Finished]) -> list[str]:
    """What tells of a wrong rate, grid by grid, and the search behind each row's."""
    words = (
        "More parameters of one kind should not make a row worse, and training should not raise the "
        "loss. Where they do, every comparison with such a row on either side is open, also where it is "
        "distinguishable. Elsewhere a rate may still be wrong by less than this shows: it was searched "
        "in steps of a factor of two, with one seed, on the validation split, and two rates whose "
        "scores differ by less than seeds move them were as good."
    )
    parts = [f"<p>{words}</p>"]
    for run in runs.values():
        doubts = rate_doubts(run.results, run.table, run.pairs)
        said = "".join(f"<li>{html.escape(line)}</li>" for line in doubts)
        found = searches(run.results)
        parts.append(f"<h3>{html.escape(run.title)}</h3><ul>{said}</ul>")
        if len(found):
            parts.append(f"<details><summary>The search of each rate ({len(found)} rows)</summary>")
            parts += [plain_table(found), "</details>"]
    return parts


def _numbers(found: pandas.DataFrame) -> str:
    return plain_table(
        pandas.DataFrame(
            {
                "row": found["a"],
                "less row": found["b"],
                "difference, points": texts(found["difference"], "{:+.2f}"),
                "95 % interval": intervals(found),
                "p (Holm)": texts(found["p_holm"], "{:.2g}"),
                "smallest visible, asked alone": texts(found["smallest"], "{:.1f}"),
                "at Holm's first step": texts(tables.smallest_of(found, len(found)), "{:.1f}"),
                "seeds": found["seeds"],
            }
        )
    )


def _noise(runs: dict[str, Finished]) -> list[str]:
    """What another seed would have changed, in words and numbers."""
    first = next(iter(runs.values()))
    led = led_by_seed(first.seeds)
    errors = pandas.DataFrame(
        {run.title: run.pairs[["stderr_items", "stderr_seeds"]].median() for run in runs.values()}
    ).T
    said = [f"{first.title}: {led_in_words(led)}", noise_in_words(errors)]
    names = {"stderr_items": "of items", "stderr_seeds": "of seeds"}
    shown = errors.rename(columns=names).apply(texts, form="{:.2f}")
    heading = "median standard error of a difference, points"
    return [
        *(f"<p>{html.escape(line)}</p>" for line in said),
        plain_table(_named(shown, heading)),
        plain_table(led.assign(ahead_by=led["ahead_by"].map("{:.2f}".format))),
    ]


def _id_of(grid: str) -> str:
    return re.sub("[^A-Za-z0-9_-]", "-", grid)


def _named(frame: pandas.DataFrame, heading: str = "") -> pandas.DataFrame:
    """A frame with its index as its first column."""
    return frame.rename_axis(heading).reset_index()
