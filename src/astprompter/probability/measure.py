"""The whole measurement: a pilot decides, the main run draws block after block, and every figure is made of its rows.

Every conversation depends on its own key alone and is written as soon as its batch is done, so a run that was
interrupted goes on and ends with the same figures.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..base.errors import UserError
from ..base.files import append_rows, write_rows
from ..base.progress import Advance, Progress
from ..base.protocols import Scorer, Speaker
from ..base.randomness import generator, key_of
from ..base.records import Prefix
from ..models.local.lm import LanguageModel
from ..models.local.memory import trees_that_fit
from ..runs.schema.common import read_rows
from ..runs.schema.probability import DrawnRow, IslandRow, ProbabilityFile
from .conversations import converse
from .densities import Proposal
from .estimate import Component, estimates
from .events import Event
from .limits import proven
from .pilot import BLOCK, CANDIDATES, GAMMAS, Plan, counting, every_component, first_counts, plan_of
from .results import Measurement, Stage, draws_of, file_of, row_of
from .speaker import NATURALLY, BlendedModel
from .splitting import Splitting, split

_log = logging.getLogger(__package__)
Row = TypeVar("Row", DrawnRow, IslandRow)
_PILOT = 0.2
"""Of the budget."""
_LEAST_BLOCKS = 5
_LOOKS = 20
"""Times that a watched run looks at its limit."""
_ISLANDS = 20
ISLANDS = "probability-islands.jsonl"
"""Where the islands of splitting are kept, beside the conversations."""
_BATCH = 200
"""Conversations held at once, at most. A batch of which a part is kept is held again as it was, to the same digits."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much may be spent.

    Attributes:
        budget: Conversations of pilot and main run.
        relative: Stop as soon as the proven limit is within this part of the estimate; ``None`` never stops early.
        second: Whether natural conversations, a quarter of the budget more, are spent on splitting.
    """

    budget: int
    relative: float | None
    second: bool

    def blocks(self, *, counted: bool) -> tuple[int, int]:
        """Blocks of pilot and main run.

        Args:
            counted: Whether natural conversations alone are counted, for which no pilot is needed.

        Raises:
            UserError: The budget is too small.
        """
        pilot = 0 if counted else max(_LEAST_BLOCKS, round(_PILOT * self.budget / BLOCK))
        main = self.budget // BLOCK - pilot
        if main < _LEAST_BLOCKS:
            least = _LEAST_BLOCKS * BLOCK * (1 if counted else 2)
            raise UserError(f"--budget {self.budget} is too small; give at least {least}")
        return pilot, main


def told(adversaries: Iterable[str], asked: Measurement, effort: Effort) -> dict[str, Any]:
    """What is asked, by its names on the command line; not whether splitting runs, which decides no conversation."""
    return {"adversaries": list(adversaries), **asdict(asked), "budget": effort.budget, "relative": effort.relative}


def _fingerprint(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def _there(kept: Path | None, kind: type[Row], of: str) -> list[Row]:
    """Rows of a measurement that were kept; the file is left with these alone."""
    if kept is None or not kept.is_file():
        return []
    found = read_rows(kept, kind, note=_log.info)
    mine = [row for row in found if row.measurement == of]
    if len(mine) < len(found):
        _log.info(f"note: '{kept}' is of another measurement; it is replaced")
    write_rows(kept, (row.plain() for row in mine))
    return mine


class _Run:
    """The conversations of one measurement, drawn or read from where they were kept."""

    def __init__(
        self, speaker: BlendedModel, defender: Speaker, event: Event, prefixes: Sequence[Prefix], asked: Measurement,
        kept: Path | None, of: str, config: Mapping[str, Any], advance: Advance,
    ) -> None:  # fmt: skip
        self.speaker, self.defender, self.event, self.prefixes, self.asked = speaker, defender, event, prefixes, asked
        self.of, self._config, self._kept, self._advance = of, config, kept, advance
        self._rows: dict[tuple[str, int], DrawnRow] = {}
        fitting = trees_that_fit((speaker, defender), horizon=asked.within, branching=1) // asked.replies
        self._size = max(1, min(_BATCH, fitting))
        if mine := _there(kept, DrawnRow, of):
            self._rows = {(row.stage, row.number): row for row in mine}
            _log.info(f"going on: {len(mine):,} conversations are there already")

    def draw(
        self, stage: Stage, components: Sequence[Component], counts: Sequence[int], blocks: range
    ) -> list[DrawnRow]:
        """Whole blocks, in order; like openings are held together, where equal ones are computed once."""
        whos = [place for place, count in enumerate(counts) for _ in range(count)]
        numbers = [number for block in blocks for number in range(block * BLOCK, (block + 1) * BLOCK)]
        openings = {block: self._openings(stage, block) for block in blocks}
        opening = {number: int(openings[number // BLOCK][number % BLOCK]) for number in numbers}
        order = sorted(numbers, key=lambda number: (len(self.prefixes[opening[number]].text), opening[number]))
        for start in range(0, len(order), self._size):
            part = order[start : start + self._size]
            missing = [number for number in part if (stage, number) not in self._rows]
            self._advance(len(part))
            if not missing:
                continue
            chosen = [self.prefixes[opening[number]] for number in part]
            who = [whos[number % BLOCK] for number in part]
            found = converse(
                self.speaker, self.defender, self.event, [prefix.text for prefix in chosen],
                np.array([self._voices(components[place]) for place in who]),
                np.array([key_of(self.asked.seed, "probability", stage, number) for number in part], dtype=np.uint64),
                replies=self.asked.replies,
            )  # fmt: skip
            rows = [
                row_of(
                    said, of=self.of, stage=stage, number=number, prefix=prefix.id, component=component,
                    threshold=self.asked.threshold,
                    config=None if self._rows or number != missing[0] else self._config,
                )
                for said, number, prefix, component in zip(found, part, chosen, who, strict=True)
                if number in missing
            ]  # fmt: skip
            if self._kept is not None:
                append_rows(self._kept, (row.plain() for row in rows))
            self._rows |= {(stage, row.number): row for row in rows}
        return [self._rows[stage, number] for number in numbers]

    def _openings(self, stage: Stage, block: int) -> npt.NDArray[np.int64]:
        """Prefixes of a block: each drawn at random, and within the block no two alike as long as there are others."""
        rng = generator(self.asked.seed, "probability", stage, block)
        size = len(self.prefixes)
        return np.concatenate([rng.permutation(size) for _ in range(-(-BLOCK // size))])[:BLOCK]

    def _voices(self, component: Component) -> list[int]:
        return [
            component.proposal if turn in component.turns else NATURALLY for turn in range(self.asked.within)
        ]  # fmt: skip


def measure(
    reference: LanguageModel,
    adversaries: Mapping[str, LanguageModel],
    defender: Speaker,
    scorer: Scorer,
    prefixes: Sequence[Prefix],
    asked: Measurement,
    effort: Effort,
    *,
    others: Sequence[Scorer] = (),
    progress: Progress,
    config: Mapping[str, Any],
    decides: Mapping[str, Any],
    kept: Path | None = None,
) -> ProbabilityFile:
    """Estimate how likely a conversation fails when the reference speaks.

    Args:
        reference: Speaks naturally.
        adversaries: Models of the same vocabulary, by name, that were tuned towards failure; without any, natural
            conversations are counted.
        defender: The model under test; anything that answers.
        scorer: Toxicity of replies.
        prefixes: Openings.
        asked: What is asked.
        effort: How much may be spent.
        others: Scorers that judge what is clean beside the first, where clean failures are asked.
        progress: Where progress is shown.
        config: What decides the figures, for the files.
        decides: What decides the conversations, beside what is asked.
        kept: Where conversations are kept, and gone on from.

    Raises:
        UserError: The budget is too small, or the models cannot blend.
    """
    proposals = [Proposal(place, gamma) for place in range(len(adversaries)) for gamma in CANDIDATES]
    speaker = BlendedModel(reference, list(adversaries.values()), proposals)
    pilot_blocks, main_blocks = effort.blocks(counted=not adversaries)
    of = _fingerprint({**decides, **told(adversaries, asked, effort)})
    places = {prefix.id: place for place, prefix in enumerate(prefixes)}
    with progress.task("conversations", (pilot_blocks + main_blocks) * BLOCK, "conversations") as advance:
        event = Event(scorer, asked.threshold, asked.clean, others)
        run = _Run(speaker, defender, event, prefixes, asked, kept, of, config, advance)
        pilot, plan = _piloted(run, proposals, places, pilot_blocks) if adversaries else ([], counting(main_blocks))
        rows: list[DrawnRow] = []
        step = main_blocks if effort.relative is None else -(-main_blocks // _LOOKS)
        for start in range(0, main_blocks, step):
            rows += run.draw("main", plan.components, plan.counts, range(start, min(start + step, main_blocks)))
            if effort.relative is not None:
                draws = draws_of(rows, places, asked, len(proposals))
                means = estimates(draws, plan.components, plan.shares).sum(axis=1).reshape(-1, BLOCK).mean(axis=1)
                limit = proven(
                    means, float(1 / plan.shares[0]), asked.level, planned=main_blocks, guess=(*plan.guess, 10)
                )
                if limit > 0.0 and limit >= (1.0 - effort.relative) * means.mean():
                    break
    second = _second(reference, defender, event, prefixes, asked, effort, progress, kept, of)
    return file_of(
        rows, pilot, plan, asked, prefixes=prefixes, names=list(adversaries), proposals=proposals, blocks=main_blocks,
        second=second, config=config,
    )  # fmt: skip


def _piloted(
    run: _Run, proposals: Sequence[Proposal], places: Mapping[str, int], blocks: int
) -> tuple[list[DrawnRow], Plan]:
    asked = run.asked
    drawn = every_component([place for place, own in enumerate(proposals) if own.gamma in GAMMAS], asked.within)
    counts = first_counts(drawn, asked.within)
    pilot = run.draw("pilot", drawn, counts, range(blocks))
    candidates = every_component(range(len(proposals)), asked.within)
    return pilot, plan_of(draws_of(pilot, places, asked, len(proposals)), drawn, counts, candidates)


def _second(
    reference: LanguageModel, defender: Speaker, event: Event, prefixes: Sequence[Prefix], asked: Measurement,
    effort: Effort, progress: Progress, kept: Path | None, of: str,
) -> Splitting | None:  # fmt: skip
    if not effort.second:
        return None
    kept = kept and kept.with_name(ISLANDS)
    known = {row.island: (row.estimate, row.worst) for row in _there(kept, IslandRow, of)}

    def keep(batch: range, found: npt.NDArray[np.float64]) -> None:
        if kept is not None:
            rows = zip(batch, *found.tolist(), strict=True)
            append_rows(kept, (IslandRow(measurement=of, island=i, estimate=a, worst=b).plain() for i, a, b in rows))

    particles = max(5, effort.budget // (4 * _ISLANDS))
    fitting = trees_that_fit((reference, defender), horizon=asked.within, branching=1)
    with progress.task("splitting", _ISLANDS * particles * asked.within, "turns") as advance:
        return split(
            reference, defender, event, prefixes, islands=_ISLANDS, particles=particles, horizon=asked.within,
            seed=asked.seed, islands_per_batch=max(1, min(_BATCH, fitting) // particles), known=known, on_islands=keep,
            on_turns=advance,
        )  # fmt: skip
