"""The constructors of the family, each a row of `branches` wrapped into one PEFT config class.

A config says what to adapt and how; `plan.plan_of(config, shapes)` says which tensors that takes, and
`peft.get_peft_model(model, config)` makes them once `bslora_kit.adapters` is imported.
"""

from __future__ import annotations

import hashlib
from copy import copy
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import SAFETENSORS_WEIGHTS_NAME, PeftType, TaskType
from peft.utils.constants import (
    INCLUDE_LINEAR_LAYERS_SHORTHAND,
    SEQ_CLS_HEAD_NAMES,
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
)
from safetensors import SafetensorError, safe_open

from bslora_kit import branches as rows
from bslora_kit.branches import Branch
from bslora_kit.shapes import DEFAULT_TARGETS, Linear, Shapes, refuse_fused

METHOD_NAME = "shared_lora"
SETTINGS = ("branches", "scaling", "frozen_seed")  # decide the update beside the weights


def _peft_type(name: str) -> PeftType:
    """The PeftType member `name`, added to the live enum where peft does not know it.

    `peft.utils.register_peft_method` accepts members of this enum only, and an enum that has members
    cannot be subclassed.
    """
    upper = name.upper()
    if upper not in PeftType.__members__:
        member = str.__new__(PeftType, upper)
        member._name_ = upper
        member._value_ = upper
        PeftType._member_map_[upper] = member
        PeftType._value2member_map_[upper] = member
        PeftType._member_names_.append(upper)
    return PeftType(upper)


PEFT_TYPE = _peft_type(METHOD_NAME)


