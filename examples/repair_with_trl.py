"""Repair a model with a trainer of your own: repair_with_trl.py MODEL hardening.jsonl OUT (docs/repair.md)."""

from __future__ import annotations

import sys

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def repair(model: str, pairs: str, out: str, *, steps: int = 50) -> None:
    """Tune a model on exported pairs, and save it.

    Args:
        model: The model that failed: hub name or folder.
        pairs: ``hardening.jsonl``; of a chat model its columns hold messages, else texts, both as TRL takes them.
        out: Folder of the repaired model.
        steps: Optimizer steps.
    """
    data = load_dataset("json", data_files=pairs, split="train").select_columns(["prompt", "chosen", "rejected"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    settings = DPOConfig(
        output_dir=f"{out}/trainer", max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-4,
        loss_type=["ipo", "sft"], loss_weights=[1.0, 0.1], beta=0.1, report_to=[], save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(model), args=settings, train_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    repair(*sys.argv[1:])
