"""Energy, singular values, overlaps and ablation against dense matrices and against the model's output.

Models have two layers of width 24, as in `adapter_cases`; every branch is random, because B = 0 at the
start makes most of these numbers 0.
"""

import numpy as np
import pytest
import torch
from adapter_cases import INPUTS, llama
from peft import get_peft_model

from bslora_kit import bslora, lora, share_lora, tied_lora, vera
from bslora_kit.adapters.analysis import (
    energies,
    layer_overlaps,
    overlap,
    run_overlaps,
    singular_values,
    total_energy,
    weights_of,
)
from bslora_kit.adapters.inspection import tensors_of_model
from bslora_kit.adapters.interventions import start_alike, without_branches

CONFIGS = {
    "slice": bslora(1, 2, 3, init_weights=False),
    "gate": bslora(1, 2, 3, fit="gate", gate_size=8, init_weights=False),
    "kron": bslora(1, 2, 3, fit="kron", kron_size=7, init_weights=False),
    "share_lora": share_lora(2, share="B", init_weights=False),
    "tied_lora": tied_lora(2, variant="tl6", init_weights=False),
    "vera": vera(4, init_weights=False),
}


def adapted(config, seed=0):
    torch.manual_seed(seed)
    return get_peft_model(llama(), config).eval()


