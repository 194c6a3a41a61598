"""`python -m bslora_kit.benchmark [--device cpu|cuda] [--quick] [--out FILE.json]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bslora_kit.benchmark.measurement import measure
from bslora_kit.benchmark.report import about, as_text
from bslora_kit.benchmark.rows import rows
from bslora_kit.benchmark.serving import mixed_batches, resident_memory
from bslora_kit.benchmark.workloads import scale_for, workloads
from bslora_kit.files import write_json

_REPETITIONS = 9
_ADAPTERS = 32  # in a mixed batch


def benchmark(device: torch.device, quick: bool) -> dict[str, Any]:
    """Runs everything on a device; plain data, as written to FILE.json.

    Args:
        device: "cpu" or "cuda".
        quick: toy sizes and two repetitions, which show that everything runs.
    """
    torch.manual_seed(0)
    scale = scale_for(device, quick)
    repetitions = 2 if quick else _REPETITIONS
    result = about(device, quick, repetitions)
    result["cases"] = [
        {"name": workload.name, "sizes": workload.sizes}
        | {"rows": measure(workload, rows(workload.hidden), repetitions, _note)}
        for workload in workloads(device, scale, quick)
    ]
    adapters = 4 if quick else _ADAPTERS
    result["mixed_batches"] = mixed_batches(device, scale, adapters, repetitions, _note)
    result["resident"] = resident_memory(device, scale)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bslora_kit.benchmark", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="toy sizes: shows that everything runs")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the numbers go")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; use --device cpu")
    result = benchmark(torch.device(options.device), options.quick)
    print(as_text(result))
    if options.out:
        write_json(options.out, result)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
