"""The plan: which tensors exist, who owns and who reads them. Two layers with two kinds show it all."""

import pytest

from bslora_kit.branches import (
    Branch,
    bslora_branches,
    lora_branches,
    share_lora_branches,
    tied_lora_branches,
    vera_branches,
)
from bslora_kit.plan import centred_offset, plan
from bslora_kit.shapes import Linear, linear_at

Q0, K0, Q1, K1 = LINEARS = [
    linear_at("model.layers.0.attn.q_proj", 8, 8),
    linear_at("model.layers.0.attn.k_proj", 8, 4),
    linear_at("model.layers.1.attn.q_proj", 8, 8),
    linear_at("model.layers.1.attn.k_proj", 8, 4),
]
NAMES = tuple(linear.name for linear in LINEARS)


def shapes_of(made):
    return {key: tensor.shape for key, tensor in made.tensors.items()}


def test_lora_gives_each_linear_its_own_pair():
    made = plan(lora_branches(2), LINEARS)
    assert shapes_of(made) == {
        f"local.A.{Q0.name}": (2, 8),
        f"local.A.{K0.name}": (2, 8),
        f"local.A.{Q1.name}": (2, 8),
        f"local.A.{K1.name}": (2, 8),
        f"local.B.{Q0.name}": (8, 2),
        f"local.B.{K0.name}": (4, 2),
        f"local.B.{Q1.name}": (8, 2),
        f"local.B.{K1.name}": (4, 2),
    }
    assert all(len(tensor.users) == 1 for tensor in made.tensors.values())


def test_bslora_slice_shares_over_layer_and_model():
    made = plan(bslora_branches(0, 2, 3), LINEARS)
    assert shapes_of(made) == {
        "intra.A.model.layers.0": (2, 8),
        "intra.A.model.layers.1": (2, 8),
        "intra.B.model.layers.0": (8, 2),
        "intra.B.model.layers.1": (8, 2),
        "inter.A.model": (3, 8),
        "inter.B.model": (8, 3),
    }
    assert made.tensors["intra.B.model.layers.1"].users == NAMES[2:]
    assert made.tensors["inter.A.model"].users == NAMES
    assert made.rank == 5
    reads = {use.branch.name: use.keys for use in made.uses[K1.name]}
    assert reads == {
        "intra": {"A": "intra.A.model.layers.1", "B": "intra.B.model.layers.1"},
        "inter": {"A": "inter.A.model", "B": "inter.B.model"},
    }


def test_gate_adds_four_vectors_per_linear_and_leaves_rank_one():
    made = plan(bslora_branches(0, 0, 7, fit="gate", gate_size=5), LINEARS[:2])
    assert shapes_of(made) == {
        "inter.A.model": (7, 5),
        "inter.B.model": (5, 7),
        **{f"inter.gate_id.{x.name}": (1, x.in_features) for x in (Q0, K0)},
        **{f"inter.gate_iu.{x.name}": (5, 1) for x in (Q0, K0)},
        **{f"inter.gate_od.{x.name}": (1, 5) for x in (Q0, K0)},
        **{f"inter.gate_ou.{x.name}": (x.out_features, 1) for x in (Q0, K0)},
    }
    assert made.rank == 1


def test_kron_takes_whole_chunks_where_its_size_does_not_divide():
    made = plan(bslora_branches(0, 0, 2, fit="kron", kron_size=3), [K0])
    assert shapes_of(made) == {
        "inter.A.model": (2, 3),
        "inter.B.model": (3, 2),
        f"inter.kron_a.{K0.name}": (1, 3),  # 8 inputs: chunks of 3, 3, 2
        f"inter.kron_b.{K0.name}": (2, 1),  # 4 outputs: chunks of 3, 1
    }