@dataclass
class SharedLoraConfig(PeftConfig):
    """One config for every method of the family.

    Attributes:
        branches: what is shared over which scope, and how it is fitted.
        method: name of the method, for tables and files.
        scaling: s in W + s * B_eff A_eff; a constant, as in the published BSLoRA runs.
        dropout: probability of one mask on the input, common to all branches.
        target_modules: as in PEFT: names, a regular expression, or "all-linear". None takes q, k, v,
            up and down projections where the model has all of them, else PEFT's own mapping.
        exclude_modules, layers_to_transform, layers_pattern, modules_to_save, bias, fan_in_fan_out:
            as in PEFT's LoraConfig; `bias` is "none", "all" or "shared_lora_only".
        init_weights: False starts B and v at random instead of at a zero update; for tests.
        frozen_seed: frozen factors (VeRA) are drawn from this seed, not stored in the file.
        adapted_linears: the linears that the adapter was made for, those of one size together, with
            "out x in": {"model.layers.0-31.self_attn.k_proj": "1024 x 4096"}.
        weights_sha256: of the weights beside a saved config.

    `get_peft_model` writes the targets that it matched, `fan_in_fan_out` and `adapted_linears` into the
    config, and saving writes `weights_sha256`. Loading compares both where the file has them.

    Raises:
        ValueError: for a config that adapts nothing or holds a value out of range.
    """

    branches: list[Branch] = field(default_factory=list)
    method: str = "custom"
    scaling: float = 2.0
    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    fan_in_fan_out: bool = False
    init_weights: bool = True
    frozen_seed: int = 0
    adapted_linears: dict[str, str] | None = None
    weights_sha256: str | None = field(default=None, compare=False)

    # Whether the config was read from a file whose weights are still to come, and the linears that the
    # file names, since the field has those of the model at hand. Not fields.
    awaits_weights: ClassVar[bool] = False
    linears_in_file: ClassVar[dict[str, str] | None] = None
    settings_in_file: ClassVar[dict[str, Any] | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        self.branches = _branches(self.branches)
        if not _is_text_by_text(self.adapted_linears):
            raise ValueError(
                f"adapted_linears {self.adapted_linears!r} is not a mapping of names to sizes, such as "
                '{"lm_head": "1024 x 256"}; copy adapter_config.json again, or take adapted_linears out'
            )
        if not any(branch.rank > 0 for branch in self.branches):
            raise ValueError(
                f"{self.method}: ranks {[branch.rank for branch in self.branches]} switch every "
                "branch off; give at least one rank above 0"
            )
        if not isinstance(self.dropout, Real) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout {self.dropout!r} is not a number in [0, 1); published: 0.05")
        if not isinstance(self.scaling, Real) or not isfinite(self.scaling) or self.scaling == 0:
            raise ValueError(
                f"scaling {self.scaling!r} is not a finite number other than 0; published: 2.0"
            )
        biases = ("none", "all", f"{METHOD_NAME}_only")
        if self.bias not in biases:
            raise ValueError(f"bias {self.bias!r} is unknown; use one of {', '.join(biases)}")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern is set but layers_to_transform is not; set both")
        targets = self.target_modules
        expression = isinstance(targets, str) and not _means_all_linear(targets)
        if expression and self.layers_to_transform is not None:
            raise ValueError(
                f"target_modules {targets!r} is a regular expression, for which PEFT ignores "
                "layers_to_transform; write the layers into the expression or list the names"
            )
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                setattr(self, name, set(value))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> SharedLoraConfig:
        """Reads the config of a saved adapter; as in PEFT.

        Raises:
            ValueError: if the weights beside it are damaged or are not those that were saved with it,
                before any model is touched.
        """
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        if not isinstance(config, SharedLoraConfig):  # PEFT makes the class that the file names
            return config
        config.awaits_weights = True
        config.linears_in_file = config.adapted_linears
        config.settings_in_file = {name: copy(getattr(config, name)) for name in SETTINGS}
        weights = Path(pretrained_model_name_or_path, subfolder or "", SAFETENSORS_WEIGHTS_NAME)
        if weights.is_file():
            config.check_weights(weights)
        return config

    def check_weights(self, weights: Path) -> None:
        """Compares a file of weights with the one that this config was saved with.

        Raises:
            ValueError: if it is damaged or another; says what to do.
        """
        try:
            with safe_open(weights, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{weights} is damaged ({error}); copy it again or save the adapter again"
            ) from error
        found = _sha256(weights)
        if self.weights_sha256 not in (None, found):
            raise ValueError(
                f"{weights} is altered: its SHA-256 is {found} where adapter_config.json has "
                f"{self.weights_sha256}; copy both again or save the adapter again. If the change "
                "is meant, take weights_sha256 out of adapter_config.json"
            )

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Writes adapter_config.json; as in PEFT, which writes the weights before it."""
        weights = Path(save_directory, SAFETENSORS_WEIGHTS_NAME)
        self.weights_sha256 = _sha256(weights) if weights.is_file() else None
        super().save_pretrained(save_directory, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The config as plain data; sets become sorted lists so that equal configs give equal files."""
        plain = asdict(self)
        return {k: sorted(v) if isinstance(v, set) else v for k, v in plain.items()}

    def targets_in(self, shapes: Shapes) -> tuple[Linear, ...]:
        """The linears of `shapes` that this config adapts, by PEFT's own matching rules.

        Raises:
            ValueError: if none matches, or if a target asks for fused experts.
        """
        wanted = resolve_targets(self.target_modules, shapes)
        if _means_all_linear(wanted):
            heads = SEQ_CLS_HEAD_NAMES if self.task_type == TaskType.SEQ_CLS else ()
            names = {linear.name for linear in shapes.linears}
            wanted = names - {shapes.head} - set(heads)
        refuse_fused(wanted, shapes)
        probe = _Matcher(
            wanted,
            self.exclude_modules,
            self.layers_to_transform,
            self.layers_pattern,
            self.modules_to_save,
        )
        found = tuple(
            linear for linear in shapes.linears if check_target_module_exists(probe, linear.name)
        )
        if not found:
            raise ValueError(
                f"target_modules {wanted!r} (exclude_modules {self.exclude_modules!r}, "
                f"layers_to_transform {self.layers_to_transform!r}) match no linear of "
                f"{shapes.name}; it has {', '.join(sorted({x.kind for x in shapes.linears}))}"
            )
        return found


def _branches(given: Any) -> list[Branch]:
    """The branches of a config, which a file holds as mappings."""
    try:
        return [branch if isinstance(branch, Branch) else Branch(**branch) for branch in given]
    except TypeError as error:
        known = ", ".join(item.name for item in fields(Branch))
        raise ValueError(
            f"branches {given!r} are not a list of branches ({error}); each has some of {known}"
        ) from error


def _is_text_by_text(value: Any) -> bool:
    """Whether a value is None or maps text to text."""
    return value is None or (
        isinstance(value, dict) and all(isinstance(x, str) for pair in value.items() for x in pair)
    )


def _sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _means_all_linear(targets: set[str] | str) -> bool:
    """Whether the targets are PEFT's shorthand for every linear but the head."""
    return isinstance(targets, str) and targets.lower() == INCLUDE_LINEAR_LAYERS_SHORTHAND


@dataclass
class _Matcher:
    """The part of a config that PEFT's matching reads."""

    target_modules: set[str] | str
    exclude_modules: set[str] | str | None
    layers_to_transform: list[int] | int | None
    layers_pattern: list[str] | str | None
    modules_to_save: list[str] | None


def resolve_targets(target_modules: set[str] | str | None, shapes: Shapes) -> set[str] | str:
    """The targets as given, or the default ones of a model.

    Raises:
        ValueError: if none are given and neither the default kinds nor PEFT's mapping fit the model.
    """
    if target_modules is not None:
        return target_modules
    kinds = {linear.kind for linear in shapes.linears}
    if kinds.issuperset(DEFAULT_TARGETS):
        return set(DEFAULT_TARGETS)
    mapped = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(shapes.model_type)
    if mapped is None:
        raise ValueError(
            f"no default targets are known for model type {shapes.model_type!r}; name them with "
            f"target_modules, for example {sorted(kinds)}"
        )
    return set(mapped)


def lora(rank: int, **options: Any) -> SharedLoraConfig:
    """LoRA of rank `rank`: one pair per linear. `options` are fields of SharedLoraConfig."""
    return SharedLoraConfig(branches=rows.lora_branches(rank), method="lora", **options)


def bslora(
    local: int,
    intra: int,
    inter: int,
    *,
    fit: Literal["slice", "gate", "kron"] = "slice",
    gate_size: int = rows.GATE_SIZE,
    kron_size: int = rows.KRON_SIZE,
    **options: Any,
) -> SharedLoraConfig:
    """BSLoRA with the rank triple (local, intra, inter). `options` are fields of SharedLoraConfig.

    Args:
        local: rank of the pair of one linear.
        intra: rank of the pair that the targets of one decoder layer share.
        inter: rank of the pair that all targets of the model share.
        fit: "slice" (SS), "gate" (GT) or "kron" (KE).
        gate_size: g of the gate transformation.
        kron_size: k of the Kronecker extension.
    """
    made = rows.bslora_branches(local, intra, inter, fit, gate_size, kron_size)
    return SharedLoraConfig(branches=made, method=f"bslora_{fit}", **options)


def share_lora(rank: int, *, share: Literal["A", "B", "AB"] = "A", **options: Any) -> SharedLoraConfig:
    """ShareLoRA of rank `rank`: A, B or both shared by a projection type over all layers."""
    made = rows.share_lora_branches(rank, share)
    return SharedLoraConfig(branches=made, method=f"share_lora_{share.lower()}", **options)


def tied_lora(rank: int, *, variant: Literal["tl5", "tl6"] = "tl6", **options: Any) -> SharedLoraConfig:
    """Tied-LoRA of rank `rank`: TL5 ties both factors over the layers, TL6 adds gains u, v."""
    made = rows.tied_lora_branches(rank, variant)
    return SharedLoraConfig(branches=made, method=f"tied_lora_{variant}", **options)


def vera(rank: int, **options: Any) -> SharedLoraConfig:
    """VeRA of rank `rank`: one frozen random pair for the model; only gains u, v train."""
    return SharedLoraConfig(branches=rows.vera_branches(rank), method="vera", **options)
