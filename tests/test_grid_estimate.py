"""The estimate before a grid starts: hours and memory, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_world import make_world

from bslora_kit.grid import command as grid_command
from bslora_kit.grid import estimate
from bslora_kit.grid.estimate import Device, expected_seconds, lines, training_bytes
from bslora_kit.grid.file import read_grid
from bslora_kit.grid.rows import rows_of
from bslora_kit.jobs import profiles
from bslora_kit.shapes import llama_3_8b

SHIPPED = Path(__file__).parent.parent / "data" / "profiles"
ROWS = """
title: Three
rows:
  - {row: base, label: Untouched base, method: none}
  - {row: lora-8, label: LoRA, method: lora, ranks: [8]}
  - {row: gt-2-4-16, label: BSLoRA (GT), method: bslora, fit: gate, ranks: [2, 4, 16]}
"""
GIB = 2**30


pytestmark = pytest.mark.usefixtures("world")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = make_world(tmp_path_factory.mktemp("data"))
    paper = yaml.safe_load((SHIPPED / "paper.yaml").read_text())
    paper["instructions"] = str(root / "official" / "alpaca.json")
    (root / "official" / "alpaca.json").write_text("[]")
    paper["tasks"] = ["piqa", "social_iqa"]
    (root / "profiles" / "paper.yaml").write_text(yaml.safe_dump(paper))
    return root


def paper_rows(folder: Path, **common) -> list:
    (folder / "three.yaml").write_text(ROWS)
    grid = read_grid(folder / "three.yaml")
    rows = rows_of(grid.jobs([0], str(folder / "runs"), {"profile": "paper", **common}))
    assert [row.problem for row in rows] == [""] * 3
    return rows


def test_hours_of_the_paper_profile_follow_from_its_operations(tmp_path):
    base, lora, _ = paper_rows(tmp_path)
    profile = profiles.load_profile("paper")
    assumed = profile.assumed
    parameters = 8_030_261_248
    # 800 steps of 64 texts of 256 tokens; LoRA of rank 8 on q, k, v, up, down has 8 x sum(in + out).
    adapter = 32 * 8 * (2 * 4096 + 2 * (4096 + 1024) + 2 * (4096 + 14336))
    tokens = 800 * 64 * 256
    expected = expected_seconds(lora, profile)
    operations = tokens * (4 * parameters + 6 * adapter)
    assert expected.training == pytest.approx(operations / assumed["operations_per_second"])
    # piqa has 1,838 items of two endings, social_iqa 1,954 of three.
    endings = 1838 * 2 + 1954 * 3
    scored = endings * assumed["tokens_per_sequence"] * 2 * parameters
    assert expected.scoring == pytest.approx(scored / assumed["operations_per_second"])
    assert expected_seconds(base, profile).training == 0
    assert expected_seconds(base, profile).scoring == expected.scoring


def test_gradient_checkpointing_costs_another_forward_pass(tmp_path):
    lora = paper_rows(tmp_path)[1]
    shapes = llama_3_8b()
    plain = estimate.training_operations(lora.resolved, shapes)
    again = estimate.training_operations(lora.resolved | {"gradient_checkpointing": True}, shapes)
    assert again - plain == 2 * shapes.parameters


def test_memory_is_at_least_weights_and_optimizer_and_grows_with_the_batch(tmp_path):
    base, lora, gate = (row.resolved for row in paper_rows(tmp_path))
    shapes = llama_3_8b()
    weights = 2 * 8_030_261_248
    assert training_bytes(base, shapes) == weights
    trained = 32 * 8 * (2 * 4096 + 2 * (4096 + 1024) + 2 * (4096 + 14336))
    for given in (lora, gate):
        assert weights + 16 * trained / 2 < training_bytes(given, shapes) < weights + 16 * GIB
    four, eight = (training_bytes(lora | {"micro_batch_size": n}, shapes) for n in (4, 8))
    fixed = weights + 16 * trained  # parameters, gradients and two moments in float32
    assert eight - four == pytest.approx(four - fixed, rel=0.02)


def test_rows_that_will_not_fit_are_named_before_the_start(tmp_path):
    rows, profile = paper_rows(tmp_path), profiles.load_profile("paper")
    small = "\n".join(lines(rows, profile, 1, lambda: Device("Small card", "cuda", 16 * GIB)))
    # The base's weights are 15.0 GiB.
    assert "2 rows will not fit into 16.0 GiB: lora-8-s0, gt-2-4-16-s0; use fewer --jobs" in small
    large = "\n".join(lines(rows, profile, 1, lambda: Device("Large card", "cuda", 80 * GIB)))
    assert "will not fit" not in large and "80.0 GiB (Large card)" in large
    assert "assumed in profile paper, not measured" in large
    elsewhere = "\n".join(lines(rows, profile, 1, None))
    assert "GiB" in elsewhere and "will not fit" not in elsewhere


@pytest.mark.parametrize(("jobs", "cards", "fits"), [(1, 1, True), (2, 1, False), (2, 2, True)])
def test_jobs_share_the_cards(tmp_path, jobs, cards, fits):
    card = Device("Card", "cuda", 40 * GIB, cards)  # training takes 22 to 23 GiB
    rows, profile = paper_rows(tmp_path), profiles.load_profile("paper")
    told = "\n".join(lines(rows, profile, jobs, lambda: card))
    assert ("will not fit" in told) is not fits
    hours = sum(expected_seconds(row, profile).total for row in rows) / cards / 3600
    assert f"about {hours:.1f} hours" in told or f"about {60 * hours:.0f} minutes" in told


def test_a_base_of_which_nothing_is_known_is_said_so(tmp_path):
    rows = paper_rows(tmp_path, base_model="someone/some-model")
    told = "\n".join(lines(rows, profiles.load_profile("paper"), 1, None))
    assert "time unknown" in told and "Memory of 3 rows is unknown" in told
    assert lines([], profiles.load_profile("paper"), 1, None) == []


def test_dry_run_of_the_paper_profile_needs_no_weights(tmp_path, capsys):
    paper_rows(tmp_path)
    arguments = [str(tmp_path / "three.yaml"), "--profile", "paper", "--out", str(tmp_path / "runs")]
    assert grid_command.main([*arguments, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "14,155,776" in output  # LoRA of rank 8 on Llama 3-8B, as published
    assert "Estimate: about" in output and "Memory of training" in output


def test_data_that_are_still_to_be_fetched_are_named_once_and_do_not_hinder_the_estimate(
    tmp_path, world, capsys
):
    whole = lines(paper_rows(tmp_path), profiles.load_profile("paper"), 2)
    file = world / "official" / "alpaca.json"
    file.rename(file.with_suffix(".away"))
    try:
        arguments = [str(tmp_path / "three.yaml"), "--profile", "paper", "--out", str(tmp_path / "runs")]
        assert grid_command.main([*arguments, "--dry-run"]) == 0
    finally:
        file.with_suffix(".away").rename(file)
    output = capsys.readouterr().out
    assert "1 of 3 runs to do" in output
    assert output.count("alpaca.json") == 1 and "2 cannot run: FileNotFoundError" in output
    assert whole[0] in output  # the hours of all three


def test_the_device_is_what_nvidia_smi_says_of_the_first_visible_gpu(monkeypatch):
    class Shown:
        stdout = "NVIDIA A100-SXM4-80GB, 81920\n"

    asked = []
    monkeypatch.setattr(
        estimate.subprocess, "run", lambda command, **options: asked.extend(command) or Shown
    )
    monkeypatch.setattr(estimate.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert estimate.device() == Device("NVIDIA A100-SXM4-80GB", "cuda", 80 * GIB, 2)
    assert "--id=3" in asked
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = estimate.device()
    assert here.kind == "cpu" and here.bytes > GIB / 2
