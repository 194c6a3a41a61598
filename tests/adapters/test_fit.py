"""The fits against the papers' formulas written out: materialised products, explicit indices."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bslora_kit.adapters.fit import apply_gains, fit_gate, fit_kron, fit_slice

# Sizes up to 20 cover every remainder, parity and order of the sizes involved.
sizes = st.integers(1, 20)
ranks = st.integers(1, 4)


def draw(*shapes):
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@given(ranks, sizes, sizes, st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_slice_takes_the_centre(rank, size_in, size_out, more_in, more_out):
    A, B = draw((rank, size_in + more_in), (size_out + more_out, rank))
    found_a, found_b = fit_slice(A, B, size_in, size_out)
    assert found_a.shape == (rank, size_in) and found_b.shape == (size_out, rank)
    for column in range(size_in):
        assert torch.equal(found_a[:, column], A[:, more_in // 2 + column])
    for row in range(size_out):
        assert torch.equal(found_b[row], B[more_out // 2 + row])


@given(ranks, sizes, sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_gate_is_the_product_of_its_six_matrices(rank, gate, size_in, size_out):
    A, B, inward, up, down, outward = draw(
        (rank, gate), (gate, rank), (1, size_in), (gate, 1), (1, gate), (size_out, 1)
    )
    found_a, found_b = fit_gate(A, B, inward, up, down, outward)
    assert found_a.shape == (1, size_in) and found_b.shape == (size_out, 1)
    naive = outward @ (down @ B @ A @ up) @ inward
    torch.testing.assert_close(found_b @ found_a, naive, rtol=1e-12, atol=1e-12)


@given(ranks, sizes, sizes, sizes)
@settings(max_examples=60, deadline=None)
def test_kron_is_the_materialised_product_cut_to_size(rank, kron, size_in, size_out):
    chunks_in, chunks_out = -(-size_in // kron), -(-size_out // kron)
    A, B, a, b = draw((rank, kron), (kron, rank), (1, chunks_in), (chunks_out, 1))
    found_a, found_b = fit_kron(A, B, a, b, size_in, size_out)
    assert torch.equal(found_a, torch.kron(a, A)[:, :size_in])
    assert torch.equal(found_b, torch.kron(b, B)[:size_out])


@given(ranks, sizes, sizes)
@settings(max_examples=30, deadline=None)
def test_gains_are_diagonal_matrices(rank, size_in, size_out):
    A, B, u, v = draw((rank, size_in), (size_out, rank), (rank,), (size_out,))
    found_a, found_b = apply_gains(A, B, u, v)
    torch.testing.assert_close(found_a, torch.diag(u) @ A, rtol=1e-14, atol=0)
    torch.testing.assert_close(found_b, torch.diag(v) @ B, rtol=1e-14, atol=0)


@pytest.mark.parametrize("fit", ["slice", "gate", "kron"])
def test_each_fit_is_linear_in_the_shared_pair(fit):
    A, B, inward, up, down, outward = draw((2, 6), (6, 2), (1, 4), (6, 1), (1, 6), (5, 1))
    own = {
        "slice": lambda A: fit_slice(A, B, 4, 5),
        "gate": lambda A: fit_gate(A, B, inward, up, down, outward),
        "kron": lambda A: fit_kron(A, B, inward[:, :1], outward[:1], 4, 5),
    }[fit]
    product = lambda A: own(A)[1] @ own(A)[0]  # noqa: E731
    other = torch.randn_like(A)
    torch.testing.assert_close(product(A + 3 * other), product(A) + 3 * product(other))
