"""Which printed numbers of a table cannot be right, or stand for something else than they seem?

    from bslora_kit.published.audit import audit
    audit()                  the four published tables
    audit({"mine": frame})   any table with the columns of `bslora_kit.published`

No number is known beforehand; every rule compares what is printed with what follows from the rest:

    right answers     a score is k / n for the n items of its task
    row mean          the mean of the unrounded scores that the printed ones stand for
    group mean        the mean of its rows, unrounded
    equal runs        the same run printed in two tables has the same numbers
    repeated cell     a score that repeats another task's in its row, and is unusual for its task
    unusual score     more than five standard errors from the runs on the same model
    inherited         means computed with such a score
    far from others   a row whose mean differs from the other runs' by more than one-run noise
    level methods     two methods answer alike only where training moved neither
    parameters        what the plan of the method counts
    ratio             parameters / the model's parameters
    bold              the best of a block, ties included, and nothing else
    unprinted ranks   rows that are compared without saying what was run

Number of items: lm-evaluation-harness (`published.ITEMS`). Sizes: `bslora_kit.shapes`.
"""

from bslora_kit.published.audit.finding import Finding, as_frame
from bslora_kit.published.audit.findings import audit

__all__ = ["Finding", "as_frame", "audit"]
