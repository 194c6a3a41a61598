"""The fused linear against plain autograd: values, gradients, and what it keeps for backward.

Sizes are a few elements, and all different, so that a transposed product cannot pass.
"""

import pytest
import torch
from adapter_cases import INPUTS, METHODS, adapted
from peft import get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaModel

from bslora_kit import bslora
from bslora_kit.adapters.fused import AdaptedLinear, adapted_linear

TOKENS, SIZE_IN, SIZE_OUT, RANK = 4, 6, 5, 3


def draw(*shape, **options):
    return torch.randn(shape, **{"dtype": torch.float64, "requires_grad": True, **options})


def operands(lead=(TOKENS,), **options):
    """x, A, B, weight, bias."""
    shapes = ((*lead, SIZE_IN), (RANK, SIZE_IN), (SIZE_OUT, RANK), (SIZE_OUT, SIZE_IN), (SIZE_OUT,))
    return [draw(*shape, **options) for shape in shapes]


def kept_for_backward(function):
    """Result of a call, and the storages (address -> bytes) that autograd keeps for its backward."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        return function(), kept


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("with_base", [True, False])
def test_gradients_are_those_of_finite_differences(with_base, dropout):
    x, A, B, weight, bias = operands()
    base = (weight, bias) if with_base else (None, None)

    def with_one_mask(*tensors):
        torch.manual_seed(11)
        return AdaptedLinear.apply(*tensors, 1.7, dropout)

    assert torch.autograd.gradcheck(with_one_mask, (x, A, B, *base))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2), (3,), (4,)])
def test_gradients_of_some_inputs_only(wanted):
    tensors = operands((2, TOKENS))
    for number, tensor in enumerate(tensors):
        tensor.requires_grad_(number in wanted)
    x, A, B, weight, bias = tensors
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    plain = F.linear(x, weight, bias) + 1.7 * (x @ A.T @ B.T)
    found = adapted_linear(x, A, B, 1.7, 0.0, weight, bias)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)
    direction = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad(found, wanted, direction),
        torch.autograd.grad(plain, wanted, direction),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_mask_zeroes_its_share_and_comes_back_in_backward():
    torch.manual_seed(0)
    size = 200  # 40,000 elements: a share of 0.3 is met within 0.01, over four standard errors
    x = torch.ones(size, size, dtype=torch.float64, requires_grad=True)
    one = torch.eye(size, dtype=torch.float64)
    y = adapted_linear(x, one, one, 2.0, 0.3)
    assert {round(value, 12) for value in y.unique().tolist()} == {0.0, round(2 / 0.7, 12)}
    assert abs((y == 0).double().mean().item() - 0.3) < 0.01
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())  # dy/dx is mask * 2 / 0.7, which is y for x = 1


def test_the_mask_is_that_of_torch_s_dropout_and_no_dropout_draws_nothing():
    x, A, B, weight, bias = operands()
    call = lambda dropout: adapted_linear(x, A, B, 1.0, dropout, weight, bias)  # noqa: E731
    torch.manual_seed(3)
    found = [call(0.5), call(0.5)]
    torch.manual_seed(3)
    for y in found:
        plain = F.linear(x, weight, bias) + F.dropout(x, 0.5) @ A.T @ B.T
        torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    assert not torch.equal(*found)
    before = torch.get_rng_state()
    call(0.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_backward_keeps_one_x_for_two_linears_and_thin_matrices(dropout):
    x = draw(2, TOKENS, SIZE_IN)
    pairs = [(draw(RANK, SIZE_IN), draw(SIZE_OUT, RANK)) for _ in range(2)]
    weights = [draw(SIZE_OUT, SIZE_IN, requires_grad=False) for _ in pairs]
    call = lambda: [  # noqa: E731
        adapted_linear(x, A, B, 1.0, dropout, weight)
        for (A, B), weight in zip(pairs, weights, strict=True)
    ]
    _, kept = kept_for_backward(call)
    given = {t.untyped_storage().data_ptr() for t in (x, *weights, *sum(pairs, ()))}
    assert given <= kept.keys()
    made = [nbytes for place, nbytes in kept.items() if place not in given]
    # A drop(x) of each and, for the mask, the generator's state: no mask, no copy of x.
    state = [torch.get_rng_state().nbytes] * 2 if dropout else []
    assert sorted(made) == sorted([2 * TOKENS * RANK * 8] * 2 + state)


def gated(gate, up, A, B, weight, dropout=0.0):
    """A gated MLP's end: the input of the linear is a product of two tensors that autograd keeps."""
    return adapted_linear(F.silu(gate) * up, A, B, 1.0, dropout, weight)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_product_is_multiplied_again_instead_of_kept(dropout):
    x, A, B, weight, _ = operands()
    gate, up = draw(TOKENS, SIZE_IN), draw(TOKENS, SIZE_IN)
    torch.manual_seed(5)
    y, kept = kept_for_backward(lambda: gated(gate, up, A, B, weight, dropout))
    # silu keeps gate, the product silu(gate) and up, the linear A drop(x), A, B, weight, the state.
    assert len(kept) == (8 if dropout else 7)
    gradients = torch.autograd.grad(y.square().sum(), (A, B, gate, up))
    torch.manual_seed(5)
    product = (F.silu(gate) * up).view(TOKENS, SIZE_IN)  # a view is not recognised, so it is kept
    y, kept = kept_for_backward(lambda: adapted_linear(product, A, B, 1.0, dropout, weight))
    assert product.data_ptr() in kept
    for one, other in zip(
        gradients, torch.autograd.grad(y.square().sum(), (A, B, gate, up)), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_a_product_and_a_mask(reentrant):
    _, A, B, weight, _ = operands()
    tensors = [draw(TOKENS, SIZE_IN), draw(TOKENS, SIZE_IN), A, B, weight]
    torch.manual_seed(7)
    plain = torch.autograd.grad(gated(*tensors, 0.3).square().sum(), tensors)
    torch.manual_seed(7)
    y = checkpoint(gated, *tensors, 0.3, use_reentrant=reentrant)
    y.square().sum().backward()
    for tensor, gradient in zip(tensors, plain, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-12, atol=1e-12)


def test_a_checkpointed_product_used_outside_is_read_once():
    _, A, B, weight, _ = operands()
    gate, up = draw(TOKENS, SIZE_IN), draw(TOKENS, SIZE_IN)
    product = checkpoint(lambda a, b: F.silu(a) * b, gate, up, use_reentrant=False)
    found = torch.autograd.grad(adapted_linear(product, A, B, 1.0, 0.0, weight).sum(), (A, gate))
    wanted = torch.autograd.grad(gated(gate, up, A, B, weight).sum(), (A, gate))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["lora", "slice", "gate", "kron", "vera"])
