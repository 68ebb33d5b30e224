"""Repair a defender: from the runs that attacked it to a trainer that tunes it (docs/repair.md)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.names import UNTUNED, candidates_of, dialogues_of
from ..base.processes import is_main
from ..base.progress import Progress, progress_of
from ..base.protocols import Speaker
from ..base.records import Prefix
from ..config import Settings, load_preset, merge, settings_from
from ..data import load_prefixes, overlap
from ..models.local.base import same_vocabulary
from ..models.local.lm import LanguageModel
from ..models.local.loading import check_folder
from ..models.local.lora import add_adapters, check_no_adapters
from ..models.local.reference import frozen_start
from ..runs.directory import REPAIR, RunDirectory, refuse_used
from ..runs.rounds import is_set
from ..runs.run import Run
from ..training.harden import RepairModels
from ..training.trainer import Trainer
from . import objects
from .load import build_lm, build_other_scorers, build_scorer, defender_kind
from .resume import check_resumable
from .targets import adversary_of, name_of, runs_among
from .train import RunTexts, begin, finish, load_texts

_log = logging.getLogger(__package__)


def harden(
    runs: Run | str | Path | Sequence[Run | str | Path],
    *,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    untuned: bool = True,
    resume: bool = False,
    progress: bool | Progress = False,
) -> Run:
    """Tune the defender of a run on its own replies, so that it fails less at the attacks and stays what it was.

    Args:
        runs: Runs whose best adversaries attack, also model folders after them; the first one's settings count.
        out: Run directory to create, or to resume; its ``best`` is the repaired model.
        settings: What differs from the first run's settings with the preset ``harden`` on top, by dotted keys.
        untuned: Whether the untuned speaker attacks too.
        resume: Continue from the checkpoint; ``runs`` must be those it began with.
        progress: Whether to show progress bars.

    Raises:
        UserError: Not a run, a defender that cannot be tuned, or an output folder in use.
        RunError: The repair failed.
    """
    chosen = settings_of(paths_of(runs), untuned=untuned)
    return finish(new_repair(objects.changed(chosen, settings or {}), Path(out), resume=resume, progress=progress))


def paths_of(runs: Run | str | Path | Sequence[Run | str | Path]) -> list[str]:
    """Runs that a caller of the library names, as the command line names them."""
    named = [runs] if isinstance(runs, Run | str | Path) else runs
    return [str(one.path if isinstance(one, Run) else one) for one in named]


def single_runs(names: Sequence[str]) -> list[str]:
    """What is named, with the runs of a set (``train --rounds``) in its place.

    Raises:
        UserError: A set lacks rounds, or a folder holds the rounds of a repair.
    """
    found = list[str]()
    for name in names:
        if (Path(name) / REPAIR).is_file():
            raise UserError(f"'{name}' holds a repair and no adversary; name a run, such as one of its attack-K")
        found += [str(member.path) for member in Run(Path(name)).members] if is_set(Path(name)) else [name]
    return found


def settings_of(
    runs: Sequence[str], overrides: Sequence[str] = (), *, preset: str = "harden", untuned: bool = True
) -> Settings:
    """The first run's settings, with a preset and the overrides on top.

    Raises:
        UserError: There is no run, or the first one is no run of an adversary.
    """
    if not runs:
        raise UserError("name the run whose defender is to be repaired, for instance astprompter harden runs/mine")
    runs = single_runs(runs)
    recorded = RunDirectory.open(Path(runs[0])).settings()
    runs_among(runs)
    for name in runs:
        if candidates_of(name) is not None or dialogues_of(name) is not None:
            raise UserError(f"'{name}' cannot attack here; name runs, model folders or hub names")
        check_folder(name)
    values = recorded.as_dict()
    merge(values, load_preset(preset).settings)
    merge(values, {"harden": {"adversaries": [*runs, *([UNTUNED] if untuned and UNTUNED not in runs else [])]}})
    return settings_from(values, overrides)


def new_repair(
    settings: Settings, out: Path, *, resume: bool = False, progress: bool | Progress | None = None
) -> Trainer[Any]:
    """Load everything that a repair needs, new or resumed.

    Raises:
        UserError: Bad input, a defender that cannot be tuned, or an output folder in use.
    """
    if resume:
        check_resumable(settings, RunDirectory.open(out).settings())
    elif is_main():
        refuse_used(out)
    check_tunable(settings)
    texts = _unseen(load_texts(settings), settings)
    models = repair_models(settings)
    return begin(settings, models, texts, out, resume=resume, progress=progress_of(progress or False))


def check_tunable(settings: Settings) -> None:
    """Refuse a defender whose weights cannot be tuned here.

    Raises:
        UserError: It is served, its number format is too coarse, or it is to be kept in shards.
    """
    defender = settings.defender
    if defender_kind(defender.path) is not None:
        raise UserError(
            f"defender '{defender.path}' is served, so its weights cannot be tuned here; name the model behind it "
            "(defender.path=FOLDER), or take what was found to where they are: astprompter export RUN --to hardening"
        )
    if defender.dtype != "float32" and not settings.harden.lora_rank:
        raise UserError(
            f"defender.dtype={defender.dtype} cannot be tuned, its steps are larger than the updates; use "
            "defender.dtype=float32 (defender.autocast=bfloat16 makes it fast), or adapters (harden.lora_rank)"
        )
    if settings.training.shard:
        raise UserError("training.shard does not go with a repair; use harden.lora_rank for a large defender")
    if settings.loss.kind == "margin":
        raise UserError("loss.kind=margin learns from rewards, which replies have none of; use ipo or dpo")


def repair_models(settings: Settings) -> RepairModels:
    """Load the defender, its frozen start, who attacks it, and the scorers.

    Raises:
        UserError: Something cannot be loaded, the weights cannot be tuned, or are not those that the runs attacked.
    """
    scorer, others = build_scorer(settings), build_other_scorers(settings)
    policy = build_lm(settings.defender, settings.rollout, partners=[settings.adversary], role="defender")
    check_no_adapters(policy.model)
    if not all(parameter.is_floating_point() for parameter in policy.model.parameters()):
        raise UserError(f"the weights of defender '{policy.name}' are quantised; name the model that it was made from")
    sha256 = policy.weights_sha256()
    runs = runs_among(settings.harden.adversaries)
    _check_attacked(settings, runs, sha256)
    if settings.harden.lora_rank:
        harden = settings.harden
        add_adapters(policy.model, rank=harden.lora_rank, alpha=harden.lora_alpha, seed=settings.seed)
    else:
        policy.model.requires_grad_(True)
    start = frozen_start(policy, policy.name)
    attackers: dict[str, Speaker] = {}
    for name in settings.harden.adversaries:
        attackers[name_of(name, attackers)] = adversary_of(name, runs.get(name), settings)
    held_to = _held_to(settings, policy) if settings.harden.held_to else start
    return RepairModels(
        policy, start, start, scorer, free_reference=False, adversary_sha256=sha256, defender_sha256=sha256,
        attackers=attackers, speaker=attackers.get(UNTUNED) or adversary_of(UNTUNED, None, settings), others=others,
        held_to=held_to,
    )  # fmt: skip


def _held_to(settings: Settings, policy: LanguageModel) -> LanguageModel:
    """The model that benign conversations are held to.

    Raises:
        UserError: It cannot be loaded, or has another vocabulary than the defender.
    """
    named = settings.defender.model_copy(update={"path": settings.harden.held_to})
    found = build_lm(named, settings.rollout, partners=[settings.adversary], role="defender")
    if not same_vocabulary(found, policy):
        raise UserError(
            f"harden.held_to='{settings.harden.held_to}' has another vocabulary than defender '{policy.name}', so "
            "there is no divergence between them; name an earlier state of the defender"
        )
    return found


def _check_attacked(settings: Settings, runs: Mapping[str, Run], sha256: str) -> None:
    """Refuse a defender that changed since its run; tell of runs that attacked another one.

    Raises:
        UserError: The first run names this defender, and attacked other weights.
    """
    other = [
        name for name, run in runs.items() if RunDirectory.open(run.path).config().models_sha256["defender"] != sha256
    ]
    first = next(iter(runs), None)
    if first in other and runs[first].settings.defender.path == settings.defender.path:
        raise UserError(
            f"the weights of defender '{settings.defender.path}' are not those that '{first}' was trained against; "
            "train it again, or name the model to repair with defender.path=..."
        )
    if other:
        _log.info(f"note: {', '.join(other)} attacked another defender in training; here they attack this one")


def _unseen(texts: RunTexts, settings: Settings) -> RunTexts:
    """The texts without prefixes of the test set, so that it stays unseen.

    Raises:
        UserError: Nothing is left.
    """
    test = load_prefixes(settings.data.test, split="test")
    sets: dict[str, list[Prefix]] = {}
    for name, prefixes in (("train", texts.train), ("dev", texts.dev)):
        seen = {id(prefix) for prefix in overlap(test, prefixes)}
        sets[name] = [prefix for prefix in prefixes if id(prefix) not in seen]
        if not sets[name]:
            raise UserError(
                f"all prefixes of data.{name} stand in data.test too, which a repair must not see; name others"
            )
        if seen:
            _log.warning(f"{len(seen)} prefixes of data.{name} stand in data.test too and are left out")
    return RunTexts(sets["train"], sets["dev"], texts.eliciting, texts.skipped)
