"""The four published tables as data, printed value by printed value.

Source: "Additional Experiments" in the README of the authors' code of BSLoRA (Zhou, Li, Zhou, Yang,
Pan, ICML 2025, PMLR 267:78883-78902; github.com/yuhua-zhou/BSLoRA). `data/published/*.csv` holds every
number as printed, known misprints included; nothing is corrected or filled in. Each row is one run
with one seed.

Columns that the tables have in common:
    parameters  trainable parameters; an integer
    ratio       of the model's parameters, as printed: text such as "0.05%"
    the eight tasks, mean, mmlu_*   percent
    bold        names of the columns that are printed in bold, separated by spaces
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bslora_kit.paths import DATA

if TYPE_CHECKING:
    import pandas

FOLDER = DATA / "published"
TASKS = (  # in the published tables' order; printed there as "siqa" is social_iqa
    "openbookqa",
    "arc_challenge",
    "hellaswag",
    "arc_easy",
    "piqa",
    "winogrande",
    "boolq",
    "social_iqa",
)
ITEMS = {  # of each test, as lm-evaluation-harness 0.4.3 scores it
    "openbookqa": 500,
    "arc_challenge": 1172,
    "hellaswag": 10042,
    "arc_easy": 2376,
    "piqa": 1838,
    "winogrande": 1267,
    "boolq": 3270,
    "social_iqa": 1954,
    "mmlu_0_shot": 14042,
    "mmlu_5_shot": 14042,
}


def similar_budget() -> pandas.DataFrame:
    """ShareLoRA against BSLoRA at similar trainable parameters, Llama 3-8B: 16 rows.

    Returns:
        Columns method, ranks ("8", or "2,4,16" for local, intra, inter), parameters, ratio, the eight
        tasks, mean, bold.
    """
    return _read("similar_budget")


def tied_lora() -> pandas.DataFrame:
    """Tied-LoRA TL5 against TL6 at rank 8 on three Llamas: 6 rows.

    Returns:
        Columns model, method, rank, parameters, ratio, the eight tasks, mean, bold.
    """
    return _read("tied_lora")


def tied_lora_mmlu() -> pandas.DataFrame:
    """The same six runs on MMLU.

    Returns:
        Columns model, method, rank, parameters, ratio, mmlu_0_shot, mmlu_5_shot, bold.
    """
    return _read("tied_lora_mmlu")


def placement() -> pandas.DataFrame:
    """BSLoRA in attention, MLP or both, Llama 3-8B: 3 groups of a mean and 3 runs; no ranks printed.

    Returns:
        Columns placement, method ("(group mean)" in the rows that hold only a group's mean), the eight
        tasks, mean, bold.
    """
    return _read("placement")


def all_tables() -> dict[str, pandas.DataFrame]:
    """The four tables by name, in the order of their publication."""
    return {
        "tied_lora": tied_lora(),
        "tied_lora_mmlu": tied_lora_mmlu(),
        "placement": placement(),
        "similar_budget": similar_budget(),
    }


def _read(name: str) -> pandas.DataFrame:
    """One table; ranks, ratio and bold stay text."""
    import pandas

    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it belongs to the repository's data folder: run from a checkout, or "
            "point BSLORA_KIT_DATA at its data folder"
        )
    frame = pandas.read_csv(path, dtype={"ranks": str, "ratio": str, "bold": str})
    frame["bold"] = frame["bold"].fillna("")
    return frame
