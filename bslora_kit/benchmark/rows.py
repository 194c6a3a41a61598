"""What a benchmark compares, as rows: the floor, stock PEFT LoRA, the naive reading, the methods here.

The floor is the frozen base with the gradient of its input: what no adapter can avoid. Each method has
a peer, stock PEFT LoRA with the same total rank R of one linear and PEFT's defaults. The naive rows are
the papers' equations read word by word (see `naive`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import bslora_kit.adapters  # noqa: F401  registers the configs with PEFT
from bslora_kit import bslora, lora, share_lora, tied_lora, vera
from bslora_kit.adapters.layer import SharedLoraLinear
from bslora_kit.benchmark.naive import NaiveLinear
from bslora_kit.branches import GATE_SIZE, KRON_SIZE
from bslora_kit.methods import SharedLoraConfig

Kind = Literal["floor", "peft", "naive", "kit"]

FLOOR = "frozen base"
TRIPLES = ((2, 4, 16), (2, 8, 32))  # the published triples of the equal-budget tables
PUBLISHED_HIDDEN = 4096  # of the models that the published gate and Kronecker sizes belong to


@dataclass(frozen=True)
class Row:
    """One thing that is measured.

    Attributes:
        name: what tables call it.
        kind: "floor", "peft", "naive" or "kit".
        rank: total rank R of the update of one linear; 0 for the floor.
        config: what PEFT is given, without targets and dropout; None for the floor.
        peer: name of the row of stock PEFT LoRA with the same rank; None for the floor.
    """

    name: str
    kind: Kind
    rank: int
    config: SharedLoraConfig | LoraConfig | None
    peer: str | None

    def build(self, base: nn.Module, targets: Sequence[str], dropout: float) -> nn.Module:
        """The base with this row's adapter, in train mode; frozen weights are shared, not copied.

        Args:
            base: frozen; left as it is.
            targets: names of the linears to adapt.
            dropout: of the adapter's input.
        """
        model = copy.deepcopy(base, {id(t): t for t in chain(base.parameters(), base.buffers())})
        if self.config is None:
            return model.train()
        config = copy.deepcopy(self.config)
        config.target_modules = set(targets)
        setattr(config, "lora_dropout" if self.kind == "peft" else "dropout", dropout)
        model = get_peft_model(model, config).train()
        if self.kind == "naive":
            for name, module in list(model.named_modules()):
                if isinstance(module, SharedLoraLinear):
                    parent, _, child = name.rpartition(".")
                    setattr(model.get_submodule(parent), child, NaiveLinear(module))
        return model


def peft_name(rank: int) -> str:
    """Name of the row of stock PEFT LoRA."""
    return f"PEFT LoRA r {rank}"


def methods(hidden: int) -> dict[str, SharedLoraConfig]:
    """Every method of the kit by its name in tables.

    Args:
        hidden: size of the model's hidden state. The published gate size 1024 and Kronecker size 256
            belong to 4096 and are scaled with it.
    """
    sizes = {
        "gate_size": max(GATE_SIZE * hidden // PUBLISHED_HIDDEN, 1),
        "kron_size": max(KRON_SIZE * hidden // PUBLISHED_HIDDEN, 1),
    }
    found = {
        "LoRA r 8": lora(8),
        "ShareLoRA B r 8": share_lora(8, share="B"),
        "Tied-LoRA TL5 r 8": tied_lora(8, variant="tl5"),
        "Tied-LoRA TL6 r 8": tied_lora(8, variant="tl6"),
        "VeRA r 256": vera(256),
    }
    for short, fit in (("SS", "slice"), ("GT", "gate"), ("KE", "kron")):
        for triple in (*TRIPLES, (0, 4, 8)) if fit == "gate" else TRIPLES:
            found[f"{short} {','.join(map(str, triple))}"] = bslora(*triple, fit=fit, **sizes)
    return found


def rows(hidden: int) -> list[Row]:
    """All rows of a table, the floor first; see `methods` for `hidden`."""
    kit = [
        Row(name, "kit", total_rank(config), config, peft_name(total_rank(config)))
        for name, config in methods(hidden).items()
    ]
    peft = [
        Row(peft_name(rank), "peft", rank, LoraConfig(r=rank), peft_name(rank))
        for rank in sorted({row.rank for row in kit})
    ]
    naive = [
        Row(f"naive {row.name}", "naive", row.rank, row.config, row.peer)
        for row in kit
        if row.name.startswith(("SS", "GT", "KE"))
    ]
    return [Row(FLOOR, "floor", 0, None, None), *peft, *naive, *kit]


def total_rank(config: SharedLoraConfig) -> int:
    """Rank R of the update of one linear, all branches together."""
    return sum(branch.effective_rank for branch in config.branches)


def adapter_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The trainable parameters of a model, each once."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)


def storages(tensors: Iterator[torch.Tensor] | Sequence[torch.Tensor]) -> dict[int, int]:
    """Address -> bytes of the memory behind some tensors, each piece once."""
    pieces = (tensor.untyped_storage() for tensor in tensors)
    return {piece.data_ptr(): piece.nbytes() for piece in pieces}


def describe(row: Row, model: nn.Module) -> dict[str, Any]:
    """What a table says of a row before anything is measured."""
    parameters = sum(math.prod(p.shape) for p in adapter_parameters(model))
    return {
        "row": row.name,
        "kind": row.kind,
        "rank": row.rank,
        "peer": row.peer,
        "trainable": parameters,
    }
