"""Many adapters on one model: mixed batches, and the memory of what is loaded.

A mixed batch has one adapter a row (`adapter_names`). PEFT's LoRA loops over the adapters of the batch;
this kit multiplies them all at once. Compared at equal total rank on one decoder layer, for one token a
row (generating) and for several (reading a prompt); "fitted anew" is the first forward after the
adapters of the batch have changed. Memory is counted from the plan for Llama 3 8B, and measured on the
decoder layer beside the count for the same layer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from statistics import median
from time import perf_counter
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from bslora_kit.adapters.layer import SharedLoraLinear
from bslora_kit.benchmark.rows import Row, methods, peft_name, rows, storages, total_rank
from bslora_kit.benchmark.workloads import Scale, decoder_layer
from bslora_kit.budget import budget
from bslora_kit.shapes import DEFAULT_TARGETS, llama_3_8b, of_model

MIXED = ("LoRA r 8", "SS 2,4,16", "KE 2,4,16", "GT 2,4,16", "SS 2,8,32", "KE 2,8,32")
RESIDENT = (1, 10, 100, 1000)
_MEASURED = (1, 10)  # numbers of resident adapters that are loaded and weighed
_FLOAT32 = 4  # bytes of an adapter's element


def mixed_batches(
    device: torch.device,
    scale: Scale,
    adapters: int,
    repetitions: int,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """One record for each method and number of tokens a row.

    Args:
        device: where it runs.
        scale: sizes of the decoder layer.
        adapters: in one batch, one row each.
        repetitions: timed forwards of each.
        note: told what is going on.

    Returns:
        Records: row, rank, peer, adapters, tokens; medians forward_ms, fitted_anew_ms, peft_ms, base_ms;
        speedup and speedup_anew, medians of PEFT's time over this kit's within a repetition;
        speedup_added, the ratio of what the adapters add to the base's median.
    """
    workload = decoder_layer(device, scale)
    kit = [row for row in rows(scale.hidden) if row.kind == "kit" and row.name in MIXED]
    peers = {row.peer: LoraConfig(r=row.rank) for row in kit}
    models: dict[str, nn.Module] = {}
    for name, config in (*peers.items(), *((row.name, row.config) for row in kit)):
        note(f"mixed batches: {name}")
        row = Row(name, "peft" if name in peers else "kit", 0, config, None)
        models[name] = _resident(row.build(workload.base, workload.targets, 0.0), adapters).eval()
    records = []
    for tokens in (1, 16):
        note(f"mixed batches: {repetitions} repetitions with {tokens} tokens a row")
        x = torch.randn(adapters, tokens, scale.hidden, device=device, dtype=scale.dtype)
        times = _forward_times(workload.base, models, x, repetitions)
        for row in kit:
            base = median(times["base"])
            own, anew, peer = times[row.name], times[row.name, "anew"], times[row.peer]
            added = median(own) - base  # of a short run, noise may be larger
            records.append(
                {"row": row.name, "rank": row.rank, "peer": row.peer}
                | {"adapters": adapters, "tokens": tokens}
                | {"forward_ms": 1000 * median(own), "fitted_anew_ms": 1000 * median(anew)}
                | {"peft_ms": 1000 * median(peer), "base_ms": 1000 * base}
                | {"speedup": median(b / a for a, b in zip(own, peer, strict=True))}
                | {"speedup_anew": median(b / a for a, b in zip(anew, peer, strict=True))}
                | {"speedup_added": (median(peer) - base) / added if added > 0 else None}
            )
    return records


def resident_memory(device: torch.device, scale: Scale) -> list[dict[str, Any]]:
    """One record for each method: bytes of N resident adapters in float32.

    Returns:
        Records: row; llama_3_8b, N -> bytes counted from the plan, frozen factors included; layer, N ->
        counted and measured bytes on one decoder layer of the scale.
    """
    workload = decoder_layer(device, scale)
    shapes = of_model(workload.base)
    records = []
    for (name, config), published in zip(
        methods(scale.hidden).items(), methods(4096).values(), strict=True
    ):
        published.target_modules = set(DEFAULT_TARGETS)
        config.target_modules = set(workload.targets)
        whole = _FLOAT32 * budget(published, llama_3_8b()).total
        one = _FLOAT32 * budget(config, shapes).total
        row = Row(name, "kit", total_rank(config), config, peft_name(total_rank(config)))
        layer = {}
        for number in _MEASURED:
            model = _resident(row.build(workload.base, workload.targets, 0.0), number)
            layer[str(number)] = {
                "counted": number * one,
                "measured": _adapter_bytes(model, workload.base),
            }
        records.append(
            {"row": name, "llama_3_8b": {str(n): n * whole for n in RESIDENT}, "layer": layer}
        )
    return records


def _resident(model: nn.Module, adapters: int) -> nn.Module:
    """Adds adapters until there are so many; the first is PEFT's "default"."""
    for number in range(1, adapters):
        model.add_adapter(f"adapter_{number}", model.peft_config["default"])
    return model


def _adapter_bytes(model: nn.Module, base: nn.Module) -> int:
    """Bytes of memory behind a model's tensors that the base does not have."""
    own = storages(chain(base.parameters(), base.buffers()))
    found = storages(chain(model.parameters(), model.buffers()))
    return sum(size for place, size in found.items() if place not in own)


def _forward_times(
    base: nn.Module, models: dict[str, nn.Module], x: torch.Tensor, repetitions: int
) -> dict[Any, list[float]]:
    """Seconds of a forward of each model, interleaved; for this kit also with its pairs fitted anew."""
    names = ["default", *(f"adapter_{number}" for number in range(1, len(x)))]
    times: dict[Any, list[float]] = {}

    def timed(key: Any, call: Callable[[], Any], counts: bool) -> None:
        _synchronize(x.device)
        start = perf_counter()
        call()
        _synchronize(x.device)
        if counts:
            times.setdefault(key, []).append(perf_counter() - start)

    with torch.no_grad():
        for repetition in range(repetitions + 1):
            counts = repetition > 0  # the first warms up
            timed("base", lambda: base(inputs_embeds=x, use_cache=False), counts)
            for name, model in models.items():
                call = lambda model=model: model(  # noqa: E731
                    inputs_embeds=x, use_cache=False, adapter_names=names
                )
                layers = [module for module in model.modules() if isinstance(module, SharedLoraLinear)]
                for layer in layers:
                    layer.row_pairs.forget()
                if layers:
                    timed((name, "anew"), call, counts)
                timed(name, call, counts)
    return times


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
