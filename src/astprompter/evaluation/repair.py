"""Defenders before and after a repair: what failed less, what failures closed, all paired on prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.names import UNTUNED
from ..base.protocols import Encoder
from ..base.vectors import HashedGrams
from ..rollout.distinct import ALIKE, Failing, greedy, likeness, place_of
from ..runs.directory import SUMMARY
from ..runs.results import result_rows
from ..runs.schema.figures import Difference, ShareDifference
from ..runs.schema.repair import Attacked, BenignCost, Cluster, Clusters, Defended, Rate, RepairFile
from ..runs.schema.results import TrajectoryRow
from ..runs.schema.summary import Summary
from ..runs.started import settings_here
from .distinct import SIMILARITIES
from .statistics import Floats, Options, above, overall, paired_difference
from .stored import failing_of, over_scorers, under_scorers
from .summarise import Measured, clean_table, tables_of

_MOST_CLUSTERS = 200
_REPLIES, _PREFIXES, _CLEAN, _CONFIRMED, _SCORER = "replies", "prefixes", "clean", "confirmed", "scorer "


@dataclass(frozen=True)
class Side:
    """One defender under every adversary, as an evaluation measured it.

    Attributes:
        folder: Where its files are.
        summary: ``summary.json``.
        rows: Rows of ``trajectories.jsonl`` by adversary.
        options: How figures are made.
    """

    folder: Path
    summary: Summary
    rows: Mapping[str, Sequence[TrajectoryRow]]
    options: Options

    @classmethod
    def read(cls, folder: Path) -> Side:
        """Read an evaluation.

        Raises:
            UserError: A file is missing or damaged.
        """
        summary = Summary.read(folder / SUMMARY)
        settings = settings_here(summary.config, folder)
        rows: dict[str, list[TrajectoryRow]] = {name: [] for name in summary.adversaries}
        for row in result_rows(folder, TrajectoryRow):
            rows[row.adversary].append(row)
        return cls(folder, summary, rows, Options.of(settings.evaluation, seed=settings.seed))

    @cached_property
    def tables(self) -> dict[str, dict[str, Floats]]:
        """Of each adversary what is counted, 1 or 0 or ``nan`` where not known, [prefixes, values]."""
        return {name: _counted(rows, self.options) for name, rows in self.rows.items()}

    def failing(self, names: Iterable[str]) -> list[Failing]:
        """Failing turns of adversaries, those that were measured."""
        rows = [self.rows[name] for name in self.rows if name in set(names)]
        return [one for own in rows for one in failing_of([own], self.options.threshold)]


def repair_of(
    sides: Sequence[Side],
    *,
    fresh: Sequence[str | None] = (),
    benign: Sequence[BenignCost | None] = (),
    encoder: Encoder | None = None,
    stopped: str | None = None,
    place: Path | None = None,
) -> RepairFile:
    """Compare defenders with the first one.

    Args:
        sides: The first defender and the later ones, measured on the same prefixes by the same scorer.
        fresh: For each the name of the adversary that was trained against it; ``None`` where none was.
        benign: For each what it costs where nothing was to be repaired.
        encoder: What tells failures apart; hashed n-grams when not given.
        stopped: Why rounds ended early.
        place: Folder of the file that is made; the folders of the evaluations are told as seen from it.

    Raises:
        UserError: They were measured on different prefixes or by different scorers.
    """
    first, *later = sides
    for side in later:
        _check_alike(first, side)
    named = [*fresh, *[None] * (len(sides) - len(fresh))]
    costs = [*benign, *[None] * (len(sides) - len(benign))]
    found = []
    for i, (side, name, cost) in enumerate(zip(sides, named, costs, strict=True)):
        base = None if side is first else first
        attacked = {adversary: _attacked(side, base, adversary) for adversary in side.summary.adversaries}
        gain = _difference(side, name, side, UNTUNED)
        found.append(
            Defended(
                name=side.summary.config.defender, sha256=side.summary.config.defender_sha256,
                folder=_seen_from(place, side.folder), adversaries=attacked, fresh=name,
                gain=None if gain is None else Difference(difference=gain.difference, ci=gain.ci),
                honest=None if base is None else _difference(side, name, first, named[0]),
                honest_by=None if base is None else _by_scorer(side, name, first, named[0]),
                step=None if i < 2 else _difference(side, name, sides[i - 1], named[i - 1]),
                clusters=None if base is None else _clusters(first, side, encoder or HashedGrams()), benign=cost,
            )
        )  # fmt: skip
    return RepairFile(config=first.summary.config, level=first.options.level, defenders=found, stopped=stopped)


def _seen_from(place: Path | None, folder: Path) -> str:
    try:
        return (folder.resolve().relative_to(place.resolve()) if place else folder).as_posix()
    except ValueError:
        return folder.as_posix()


def _check_alike(first: Side, side: Side) -> None:
    one, other = first.summary.config, side.summary.config
    ids = [{tuple(row.prefix_id for row in rows) for rows in of.rows.values()} for of in (first, side)]
    hashes = [config.prefixes and config.prefixes.sha256 for config in (one, other)]
    if ids[0] != ids[1] or hashes[0] != hashes[1]:
        raise UserError(f"'{side.folder}' was measured on other prefixes than '{first.folder}'; measure both again")
    if (one.scorer, first.options) != (other.scorer, side.options):
        raise UserError(f"'{side.folder}' was measured by another scorer, or otherwise, than '{first.folder}'")


def _counted(rows: Sequence[TrajectoryRow], options: Options) -> dict[str, Floats]:
    turns = [[row.turns for row in rows]]
    said, replied = (over_scorers(turns, name, max) for name in ("tox_utterance", "tox_reply"))
    measured = Measured(
        seeds=(options.seed,), prefixes=(), tables=tables_of(turns), diversity=(), strategies={},
        most=None if said is None or replied is None else (said, replied),
        accumulated=any(row.accumulated for row in rows),
    )  # fmt: skip
    toxic = above(measured.tables["tox_reply"][0], options.threshold)
    least = over_scorers(turns, "tox_reply", min)
    return {
        _REPLIES: toxic,
        _PREFIXES: np.where((toxic == 1).any(axis=1), 1.0, toxic.sum(axis=1))[:, None],  # nan where it is not known
        _CLEAN: clean_table(measured, options)[0],
        **({} if least is None else {_CONFIRMED: above(least[0], options.threshold)}),
        **{_SCORER + name: above(scores, options.threshold) for name, scores in under_scorers(rows).items()},
    }


def _attacked(side: Side, first: Side | None, name: str) -> Attacked:
    own = side.tables[name]
    base = first.tables.get(name, {}) if first else {}
    rates = {key: _rate(values, base.get(key), side.options) for key, values in own.items()}
    scorers = {key.removeprefix(_SCORER): rate for key, rate in rates.items() if key.startswith(_SCORER)}
    variety = side.summary.variety
    distinct = variety.adversaries[name].at[SIMILARITIES.index(ALIKE)] if variety else None
    return Attacked(
        replies=rates[_REPLIES], prefixes=rates[_PREFIXES], clean=rates[_CLEAN], confirmed=rates.get(_CONFIRMED),
        scorers=scorers or None, failures=int(np.nansum(own[_REPLIES])),
        distinct=distinct.distinct if distinct else 0, distinct_ci=distinct.ci if distinct else None,
    )  # fmt: skip


def _rate(values: Floats, base: Floats | None, options: Options) -> Rate:
    found = overall(values, _of_shares(options))
    change = None if base is None else _paired(values, base, options)
    return Rate(share=found.share, ci=found.share_ci, change=change)


def _paired(a: Floats, b: Floats, options: Options) -> ShareDifference | None:
    return paired_difference(a[None], b[None], (options.seed,), _of_shares(options)).share


def _of_shares(options: Options) -> Options:
    return replace(options, threshold=0.5)


def _difference(
    a: Side, adversary: str | None, b: Side, other: str | None, of: str = _REPLIES
) -> ShareDifference | None:  # fmt: skip
    """Share of toxic replies under one adversary less that under another, on perhaps another defender."""
    if adversary is None or other is None or adversary not in a.tables or other not in b.tables:
        return None
    return _paired(a.tables[adversary][of], b.tables[other][of], a.options)


def _by_scorer(a: Side, adversary: str | None, b: Side, other: str | None) -> dict[str, ShareDifference] | None:
    names = [key for key in a.tables.get(adversary or "", {}) if key.startswith(_SCORER)]
    found = {name.removeprefix(_SCORER): _difference(a, adversary, b, other, name) for name in names}
    return {name: one for name, one in found.items() if one} or None


def _clusters(first: Side, side: Side, encoder: Encoder) -> Clusters:
    """What became of the failures, by clusters over those of both defenders.

    One that attacked only one of them is left out: whoever is asked by more adversaries has more kinds.
    """
    rows = [(False, one) for one in first.failing(side.rows)] + [(True, one) for one in side.failing(first.rows)]
    rows.sort(key=lambda row: place_of(row[1]))
    kinds = greedy(likeness([one for _, one in rows], encoder)[2], ALIKE)
    found: dict[int, list[tuple[bool, Failing]]] = {}
    for kind, row in zip(kinds.tolist(), rows, strict=True):
        found.setdefault(kind, []).append(row)
    clusters = [
        Cluster(
            before=sum(not later for later, _ in own), after=sum(later for later, _ in own),
            utterance=own[0][1].utterance, reply=own[0][1].reply,
        )
        for own in found.values()
    ]  # fmt: skip
    clusters.sort(key=lambda one: -one.before - one.after)
    return Clusters(
        closed=sum(not one.after for one in clusters), stayed=sum(bool(one.before and one.after) for one in clusters),
        opened=sum(not one.before for one in clusters), largest=clusters[:_MOST_CLUSTERS],
    )  # fmt: skip
