"""Parameter counts: against the published tables and against method.md's closed formulas.

The formulas below are written from the papers' definitions and share no code with the plan. Random
models have at most 4 layers and sizes up to 40: counts are sums, so larger ones show nothing new.
"""

import subprocess
import sys
import timeit
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bslora_kit import published
from bslora_kit.budget import Triple, budget, triples_within
from bslora_kit.methods import bslora, lora, share_lora, tied_lora, vera
from bslora_kit.shapes import Shapes, linear_at, llama_1_7b, llama_1_13b, llama_3_8b

LLAMAS = {"Llama 1-7B": llama_1_7b(), "Llama 3-8B": llama_3_8b(), "Llama 1-13B": llama_1_13b()}
FITS = {"BSLoRA (SS)": "slice", "BSLoRA (GT)": "gate", "BSLoRA (KE)": "kron"}
# Printed counts that no published setting gives: (2,8,32) at no Kronecker size, (4,8,8) at k = 32 only.
KRON_MISPRINTS = {"2,8,32": 3_832_320, "4,8,8": 7_205_376}
RATIO_MISPRINTS = {("ShareLoRA", "8"): "0.10%", ("BSLoRA (KE)", "8,16,16"): "0.18%"}

SIMILAR = published.similar_budget().to_dict("records")
TIED = published.tied_lora().to_dict("records")


def config_of_row(method, ranks):
    if method == "ShareLoRA":
        return share_lora(int(ranks), share="B")
    return bslora(*(int(rank) for rank in ranks.split(",")), fit=FITS[method])


@pytest.mark.parametrize("row", SIMILAR, ids=lambda row: f"{row['method']} {row['ranks']}")
def test_published_counts_at_similar_budget(row):
    counted = budget(config_of_row(row["method"], row["ranks"]), LLAMAS["Llama 3-8B"])
    if row["method"] == "BSLoRA (KE)" and row["ranks"] in KRON_MISPRINTS:
        assert row["parameters"] == KRON_MISPRINTS[row["ranks"]] != counted.trainable
    else:
        assert counted.trainable == row["parameters"]


@pytest.mark.parametrize("row", TIED, ids=lambda row: f"{row['model']} {row['method']}")
def test_published_counts_of_tied_lora(row):
    variant = row["method"][-4:-1]
    counted = budget(tied_lora(int(row["rank"]), variant=variant), LLAMAS[row["model"]])
    assert counted.trainable == row["parameters"]


@pytest.mark.parametrize(
    ("ranks", "at_256", "fitting_sizes"), [((2, 8, 32), 3_700_224, []), ((4, 8, 8), 7_226_880, [32])]
)
def test_kronecker_rows_that_no_published_setting_gives(ranks, at_256, fitting_sizes):
    """Tried: every k that divides 1024, 4096 and 14336; slices; gates; plain LoRA of the same rank."""
    shapes = LLAMAS["Llama 3-8B"]
    printed = KRON_MISPRINTS[",".join(map(str, ranks))]
    divisors = [2**power for power in range(11)]
    counts = {k: budget(bslora(*ranks, fit="kron", kron_size=k), shapes).trainable for k in divisors}
    assert counts[256] == at_256
    assert [k for k, count in counts.items() if count == printed] == fitting_sizes
    others = [bslora(*ranks, fit="slice"), bslora(*ranks, fit="gate"), lora(sum(ranks))]
    assert printed not in [budget(config, shapes).trainable for config in others]


@pytest.mark.parametrize("row", SIMILAR, ids=lambda row: f"{row['method']} {row['ranks']}")
def test_published_ratios(row):
    recomputed = f"{row['parameters'] / LLAMAS['Llama 3-8B'].parameters:.2%}"
    corrected = RATIO_MISPRINTS.get((row["method"], row["ranks"]))
    if corrected is None:
        assert recomputed == row["ratio"]
    else:
        assert recomputed == corrected != row["ratio"]


# Closed formulas: `sizes` holds (in, out) of the targets of one of `layers` equal layers.


def closed_lora(rank, layers, sizes):
    return layers * rank * sum(i + o for i, o in sizes)


def closed_bslora(ranks, fit, size, layers, sizes):
    local, intra, inter = ranks
    shared = layers * intra + inter
    branches = (intra > 0) + (inter > 0)  # a branch of rank 0 drops its vectors
    if fit == "slice":
        pairs = shared * (max(i for i, _ in sizes) + max(o for _, o in sizes))
        own = 0
    elif fit == "gate":
        pairs = shared * 2 * size
        own = branches * layers * sum(i + o + 2 * size for i, o in sizes)
    else:
        pairs = shared * 2 * size
        own = branches * layers * sum(ceil(i / size) + ceil(o / size) for i, o in sizes)
    return closed_lora(local, layers, sizes) + pairs + own


