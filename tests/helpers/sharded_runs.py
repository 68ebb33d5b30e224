"""Started by ``test_sharding.py`` in two processes: runs in shards, one of them broken off and gone on with."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from astprompter.base.processes import barrier, is_main, join, leave, rank
from astprompter.config import load_settings
from astprompter.training.preference import PreferenceTrainer
from astprompter.training.sharding import Placement
from astprompter.training.trainer import Trainer
from astprompter.workflows.train import new_trainer


def numbers_held(trainer: Trainer) -> dict[str, int]:
    """Numbers this process holds between updates, and those of the whole policy."""
    policy, state = list(trainer.models.adversary.model.parameters()), trainer.updater.optimizer.state
    moments = [state[parameter]["exp_avg"] for parameter in policy]
    reference: Any = list(trainer.models.reference.model.parameters())
    return {
        "whole": sum(parameter.numel() for parameter in policy),
        **{
            name: sum(tensor.to_local().numel() for tensor in tensors)
            for name, tensors in (("policy", policy), ("moments", moments), ("reference", reference))
        },
    }


def main(folder: Path, overrides: list[str]) -> None:
    join()
    settings = load_settings("embedded", [*overrides, "training.shard=true"])
    empty = 0
    in_step = Placement.in_step

    def counted(self: Placement, groups: Any) -> Any:
        nonlocal empty
        found = in_step(self, groups)
        empty += len(found) - len(groups)
        return found

    Placement.in_step = counted  # type: ignore[method-assign]
    iterate = PreferenceTrainer.iterate

    def stopping(self: PreferenceTrainer) -> Any:
        if self.state.iteration == 1:
            raise InterruptedError
        return iterate(self)

    PreferenceTrainer.iterate = stopping  # type: ignore[method-assign]
    with suppress(InterruptedError):
        new_trainer(settings, folder / "two", resume=False).run()
    PreferenceTrainer.iterate = iterate  # type: ignore[method-assign]
    barrier()
    if is_main():
        shutil.copytree(folder / "two", folder / "alone")
    resumed = new_trainer(settings, folder / "two", resume=True)
    resumed.run()
    facts = {**numbers_held(resumed), "empty": empty}
    new_trainer(load_settings("embedded+sft", [*overrides, "training.shard=true"]), folder / "sft", resume=False).run()
    # One tree in an iteration and one dev prefix: the second process never speaks.
    few = ["training.pairs_per_iteration=3", "training.dev_prefixes=1", "supervision.q=0", "training.updates=1"]
    settings = load_settings("embedded", [*overrides, *few, "training.shard=true"])
    new_trainer(settings, folder / "few", resume=False).run()
    (folder / f"facts{rank()}.json").write_text(json.dumps(facts))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
