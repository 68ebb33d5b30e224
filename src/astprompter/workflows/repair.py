"""Measure a repair: several defenders under the same adversaries, and what the later ones cost on benign speech."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..base.names import UNTUNED
from ..base.protocols import Speaker
from ..base.records import Prefix
from ..config import Settings
from ..data import BadRows
from ..data.sources import load_benign
from ..evaluation.benign import Reply, benign_replies, benign_texts, on_tokens, parts_of
from ..evaluation.repair import Side, repair_of
from ..evaluation.statistics import Floats
from ..models.local.base import same_vocabulary
from ..runs.directory import REPAIR, RunDirectory
from ..runs.schema.repair import BenignCost, BenignReplies, RepairFile
from ..runs.schema.results import TrajectoryRow, TurnRow
from ..runs.started import settings_here
from ..scorers.encoder import SentenceEncoder
from .held_out import warn_of_seen
from .load import build_defender
from .objects import changed
from .targets import named, runs_among

_log = logging.getLogger(__package__)
_REPLIES = ("answered", "blank", "refused")


def measure_repair(
    folders: Sequence[Path],
    paths: Sequence[str],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    trained: Mapping[str, str] | None = None,
    costs: dict[str, BenignCost] | None = None,
) -> RepairFile:
    """Compare evaluations of several defenders with the first one, and write ``repair.json``.

    Args:
        folders: The evaluations, that of the first defender first.
        paths: Where the defenders are, as for ``defender.path``.
        out: Folder to write to.
        overrides: ``key=value`` settings.
        trained: Adversary to the hash of the defender that it was trained against.
        costs: What is known of the cost of defenders, by their paths; what is found is added.

    Raises:
        UserError: They were measured on different prefixes or by different scorers, or a defender cannot be loaded.
    """
    sides = [Side.read(folder) for folder in folders]
    settings = settings_here(sides[0].summary.config, folders[0], overrides)
    encoder = SentenceEncoder.load(path) if (path := settings.evaluation.encoder) else None
    old = build_defender(changed(settings, {"defender.path": paths[0]}))
    costs = {} if costs is None else costs
    for side, path in zip(sides[1:], paths[1:], strict=True):
        if path not in costs:
            new = build_defender(changed(settings, {"defender.path": path}))
            costs[path] = cost_of(sides[0], side, old, new, settings)
    fresh = [_trained_against(side, trained or {}) for side in sides]
    paid = [None, *(costs[path] for path in paths[1:])]
    found = repair_of(sides, fresh=fresh, benign=paid, encoder=encoder, place=out)
    found.write(out / REPAIR)
    return found


def _trained_against(side: Side, trained: Mapping[str, str]) -> str | None:
    own = side.summary.config.defender_sha256
    return next((name for name in side.summary.adversaries if own and trained.get(name) == own), None)


def trained_against(names: Sequence[str], targets: Sequence[str]) -> dict[str, str]:
    """Hash of the defender that each run, or whole set, among targets was trained against, by the adversary's name.

    An SFT run was tuned on texts, against nobody.

    Args:
        names: Adversaries of an evaluation.
        targets: What it was given.
    """
    found, runs = {}, runs_among(targets)
    for name, target in named([UNTUNED, *targets] if UNTUNED in names else targets).items():
        members = [RunDirectory.open(member.path) for member in runs[target].members] if target in runs else []
        tuned = [run for run in members if run.settings().training.objective == "preference"]
        hashes = {run.config().models_sha256.get("defender") for run in tuned}
        if len(tuned) == len(members) and len(hashes) == 1 and (sha256 := hashes.pop()):
            found[name] = sha256
    return found


def cost_of(first: Side, side: Side, old: Speaker, new: Speaker, settings: Settings) -> BenignCost:
    """What a defender costs against the first one, where nothing was to be repaired.

    Args:
        first: What was measured of the first defender.
        side: The same of the other one.
        old: The first defender.
        new: The other one.
        settings: ``data.benign``, and what bounds a conversation.

    Raises:
        UserError: The harmless texts cannot be read.
    """
    missing = None
    if old.local is None or new.local is None:
        missing = "a served defender tells no distribution, so there is neither nll of harmless texts nor KL"
    elif not same_vocabulary(old.local, new.local):
        missing = "the defenders have other vocabularies, so neither nll per token nor KL can be compared"
    texts = None
    if missing is None:
        bad = BadRows(settings.data.skip_bad_rows)
        benign = load_benign(settings.data.benign, bad=bad)
        warn_of_seen([Prefix("", text[0]) for text in benign], settings, "data.benign", "texts")
        if bad.count:
            _log.warning(f"data.benign: {bad}")
        texts = benign_texts(old.local, new.local, benign, settings.data.benign, first.options)
    return BenignCost(texts=texts, replies=_replies(first, side, old, new, likelihood=not missing), missing=missing)


def _replies(first: Side, side: Side, old: Speaker, new: Speaker, *, likelihood: bool) -> BenignReplies | None:
    """Replies to the untuned adversary's first utterance, which is the same for both defenders, where it is clean."""
    if UNTUNED not in first.rows or UNTUNED not in side.rows:
        return None
    limit = first.options
    turns = [
        (one, one.turns[0], other.turns[0])
        for one, other in zip(first.rows[UNTUNED], side.rows[UNTUNED], strict=True)
        if one.turns[0].utterance == other.turns[0].utterance and _most(one.turns[0]) <= limit.clean
        and all(row.turns[0].reply_kind in _REPLIES for row in (one, other))
    ]  # fmt: skip
    if not turns:
        return None
    kl: Floats = np.zeros((len(turns), 0))
    if likelihood:
        kl = on_tokens(old.local, new.local, _harmless(old, turns, limit.threshold)).kl
    return benign_replies(
        [Reply(turn.reply, turn.reply_kind == "refused") for _, turn, _ in turns],
        [Reply(turn.reply, turn.reply_kind == "refused") for _, _, turn in turns],
        kl, limit, **({"length": lambda text: len(old.local.encode(text))} if old.local else {}),
    )  # fmt: skip


def _most(turn: TurnRow) -> float:
    """Most that any scorer gives the utterance; infinite where it has no score."""
    known = [scores.tox_utterance for scores in (turn.scores or {"": turn}).values()]
    return max((float("inf") if value is None else value) for value in known)


def _harmless(
    old: Speaker, turns: Sequence[tuple[TrajectoryRow, TurnRow, TurnRow]], threshold: float
) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Tokens of the first defender's replies that are no failures; nothing of the others."""
    kept = [
        i
        for i, (_, turn, _) in enumerate(turns)
        if turn.reply.strip() and turn.tox_reply is not None and turn.tox_reply <= threshold
    ]
    found: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = [[] for _ in turns]
    told = parts_of(old.local, [(turns[i][0].prefix, turns[i][1].utterance, turns[i][1].reply) for i in kept])
    for i, parts in zip(kept, told, strict=True):
        found[i] = parts
    return found
