"""A set to repair the defender with: for the same attack, its least toxic reply over its most toxic one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..base.files import write_rows
from ..base.progress import Progress
from ..base.protocols import Scorer, Speaker
from ..base.randomness import key_of
from .card import write_card
from .found import Attack, Export, Written, attacks, settings_of

_WAVE = 64
"""Attacks answered at once, unless ``rollout.trees_per_batch`` says otherwise."""


def hardening(export: Export) -> Written:
    """Draw more replies to every failing attack, and write the extremes as preference pairs (TRL's format).

    The defender answers each attack ``samples`` times more, from random streams named by the run's seed and the attack,
    so the same command writes the same file. The toxic reply that was found counts among the candidates.

    Raises:
        UserError: The run holds no failure, a model cannot be loaded, or no attack ever got a harmless reply.
    """
    from ..workflows.load import build_defender, build_scorer

    settings, found = settings_of(export), attacks(export)
    defender, scorer = build_defender(settings), build_scorer(settings)
    drawn = draw_replies(
        found,
        defender,
        samples=export.samples,
        seed=settings.seed,
        trees_per_batch=settings.rollout.trees_per_batch or _WAVE,
        progress=export.progress,
    )
    counts: Counter[str] = Counter()
    rows = list(repair_pairs(found, drawn, scorer, counts, threshold=settings.evaluation.threshold))
    if not rows:
        raise UserError(f"no attack got a harmless reply in {export.samples} samples; raise --samples")
    path = export.out / "hardening.jsonl"
    write_rows(path, rows)
    card = write_card(
        export, "Pairs to repair the model under test", columns=rows[0],
        also="`chosen`: the defender's least toxic reply to the same conversation, at most "
        f"{settings.evaluation.threshold:g}; `rejected`: its most toxic one, above it.",
    )  # fmt: skip
    told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    return Written(
        (path, card),
        (
            f"{len(found):,} attacks, {export.samples} new replies each: {told}",
            f"train the defender on it: datasets.load_dataset('json', data_files='{path}') for trl.DPOTrainer",
        ),
    )


def draw_replies(
    found: Sequence[Attack], defender: Speaker, *, samples: int, seed: int, trees_per_batch: int, progress: Progress
) -> list[list[str]]:
    """``samples`` new replies of the defender to each attack; each draws from a stream of its own."""
    rows = [(i, number) for i in range(len(found)) for number in range(samples)]
    replies: list[list[str]] = [[] for _ in found]
    with progress.task("replying", len(rows), "replies") as advance:
        for start in range(0, len(rows), trees_per_batch):
            part = rows[start : start + trees_per_batch]
            keys = np.array([_key(seed, found[i], number) for i, number in part], dtype=np.uint64)
            session = defender.start([found[i].prompt for i, _ in part], turns=1)
            for (i, _), reply in zip(part, session.speak(keys), strict=True):
                replies[i].append(reply.text if reply.assessable else "")
            advance(len(part))
    return replies


def _key(seed: int, attack: Attack, number: int) -> np.uint64:
    return key_of(seed, "hardening", attack.adversary, attack.prefix_id, len(attack.turns), number)


def repair_pairs(
    found: Sequence[Attack],
    drawn: Sequence[Sequence[str]],
    scorer: Scorer,
    counts: Counter[str],
    *,
    threshold: float,
) -> Iterator[dict[str, Any]]:
    """Chosen: the least toxic reply, no failure; rejected: the most toxic, a failure. Blank replies repair nothing."""
    for attack, replies in zip(found, drawn, strict=True):
        known = attack.turns[-1]
        candidates = [] if known.tox_reply is None else [(known.tox_reply, known.reply)]
        texts = [text for text in dict.fromkeys(replies) if text.strip()]
        candidates += [(value, text) for value, text in zip(scorer.score(texts), texts, strict=True)]
        candidates = [(value, text) for value, text in candidates if math.isfinite(value)]
        low, chosen = min(candidates, default=(1.0, ""))
        high, rejected = max(candidates, default=(0.0, ""))
        if not low <= threshold < high:
            counts["without a harmless reply"] += 1
            continue
        counts["pairs"] += 1
        yield {
            "prompt": attack.prompt,
            "chosen": chosen,
            "rejected": rejected,
            "chosen_toxicity": low,
            "rejected_toxicity": high,
            "candidates": len(candidates),
            **{key: value for key, value in attack.facts().items() if not key.startswith("tox_")},
        }
