"""Save and load the state of a run: safetensors and JSON, replaced in one step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import UserError

_FORMAT = 1


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write policy, optimizer and counters; the previous checkpoint stays until the new one is whole.

    Raises:
        UserError: The folder cannot be written.
    """
    draft, old = folder.with_name(folder.name + ".tmp"), folder.with_name(folder.name + ".old")
    names = {id(p): name for name, p in model.named_parameters()}
    moments = {
        f"{names[id(p)]}|{key}": value.contiguous()
        for p, slot in optimizer.state.items()
        for key, value in slot.items()
    }
    try:
        for leftover in (draft, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        draft.mkdir(parents=True)
        tuned = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(tuned, draft / "policy.safetensors")
        save_file(moments, draft / "optimizer.safetensors")
        (draft / "state.json").write_text(json.dumps({"format": _FORMAT, **state}, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        if old.exists():
            shutil.rmtree(old)
    except OSError as error:
        raise UserError(f"cannot write checkpoint '{folder}': {error.strerror or error}") from None


def load_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore policy and optimizer in place; returns the counters.

    Raises:
        UserError: There is no checkpoint, or it does not belong to this model, or it is damaged.
    """
    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")  # killed between the two renames
    if not (folder / "state.json").is_file():
        raise UserError(f"no checkpoint at '{folder.with_name('checkpoint')}': the run stopped before its first one")
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "policy.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint '{folder}' is damaged: {error}") from None
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if state.get("format") != _FORMAT or set(weights) != set(parameters):
        raise UserError(f"checkpoint '{folder}' belongs to another model or version")
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    for entry, value in moments.items():
        name, _, key = entry.rpartition("|")
        # The step counter stays on the CPU, where AdamW keeps it.
        slot = value if key == "step" else value.to(parameters[name].device)
        optimizer.state[parameters[name]][key] = slot
    return state