def closed_share_lora(rank, share, layers, sizes):
    ins, outs = sum(i for i, _ in sizes), sum(o for _, o in sizes)
    return rank * (ins * (1 if "A" in share else layers) + outs * (1 if "B" in share else layers))


def closed_tied_lora(rank, variant, layers, sizes):
    gains = layers * sum(o + rank for _, o in sizes) if variant == "tl6" else 0
    return rank * sum(i + o for i, o in sizes) + gains


def made_shapes(layers, kinds):
    linears = [
        linear_at(f"model.layers.{layer}.{kind}", *size)
        for layer in range(layers)
        for kind, size in kinds.items()
    ]
    return Shapes("random", "random", tuple(linears), parameters=10_000)


feature = st.integers(1, 40)
kind_sizes = st.dictionaries(
    st.sampled_from(["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]),
    st.tuples(feature, feature),
    min_size=1,
)


@st.composite
def models(draw):
    """Layers, (in, out) of the targets, Shapes that hold more kinds than them, and the targets."""
    layers, kinds = draw(st.integers(1, 4)), draw(kind_sizes)
    targets = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, unique=True))
    return layers, [kinds[kind] for kind in targets], made_shapes(layers, kinds), targets


@settings(max_examples=200, deadline=None)
@given(
    models(),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).filter(any),
    st.sampled_from(["slice", "gate", "kron"]),
    st.integers(1, 50),
)
def test_bslora_equals_its_closed_formula(model, ranks, fit, size):
    layers, sizes, shapes, targets = model
    config = bslora(*ranks, fit=fit, gate_size=size, kron_size=size, target_modules=targets)
    counted = budget(config, shapes)
    assert counted.trainable == counted.total == closed_bslora(ranks, fit, size, layers, sizes)
    assert sum(counted.by_scope.values()) == counted.trainable
    assert sum(counted.by_branch.values()) == counted.trainable
    assert sum(counted.by_kind.values()) == counted.trainable
    assert counted.by_branch.get("local", 0) == closed_lora(ranks[0], layers, sizes)
    assert counted.rank == (
        ranks[0] + min(ranks[1], 1) + min(ranks[2], 1) if fit == "gate" else sum(ranks)
    )


@settings(max_examples=200, deadline=None)
@given(models(), st.integers(1, 9), st.sampled_from(["A", "B", "AB"]), st.sampled_from(["tl5", "tl6"]))
def test_lora_share_lora_and_tied_lora_equal_their_closed_formulas(model, rank, share, variant):
    layers, sizes, shapes, targets = model
    counted = budget(lora(rank, target_modules=targets), shapes)
    assert counted.trainable == closed_lora(rank, layers, sizes)
    counted = budget(share_lora(rank, share=share, target_modules=targets), shapes)
    assert counted.trainable == closed_share_lora(rank, share, layers, sizes)
    counted = budget(tied_lora(rank, variant=variant, target_modules=targets), shapes)
    assert counted.trainable == closed_tied_lora(rank, variant, layers, sizes)


@settings(max_examples=100, deadline=None)
@given(models(), st.integers(1, 9))
def test_vera_trains_its_gains_only(model, rank):
    layers, sizes, shapes, targets = model
    counted = budget(vera(rank, target_modules=targets), shapes)
    gains = layers * sum(o + rank for _, o in sizes)
    frozen = rank * (max(i for i, _ in sizes) + max(o for _, o in sizes))
    assert (counted.trainable, counted.total) == (gains, gains + frozen)


def test_by_scope_branch_and_kind_on_a_model_counted_by_hand():
    """Two layers of q [4 -> 4] and up [4 -> 6] at ranks 1, 2, 3: A has 4 columns, B up to 6 rows."""
    shapes = made_shapes(2, {"q_proj": (4, 4), "up_proj": (4, 6)})
    counted = budget(bslora(1, 2, 3, target_modules=["q_proj", "up_proj"]), shapes)
    local_q, local_up = 2 * (4 + 4), 2 * (4 + 6)
    intra, inter = 2 * 2 * (4 + 6), 3 * (4 + 6)
    assert counted.by_scope == {"module": local_q + local_up, "layer": intra, "model": inter}
    assert counted.by_branch == {"local": local_q + local_up, "intra": intra, "inter": inter}
    assert counted.by_kind == {"q_proj": local_q, "up_proj": local_up, "shared": intra + inter}
    assert counted.trainable == 106
    assert counted.ratio == 0.0106
    rows = counted.frame().values.tolist()
    assert rows == [
        ["module", "local", "A", True, 4, 16],
        ["module", "local", "B", True, 4, 20],
        ["layer", "intra", "A", True, 2, 16],
        ["layer", "intra", "B", True, 2, 24],
        ["model", "inter", "A", True, 1, 12],
        ["model", "inter", "B", True, 1, 18],
    ]


