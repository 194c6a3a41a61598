"""The benchmark at toy sizes: every row and column is there, and what can be counted by hand is right.

No time is compared with anything: the machine that runs the tests is shared.
"""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from bslora_kit.benchmark import __main__ as command
from bslora_kit.benchmark import serving
from bslora_kit.benchmark.measurement import measure
from bslora_kit.benchmark.naive import NaiveLinear
from bslora_kit.benchmark.rows import FLOOR, rows
from bslora_kit.benchmark.workloads import one_linear, scale_for
from bslora_kit.branches import bslora_branches
from bslora_kit.plan import plan
from bslora_kit.shapes import DEFAULT_TARGETS, llama_3_8b

HIDDEN, MLP, TOKENS = 64, 224, 32  # of a quick run
FLOAT32 = 4
SHORT = (FLOOR, "PEFT LoRA r 22", "naive SS 2,4,16", "SS 2,4,16")


@pytest.fixture(scope="module")
def linear():
    """All rows on one linear: row's name -> record."""
    torch.manual_seed(0)
    workload = one_linear(torch.device("cpu"), scale_for(torch.device("cpu"), quick=True))
    return {found["row"]: found for found in measure(workload, rows(HIDDEN), repetitions=1)}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A quick run from the command line, with a few of the rows: its text and its file."""
    printed = []
    path = tmp_path_factory.mktemp("benchmark") / "run.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "print", lambda text, **_: printed.append(text), raising=False)
        patch.setattr(command, "rows", lambda hidden: [r for r in rows(hidden) if r.name in SHORT])
        patch.setattr(serving, "MIXED", ("SS 2,4,16", "GT 2,4,16"))
        command.main(["--quick", "--out", str(path)])
    return printed[-1], json.loads(path.read_text())


def test_the_rows_are_the_floor_stock_lora_the_naive_reading_and_every_method(linear):
    names = list(linear)
    assert names[0] == FLOOR
    assert {f"PEFT LoRA r {rank}" for rank in (2, 4, 8, 22, 42, 256)} <= linear.keys()
    assert {"LoRA r 8", "ShareLoRA B r 8", "Tied-LoRA TL5 r 8", "Tied-LoRA TL6 r 8"} <= linear.keys()
    for short in ("SS", "GT", "KE"):
        for triple in ("2,4,16", "2,8,32"):
            assert {f"{short} {triple}", f"naive {short} {triple}"} <= linear.keys()
    assert {"VeRA r 256", "GT 0,4,8"} <= linear.keys()


def check_columns(found, peers):
    """Every number of a record is there and can be one."""
    assert found["problem"] == ""
    times = [found[f"{part}_ms"] for part in ("forward", "backward", "step")]
    assert all(math.isfinite(time) and time > 0 for time in times)
    assert found["step_to_floor"] > 0 and found["flops"] > 0
    assert found["kept_bytes_dropout"] >= found["kept_bytes"] >= 0
    assert found["kept_units"] >= 0 and found["kept_units_dropout"] >= 0
    assert found["peak_bytes"] is None  # a CPU's allocator keeps no such count
    if found["row"] == FLOOR:
        assert (found["step_to_floor"], found["step_to_peft"], found["trainable"]) == (1, None, 0)
    else:
        peer = peers[found["peer"]]
        assert (peer["rank"], peer["kind"]) == (found["rank"], "peft")
        assert found["step_to_peft"] > 0 and found["trainable"] > 0


def test_every_row_has_every_column(linear):
    for found in linear.values():
        check_columns(found, linear)


def test_the_command_measures_every_case(run):
    _, result = run
    assert [case["name"] for case in result["cases"]] == [
        "one linear",
        "one decoder layer",
        "training step, shipped base",
    ]
    for case in result["cases"]:
        peers = {found["row"]: found for found in case["rows"]}
        assert tuple(peers) == SHORT
        for found in case["rows"]:
            check_columns(found, peers)
    assert {"created", "device", "machine", "versions"} <= result.keys()


@pytest.mark.parametrize(
    ("row", "rank", "copied"),
    [
        ("LoRA r 8", 8, False),
        ("SS 2,4,16", 22, True),
        ("KE 2,8,32", 42, True),
        ("PEFT LoRA r 8", 8, False),
    ],
)
def test_kept_bytes_of_a_linear_are_x_and_thin_matrices(linear, row, rank, copied):
    """x and A x; the pair too where it is put together from several branches."""
    pair = rank * (HIDDEN + MLP) if copied else 0
    found = linear[row]
    assert found["kept_bytes"] == FLOAT32 * (TOKENS * HIDDEN + TOKENS * rank + pair)
    if not row.startswith("PEFT"):
        state = torch.get_rng_state().nbytes  # from which the mask is drawn again
        assert found["kept_bytes_dropout"] == found["kept_bytes"] + state


def test_operations_of_a_linear_are_those_of_its_products(linear):
    """Base: forward and input gradient. Pair: forward, input gradient and its own gradient."""
    base = 2 * 2 * TOKENS * HIDDEN * MLP
    assert linear[FLOOR]["flops"] == base
    for row, rank in (("LoRA r 8", 8), ("PEFT LoRA r 22", 22), ("SS 2,4,16", 22)):
        assert linear[row]["flops"] == base + 3 * 2 * TOKENS * rank * (HIDDEN + MLP)


def test_trained_elements_are_those_of_the_published_formula(run):
    (layer,) = (case for case in run[1]["cases"] if case["name"] == "one decoder layer")
    sizes = layer["sizes"]
    assert (sizes["hidden"], sizes["mlp"], sizes["key_value"]) == (HIDDEN, MLP, HIDDEN // 4)
    inputs = 4 * HIDDEN + MLP  # q, k, v, up; down
    outputs = 2 * HIDDEN + 2 * HIDDEN // 4 + MLP
    (found,) = (found for found in layer["rows"] if found["row"] == "SS 2,4,16")
    assert found["trainable"] == 2 * (inputs + outputs) + (4 + 16) * (MLP + MLP)


def test_mixed_batches_and_resident_adapters(run):
    _, result = run
    found = {(r["row"], r["tokens"]) for r in result["mixed_batches"]}
    assert found == {(row, tokens) for row in ("SS 2,4,16", "GT 2,4,16") for tokens in (1, 16)}
    for mixed in result["mixed_batches"]:
        assert mixed["speedup"] > 0 and mixed["speedup_anew"] > 0
    targets = [linear for linear in llama_3_8b().linears if linear.kind in DEFAULT_TARGETS]
    wanted = plan(bslora_branches(2, 4, 16), targets).trainable * FLOAT32
    by_row = {found["row"]: found for found in result["resident"]}
    assert by_row["SS 2,4,16"]["llama_3_8b"] == {str(n): n * wanted for n in (1, 10, 100, 1000)}
    for resident in result["resident"]:
        for weighed in resident["layer"].values():
            assert weighed["measured"] == weighed["counted"]


def test_the_text_shows_every_row(run):
    text, result = run
    for case in result["cases"]:
        assert all(found["row"] in text for found in case["rows"])
    assert "mixed batches" in text and "N = 1000" in text and "QUICK" in text


def test_a_row_that_memory_does_not_hold_says_so_and_the_others_go_on():
    """An 80 GB card holds PEFT's LoRA on Llama 3 8B without dropout, but not the naive reading."""
    fits = one_linear(torch.device("cpu"), scale_for(torch.device("cpu"), quick=True))

    def run(model):
        dropping = any(isinstance(module, nn.Dropout) and module.p for module in model.modules())
        if dropping or any(isinstance(module, NaiveLinear) for module in model.modules()):
            raise torch.OutOfMemoryError
        return fits.run(model)

    short = [row for row in rows(HIDDEN) if row.name in SHORT]
    measured = measure(dataclasses.replace(fits, run=run), short, repetitions=1)
    found = {record["row"]: record for record in measured}
    peft, naive, here = (found[name] for name in SHORT[1:])
    assert (peft["problem"], peft["kept_bytes_dropout"], peft["kept_units_dropout"]) == ("", None, None)
    assert naive["problem"] == "out of memory" and naive["step_ms"] is None
    assert here["problem"] == "" and here["step_to_peft"] > 0 and here["kept_bytes_dropout"] > 0
    none = measure(dataclasses.replace(fits, run=run), [row for row in short if row.kind == "naive"], 1)
    assert [record["problem"] for record in none] == ["out of memory"]


