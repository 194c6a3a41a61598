"""What a grid will take, before it starts: hours, and bytes of memory against what the device has.

Seconds come from the speeds that the profile has `measured`, else from operations at the rate that it
has `assumed`, every text counted as long as it may be:

    training    4 operations a token and frozen weight (a product forward, one for the gradient of its
                input), 6 a trained one, whose own gradient is the third; with gradient checkpointing
                2 more (2 operations a product: Kaplan et al., arXiv 2001.08361, section 2.1)
    scoring     2 operations a token and weight, for every ending of every item

Bytes are those of training by `bslora_kit.memory`. `lines` says what both rest on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

from bslora_kit import shapes
from bslora_kit.evaluation.tasks import MINI
from bslora_kit.grid.local import visible_gpus
from bslora_kit.grid.rows import Row
from bslora_kit.jobs.inputs import SHIPPED_BASES, base_folder, task_files
from bslora_kit.jobs.parameters import UNTRAINED, branches_of
from bslora_kit.jobs.profiles import Profile
from bslora_kit.memory import Setting, has_llama_layers, memory
from bslora_kit.plan import Plan, plan

GIB = 2**30
_HUB = {  # shapes of models that need not be on this machine
    "meta-llama/Meta-Llama-3-8B": shapes.llama_3_8b,
    "huggyllama/llama-7b": shapes.llama_1_7b,
    "huggyllama/llama-13b": shapes.llama_1_13b,
}
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_ENDINGS = {  # of one item; those of MMLU are single tokens, read from one forward pass
    "openbookqa": 4, "arc_challenge": 4, "hellaswag": 4, "arc_easy": 4,
    "piqa": 2, "winogrande": 2, "boolq": 2, "social_iqa": 3, "mmlu": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """Seconds that the stages of a row are expected to take."""

    start: float = 0.0
    training: float = 0.0
    scoring: float = 0.0

    @property
    def total(self) -> float:
        """Of all stages."""
        return self.start + self.training + self.scoring


def expected_seconds(row: Row, profile: Profile) -> Expected:
    """How long a row takes; zeros where the row is not valid or nothing is known of its base.

    Items that the datasets library fetches are not counted where speeds are measured.
    """
    given, measured, assumed = row.resolved, profile.measured, profile.assumed
    if not given:
        return Expected()
    steps = 0 if row.trained else given["steps"]
    if measured:
        training = steps * measured["tokens_per_step"] / measured["tokens_per_second"]
        scoring = sum(_local_items(given)) / measured["items_per_second"]
        return Expected(measured["start_seconds"], training, scoring)
    base = base_shapes(given["base_model"])
    if not assumed or base is None:
        return Expected()
    tokens = steps * given["batch_size"] * given["max_length"]
    scored = _sequences(given) * assumed["tokens_per_sequence"] * (1 + given["shots"])
    per_second = assumed["operations_per_second"]
    return Expected(
        assumed["start_seconds"],
        tokens * training_operations(given, base) / per_second,
        scored * 2 * base.parameters / per_second,
    )


def training_operations(given: Mapping[str, Any], base: shapes.Shapes) -> int:
    """Operations that training spends on one token (see the module's table)."""
    adapted = plan_of_row(given, base)
    thin = (
        sum(adapted.rank * (x.in_features + x.out_features) for x in adapted.linears) if adapted else 0
    )
    again = 2 * base.parameters if given["gradient_checkpointing"] else 0
    return 4 * base.parameters + 6 * thin + again


def training_bytes(
    given: Mapping[str, Any], base: shapes.Shapes, device: Literal["cuda", "cpu"] = "cuda"
) -> int | None:
    """Bytes that a row's training takes; None where the model's layers are not those of a Llama.

    Args:
        given: the row's resolved parameters; an untrained one takes its weights.
        base: shapes of its base.
        device: "cuda" or "cpu".
    """
    precision = given["precision"]
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    setting = Setting(
        batch=given["micro_batch_size"],
        sequence=given["max_length"],
        dtype=_DTYPES[precision],
        checkpointing=given["gradient_checkpointing"],
        dropout=given["dropout"],
        head_size=_head_size(given["base_model"]) or Setting.head_size,
        device=device,
    )
    adapted = plan_of_row(given, base)
    if adapted is None:
        return base.parameters * setting.element
    return memory(adapted, base, setting).total if has_llama_layers(base) else None


def base_shapes(name: str) -> shapes.Shapes | None:
    """Shapes of a base that lies here or is a published Llama; None for another name of the hub."""
    folder = base_folder(name)
    if folder is not None:
        return shapes.of_config(folder)
    return _HUB[name]() if name in _HUB else None


def plan_of_row(given: Mapping[str, Any], base: shapes.Shapes) -> Plan | None:
    """The tensors of a row's adapter; None for the untouched base."""
    if given["method"] == UNTRAINED:
        return None
    targets = given["targets"] or shapes.DEFAULT_TARGETS
    return plan(branches_of(given), [x for x in base.linears if x.kind in targets])


@dataclass(frozen=True)
class Device:
    """What the jobs of this machine run on.

    Attributes:
        name: as its maker or this kit calls it.
        kind: "cuda" or "cpu".
        bytes: of memory, of one.
        count: how many there are; jobs are spread over them.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    bytes: int
    count: int = 1


def device() -> Device:
    """The GPUs that jobs may use, or else this machine's memory; without importing torch."""
    gpus = visible_gpus()
    if gpus and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", f"--id={gpus[0]}", "--query-gpu=name,memory.total"]
        shown = subprocess.run(
            [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True
        )
        name, _, mebibytes = shown.stdout.splitlines()[0].rpartition(",")
        return Device(name, "cuda", int(mebibytes) * 2**20, len(gpus))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Device("this machine, without a GPU", "cpu", pages)


def lines(
    rows: Sequence[Row],
    profile: Profile,
    side_by_side: int,
    find_device: Callable[[], Device] | None = device,
) -> list[str]:
    """The estimate in words; a row that will not fit is named.

    Args:
        rows: that are to run, with valid parameters.
        profile: of all of them.
        side_by_side: how many run at a time.
        find_device: what they run on; None where the jobs run on other machines.
    """
    if not rows:
        return []
    here = find_device() if find_device else None
    # The assumed operations are those of one device, which jobs side by side on it share.
    at_once = min(side_by_side, here.count) if here and not profile.measured else side_by_side
    seconds = sum(expected_seconds(row, profile).total for row in rows) / at_once
    told = [f"{_time(seconds)}, {side_by_side} at a time; {_basis(profile)}"]
    needs = {
        row.name: needed
        for row in rows
        if (base := base_shapes(row.resolved["base_model"])) is not None
        and (needed := training_bytes(row.resolved, base, here.kind if here else "cuda")) is not None
    }
    if needs:
        least, most = min(needs, key=needs.__getitem__), max(needs, key=needs.__getitem__)
        told.append(
            f"Memory of training, by shapes: {needs[least] / GIB:.2f} GiB ({least}) to "
            f"{needs[most] / GIB:.2f} GiB ({most}), without the process's own"
            + (f"; there are {here.bytes / GIB:.1f} GiB ({here.name})" if here else "")
        )
    if here:
        together = ceil(min(side_by_side, len(rows)) / here.count)
        large = [name for name, needed in needs.items() if needed * together > here.bytes]
        if large:
            beside = f", {together} at a time" if together > 1 else ""
            told.append(
                f"{len(large)} rows will not fit into {here.bytes / GIB:.1f} GiB{beside}: "
                f"{', '.join(large)}; use fewer --jobs, or a copy of the profile with a smaller "
                "micro_batch_size or gradient_checkpointing: true"
            )
    unknown = len(rows) - len(needs)
    if unknown:
        told.append(f"Memory of {unknown} rows is unknown: their base is not here, or no Llama")
    return told


def all_shipped(rows: Sequence[Row]) -> bool:
    """Whether rows run on shipped bases, which fit everywhere."""
    return all(row.resolved["base_model"] in SHIPPED_BASES for row in rows)


def _time(seconds: float) -> str:
    if not seconds:
        return "Estimate: time unknown"
    if seconds < 2 * 60:
        return f"Estimate: about {seconds:.0f} seconds"
    if seconds < 2 * 3600:
        return f"Estimate: about {seconds / 60:.0f} minutes"
    return f"Estimate: about {seconds / 3600:.1f} hours"


def _basis(profile: Profile) -> str:
    if profile.measured:
        return f"from the speeds that profile {profile.name} has measured"
    if not profile.assumed:
        return f"profile {profile.name} has neither measured nor assumed speeds"
    return (
        f"from operations at {profile.assumed['operations_per_second']:.2g} a second, every text of "
        f"full length (assumed in profile {profile.name}, not measured)"
    )


def _local_items(given: Mapping[str, Any]) -> list[int]:
    """Items that are scored, by local file."""
    files = [x for x in task_files(given["tasks"], given["split"]) if x.stem == given["split"]]
    counts = [sum(1 for line in x.open(encoding="utf-8") if line.strip()) for x in files]
    return [min(count, given["limit"] or count) for count in counts]


def _sequences(given: Mapping[str, Any]) -> int:
    """Endings that are scored, by the sizes of the official test splits."""
    from bslora_kit.published import ITEMS

    total = 0
    for task in given["tasks"]:
        name = task.removeprefix(MINI)
        items = ITEMS["mmlu_0_shot" if name == "mmlu" else name]
        total += min(items, given["limit"] or items) * _ENDINGS[name]
    return total


def _head_size(name: str) -> int | None:
    """Width of a local base's attention heads."""
    folder = base_folder(name)
    if folder is None:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
