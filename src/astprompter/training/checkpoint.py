"""Save and load the state of a run: safetensors and JSON, whole or not at all.

A checkpoint is a folder that is written beside the old one, synced, and renamed. Its manifest, written last, holds the
SHA-256 of every other file, so a partial, damaged or foreign one is known by it. The one before is kept as
``checkpoint.old``, to fall back on.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..base.errors import RunError, UserError, words_of
from ..base.files import checksum, replace_folder
from ..base.processes import is_main
from ..runs.schema.state import ManifestFile, StateFile
from .sharding import kept, placed_like

_log = logging.getLogger(__package__)
_POLICY, _OPTIMIZER, _STATE, _MANIFEST = "policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


def save_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: StateFile) -> None:
    """Write policy, optimizer and counters; the previous checkpoint stays until the new one is whole.

    All processes call it in step; the first one writes.

    Raises:
        RunError: The folder cannot be written.
    """
    draft = folder.with_name(folder.name + ".tmp")
    names = {id(p): name for name, p in model.named_parameters()}
    moments = {
        f"{names[id(p)]}|{key}": kept(value).contiguous()
        for p, slot in optimizer.state.items()
        for key, value in slot.items()
    }
    tuned = {name: kept(p.detach()).contiguous() for name, p in model.named_parameters() if p.requires_grad}
    if not is_main():
        return
    try:
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(parents=True)
        save_file(tuned, draft / _POLICY)
        save_file(moments, draft / _OPTIMIZER)
        state.write(draft / _STATE)
        hashes = {name: checksum(draft / name) for name in (_POLICY, _OPTIMIZER, _STATE)}
        ManifestFile(sha256=hashes).write(draft / _MANIFEST)
        replace_folder(draft, folder, keep_old=True)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by its own error
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write checkpoint '{folder}': {reason}; the previous one is untouched") from None


def load_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> StateFile:
    """Restore policy and optimizer in place; returns the counters.

    Args:
        folder: The checkpoint; where it is damaged, the one before it is used, and this one is removed, or the next one
            would push out the good one and keep this.
        model: The policy.
        optimizer: Its optimizer.

    Raises:
        UserError: There is no checkpoint, or it does not belong to this model, or none is whole.
    """
    old = folder.with_name(folder.name + ".old")
    candidates = [path for path in (folder, old) if path.is_dir()]
    if not candidates:
        raise UserError(f"no checkpoint at '{folder}': the run stopped before its first one")
    reasons = []
    for path in candidates:
        reason = damage(path)
        if reason is None:
            break
        reasons.append(f"checkpoint '{path}' is damaged ({reason})")
    else:
        raise UserError(f"{'; '.join(reasons)}; no earlier one is left, so start a new run")
    if reasons:
        _log.warning(f"{reasons[0]}; going on from the one before it, '{path}'")
    state = StateFile.read(path / _STATE)
    try:
        weights, moments = load_file(path / _POLICY), load_file(path / _OPTIMIZER)
    except SafetensorError as error:
        raise UserError(f"checkpoint '{path}' was not written by astprompter ({words_of(error)})") from None
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    foreign = any(entry.rpartition("|")[0] not in parameters for entry in moments)
    if foreign or {n: v.shape for n, v in weights.items()} != {n: p.shape for n, p in parameters.items()}:
        raise UserError(f"checkpoint '{path}' belongs to another model")
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(placed_like(value, parameters[name]))
    names = {id(p): name for name, p in parameters.items()}
    order = {names[id(p)]: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for entry, value in moments.items():
        name, _, key = entry.rpartition("|")
        slots.setdefault(order[name], {})[key] = value if key == "step" else placed_like(value, parameters[name])
    # Where each slot lives is the optimizer's to say: a fused one keeps its step counters beside the parameters.
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if reasons and is_main():
        shutil.rmtree(folder)
    return state


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint by its manifest; ``None`` when every file is as it was written."""
    try:
        hashes = ManifestFile.read(folder / _MANIFEST).sha256
        if set(hashes) != {_POLICY, _OPTIMIZER, _STATE}:
            return f"{_MANIFEST} does not list its files"
        return next((f"{name} was changed" for name in hashes if checksum(folder / name) != hashes[name]), None)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, UserError) as error:
        return words_of(error)