def layer_of(model, name):
    return model.get_base_model().get_submodule(name)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_branches_of_a_linear_add_up_to_its_update(config):
    model = adapted(config)
    weights = weights_of(model)
    for linear in weights.plan.linears:
        expected = layer_of(model, linear.name).get_delta_weight("default").detach().numpy()
        parts = sum(weights.delta(linear.name, branch.name) for branch in weights.plan.branches)
        np.testing.assert_allclose(parts, expected, atol=1e-6)
        np.testing.assert_allclose(weights.delta(linear.name), expected, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_energies_are_the_squared_elements_of_the_updates(config):
    weights = weights_of(adapted(config))
    rows = {(row.layer, row.kind, row.branch): row for row in energies(weights)}
    assert len(rows) == len(weights.plan.linears) * len(weights.plan.branches)
    for linear in weights.plan.linears:
        squares = {
            branch.name: np.square(weights.delta(linear.name, branch.name)).sum()
            for branch in weights.plan.branches
        }
        for name, square in squares.items():
            row = rows[linear.layer, linear.kind, name]
            assert row.energy == pytest.approx(square, rel=1e-4)
            assert row.share == pytest.approx(square / sum(squares.values()), rel=1e-4)
    whole = sum(np.square(weights.delta(linear.name)).sum() for linear in weights.plan.linears)
    assert total_energy(weights) == pytest.approx(whole, rel=1e-4)


def test_before_training_there_is_no_energy_and_no_subspace_of_b():
    weights = weights_of(adapted(bslora(1, 2, 3)))
    assert {(row.energy, row.share) for row in energies(weights)} == {(0.0, 0.0)}
    with pytest.raises(ValueError, match="zeros spans no subspace"):
        layer_overlaps(weights, "local", "B")


@pytest.mark.parametrize(("rows", "columns", "rank"), [(9, 13, 3), (2, 13, 4), (13, 2, 4)])
def test_singular_values_are_those_of_the_product(rows, columns, rank):
    draw = np.random.default_rng(0)
    A, B = draw.normal(size=(rank, columns)), draw.normal(size=(rows, rank))
    expected = np.linalg.svd(B @ A, compute_uv=False)[:rank]
    np.testing.assert_allclose(singular_values(A, B), expected, rtol=1e-10)


def test_overlap_of_known_planes():
    """Two planes in 4 dimensions that share one axis and meet at 60 degrees in the other."""
    turned = [0, 0.5, np.sqrt(3) / 2, 0]
    first, second = np.array([[1, 0, 0, 0], [0, 1, 0, 0]]), np.array([[5, 0, 0, 0], turned])
    assert overlap(first, second) == pytest.approx((1 + 0.25) / 2)
    assert overlap(first, first[::-1] * 3) == pytest.approx(1)
    assert overlap(first, np.array([[0, 0, 0, 1.0]])) == pytest.approx(0, abs=1e-12)


def test_chance_is_what_random_subspaces_give():
    draw = np.random.default_rng(0)
    found = [overlap(draw.normal(size=(3, 24)), draw.normal(size=(2, 24))) for _ in range(400)]
    assert np.mean(found) == pytest.approx(3 / 24, rel=0.05)
    rows = layer_overlaps(weights_of(adapted(lora(3))), "local", "A")
    assert {row.kind: row.chance for row in rows}["q_proj"] == pytest.approx(3 / 24)
    assert {row.kind: row.chance for row in rows}["down_proj"] == pytest.approx(3 / 43)


def test_layers_are_compared_kind_by_kind_and_runs_linear_by_linear():
    weights, others = weights_of(adapted(lora(2), 0)), weights_of(adapted(lora(2), 1))
    rows = layer_overlaps(weights, "local", "A")
    assert [row.kind for row in rows] == ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    assert {(row.first, row.second) for row in rows} == {("model.layers.0", "model.layers.1")}
    first, second = (weights.pair(f"model.layers.{n}.self_attn.q_proj")[0] for n in (0, 1))
    assert rows[0].overlap == pytest.approx(overlap(first, second))
    across = run_overlaps(weights, others, "local", "A")
    assert len(across) == 10 and all(row.first == row.second for row in across)
    assert across[0].overlap == pytest.approx(
        overlap(first, others.pair("model.layers.0.self_attn.q_proj")[0])
    )
    assert all(row.overlap == pytest.approx(1) for row in run_overlaps(weights, weights, "local", "A"))
    with pytest.raises(ValueError, match="role 'C' is unknown"):
        run_overlaps(weights, others, "local", "C")


def test_a_shared_pair_has_full_overlap_between_layers():
    rows = layer_overlaps(weights_of(adapted(CONFIGS["slice"])), "inter", "B")
    assert all(row.overlap == pytest.approx(1) for row in rows)


def test_an_equal_start_is_equal_in_all_layers_and_changes_no_output():
    model = adapted(lora(2))
    before = model(INPUTS).logits
    start_alike(model)
    rows = layer_overlaps(weights_of(model), "local", "A")
    assert all(row.overlap == pytest.approx(1) for row in rows)
    A = weights_of(model).pair("model.layers.0.self_attn.q_proj")[0]
    assert not np.allclose(A, weights_of(model).pair("model.layers.0.mlp.up_proj")[0])
    torch.testing.assert_close(model(INPUTS).logits, before)


def test_weights_are_a_copy():
    model = adapted(CONFIGS["slice"])
    weights = weights_of(model)
    kept = {place: (A.copy(), B.copy()) for place, (A, B) in weights.pairs.items()}
    with torch.no_grad():
        for tensor in tensors_of_model(model).values():
            tensor.weight.add_(1)
    for place, (A, B) in kept.items():
        np.testing.assert_array_equal(weights.pairs[place][0], A)
        np.testing.assert_array_equal(weights.pairs[place][1], B)


def test_an_unknown_branch_or_linear_is_named():
    weights = weights_of(adapted(lora(2)))
    with pytest.raises(ValueError, match="no branch 'inter' on linear"):
        weights.pair("model.layers.0.self_attn.q_proj", "inter")
    with pytest.raises(ValueError, match="on linear 'lm_head'"):
        weights.pair("lm_head")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_model_without_a_branch_is_the_base_plus_the_others(config):
    """Merging by hand: base weight plus the updates of the branches that stay."""
    model = adapted(config)
    weights = weights_of(model)
    name = weights.plan.branches[-1].name
    with torch.no_grad(), model.disable_adapter():
        base = {n: layer_of(model, n).base_layer.weight.clone() for n in weights.plan.uses}
        for linear in weights.plan.linears:
            stays = [branch.name for branch in weights.plan.branches if branch.name != name]
            for branch in stays:
                delta = torch.from_numpy(weights.delta(linear.name, branch))
                layer_of(model, linear.name).base_layer.weight.add_(delta)
        expected = model(INPUTS).logits
        for linear in weights.plan.linears:
            layer_of(model, linear.name).base_layer.weight.copy_(base[linear.name])
    before = model(INPUTS).logits
    with without_branches(model, name):
        found = model(INPUTS).logits
    assert not torch.allclose(before, expected, atol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(INPUTS).logits, before, atol=0, rtol=0)


def test_branches_return_after_an_error_and_several_can_go():
    model = adapted(CONFIGS["slice"])
    before = model(INPUTS).logits
    with model.disable_adapter():
        base = model(INPUTS).logits
    with pytest.raises(KeyboardInterrupt), without_branches(model, "local", "intra", "inter"):
        torch.testing.assert_close(model(INPUTS).logits, base)
        raise KeyboardInterrupt
    torch.testing.assert_close(model(INPUTS).logits, before, atol=0, rtol=0)


def test_ablation_refuses_unknown_branches_and_merged_adapters():
    model = adapted(CONFIGS["slice"])
    with pytest.raises(ValueError, match="no branch 'shared' in adapter 'default'; it has local, intra"):
        with without_branches(model, "shared"):
            pass
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged into the base"):
        with without_branches(model, "inter"):
            pass
