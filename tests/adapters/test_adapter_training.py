"""Training with adapters under other programs: accelerate in two processes, Trainer with resume, TRL.

Gradients, checkpointing and torch.compile of every method are in test_conformance.
"""

import copy
import os
import subprocess
import sys

import pytest
import torch
import two_processes
from adapter_cases import INPUTS, adapted, base_model, logits, make_config, trainable
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Trainer, TrainingArguments

from bslora_kit.adapters import plan_of_model

WEIGHTS = "adapter_model.safetensors"


def test_two_processes_train_as_one(tmp_path):
    """`accelerate launch` with DDP (and checkpointing) and with FSDP2; imports cost most of the time."""
    launch = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *launch.split()]
        + ["--main_process_port", "0", two_processes.__file__, str(tmp_path)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    model = two_processes.start()
    gradients = two_processes.train(model, INPUTS)
    model.save_pretrained(tmp_path / "one")
    tensors = {"gradients": gradients, "adapter_model": load_file(tmp_path / "one" / WEIGHTS)}
    for wrapper in ("ddp", "fsdp2"):
        for file, wanted in tensors.items():
            found = load_file(tmp_path / wrapper / f"{file}.safetensors")
            assert found.keys() == wanted.keys()
            for name, tensor in found.items():
                torch.testing.assert_close(tensor, wanted[name], rtol=1e-7, atol=1e-12)
        sizes = {(tmp_path / folder / WEIGHTS).stat().st_size for folder in ("one", wrapper)}
        assert len(sizes) == 1
        again = PeftModel.from_pretrained(base_model("llama", torch.float64), tmp_path / wrapper)
        torch.testing.assert_close(logits(again), logits(model.eval()), rtol=1e-7, atol=1e-9)


def test_trainer_resumes_to_the_same_weights(tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in torch.arange(96).view(8, 12) % 40]

    def train(model, folder, resume=None):
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return model.eval()

    start = adapted("llama", "slice")
    straight = train(copy.deepcopy(start), tmp_path / "straight")
    resumed = train(copy.deepcopy(start), tmp_path / "resumed", f"{tmp_path}/straight/checkpoint-2")
    assert not torch.equal(logits(straight), logits(start))
    torch.testing.assert_close(logits(resumed), logits(straight), rtol=1e-6, atol=1e-6)


def test_trl_trains_and_saves(tmp_path):
    pytest.importorskip("trl", reason="trl is not a dependency: pip install trl")
    from trl import SFTConfig, SFTTrainer

    words = {f"w{number}": number for number in range(38)} | {"[PAD]": 38, "[EOS]": 39}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    rows = [{"text": " ".join(f"w{(row + step) % 38}" for step in range(9))} for row in range(8)]
    config = make_config("llama", "own_row", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=base_model("llama"),
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=3,
            learning_rate=1e-2,
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            per_device_train_batch_size=4,
            logging_steps=1,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]"
        ),
        peft_config=config,
    )
    trainer.train()
    model = trainer.model.eval()
    assert trainable(model) == plan_of_model(model).trainable
    trainer.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(base_model("llama"), tmp_path / "saved")
    assert not torch.equal(logits(again), logits(base_model("llama")))
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