def test_autocast_trains_float32_adapters_on_a_float32_base(method):
    model = adapted("llama", method).train()
    model(INPUTS, labels=INPUTS).loss.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer = model.get_base_model().model.layers[0].mlp.up_proj
        assert layer(torch.randn(3, layer.in_features)).dtype == torch.bfloat16
        loss = model(INPUTS, labels=INPUTS).loss
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    error = {name: (found[name] - gradient).norm() for name, gradient in wanted.items()}
    total = sum(gradient.norm() ** 2 for gradient in wanted.values()) ** 0.5
    # bfloat16 has 8 bits. The gradient of a gate is a sum that nearly cancels, so that its own error
    # is larger; a contribution that is missing or counted twice would show above both bounds.
    assert sum(e**2 for e in error.values()) ** 0.5 < 0.1 * total
    assert all(error[name] < 0.3 * gradient.norm() for name, gradient in wanted.items())


def test_a_base_that_somebody_watches_is_called():
    layer = adapted("llama", "own_row", torch.float64).get_base_model().model.layers[0].mlp.up_proj
    x = draw(3, layer.in_features)
    joined = layer(x)
    seen = []
    layer.base_layer.register_forward_hook(lambda module, args, output: seen.append(output))
    called = layer(x)
    torch.testing.assert_close(called, joined, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen[0], F.linear(x, layer.base_layer.weight), rtol=1e-12, atol=1e-12)


def test_a_base_bias_trains_beside_the_adapter():
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(SIZE_IN, SIZE_OUT)

        def forward(self, x):
            return self.proj(x)

    model = get_peft_model(Model(), bslora(1, 1, 1, target_modules=["proj"], bias="all"))
    y = model(torch.randn(7, SIZE_IN))
    y.sum().backward()
    bias = model.get_base_model().proj.base_layer.bias
    torch.testing.assert_close(bias.grad, torch.full((SIZE_OUT,), 7.0))


@pytest.mark.parametrize("method", METHODS)
def test_compiled_forward_and_backward_are_one_graph_each(method):
    """Traced forward and backward by AOTAutograd and run as they are, without a code generator."""
    torch.compiler.reset()
    layer = adapted("llama", method, torch.float64).get_base_model().model.layers[0].mlp.up_proj
    layer.train()
    parameters = [p for p in layer.parameters() if p.requires_grad]
    x = draw(3, layer.in_features)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    wanted = torch.autograd.grad(layer(x).square().sum(), [x, *parameters])
    found = torch.autograd.grad(compiled(x).square().sum(), [x, *parameters])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_second_derivative_is_refused():
    x, A, B, weight, bias = operands()
    y = adapted_linear(x, A, B, 1.0, 0.0, weight, bias)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_activations_of_a_decoder_layer_stay_within_twenty_units():
    """At the proportions of Llama 3 8B (kv 1/4, MLP 3.5 times hidden), with dropout 0.05.

    Unit: one tensor [batch, tokens, hidden] in the model's dtype. In units, the frozen layer keeps
    17 and stock LoRA up to 55; the adapter may add x of q, k, v and x of up, each once.
    """
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=64,
        intermediate_size=224,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    tokens = 256  # so many that thin matrices do not count
    inputs = draw(1, tokens, 64, dtype=torch.bfloat16)

    def decoder_layer():
        model = LlamaModel(config)
        model.norm = torch.nn.Identity()  # the last norm belongs to no layer
        return model.to(torch.bfloat16).requires_grad_(False)

    def units(model):
        """Kept by one forward, the weights left out."""
        weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        _, kept = kept_for_backward(lambda: model(inputs_embeds=inputs).last_hidden_state)
        return sum(size for place, size in kept.items() if place not in weights) / inputs.nbytes

    floor = units(decoder_layer())
    for options in {"fit": "slice"}, {"fit": "kron", "kron_size": 16}, {"fit": "gate", "gate_size": 16}:
        model = get_peft_model(decoder_layer(), bslora(1, 1, 1, dropout=0.05, **options)).train()
        # The generator's state does not grow with the model: left out.
        total = units(model) - 5 * torch.get_rng_state().nbytes / inputs.nbytes
        # x of q, k, v and x of up are 2; the rest comes to less than 1 at this size.
        assert 2 <= total - floor < 3
        assert total <= 20
