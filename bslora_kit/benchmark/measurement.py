"""How rows are measured on a workload.

Time: every repetition runs one step of every row, starting at another row each time; medians over the
repetitions. A step is forward, backward and an AdamW update. Kept bytes: what autograd holds between
forward and backward, by torch.autograd.graph.saved_tensors_hooks, each storage once and the model's own
weights left out. Operations: torch.utils.flop_counter over forward and backward. Peak memory (CUDA): the
allocator's peak during a step above what was allocated before it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from itertools import chain
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bslora_kit.benchmark.rows import FLOOR, Row, adapter_parameters, describe, storages
from bslora_kit.benchmark.workloads import Workload

DROPOUT = 0.05  # the published dropout; times are taken without, as PEFT's defaults have none
PARTS = ("forward", "backward", "step")


def measure(
    workload: Workload,
    rows: Sequence[Row],
    repetitions: int,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """One record for each row, in their order.

    Args:
        workload: what is run.
        rows: what is compared; the floor is among them.
        repetitions: timed steps of each row, after one that is not timed.
        note: told what is going on.

    Returns:
        Records of plain data: row, kind, rank, peer, trainable; forward_ms, backward_ms, step_ms;
        step_to_floor and step_to_peft (medians of ratios); kept_bytes and kept_bytes_dropout (None where
        memory ends), and both in units of one [batch, tokens, hidden] of the base's dtype; flops;
        peak_bytes (None on a CPU); problem ("" or what kept it from running).
    """
    records, models = {}, {}
    for row in rows:
        note(f"{workload.name}: {row.name}")
        model = row.build(workload.base, workload.targets, dropout=0.0)
        records[row.name] = describe(row, model) | {"problem": ""}
        try:
            records[row.name] |= _memory_and_operations(workload, row, model)
            models[row.name] = model
        except torch.OutOfMemoryError:
            records[row.name] |= {"problem": "out of memory"}
        if row.name not in models:  # after the handler, whose traceback holds the tensors
            gc.collect()
            _clear(workload, model)
    note(f"{workload.name}: {repetitions} repetitions of {len(models)} rows")
    times = _interleaved(workload, models, repetitions) if models else {}
    for row in rows:
        records[row.name] |= _times(row, times)
        if row.name in models and row.name not in times:
            records[row.name]["problem"] = "out of memory"
    return list(records.values())


def kept_bytes(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without the model's weights."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()  # held while its storages are counted, so that no address is used twice
    own = storages(chain(model.parameters(), model.buffers()))
    found = sum(size for place, size in storages(kept).items() if place not in own)
    del output
    return found


def _memory_and_operations(workload: Workload, row: Row, model: nn.Module) -> dict[str, Any]:
    """What does not change from step to step."""
    plain = kept_bytes(lambda: workload.run(model), model)
    dropped = _kept_bytes_with_dropout(workload, row)
    _clear(workload, model)
    counter = FlopCounterMode(display=False)
    with counter:
        _backward(workload, workload.run(model))
    _clear(workload, model)
    peak, cuda = None, workload.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    _step(workload, model, _optimizer(model))
    if cuda:
        peak = torch.cuda.max_memory_allocated() - before
    _clear(workload, model)
    return {
        "kept_bytes": plain,
        "kept_units": plain / workload.leaf.nbytes,
        "kept_bytes_dropout": dropped,
        "kept_units_dropout": None if dropped is None else dropped / workload.leaf.nbytes,
        "flops": counter.get_total_flops(),
        "peak_bytes": peak,
    }


def _kept_bytes_with_dropout(workload: Workload, row: Row) -> int | None:
    """None if memory ends: what is timed has no dropout and may fit all the same."""
    model = row.build(workload.base, workload.targets, DROPOUT)
    try:
        return kept_bytes(lambda: workload.run(model), model)
    except torch.OutOfMemoryError:
        return None


def _interleaved(
    workload: Workload, models: dict[str, nn.Module], repetitions: int
) -> dict[str, list[tuple[float, ...]]]:
    """Seconds of forward, backward and step, for each row and repetition; no entry if memory ends."""
    names = list(models)
    optimizers = {name: _optimizer(model) for name, model in models.items()}
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        for repetition in range(repetitions + 1):
            first = repetition * 7 % len(names)  # each row has other neighbours in time
            for name in names[first:] + names[:first]:
                if name not in times:
                    continue
                try:
                    taken = _step(workload, models[name], optimizers[name])
                except torch.OutOfMemoryError:
                    del times[name], optimizers[name]
                    _clear(workload, models[name])
                    continue
                if repetition:  # the first allocates and warms up
                    times[name].append(taken)
    finally:
        gc.enable()
    return times


def _step(
    workload: Workload, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> tuple[float, float, float]:
    """Seconds of forward, of backward, and of both with the optimizer's update."""
    clock = _clock(workload)
    workload.leaf.grad = None
    start = clock()
    output = workload.run(model)
    between = clock()
    _backward(workload, output)
    end = clock()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()
    return between - start, end - between, clock() - start


def _clock(workload: Workload) -> Callable[[], float]:
    """Seconds, once the device has done what it was given."""

    def now() -> float:
        if workload.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter()

    return now


def _backward(workload: Workload, output: Tensor) -> None:
    torch.autograd.backward(output, workload.gradient)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer | None:
    """AdamW over what trains; None for the floor."""
    trained = list(adapter_parameters(model))
    return torch.optim.AdamW(trained, lr=1e-4) if trained else None


def _clear(workload: Workload, model: nn.Module) -> None:
    """Frees gradients, and on CUDA the allocator's unused blocks."""
    workload.leaf.grad = None
    model.zero_grad()
    if workload.device.type == "cuda":
        torch.cuda.empty_cache()


def _times(row: Row, times: dict[str, list[tuple[float, ...]]]) -> dict[str, Any]:
    """Medians of a row, and its ratios to the floor and to its peer."""
    if row.name not in times:
        return dict.fromkeys([*(f"{part}_ms" for part in PARTS), "step_to_floor", "step_to_peft"])
    own = times[row.name]
    found: dict[str, Any] = {
        f"{part}_ms": 1000 * median(taken[number] for taken in own) for number, part in enumerate(PARTS)
    }
    for column, other in (("step_to_floor", FLOOR), ("step_to_peft", row.peer)):
        pairs = zip(own, times[other], strict=True) if other in times else ()
        ratios = [mine[-1] / theirs[-1] for mine, theirs in pairs]
        found[column] = median(ratios) if ratios else None
    return found
