"""McNemar's test for pairs of rows: the answers that only one of two rows has right.

It weighs every answer the same, where the mean of the tasks weighs every task the same, and it is about
the trained models that are there: their answers of all seeds to the items of one fact are one cluster.
The intervals of `contrasts` are those that speak of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import pandas

from bslora_kit.statistics import holm, mcnemar
from bslora_kit.statistics.checks import codes
from bslora_kit.tables.answers import Answers
from bslora_kit.tables.contrasts import SIGNIFICANT


def discordant(answers: Answers | None, pairs: Sequence[tuple[str, str]]) -> pandas.DataFrame:
    """McNemar's test of each pair of rows, on the answers with their common seeds.

    Args:
        answers: from `answers.answers_of`; None if there are no pairs.
        pairs: names of rows that have a common seed.

    Returns:
        One row a pair: only_a, only_b (answers that only one row has right, all seeds together),
        p_mcnemar (exact, clustered by fact over all seeds), p_mcnemar_holm (adjusted over all pairs),
        and seeds_mcnemar: how many seeds show it alone, to the same side, with p below 0.05.
    """
    columns = ["only_a", "only_b", "p_mcnemar", "seeds_mcnemar"]
    if answers is None or not pairs:
        return pandas.DataFrame(columns=[*columns[:3], "p_mcnemar_holm", columns[3]], dtype=float)
    facts = codes("fact", answers.items["fact"], len(answers.items))
    correct = {name: column.to_numpy() for name, column in answers.runs.items()}
    rows = []
    for a, b in pairs:
        seeds = answers.common_seeds(a, b)
        of_a = [correct[answers.run(a, seed)] for seed in seeds]
        of_b = [correct[answers.run(b, seed)] for seed in seeds]
        every = mcnemar(numpy.concatenate(of_a), numpy.concatenate(of_b), numpy.tile(facts, len(seeds)))
        alone = [mcnemar(one, other, facts) for one, other in zip(of_a, of_b, strict=True)]
        side = numpy.sign(every.only_a - every.only_b)
        agree = [x.p_value < SIGNIFICANT and numpy.sign(x.only_a - x.only_b) == side for x in alone]
        rows.append((every.only_a, every.only_b, every.p_value, sum(agree)))
    frame = pandas.DataFrame(rows, columns=columns)
    frame.insert(3, "p_mcnemar_holm", holm(frame["p_mcnemar"]))
    return frame


def beside_intervals(pairs: pandas.DataFrame) -> pandas.DataFrame:
    """How many pairs McNemar's test and the intervals tell apart, both after Holm, in a table of four.

    Args:
        pairs: from `pairs.comparisons`.
    """
    models = ["McNemar: models differ", "McNemar: no difference"]
    intervals = ["interval: distinguishable", "interval: not distinguishable"]
    counts = pandas.crosstab(pairs["p_mcnemar_holm"] < SIGNIFICANT, pairs["distinguishable"])
    counts = counts.reindex(index=[True, False], columns=[True, False], fill_value=0)
    return counts.set_axis(models).set_axis(intervals, axis=1)
