"""The published tables: transcribed in full, misprints kept.

Sums of the printed columns stand in for reading all 40 rows again: a changed or lost digit changes
its column's sum. The parameter counts are checked one by one in test_budget.py.
"""

import pandas
import pytest

from bslora_kit import published
from bslora_kit.published import printed

SIMILAR, TIED = published.similar_budget(), published.tied_lora()
MMLU, PLACEMENT = published.tied_lora_mmlu(), published.placement()


def test_rows_stand_in_the_published_order():
    methods = ["ShareLoRA", "BSLoRA (SS)", "BSLoRA (GT)", "BSLoRA (KE)"]
    assert list(SIMILAR["method"]) == methods * 4
    assert list(SIMILAR["ranks"][:8]) == [
        "4",
        "2,1,2",
        "0,4,8",
        "2,8,32",
        "8",
        "2,4,16",
        "2,4,16",
        "4,8,8",
    ]
    models = ["Llama 1-7B", "Llama 3-8B", "Llama 1-13B"]
    assert list(TIED["model"]) == list(MMLU["model"]) == [name for name in models for _ in range(2)]
    assert list(TIED["method"]) == ["Tied_lora (tl5)", "Tied_lora (tl6)"] * 3
    assert list(PLACEMENT["placement"]) == [
        group for group in ("Share Attention", "Share MLP", "Share Attention & MLP") for _ in range(4)
    ]


@pytest.mark.parametrize(
    ("frame", "row", "printed"),
    [
        (SIMILAR, 5, [46.40, 57.17, 79.96, 82.95, 81.94, 74.74, 83.09, 49.03, 69.41]),
        (SIMILAR, 15, [46.20, 57.42, 80.07, 83.38, 81.61, 74.11, 82.84, 48.36, 69.25]),
        (TIED, 2, [45.00, 53.16, 79.17, 80.09, 80.85, 73.24, 81.07, 47.24, 67.48]),
        (PLACEMENT, 11, [46.40, 56.67, 80.04, 83.08, 82.15, 73.64, 82.60, 48.98, 69.18]),
    ],
)
def test_rows_as_printed(frame, row, printed):
    assert list(frame.loc[row, [*published.TASKS, "mean"]]) == printed


def test_misprints_are_kept():
    kron = SIMILAR.set_index(["method", "ranks"]).loc[("BSLoRA (KE)", "8,16,16")]
    assert (kron["parameters"], kron["ratio"]) == (14_439_936, "17.95%")
    assert SIMILAR.loc[3, "parameters"] == 3_832_320
    assert PLACEMENT.loc[1, "hellaswag"] == PLACEMENT.loc[1, "boolq"] == 83.09
    assert TIED.loc[5, "winogrande"] == 72.96


@pytest.mark.parametrize("frame", [SIMILAR, TIED], ids=["similar_budget", "tied_lora"])
def test_printed_means_follow_from_the_printed_scores(frame):
    """The one row that does not is the one whose winogrande is misprinted (72.96 for 72.69)."""
    off = (frame[list(published.TASKS)].mean(axis=1) - frame["mean"]).abs() > 0.0051
    assert [frame.loc[row, "winogrande"] for row in frame.index[off]] == (
        [72.96] if "model" in frame else []
    )


def test_group_means_stand_alone():
    groups = PLACEMENT[PLACEMENT["method"] == "(group mean)"]
    assert list(groups["mean"]) == [69.09, 69.01, 69.25]
    assert groups[list(published.TASKS)].isna().all(axis=None)
    runs = PLACEMENT.drop(groups.index)
    assert runs[list(published.TASKS)].notna().all(axis=None)


def test_bold_names_columns():
    assert SIMILAR.loc[7, "bold"] == "hellaswag piqa"
    for frame in (SIMILAR, TIED, MMLU, PLACEMENT):
        named = {name for cell in frame["bold"] for name in cell.split()}
        assert named <= set(frame.columns)


COLUMN_SUMS = {  # added up from the authors' Markdown, columns in the printed order
    "similar_budget": "736.00 908.79 1278.87 1324.32 1310.56 1183.11 1323.04 773.55 1104.78",
    "tied_lora": "268.00 291.81 468.79 465.44 480.80 432.31 468.08 278.96 394.24",
    "placement": "415.20 512.47 722.14 746.91 737.44 665.27 739.82 437.41 622.08",
    "tied_lora_mmlu": "277.90 297.64",
}


@pytest.mark.parametrize("name", COLUMN_SUMS)
def test_columns_sum_to_the_printed_sums(name):
    frame = getattr(published, name)()
    runs = frame[frame["method"] != "(group mean)"]
    columns = [x for x in runs.columns if x in (*published.TASKS, "mean", "mmlu_0_shot", "mmlu_5_shot")]
    assert [f"{total:.2f}" for total in runs[columns].sum()] == COLUMN_SUMS[name].split()


def test_counts_are_integers_and_ratios_text():
    for frame in (SIMILAR, TIED, MMLU):
        assert pandas.api.types.is_integer_dtype(frame["parameters"])
        assert frame["ratio"].str.fullmatch(r"\d+\.\d\d%").all()


def test_a_missing_folder_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(printed, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="similar_budget.csv is missing.*BSLORA_KIT_DATA"):
        published.similar_budget()
