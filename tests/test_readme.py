"""What the README tells people to type, and what the Makefile says where it cannot go on.

The two commands themselves are what runs these tests and what .ci/run calls; here their set-up is
tried with stand-ins for Python, since a real one would take minutes.
"""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bslora_kit.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def make(tmp_path, fake_python: str, goal: str) -> subprocess.CompletedProcess:
    """Runs a goal with a stand-in for Python and a virtual environment of its own."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{fake_python}\n")
    python.chmod(0o755)
    return subprocess.run(
        ["make", "-s", goal, f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")},
    )  # fmt: skip


def test_the_python_block_runs_and_its_numbers_are_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tiny = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1,
    )  # fmt: skip
    (code,) = blocks("python")
    names = {"model": LlamaForCausalLM(tiny)}
    exec(code, names)
    (promised,) = re.findall(r"\.trainable\s+# ([\d_]+)", code)
    assert names["budget"](names["config"], names["llama_3_8b"]()).trainable == int(promised)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_every_path_in_the_table_exists():
    named = re.findall(r"`((?:notebooks|papermill_runs|data)/[^`<]+?)`", README)
    assert len(named) >= 6
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_every_make_goal_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    goals = set(re.findall(r"\bmake (\w+)", README))
    assert {"run", "test", "lab"} <= goals
    assert all(re.search(rf"^{goal}:", makefile, flags=re.MULTILINE) for goal in goals)


def test_the_dry_run_names_the_sixteen_rows(tmp_path):
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if "--dry-run" in line]
    command = line.split("#")[0].split()
    assert command[:3] == ["python", "-m", "bslora_kit.grid"]
    done = subprocess.run(
        [sys.executable, *command[1:], "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for row in ("share-b-4", "ss-2-4-16", "gt-0-4-8", "ke-16-32-32"):
        assert row in done.stdout


@pytest.mark.parametrize(
    ("fake", "sentence"),
    [
        ('case "$1" in --version) echo Python 3.9.1;; *) exit 1;; esac', "needs Python 3.11 or newer"),
        ('case "$2" in *venv*) exit 1;; *) exit 0;; esac', "has no venv module"),
    ],
)
def test_a_python_that_will_not_do_is_one_clear_sentence(tmp_path, fake, sentence):
    done = make(tmp_path, fake, "setup")
    assert done.returncode != 0
    told = [line for line in done.stdout.splitlines() if "make PYTHON=" in line]
    assert len(told) == 1 and sentence in told[0]
    assert not (tmp_path / "venv").exists()


def test_a_half_made_environment_is_made_again(tmp_path):
    """A stamp is missing after the first failure, so the second call starts from the beginning."""
    log = tmp_path / "calls"
    fake = f'echo "$@" >> {log}; case "$2" in venv) mkdir -p "$3"; touch "$3/half"; exit 1;; esac'
    for _ in range(2):
        assert make(tmp_path, fake, "setup").returncode != 0
    made = [line for line in log.read_text().splitlines() if line.startswith("-m venv")]
    assert len(made) == 2


def test_the_speed_table_quotes_the_committed_benchmark():
    run = json.loads((ROOT / "papermill_runs/reference/benchmark/cpu.json").read_text(encoding="utf-8"))
    (layer,) = [case["rows"] for case in run["cases"] if case["name"] == "one decoder layer"]
    measured = {row["row"]: row for row in layer}
    table = README.split("**Speed.**")[1].split("## A real Llama")[0]
    quoted = re.findall(r"^\| (?:BSLoRA )?([^|]+?) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", table, re.M)
    assert len(quoted) == 7
    for row, to_floor, to_peft, kept in quoted:
        assert float(to_floor) == pytest.approx(measured[row]["step_to_floor"], abs=5e-4)
        assert float(to_peft) == pytest.approx(measured[row]["step_to_peft"], abs=5e-4)
        assert float(kept) == pytest.approx(measured[row]["kept_units_dropout"], abs=0.05)
