"""Adapters on a CUDA device: half precision against float32, a short training, the benchmark's smoke.

The model is small (2 layers, hidden 64): what is tested are the numbers, not the speed.
"""

import copy

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit import bslora, lora, share_lora, tied_lora, vera
from bslora_kit.adapters.fused import adapted_linear

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

METHODS = {
    "lora": lambda **o: lora(4, **o),
    "share_b": lambda **o: share_lora(4, share="B", **o),
    "tl5": lambda **o: tied_lora(4, variant="tl5", **o),
    "tl6": lambda **o: tied_lora(4, variant="tl6", **o),
    "vera": lambda **o: vera(16, **o),
    "slice": lambda **o: bslora(2, 4, 8, **o),
    "gate": lambda **o: bslora(2, 4, 8, fit="gate", gate_size=16, **o),
    "kron": lambda **o: bslora(2, 4, 8, fit="kron", kron_size=24, **o),
}
DTYPES = [torch.bfloat16, torch.float16]
VOCABULARY = 100


def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).cuda()


def ids(rows=4):
    return torch.arange(rows * 24, device="cuda").view(rows, 24) % VOCABULARY


def randomised(method, dtype, **options):
    """An adapted model with the same random adapter in every dtype."""
    model = get_peft_model(base().to(dtype), METHODS[method](**options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def gradients(model):
    model(ids(), labels=ids()).loss.backward()
    return {name: p.grad.float() for name, p in model.named_parameters() if p.requires_grad}


def assert_near(found, exact, dtype):
    """All together closely; each alone loosely, since a gate's gradient is a sum that nearly cancels.

    Some are a millionth of the others, of which the roundings are left: hence the part of the total.
    """
    error = {name: (found[name] - gradient).norm() for name, gradient in exact.items()}
    total = sum(gradient.norm() ** 2 for gradient in exact.values()) ** 0.5
    assert sum(e**2 for e in error.values()) ** 0.5 < {torch.bfloat16: 0.1}.get(dtype, 0.03) * total
    for name, gradient in exact.items():
        assert error[name] < 0.3 * gradient.norm() + 1e-4 * total, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_follows_float32(method, dtype):
    wanted, model = randomised(method, dtype).float(), randomised(method, dtype)
    with torch.no_grad():
        difference = model(ids()).logits.float() - wanted(ids()).logits
    # bfloat16 keeps 8 bits, float16 11; logits are about 1, and a wrong cast shows well above this.
    assert difference.abs().max() < {torch.bfloat16: 0.08, torch.float16: 0.02}[dtype]
    assert_near(gradients(model), gradients(wanted), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_over_a_float32_base(dtype):
    exact = gradients(randomised("kron", torch.float32))
    model = randomised("kron", torch.float32)
    with torch.autocast("cuda", dtype=dtype):
        loss = model(ids(), labels=ids()).loss
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert_near(found, exact, dtype)


def test_the_mask_is_the_same_in_forward_and_backward():
    torch.manual_seed(0)
    size = 200
    x = torch.ones(size, size, device="cuda", requires_grad=True)
    one = torch.eye(size, device="cuda")
    y = adapted_linear(x, one, one, 2.0, 0.3)
    assert abs((y == 0).float().mean().item() - 0.3) < 0.01  # over four standard errors
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


@pytest.mark.parametrize("method", METHODS)
def test_a_short_training_lowers_the_loss(method):
    model = get_peft_model(base().bfloat16(), METHODS[method](dropout=0.05)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-2 if method == "vera" else 1e-2)
    losses = []
    for _ in range(30):
        loss = model(ids(), labels=ids()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    # The start is about log(100) = 4.6; the last five steps together, since dropout shakes each.
    assert sum(losses[-5:]) / 5 < losses[0] - 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mixed_batch_is_its_rows_one_by_one(dtype):
    model = randomised("kron", dtype)
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    model.eval()
    names = ["other", "__base__", "default", "other"]
    with torch.no_grad():
        mixed = model(ids(), adapter_names=names).logits
        for row, name in enumerate(names[2:], 2):
            model.set_adapter(name)
            alone = model(ids()[row : row + 1]).logits[0]
            torch.testing.assert_close(mixed[row], alone, rtol=0, atol=0.08)


def test_the_benchmark_runs(tmp_path):
    import json

    from bslora_kit.benchmark.__main__ import main

    main(["--device", "cuda", "--quick", "--out", str(tmp_path / "run.json")])
    result = json.loads((tmp_path / "run.json").read_text())
    for case in result["cases"]:
        for found in case["rows"]:
            assert found["problem"] == "" and found["peak_bytes"] > 0
