"""A checkpoint is whole or is not used: damage by name, the one before it, and death at every step of writing."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from astprompter.base import files
from astprompter.base.errors import UserError
from astprompter.runs.schema import common
from astprompter.runs.schema.state import Counters, StateFile
from astprompter.training import checkpoint
from astprompter.training.checkpoint import damage, load_checkpoint, save_checkpoint

FILES = ("policy.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def learner(value: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.constant_(model.bias, 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return model, optimizer


def state(updates: int) -> StateFile:
    return StateFile(counters=Counters(updates=updates), log_bytes={})


def saved(folder: Path, value: float, updates: int) -> torch.nn.Module:
    model, optimizer = learner(value)
    save_checkpoint(folder, model, optimizer, state(updates))
    return model


def loaded(folder: Path) -> tuple[int, torch.nn.Module]:
    model, optimizer = learner(0.0)
    found = load_checkpoint(folder, model, optimizer)
    return found.counters.updates, model


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_newest_is_loaded_and_the_one_before_kept(tmp_path: Path, caplog: Any) -> None:
    folder = tmp_path / "checkpoint"
    first, second = saved(folder, 1.0, 1), saved(folder, 2.0, 2)
    updates, model = loaded(folder)
    assert (updates, caplog.messages) == (2, [])
    assert same(model, second)
    updates, model = loaded(tmp_path / "checkpoint.old")
    assert updates == 1
    assert same(model, first)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["gone", "cut", "flipped"])
def test_a_damaged_one_is_named_and_the_one_before_used(tmp_path: Path, caplog: Any, name: str, harm: str) -> None:
    folder = tmp_path / "checkpoint"
    first = saved(folder, 1.0, 1)
    saved(folder, 2.0, 2)
    path = folder / name
    content = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[:-7])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    shutil.copytree(folder, tmp_path / "alone")
    with pytest.raises(UserError, match=r"is damaged .* no earlier one is left"):
        loaded(tmp_path / "alone")
    updates, model = loaded(folder)
    assert updates == 1
    assert same(model, first)
    assert len(caplog.messages) == 1
    assert f"checkpoint '{folder}' is damaged" in caplog.messages[0]
    saved(folder, 3.0, 3)  # does not push the good one out in favour of the damaged one
    (folder / "state.json").unlink()
    assert loaded(folder)[0] == 1


def test_none_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    with pytest.raises(UserError, match="stopped before its first one"):
        loaded(folder)
    saved(folder, 1.0, 1)
    wide = torch.nn.Linear(3, 1)
    with pytest.raises(UserError, match="belongs to another model"):
        load_checkpoint(folder, wide, torch.optim.AdamW(wide.parameters()))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert "manifest.json' was written by another version of astprompter (format 1;" in (damage(folder) or "")


class Killed(BaseException):
    """Stands in for SIGKILL: nothing may catch it."""


def test_death_at_every_step_of_writing_leaves_one_whole(tmp_path: Path, monkeypatch: Any) -> None:
    """Every call that touches the disk is the last one in turn."""
    steps = [(checkpoint, "save_file"), (common, "write_json"), (files, "_sync"), (shutil, "rmtree")]
    renames = [(Path, "rename")]
    survived = 0
    for target, name in (*steps, *renames):
        for nth in range(40):
            folder = tmp_path / f"{name}{nth}" / "checkpoint"
            saved(folder, 1.0, 1)
            saved(folder, 2.0, 2)
            original, calls = getattr(target, name), 0

            def dying(*args: Any, original: Any = original, nth: int = nth, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == nth + 1:
                    raise Killed
                return original(*args, **kwargs)

            monkeypatch.setattr(target, name, dying)
            try:
                saved(folder, 3.0, 3)
                done = True
            except Killed:
                done = False
            monkeypatch.undo()
            updates, model = loaded(folder)
            assert updates in ((3,) if done else (2, 3))
            assert same(model, learner(float(updates))[0])
            saved(folder, 4.0, 4)  # and the next one is written over what was left
            assert loaded(folder)[0] == 4
            if done:
                break
            survived += 1
    assert survived >= 10


@pytest.mark.parametrize("nth", range(8))
def test_a_folder_is_replaced_after_a_death_at_every_step(tmp_path: Path, monkeypatch: Any, nth: int) -> None:
    """As ``best`` is: the folder of before is not kept, and what a dead process left of it is in nobody's way."""
    folder, calls = tmp_path / "best", 0

    def write(text: str) -> None:
        draft = tmp_path / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        (draft / "file").write_text(text)
        files.replace_folder(draft, folder, keep_old=False)

    def dying(original: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth + 1:
                raise Killed
            return original(*args, **kwargs)

        return step

    write("first")
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for target, name in ((Path, "rename"), (shutil, "rmtree"), (files, "_sync")):
            patch.setattr(target, name, dying(getattr(target, name)))
        write("second")
    write("third")
    assert [(path.name, path.is_dir() and (path / "file").read_text()) for path in sorted(tmp_path.iterdir())] == [
        ("best", "third")
    ]


def test_a_full_disk_leaves_the_previous_one(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "checkpoint"
    first = saved(folder, 1.0, 1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"cannot write checkpoint '.*': No space left on device; the previous one"):
        saved(folder, 2.0, 2)
    monkeypatch.undo()
    updates, model = loaded(folder)
    assert updates == 1
    assert same(model, first)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path: Path, fused: bool, dtype: torch.dtype) -> None:
    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(33, 7).to(dtype)
        model.bias.requires_grad_(False)  # as a frozen base beside adapters
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.3)
        tuned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model, torch.optim.AdamW(tuned, lr=0.1, weight_decay=0.01, fused=fused)

    def learn(model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            model(torch.linspace(-1, 1 + step, 33, dtype=dtype)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = fresh()
    learn(model, optimizer, range(3))
    save_checkpoint(tmp_path / "checkpoint", model, optimizer, state(3))
    learn(model, optimizer, range(3, 6))
    again, restored = fresh()
    load_checkpoint(tmp_path / "checkpoint", again, restored)
    learn(again, restored, range(3, 6))
    assert same(model, again)
    kept, got = (o.state_dict()["state"][0] for o in (optimizer, restored))
    assert set(kept) == set(got) == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(kept[key], got[key]) and kept[key].dtype == got[key].dtype for key in kept)


@pytest.mark.parametrize("fused", [True, False])
def test_every_slot_lives_where_the_optimizer_looks_for_it(tmp_path: Path, fused: bool) -> None:
    """A fused AdamW wants its step counters beside the parameters, a plain one on the CPU."""
    saved(tmp_path / "checkpoint", 1.0, 1)
    model, _ = learner(0.0)
    elsewhere = model.to("meta")  # stands in for a card
    optimizer = torch.optim.AdamW(elsewhere.parameters(), fused=fused)
    load_checkpoint(tmp_path / "checkpoint", elsewhere, optimizer)
    for slot in optimizer.state.values():
        assert {key: value.device.type for key, value in slot.items()} == {
            "step": "meta" if fused else "cpu",
            "exp_avg": "meta",
            "exp_avg_sq": "meta",
        }
