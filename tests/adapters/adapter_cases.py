"""The matrix of these tests: models x methods, and the naive reading that they are compared with.

Models have two layers and hidden sizes of 24 to 32, so that a case takes milliseconds; sizes are
chosen so that query, key and feed-forward linears differ and no fit size divides all of them.
"""

import copy

import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from bslora_kit import Branch, SharedLoraConfig, bslora, lora, share_lora, tied_lora, vera

VOCABULARY = 40
INPUTS = torch.arange(24).view(2, 12) % VOCABULARY


def llama():
    """Grouped query attention 4:2 and a feed-forward size that nothing divides."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=43,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            eos_token_id=None,
            pad_token_id=0,
        )
    )


def gpt2():
    """Conv1D layers with biases and a fused c_attn."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=24, n_layer=2, n_head=4, n_positions=32, eos_token_id=None
        )
    )


def opt():
    """nn.Linear layers with biases."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            word_embed_proj_dim=24,
            ffn_dim=52,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            dropout=0.0,
        )
    )


def bert():
    """An encoder, whose linears called "dense" have three sizes."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=52,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


MODELS = {
    "llama": (llama, ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]),
    "gpt2": (gpt2, ["c_attn", "c_fc"]),
    "opt": (opt, ["q_proj", "v_proj", "fc1", "fc2"]),
}

METHODS = {
    "lora": lambda **o: lora(3, **o),
    "share_a": lambda **o: share_lora(3, share="A", **o),
    "share_b": lambda **o: share_lora(3, share="B", **o),
    "share_ab": lambda **o: share_lora(3, share="AB", **o),
    "tl5": lambda **o: tied_lora(3, variant="tl5", **o),
    "tl6": lambda **o: tied_lora(3, variant="tl6", **o),
    "slice": lambda **o: bslora(1, 2, 3, **o),
    "slice_intra": lambda **o: bslora(0, 2, 0, **o),
    "slice_inter": lambda **o: bslora(0, 0, 3, **o),
    "gate": lambda **o: bslora(1, 2, 3, fit="gate", gate_size=5, **o),
    "gate_inter": lambda **o: bslora(0, 0, 3, fit="gate", gate_size=7, **o),
    "kron": lambda **o: bslora(1, 2, 3, fit="kron", kron_size=5, **o),
    "kron_intra": lambda **o: bslora(0, 2, 0, fit="kron", kron_size=7, **o),
    "kron_wider_than_any": lambda **o: bslora(2, 0, 1, fit="kron", kron_size=200, **o),
    "vera": lambda **o: vera(5, **o),
    "own_row": lambda **o: SharedLoraConfig(
        branches=[
            Branch("mixed", 2, "layer", "type", "slice", gains=True),
            Branch("frozen", 3, "model", "module", "kron", 5, trainable=False, gains=True),
            Branch("gated", 2, "model", "model", "gate", 3),
        ],
        **o,
    ),
}


def base_model(name, dtype=torch.float32):
    """A model of the matrix with the same random weights at each call."""
    torch.manual_seed(0)
    return MODELS[name][0]().to(dtype).eval()


def make_config(model_name, method, **options):
    """The config of a method with the model's targets."""
    return METHODS[method](**{"target_modules": MODELS[model_name][1], **options})


def adapted(model_name, method, dtype=torch.float32, autocast_adapter_dtype=True, **options):
    """An adapted model whose adapter tensors are all random, in eval mode."""
    model = get_peft_model(
        base_model(model_name, dtype),
        make_config(model_name, method, **options),
        autocast_adapter_dtype=autocast_adapter_dtype,
    )
    return randomise(model).eval()


def randomise(model, seed=1):
    """Gives each trainable tensor random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def logits(model, **options):
    """Output for the common inputs."""
    with torch.no_grad():
        return model(INPUTS, **options).logits


def logits_as_lists(model):
    """The same as plain numbers, for another process to hand back."""
    return logits(model).tolist()


def trainable(model):
    """Elements of the distinct trainable Parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def stored(model, adapter="default"):
    """Tensors of an adapter by their names in a file, the frozen ones added."""
    tensors = {k: v for k, v in get_peft_model_state_dict(model, adapter_name=adapter).items()}
    for name, buffer in model.named_buffers():
        if "shared_lora_" in name:
            tensors[name.replace(f".{adapter}.", ".")] = buffer
    return tensors


def file_name(branch, role, linear):
    """Where a file keeps the tensor that a linear reads for one role of a branch."""
    scope = {"A": branch.scope_a, "B": branch.scope_b}.get(role, "module")
    if scope == "module":
        return f"base_model.model.{linear.name}.shared_lora_own.{branch.name}/{role}.weight"
    owner = {"layer": linear.layer, "type": linear.kind, "model": "model"}[scope]
    return f"base_model.shared_lora_bank.{branch.name}/{role}/{owner.replace('.', '/')}.weight"


def roles_of(branch):
    """The tensors that a linear reads in one branch, from the equations."""
    fitted = {"gate": ["gate_id", "gate_iu", "gate_od", "gate_ou"], "kron": ["kron_a", "kron_b"]}
    return ["A", "B", *fitted.get(branch.fit, []), *(["u", "v"] if branch.gains else [])]


def naive_update(config, linear, tensors):
    """dW [out, in] of one linear, term by term as the papers write it.

    Args:
        config: whose branches and scaling count.
        linear: name and sizes.
        tensors: (branch name, role) -> tensor.
    """
    rows, columns = linear.out_features, linear.in_features
    total = torch.zeros(rows, columns, dtype=torch.float64)
    for branch in config.branches:
        if branch.rank == 0:
            continue
        t = {role: tensors[branch.name, role] for role in roles_of(branch)}
        A, B = t["A"], t["B"]
        if branch.fit == "gate":
            total = total + t["gate_ou"] @ (t["gate_od"] @ B @ A @ t["gate_iu"]) @ t["gate_id"]
            continue
        if branch.fit == "slice":
            skip_in, skip_out = (A.shape[1] - columns) // 2, (B.shape[0] - rows) // 2
            A = torch.stack([A[:, skip_in + column] for column in range(columns)], 1)
            B = torch.stack([B[skip_out + row] for row in range(rows)], 0)
        if branch.fit == "kron":
            A = torch.kron(t["kron_a"], A)[:, :columns]
            B = torch.kron(t["kron_b"], B)[:rows]
        if branch.gains:
            A, B = torch.diag(t["u"]) @ A, torch.diag(t["v"]) @ B
        total = total + B @ A
    return config.scaling * total


def tensors_of_linear(config, linear, stored_tensors):
    """(branch name, role) -> the tensor that a linear reads."""
    return {
        (branch.name, role): stored_tensors[file_name(branch, role, linear)]
        for branch in config.branches
        if branch.rank > 0
        for role in roles_of(branch)
    }


def weight_of(model, linear):
    """The weight of a linear of a plain model, as [out, in]."""
    module = model.get_submodule(linear.name)
    return module.weight if isinstance(module, torch.nn.Linear) else module.weight.T


def naive_model(model_name, config, linears, stored_tensors):
    """A plain float64 model with the naive updates added to its weights."""
    model = copy.deepcopy(base_model(model_name, torch.float64))
    with torch.no_grad():
        for linear in linears:
            read = tensors_of_linear(config, linear, stored_tensors)
            weight_of(model, linear).add_(naive_update(config, linear, read))
    return model
