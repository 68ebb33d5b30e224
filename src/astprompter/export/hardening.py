"""A set to repair the defender with: for the same attack, its least toxic reply over its most toxic one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..base.files import write_rows
from ..base.messages import as_messages, messages_of
from ..base.progress import Progress
from ..base.protocols import Scorer, Speaker
from ..base.randomness import key_of
from ..base.records import Keys, Speech
from ..config import Settings
from ..rollout.grow import in_step
from .found import Attack, Defender, Export, Written, attacks, measured, settings_of


@dataclass(frozen=True, slots=True)
class Drawn:
    """New replies to an attack.

    Attributes:
        attack: The attack.
        said: What they answer: prefix, utterance, reply, utterance, …; the replies are the answering defender's own.
        candidates: Replies of the same defender that are known to be toxic, with their toxicities.
        replies: The new replies.
    """

    attack: Attack
    said: tuple[str, ...]
    candidates: tuple[tuple[float, str], ...]
    replies: tuple[str, ...]


def hardening(export: Export) -> Written:
    """Draw more replies to every failing attack, and write the extremes as preference pairs (TRL's format).

    The defender answers each attack ``samples`` times more, from random streams named by the run's seed and the attack,
    so the same command writes the same file. The toxic reply that was found counts among the candidates. Where the
    settings name another defender than the run's, it leads its own side of the conversation, and only its own replies
    are candidates.

    Raises:
        UserError: The run holds no failure, a model cannot be loaded, or no attack ever got a harmless reply.
    """
    from ..workflows.load import TOGETHER, build_defender, build_scorer

    settings, found, before = settings_of(export), attacks(export), measured(export)
    defender, scorer, threshold = build_defender(settings), build_scorer(settings), settings.evaluation.threshold
    now = _described(defender, settings)
    own = now.is_same(before)
    drawn = draw_replies(
        found,
        defender,
        own=own,
        samples=export.samples,
        seed=settings.seed,
        trees_per_batch=settings.rollout.trees_per_batch or TOGETHER,
        progress=export.progress,
    )
    counts: Counter[str] = Counter()
    rows = list(repair_pairs(drawn, scorer, counts, threshold=threshold, chat=_in_messages(defender)))
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


def draw_replies(
    found: Sequence[Attack],
    defender: Speaker,
    *,
    own: bool,
    samples: int,
    seed: int,
    trees_per_batch: int,
    progress: Progress,
) -> list[Drawn]:
    """``samples`` new replies of the defender to each attack, in the order of the attacks.

    Args:
        found: The attacks.
        defender: Hears the conversation turn by turn, as when the attack was found.
        own: Whether the earlier replies are this defender's; else it answers anew at every turn.
        samples: Replies drawn for each attack; each draws from a stream of its own.
        seed: Names the streams.
        trees_per_batch: Replies drawn at once.
        progress: Where progress is shown.
    """
    drawn: dict[int, Drawn] = {}
    step = max(1, trees_per_batch // samples)
    with progress.task("replying", len(found) * samples, "replies") as advance:
        for part in in_step([len(attack.turns) for attack in found], step):
            answered = _answered([found[i] for i in part], defender, own=own, samples=samples, seed=seed)
            drawn.update(zip(part, answered, strict=True))
            advance(len(part) * samples)
    return [drawn[i] for i in range(len(found))]


def _answered(part: Sequence[Attack], defender: Speaker, *, own: bool, samples: int, seed: int) -> list[Drawn]:
    """New replies to attacks of as many turns each."""
    turns = len(part[0].turns)
    session = defender.start([attack.prefix for attack in part], turns=turns)
    said = [[attack.prefix] for attack in part]
    for number in range(turns):
        utterances = [Speech(attack.turns[number].utterance) for attack in part]
        session.hear(utterances)
        replies: Sequence[Speech] = [Speech("")] * len(part)
        if number < turns - 1:
            replies = [Speech(attack.turns[number].reply) for attack in part]
            if own:
                session.say(replies)
            else:
                replies = session.speak(_keys(seed, part, f"turn {number}"))
        for row, utterance, reply in zip(said, utterances, replies, strict=True):
            row += [utterance.text, reply.text]
    branched = session.branch([row for row in range(len(part)) for _ in range(samples)])
    numbers = [number for _ in part for number in range(samples)]
    spoken = branched.speak(_keys(seed, [attack for attack in part for _ in range(samples)], *numbers))
    texts = [speech.text if speech.assessable else "" for speech in spoken]
    return [
        Drawn(
            attack, tuple(row[:-1]), _known(attack) if own else (),
            tuple(texts[i * samples : (i + 1) * samples]),
        )
        for i, (attack, row) in enumerate(zip(part, said, strict=True))
    ]  # fmt: skip


def _known(attack: Attack) -> tuple[tuple[float, str], ...]:
    last = attack.turns[-1]
    return () if last.tox_reply is None else ((last.tox_reply, last.reply),)


def _keys(seed: int, rows: Sequence[Attack], *names: str | int) -> Keys:
    """A random key for each row, by the seed, its attack and a name."""
    each = names if len(names) == len(rows) else names * len(rows)
    return np.array(
        [
            key_of(seed, "hardening", attack.adversary, attack.prefix_id, len(attack.turns), name)
            for attack, name in zip(rows, each, strict=True)
        ],
        dtype=np.uint64,
    )


def repair_pairs(
    drawn: Sequence[Drawn], scorer: Scorer, counts: Counter[str], *, threshold: float, chat: bool
) -> Iterator[dict[str, Any]]:
    """Chosen: the least toxic reply, no failure; rejected: the most toxic, a failure. Blank replies repair nothing.

    Args:
        drawn: Attacks and new replies.
        scorer: Toxicity R_φ.
        counts: Counts what became of the attacks.
        threshold: A reply whose toxicity is above this is a failure.
        chat: Whether rows are lists of messages instead of texts.
    """
    for one in drawn:
        texts = [text for text in dict.fromkeys(one.replies) if text.strip()]
        scored = zip(scorer.score(texts, [one.said] * len(texts)), texts, strict=True)
        candidates = [(value, text) for value, text in (*one.candidates, *scored) if math.isfinite(value)]
        low, chosen = min(candidates, default=(1.0, ""))
        high, rejected = max(candidates, default=(0.0, ""))
        if not low <= threshold < high:
            counts["without a harmless reply" if high > threshold else "without a toxic reply"] += 1
            continue
        counts["pairs"] += 1
        yield {
            "prompt": as_messages(messages_of(one.said)) if chat else "".join(one.said),
            "chosen": as_messages([chosen], first=1) if chat else chosen,
            "rejected": as_messages([rejected], first=1) if chat else rejected,
            "chosen_toxicity": low,
            "rejected_toxicity": high,
            "candidates": len(candidates),
            **{key: value for key, value in one.attack.facts().items() if not key.startswith("tox_")},
        }
