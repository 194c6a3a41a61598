"""A benchmark as plain data, and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from bslora_kit.jobs.provenance import machine

_CASE_COLUMNS = (
    ("row", "row", "{}"),
    ("rank", "R", "{}"),
    ("trainable", "trained", "{:,}"),
    ("forward_ms", "forward ms", "{:.2f}"),
    ("backward_ms", "backward ms", "{:.2f}"),
    ("step_ms", "step ms", "{:.2f}"),
    ("step_to_floor", "/ floor", "{:.3f}"),
    ("step_to_peft", "/ PEFT", "{:.3f}"),
    ("kept_units", "kept units", "{:.2f}"),
    ("kept_units_dropout", "dropout", "{:.2f}"),
    ("flops", "GFLOP", "{:.3f}"),
    ("peak_bytes", "peak MiB", "{:.0f}"),
    ("problem", "", "{}"),
)
_MIXED_COLUMNS = (
    ("row", "row", "{}"),
    ("rank", "R", "{}"),
    ("adapters", "adapters", "{}"),
    ("tokens", "tokens", "{}"),
    ("base_ms", "base ms", "{:.2f}"),
    ("peft_ms", "PEFT ms", "{:.2f}"),
    ("forward_ms", "here ms", "{:.2f}"),
    ("fitted_anew_ms", "fitted anew", "{:.2f}"),
    ("speedup", "speedup", "{:.2f}"),
    ("speedup_added", "of the added", "{:.2f}"),
    ("speedup_anew", "anew", "{:.2f}"),
)
_SHOWN = {"flops": 1e9, "peak_bytes": 2**20}  # column -> what its unit is in the text


def about(device: torch.device, quick: bool, repetitions: int) -> dict[str, Any]:
    """When, on what and with which versions a benchmark ran."""
    packages = ("torch", "transformers", "peft")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": machine(),
        "versions": {name: version(name) for name in packages},
        "quick": quick,
        "repetitions": repetitions,
    }


def as_text(result: dict[str, Any]) -> str:
    """The tables of a benchmark, for a terminal."""
    lines = [
        f"{result['created']}  {result['device']}  {result['machine']['threads']} threads  "
        + "  ".join(f"{name} {number}" for name, number in result["versions"].items()),
        "Medians of interleaved repetitions; / floor and / PEFT: step time over that of the frozen base",
        "and of stock PEFT LoRA of the same total rank R. Kept: bytes held for backward, in units of",
        "one [batch, tokens, hidden]; without dropout, and with 0.05. Times are without dropout.",
    ]
    if result["quick"]:
        lines.append("QUICK: toy sizes that show that everything runs; the times mean nothing.")
    for case in result["cases"]:
        sizes = ", ".join(f"{name} {size}" for name, size in case["sizes"].items())
        lines += ["", f"{case['name']} ({sizes})", *_table(_CASE_COLUMNS, case["rows"])]
    lines += ["", "mixed batches: forward of one decoder layer, one adapter a row"]
    lines += _table(_MIXED_COLUMNS, result["mixed_batches"])
    lines += ["", "resident adapters on Llama 3 8B, MiB in float32, counted from the plan"]
    numbers = list(result["resident"][0]["llama_3_8b"])
    records = [
        {"row": record["row"]} | {n: record["llama_3_8b"][n] / 2**20 for n in numbers}
        for record in result["resident"]
    ]
    lines += _table([("row", "row", "{}"), *((n, f"N = {n}", "{:,.1f}") for n in numbers)], records)
    return "\n".join(lines)


def _table(columns: Iterable[tuple[str, str, str]], records: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table; a column that is empty in every record is left out."""
    cells = []
    for key, title, form in columns:
        values = [record[key] for record in records]
        if any(value not in (None, "") for value in values):
            cells.append([title, *(_cell(key, value, form) for value in values)])
    widths = [max(map(len, column)) for column in cells]
    return [
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in zip(*cells, strict=True)
    ]


def _cell(key: str, value: Any, form: str) -> str:
    """One value as text; a dash where there is none."""
    if value is None:
        return "-"
    return form.format(value / _SHOWN[key] if key in _SHOWN else value)
