"""Every method of the family as a list of branches.

A branch is one low-rank pair (A, B) and two answers: over which scope each factor is shared, and how
a shared factor is fitted to linears of different sizes.

    method            rank  scope of A  scope of B  fit
    LoRA              r     module      module
    ShareLoRA A       r     type        module
    ShareLoRA B       r     module      type
    ShareLoRA AB      r     type        type
    Tied-LoRA TL5     r     type        type
    Tied-LoRA TL6     r     type        type        + trained gains u, v per linear
    BSLoRA (a,b,c)    a     module      module
                      b     layer       layer       slice | gate | kron
                      c     model       model       slice | gate | kron
    VeRA              r     model       model       slice, frozen, + trained gains u, v per linear

Sources: LoRA (Hu et al. 2021), ShareLoRA (Song et al., arXiv 2406.10785), Tied-LoRA (Renduchintala et
al., NAACL 2024), BSLoRA (Zhou et al., ICML 2025), VeRA (Kopiczko et al., ICLR 2024). Plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["module", "layer", "type", "model"]
Fit = Literal["slice", "gate", "kron"]

SCOPES: tuple[str, ...] = get_args(Scope)
FITS: tuple[str, ...] = get_args(Fit)
SHARES = ("A", "B", "AB")
TIED_VARIANTS = ("tl5", "tl6")

GATE_SIZE = 1024  # published gate size g (BSLoRA, GT)
KRON_SIZE = 256  # published Kronecker size k (BSLoRA, KE)


@dataclass(frozen=True)
class Branch:
    """One low-rank pair and its sharing.

    Attributes:
        name: what figures and files call it: "local", "intra", "inter" in BSLoRA, "shared" elsewhere.
        rank: inner size r of the pair; 0 switches the branch off.
        scope_a: who shares A: one module, one decoder layer, one projection type, or the model.
        scope_b: who shares B.
        fit: how shared factors meet linears of other sizes; None where all users have one size.
        size: gate size g (fit "gate") or Kronecker size k (fit "kron"); None otherwise.
        trainable: False freezes A and B at random values (VeRA); the gains still train.
        gains: per-linear vectors u [r] and v [out]: delta = diag(v) B diag(u) A.

    Raises:
        ValueError: for any value outside these, naming the value and the remedy.
    """

    name: str
    rank: int
    scope_a: Scope = "module"
    scope_b: Scope = "module"
    fit: Fit | None = None
    size: int | None = None
    trainable: bool = True
    gains: bool = False

    def __post_init__(self) -> None:
        where = f"branch {self.name!r}"
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 0:
            raise ValueError(
                f"{where}: rank {self.rank!r} is not a whole number >= 0; 0 switches the branch off"
            )
        for factor, scope in (("A", self.scope_a), ("B", self.scope_b)):
            if scope not in SCOPES:
                raise ValueError(
                    f"{where}: scope {scope!r} of {factor} is unknown; use one of {', '.join(SCOPES)}"
                )
        if self.fit is not None and self.fit not in FITS:
            raise ValueError(f"{where}: fit {self.fit!r} is unknown; use one of {', '.join(FITS)}")
        if self.fit in ("gate", "kron"):
            if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 1:
                raise ValueError(
                    f"{where}: fit {self.fit!r} needs a size of at least 1, got {self.size!r}; "
                    f"published: gate_size={GATE_SIZE}, kron_size={KRON_SIZE}"
                )
        elif self.size is not None:
            raise ValueError(
                f"{where}: size {self.size!r} has no meaning for fit {self.fit!r}; leave it out"
            )
        if not self.trainable and not self.gains:
            raise ValueError(f"{where}: frozen and without gains, so nothing in it would train")
        if self.gains and self.fit == "gate":
            raise ValueError(f"{where}: a gated branch has rank 1 and takes no gains u, v")

    @property
    def effective_rank(self) -> int:
        """Rank of the branch's update of one linear: the gate transformation leaves 1."""
        return min(self.rank, 1) if self.fit == "gate" else self.rank


def lora_branches(rank: int) -> list[Branch]:
    """LoRA: one pair per linear."""
    return [Branch("local", rank)]


def bslora_branches(
    local: int,
    intra: int,
    inter: int,
    fit: Fit = "slice",
    gate_size: int = GATE_SIZE,
    kron_size: int = KRON_SIZE,
) -> list[Branch]:
    """BSLoRA: a local pair per linear, an intra pair per layer, an inter pair per model.

    Args:
        local: rank of the pair of one linear.
        intra: rank of the pair that the targets of one decoder layer share.
        inter: rank of the pair that all targets share.
        fit: "slice" (SS), "gate" (GT) or "kron" (KE).
        gate_size: g of the gate transformation; read only by fit "gate".
        kron_size: k of the Kronecker extension; read only by fit "kron".
    """
    if fit not in FITS:
        raise ValueError(f"fit {fit!r} is unknown; use one of {', '.join(FITS)}")
    size = {"slice": None, "gate": gate_size, "kron": kron_size}[fit]
    return [
        Branch("local", local),
        Branch("intra", intra, "layer", "layer", fit, size),
        Branch("inter", inter, "model", "model", fit, size),
    ]


def share_lora_branches(rank: int, share: Literal["A", "B", "AB"] = "A") -> list[Branch]:
    """ShareLoRA: A, B or both are shared by one projection type over all layers."""
    if share not in SHARES:
        raise ValueError(f"share {share!r} is unknown; use one of {', '.join(SHARES)}")
    return [
        Branch(
            "shared", rank, "type" if "A" in share else "module", "type" if "B" in share else "module"
        )
    ]


def tied_lora_branches(rank: int, variant: Literal["tl5", "tl6"] = "tl6") -> list[Branch]:
    """Tied-LoRA: both factors tied over the layers; TL6 adds gains u, v per linear."""
    if variant not in TIED_VARIANTS:
        raise ValueError(
            f"variant {variant!r} is unknown; use one of {', '.join(TIED_VARIANTS)} "
            "(VeRA, the frozen relative, is vera())"
        )
    return [Branch("shared", rank, "type", "type", gains=variant == "tl6")]


def vera_branches(rank: int) -> list[Branch]:
    """VeRA: one frozen random pair for the model, sliced; gains u, v per linear train."""
    return [Branch("shared", rank, "model", "model", "slice", trainable=False, gains=True)]
