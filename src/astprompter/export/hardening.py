"""A set to repair the defender with: for the same attack, its least toxic reply over its most toxic one."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ..base.errors import UserError
from ..base.files import write_rows
from ..base.messages import as_messages, messages_of
from ..base.protocols import Speaker
from ..base.records import Speech
from ..config import Settings
from ..rollout.repair import Conversation, Drawn, Repair, draw_replies, repairs
from .found import Attack, Defender, Export, Written, attacks, measured, settings_of


def hardening(export: Export) -> Written:
    """Draw more replies to every failing attack, and write the extremes as preference pairs (TRL's format).

    The defender answers each attack ``samples`` times more, from random streams named by the run's seed and the attack,
    so the same command writes the same file. The toxic reply that was found counts among the candidates. Where the
    settings name another defender than the run's, it leads its own side of the conversation, and only its own replies
    are candidates.

    Raises:
        UserError: The run holds no failure, a model cannot be loaded, or no attack ever got a harmless reply.
    """
    from ..workflows.load import build_defender, build_scorer

    settings, found, before = settings_of(export), attacks(export), measured(export)
    defender, scorer, threshold = build_defender(settings), build_scorer(settings), settings.evaluation.threshold
    now = _described(defender, settings)
    own = now.is_same(before)
    drawn = draw_replies(
        [conversation_of(attack, own=own) for attack in found],
        defender,
        samples=export.samples,
        seed=settings.seed,
        trees_per_batch=settings.rollout.trees_per_batch,
        progress=export.progress,
    )
    extremes, chat = repairs(drawn, [scorer], threshold=threshold), _in_messages(defender)
    counts = Counter(one if isinstance(one, str) else "pairs" for one in extremes)
    rows = [
        row_of(attack, replies, repair, chat=chat)
        for attack, replies, repair in zip(found, drawn, extremes, strict=True)
        if not isinstance(repair, str)
    ]
    told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    if not rows:
        raise UserError(f"no attack gave a pair in {export.samples} samples ({told}); raise --samples")
    path = export.out / "hardening.jsonl"
    write_rows(path, rows)
    return Written(
        (path,),
        (
            f"{len(found):,} attacks, {export.samples} new replies each: {told}",
            f"all replies are of '{now.name}'" + f", the attacks were found against '{before.name}'" * (not own),
            f"train the defender on it: datasets.load_dataset('json', data_files='{path}') for trl.DPOTrainer",
        ),
        "Pairs to repair the model under test",
        also="`chosen`: the defender's least toxic reply to the same conversation, at "
        f"most {threshold:g}; `rejected`: its most toxic one, above it.",
        columns=rows[0],
        defender=None if own else now,
    )


def _described(defender: Speaker, settings: Settings) -> Defender:
    remote = defender.facts()["remote"]
    return Defender(defender.name, defender.weights_sha256(), remote and remote["url"], settings.defender.chat)


def _in_messages(defender: Speaker) -> bool:
    """Whether a defender takes the conversation as messages, so that its training data must be such."""
    remote = defender.facts()["remote"]
    return bool(remote and remote["api"] == "chat") or (defender.local is not None and defender.local.chat)


def conversation_of(attack: Attack, *, own: bool) -> Conversation:
    """An attack as it can be led again; ``own``: its replies are those of the defender that will hear it."""
    return Conversation(
        (attack.adversary, attack.prefix_id, len(attack.turns)),
        attack.prefix,
        tuple(Speech(turn.utterance) for turn in attack.turns),
        tuple(Speech(turn.reply) for turn in attack.turns) if own else (),
    )


def row_of(attack: Attack, drawn: Drawn, repair: Repair, *, chat: bool) -> dict[str, Any]:
    """A row of the file; with ``chat`` texts are lists of messages."""
    chosen, rejected = repair.chosen.text, repair.rejected.text
    return {
        "prompt": as_messages(messages_of(drawn.said)) if chat else "".join(drawn.said),
        "chosen": as_messages([chosen], first=1) if chat else chosen,
        "rejected": as_messages([rejected], first=1) if chat else rejected,
        "chosen_toxicity": repair.chosen_toxicity,
        "rejected_toxicity": repair.rejected_toxicity,
        "candidates": repair.candidates,
        **{key: value for key, value in attack.facts().items() if not key.startswith("tox_")},
    }
