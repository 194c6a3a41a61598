"""A base that is loaded before a process is forked, for its copies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bslora_kit import shapes
from bslora_kit.grid import fork_server
from bslora_kit.jobs import bases
from bslora_kit.jobs.parameters import DEFAULTS

FORKED = """
import json, os, sys
import torch
from transformers import AutoModelForCausalLM
from bslora_kit.grid.fork_server import _compute_alone
from bslora_kit.jobs.bases import keep_ready, load_base

threads = _compute_alone()
keep_ready(sys.argv[1], "fp32")
keep_ready(sys.argv[1], "fp32")
def told(cls, *args, **kwargs): raise OSError("read again")
AutoModelForCausalLM.from_pretrained = classmethod(told)
seen = [len(os.listdir("/proc/self/task"))]
sys.stdout.flush()
if os.fork() == 0:
    torch.set_num_threads(threads)
    model, tokenizer = load_base(sys.argv[1], "fp32")
    loss = model(**tokenizer("a b c", return_tensors="pt")).logits.square().mean()
    loss.backward()  # a pool of threads that the fork has lost would hang here
    try:
        load_base(sys.argv[1], "fp32")
    except FileNotFoundError as error:
        seen += [float(loss), "read again" in str(error)]
    print(json.dumps(seen), flush=True)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.fixture(autouse=True)
def base(world, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(bases, "_ready", {})
    return Path(shutil.copytree(world / "base", tmp_path / "base"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere jobs are not forked")
def test_a_copy_of_the_process_takes_the_base_without_reading_it(base):
    run = subprocess.run(
        [sys.executable, "-c", FORKED, str(base)],
        capture_output=True,
        text=True,
        timeout=120,
        # numpy's own threads come again after a fork, by themselves
        env=os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    threads, loss, once = json.loads(run.stdout)
    model, tokenizer = bases.load_base(str(base), "fp32")
    expected = model(**tokenizer("a b c", return_tensors="pt")).logits.square().mean()
    assert threads == 1, "a thread of the server is lost in its copies"
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert once, "a base goes to one caller, who changes it"


def test_a_base_that_has_changed_since_is_read_anew(base):
    bases.keep_ready(str(base), "fp32")
    weights = base / "model.safetensors"
    changed = {name: tensor + 1 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    loaded = bases.load_base(str(base), "fp32").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in changed.items())


def test_a_base_is_ready_in_one_precision_and_one_at_a_time(base, tmp_path):
    other = str(shutil.copytree(base, tmp_path / "other"))
    bases.keep_ready(str(base), "bf16")
    assert bases.load_base(str(base), "fp32").model.dtype == torch.float32
    assert bases.load_base(str(base), "bf16").model.dtype == torch.bfloat16
    bases.keep_ready(str(base), "fp32")
    bases.keep_ready(other, "fp32")
    assert [source for source, *_ in bases._ready] == [other]


def test_the_server_has_the_base_of_a_job_ready_and_outlives_one_that_cannot_be_loaded(base, tmp_path):
    asked = {"profile": "tiny", "method": "lora", "ranks": [2], "row": "lora-2", "grid": "made_up"}
    asked |= {"base_model": str(base), "out_dir": str(tmp_path / "run")}
    fork_server._prepare({**DEFAULTS, **asked})
    ((folder, precision, _),) = bases._ready
    assert (folder, precision) == (str(base), "fp32")
    weights = load_file(base / "model.safetensors")
    cut = {name: tensor[:1].clone() for name, tensor in weights.items()}
    save_file(cut, base / "model.safetensors", metadata={"format": "pt"})
    fork_server._prepare({**DEFAULTS, **asked})
    assert bases._ready == {}


def test_a_config_that_is_no_object_is_named(base):
    (base / "config.json").write_text("[]")
    words = f"{base / 'config.json'} holds a list, expected an object; copy the model again"
    for read in (shapes.of_config, lambda folder: bases.load_base(str(folder), "fp32")):
        with pytest.raises(ValueError, match=words):
            read(base)