@pytest.mark.parametrize(
    ("share", "owners"),
    [
        ("A", {"A": {"q_proj", "k_proj"}, "B": set(NAMES)}),
        ("B", {"A": set(NAMES), "B": {"q_proj", "k_proj"}}),
        ("AB", {"A": {"q_proj", "k_proj"}, "B": {"q_proj", "k_proj"}}),
    ],
)
def test_share_lora_shares_the_named_factor_over_the_layers(share, owners):
    made = plan(share_lora_branches(2, share), LINEARS)
    for role in ("A", "B"):
        assert {x.owner for x in made.tensors.values() if x.role == role} == owners[role]


def test_tied_lora_tl6_and_vera_start_at_a_zero_update():
    """A zero B stands before v = 1; a frozen random B before v = 0."""
    tied = plan(tied_lora_branches(2, "tl6"), LINEARS)
    starts = {(x.role, x.init, x.trainable) for x in tied.tensors.values()}
    assert starts == {
        ("A", "kaiming", True),
        ("B", "zeros", True),
        ("u", "ones", True),
        ("v", "ones", True),
    }
    frozen = plan(vera_branches(2), LINEARS)
    starts = {(x.role, x.init, x.trainable) for x in frozen.tensors.values()}
    assert starts == {
        ("A", "kaiming", False),
        ("B", "kaiming", False),
        ("u", "ones", True),
        ("v", "zeros", True),
    }
    assert frozen.total - frozen.trainable == 2 * 8 + 8 * 2


def test_a_linear_outside_the_layers_is_its_own_layer():
    head = Linear("lm_head", "", "lm_head", 8, 20)
    made = plan(bslora_branches(0, 1, 0), [Q0, head])
    assert {x.owner for x in made.tensors.values()} == {"model.layers.0", "lm_head"}


def test_linears_of_two_stacks_with_equal_numbers_share_no_layer():
    encoder = linear_at("encoder.layers.0.q_proj", 8, 8)
    decoder = linear_at("decoder.layers.0.q_proj", 8, 8)
    made = plan(bslora_branches(0, 1, 0), [encoder, decoder])
    assert all(len(tensor.users) == 1 for tensor in made.tensors.values())


@pytest.mark.parametrize(("shared", "own", "start"), [(10, 4, 3), (9, 4, 2), (7, 7, 0)])
def test_centred_offset(shared, own, start):
    assert centred_offset(shared, own) == start


@pytest.mark.parametrize(
    ("branches", "linears", "message"),
    [
        (bslora_branches(0, 0, 0), LINEARS, r"ranks \[0, 0, 0\] switch every branch off"),
        (lora_branches(2), [], "no linear to adapt"),
        ([Branch("one", 1), Branch("one", 2)], LINEARS, "names .'one', 'one'. repeat"),
        (
            [Branch("tied", 2, "layer", "layer")],
            LINEARS,
            r"B of 'model.layers.0' is shared by linears of different sizes \[4, 8\] without a fit",
        ),
    ],
)
def test_plan_refuses(branches, linears, message):
    with pytest.raises(ValueError, match=message):
        plan(branches, linears)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": -1}, "branch 'x': rank -1 is not a whole number >= 0; 0 switches the branch off"),
        ({"rank": 1.5}, "rank 1.5 is not a whole number"),
        ({"rank": "8"}, "rank '8' is not a whole number"),
        ({"rank": True}, "rank True is not a whole number"),
        ({"scope_a": "head"}, "scope 'head' of A is unknown; use one of module, layer, type, model"),
        ({"scope_b": "head"}, "scope 'head' of B is unknown"),
        ({"fit": "crop"}, "fit 'crop' is unknown; use one of slice, gate, kron"),
        ({"fit": "gate", "size": 0}, "fit 'gate' needs a size of at least 1, got 0"),
        ({"fit": "kron"}, "fit 'kron' needs a size of at least 1, got None"),
        ({"fit": "slice", "size": 4}, "size 4 has no meaning for fit 'slice'"),
        ({"trainable": False}, "frozen and without gains, so nothing in it would train"),
        ({"gains": True, "fit": "gate", "size": 4}, "a gated branch has rank 1"),
    ],
)
def test_branch_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Branch(**({"name": "x", "rank": 2} | arguments))