def test_a_type_shared_tensor_counts_under_its_kind():
    shapes = made_shapes(3, {"q_proj": (4, 4), "up_proj": (4, 6)})
    counted = budget(share_lora(2, share="B", target_modules=["q_proj", "up_proj"]), shapes)
    assert counted.by_scope == {"module": 2 * 3 * 8, "type": 2 * 10}
    assert counted.by_kind == {"q_proj": 2 * (3 * 4 + 4), "up_proj": 2 * (3 * 4 + 6)}


def test_bytes_follow_the_dtype():
    counted = budget(lora(8), LLAMAS["Llama 3-8B"])
    assert counted.bytes() == 4 * 14_155_776
    assert counted.bytes("bfloat16") == 2 * 14_155_776
    with pytest.raises(ValueError, match="dtype 'int3' is unknown; use one of float64"):
        counted.bytes("int3")


@settings(max_examples=30, deadline=None)
@given(
    models(),
    st.integers(1, 4000),
    st.sampled_from(["slice", "gate", "kron"]),
    st.integers(1, 20),
    st.floats(0, 0.5),
)
def test_triples_within_finds_exactly_what_the_closed_formula_allows(model, limit, fit, size, tolerance):
    layers, sizes, shapes, targets = model
    found = triples_within(
        limit,
        shapes,
        fit=fit,
        targets=targets,
        gate_size=size,
        kron_size=size,
        tolerance=tolerance,
        max_rank=6,
    )
    expected = {
        Triple(a, b, c, count)
        for a in range(7)
        for b in range(7)
        for c in range(7)
        if (a, b, c) != (0, 0, 0)
        and limit * (1 - tolerance)
        <= (count := closed_bslora((a, b, c), fit, size, layers, sizes))
        <= limit
    }
    assert set(found) == expected and len(found) == len(expected)
    assert [x.trainable for x in found] == sorted((x.trainable for x in found), reverse=True)


def test_triples_within_the_share_lora_budget_hold_the_published_rows():
    shapes = LLAMAS["Llama 3-8B"]
    found = triples_within(8_060_928, shapes, fit="slice")
    assert Triple(2, 4, 16, 7_667_712) in found
    assert Triple(2, 4, 16, 8_028_160) in triples_within(8_060_928, shapes, fit="gate")
    assert found[0].trainable == 8_060_928
    attention = triples_within(3_000_000, shapes, targets=["q_proj", "v_proj"])
    assert attention == triples_within(3_000_000, shapes, targets=r".*\.(q|v)_proj")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 0}, "budget 0 is not a parameter count"),
        ({"tolerance": 1.0}, r"tolerance 1.0 is outside \[0, 1\)"),
        ({"max_rank": 0}, "max_rank 0 is below 1"),
        ({"fit": "crop"}, "fit 'crop' is unknown; use one of slice, gate, kron"),
        ({"fit": "gate", "gate_size": 0}, "needs a size of at least 1, got 0"),
        ({"targets": ["query"]}, "match no linear of Llama-3-8B; it has down_proj"),
    ],
)
def test_triples_within_refuses(change, message):
    arguments = {"budget": 8_060_928} | change
    with pytest.raises(ValueError, match=message):
        triples_within(arguments.pop("budget"), LLAMAS["Llama 3-8B"], **arguments)


def test_plain_modules_import_without_torch():
    code = (
        "import sys; import bslora_kit.plan, bslora_kit.shapes, bslora_kit.budget, bslora_kit.branches;"
        "from bslora_kit.budget import triples_within; from bslora_kit.shapes import llama_3_8b;"
        "assert triples_within(8_060_928, llama_3_8b());"
        "loaded = {'torch', 'peft', 'transformers', 'pandas', 'numpy'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_full_budget_of_llama_3_8b_is_timed(capsys):
    """Checks the counts and prints the times (goal: under 5 ms each); a busy machine fails no test."""
    shapes = LLAMAS["Llama 3-8B"]
    configs = {
        "lora(8)": lora(8),
        "bslora(2, 4, 16)": bslora(2, 4, 16),
        "bslora(2, 4, 16, fit='gate')": bslora(2, 4, 16, fit="gate"),
        "bslora(2, 4, 16, fit='kron')": bslora(2, 4, 16, fit="kron"),
    }
    counts = [14_155_776, 7_667_712, 8_028_160, 3_626_496]  # by the formulas, worked out by hand
    assert [budget(config, shapes).trainable for config in configs.values()] == counts
    for call, config in configs.items():
        seconds = min(timeit.repeat(lambda config=config: budget(config, shapes), number=1, repeat=9))
        with capsys.disabled():
            print(f"\nbudget({call}, llama_3_8b()): {1e3 * seconds:.2f} ms", end="")
