"""An adapted linear as one step of the autograd graph, keeping as little for backward as it needs.

    y  = W x + b + s' B (A (m x))         s' = scaling / (1 - p), m the dropout mask, [in]
    dx = W' g + m (A' i)                  i  = s' B' g            [R]
    dA = i (m x)'    dB = s' g (A m x)'   W, b: as in any linear, where they train

A [R, in], B [out, R] is the effective pair of all branches (see `fit`), in the dtype of the products.
PEFT's LoRA keeps a float32 copy of x and a dropped copy of x for every adapted linear. Here backward has

    x       as it came, so that q, k and v keep one tensor between them, without a copy for a cast;
            or nothing, where x is a product of two tensors that the graph keeps anyway (the input of a
            gated MLP's down projection): x is multiplied again, which gives the same bits
    mask    the state of torch's generator before it was drawn, from which it is drawn again: 16 bytes on
            CUDA, 5 KB on a CPU. manual_seed and checkpointing therefore act as on torch's own dropout
    A m x   R numbers for each token

Both additions, to W x and to W' g, are made in place by the thin products (BLAS' beta = 1), which saves
a pass over y and one over dx. Linears with one input (q, k, v) keep their own products A x: one product
for all of them would save 0.4 % of a decoder layer's step at rank 22 (hidden 1024, 512 tokens, CPU).
Under torch.compile the plain expression is traced instead: fusing, and choosing what to recompute, is
then the compiler's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F
from torch.utils import checkpoint


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a linear multiplies x: autocast's where that acts on x, else x's own."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def adapted_linear(
    x: Tensor,  # [..., in]
    A: Tensor,  # [R, in]
    B: Tensor,  # [out, R]
    scaling: float,
    dropout: float = 0.0,
    weight: Tensor | None = None,  # [out, in]
    bias: Tensor | None = None,  # [out]
) -> Tensor:  # [..., out]
    """W x + b + scaling * B (A drop(x)); without a weight, the update alone.

    Args:
        x: input, any number of leading dimensions.
        A: down projection of the effective pair, in `product_dtype(x)`.
        B: up projection, in the same dtype.
        scaling: factor of the update.
        dropout: probability that an element of x is zero in the update; 0 in inference.
        weight: of the base linear; None leaves the base out.
        bias: of the base linear.
    """
    if torch.compiler.is_compiling():
        hidden = F.linear(F.dropout(x, dropout), A)
        update = F.linear(scaling * hidden, B)
        return update if weight is None else F.linear(x, weight, bias) + update
    rows = x.reshape(-1, x.shape[-1])
    out = AdaptedLinear.apply(rows, A, B, weight, bias, scaling, dropout, _kept_product(x))
    return out.view(*x.shape[:-1], out.shape[-1])


class AdaptedLinear(torch.autograd.Function):
    """The equations at the top of the module, for x [tokens, in]. Differentiable once."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        A: Tensor,
        B: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        scaling: float,
        dropout: float,
        product: torch.autograd.graph.Node | None = None,
    ) -> Tensor:
        """See `adapted_linear`; `product` is a node that x can be had from."""
        ctx.scale, ctx.dropout = scaling / (1 - dropout), dropout
        state = _generator_state(x.device) if dropout else None
        rows = x.to(A.dtype)
        hidden = (rows * _mask(rows.shape, rows.device, dropout) if dropout else rows) @ A.T
        if weight is None:
            out = (hidden @ B.T).mul_(ctx.scale)
        else:
            out = F.linear(rows, weight.to(A.dtype), None if bias is None else bias.to(A.dtype))
            # With `out`, since torch.utils.flop_counter does not count addmm_.
            torch.addmm(out, hidden, B.T, alpha=ctx.scale, out=out)
        needs_x = ctx.needs_input_grad[1] or ctx.needs_input_grad[3]
        ctx.product = product if needs_x else None
        ctx.save_for_backward(
            x if needs_x and product is None else None,
            A,
            B,
            hidden if ctx.needs_input_grad[2] else None,
            weight,
            state,
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Any, ...]:
        """Gradients of x, A, B, weight and bias, those that are wanted."""
        wants_x, wants_a, wants_b, wants_weight, wants_bias = ctx.needs_input_grad[:5]
        x, A, B, hidden, weight, state = ctx.saved_tensors
        grad = gradient.to(A.dtype)
        grad_x = grad_a = grad_b = grad_weight = grad_bias = None
        mask = None
        if ctx.dropout and (wants_x or wants_a):
            mask = _mask((len(grad), A.shape[1]), grad.device, ctx.dropout, state)
        inner = (grad @ B).mul_(ctx.scale) if wants_x or wants_a else None
        if wants_b:
            # Transposed back: on a CPU about twice as fast as grad.T @ hidden.
            grad_b = (hidden.T @ grad).mul_(ctx.scale).T
        if wants_a or wants_weight:
            if ctx.product is not None:
                x = ctx.product._saved_self * ctx.product._saved_other
            rows = x.reshape(-1, A.shape[1]).to(A.dtype)
            if wants_weight:
                grad_weight = grad.T @ rows
            if wants_a:
                grad_a = inner.T @ (rows if mask is None else rows * mask)
        if wants_bias:
            grad_bias = grad.sum(0)
        if wants_x:
            base = None if weight is None else grad @ weight.to(A.dtype)
            if base is not None and mask is None:
                grad_x = torch.addmm(base, inner, A, out=base)
            else:
                grad_x = inner @ A if mask is None else (inner @ A).mul_(mask)
                grad_x = grad_x if base is None else base.add_(grad_x)
        return grad_x, grad_a, grad_b, grad_weight, grad_bias, None, None, None


def _generator_state(device: torch.device) -> Tensor:
    """State of torch's generator for a device."""
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _mask(
    shape: Sequence[int], device: torch.device, dropout: float, state: Tensor | None = None
) -> Tensor:
    """True where an element is kept, one byte an element.

    Args:
        shape: of the mask.
        device: where it is drawn.
        dropout: probability of False.
        state: of the generator to draw from; by default torch's own, which then moves on.
    """
    generator = None if state is None else torch.Generator(device)
    if generator is not None:
        generator.set_state(state)
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    return mask.bernoulli_(1 - dropout, generator=generator)


def _kept_product(x: Tensor) -> torch.autograd.graph.Node | None:
    """The node that made x, if x is a product whose two factors the graph keeps in memory; else None.

    A product keeps a factor if the other one needs a gradient. Checkpointing keeps none and lets a
    tensor be read once only; hooks that move tensors elsewhere would move them back once more.
    """
    node = x.grad_fn
    if node is None or node.name() != "MulBackward0" or not all(n for n, _ in node.next_functions):
        return None
    kept = (node._raw_saved_self, node._raw_saved_other)
    return node if all(_in_memory(saved) for saved in kept) else None


def _in_memory(saved: torch._C._autograd.SavedTensor) -> bool:
    """Whether a saved tensor is there as it is, and may be read more than once."""
    if saved.unpack_hook is None:
        return True
    return isinstance(saved.data, Tensor) and saved.unpack_hook.__module__ != checkpoint.__name__