class Two(nn.Module):
    """Two linears of different sizes, so that slices and cut Kronecker products differ."""

    def __init__(self):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(10, 13), nn.Linear(13, 10)

    def forward(self, x):
        return self.down_proj(self.up_proj(x))


@pytest.mark.parametrize(
    "row", [row for row in rows(40) if row.kind == "naive"], ids=lambda row: row.name
)
def test_the_naive_reading_is_the_same_function(row):
    torch.manual_seed(0)
    base = Two().double().requires_grad_(False)
    kit = next(other for other in rows(40) if other.name == row.name.removeprefix("naive "))
    naive, here = (r.build(base, ("up_proj", "down_proj"), 0.0).double() for r in (row, kit))
    theirs = {name.replace(".layer.", "."): p for name, p in naive.named_parameters() if p.requires_grad}
    mine = {name: p for name, p in here.named_parameters() if p.requires_grad}
    assert mine.keys() == theirs.keys()
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.normal_()
            theirs[name].copy_(parameter)
    x = torch.randn(3, 10, dtype=torch.float64)
    torch.testing.assert_close(naive(x), here(x), rtol=1e-10, atol=1e-10)
    assert (here(x) - base(x)).abs().max() > 1e-3


def test_cuda_without_a_device_says_so(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["--device", "cuda"])
    assert "no CUDA device" in capsys.readouterr().err
