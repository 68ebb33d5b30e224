"""Evaluate adversaries: a caller's objects, or the runs, models and dialogues that the command line names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.names import RESAMPLE
from ..base.processes import is_main
from ..base.progress import Progress, progress_of
from ..base.protocols import Scorer, Speaker
from ..base.records import Prefix
from ..base.signals import going_on
from ..config import Settings, dotted
from ..data import BadRows
from ..evaluation.evaluate import Evaluation, measure
from ..rollout.mixture import Mixture, in_turn
from ..runs.directory import SUMMARY, results_folder, versions
from ..runs.rounds import settings_in
from ..runs.run import Run
from ..runs.schema.summary import Summary
from ..runs.started import started_in
from ..scorers.encoder import SentenceEncoder
from . import objects
from .held_out import facts_of_prefixes, warn_of_repeats, warn_of_seen
from .kept import Kept, NothingLeftError, deciding
from .objects import ModelLike, ScorerLike, SettingsLike, Texts
from .replacing import differing, held, refused
from .resume import texts_hash

_log = logging.getLogger(__package__)
_MEASURED_BY = ("seed", "defender", "likelihood", "scorer", "rollout", "reward", "evaluation")
"""Settings that decide what is measured, and how."""
_READ_BY = ("evaluation.threshold", "evaluation.level", "evaluation.encoder")
_NAMED = ("defender.path", "defender.revision", "scorer.spec")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of an evaluation before its models are loaded: the adversaries' names, the texts, the settings.

    Attributes:
        names: Of the adversaries.
        prefixes: Held-out prefixes.
        settings: The settings; ``None`` where objects have a part in them.
        load: Loads what takes part.
    """

    names: Sequence[str]
    prefixes: Sequence[Prefix]
    settings: Settings | None
    load: Callable[[], Parts]


@dataclass(frozen=True, slots=True)
class Parts:
    """What an evaluation takes, loaded: who takes part, the texts, the settings, and what is known of them."""

    adversaries: Mapping[str, Speaker]
    defender: Speaker
    scorer: Scorer
    others: Sequence[Scorer]
    prefixes: Sequence[Prefix]
    settings: Settings
    facts: Mapping[str, Any]


def evaluate(
    adversaries: Mapping[str, ModelLike],
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    *,
    scorers: Sequence[ScorerLike] = (),
    settings: SettingsLike = None,
    out: str | Path | None = None,
    retry_errors: bool = False,
    replace: bool = False,
    progress: bool | Progress = False,
) -> Evaluation:
    """Measure adversaries on held-out prefixes, all by the same path and with the same random numbers.

    Args:
        adversaries: By the name they get in every table, the first one as baseline of the comparisons; each a
            :class:`Run` (its best adversary), a model of :func:`load_model`, a path or hub name, or a ``transformers``
            model and its tokenizer as a pair.
        defender: The model under test, in the same forms.
        scorer: Toxicity: of :func:`load_scorer`, its name, or a function ``list[str] -> list[float]``.
        prefixes: Held-out prefixes: a file, a named set, or texts.
        scorers: Further scorers, reported beside the one that counts.
        settings: Settings, a preset's name, or what differs by dotted keys from those of the first run, or from the
            default preset where there is no run.
        out: Folder to write ``summary.json``, ``trajectories.jsonl`` and ``failures.jsonl`` to. Where a call with it
            is interrupted, what is done is kept there, and the same call goes on.
        replace: Whether results in ``out`` may be replaced that are of more than this, or of something else.
        retry_errors: Take the conversations of the evaluation in ``out`` but for those in which something failed.
        progress: Whether to show progress bars. Notices go to the logger ``astprompter``.

    Raises:
        UserError: Something of the wrong kind, or that cannot be loaded.
    """
    if not isinstance(adversaries, Mapping) or not adversaries:
        raise UserError("name the adversaries: give a mapping such as {'untuned': defender, 'ours': run}")
    runs = {name: given for name, given in adversaries.items() if isinstance(given, Run)}
    first, odd = settings_of_first(runs)
    source = str(prefixes) if isinstance(prefixes, str | Path) else "given in Python"

    def ask() -> Asked:
        chosen = objects.as_settings(settings, first)
        held_out = objects.as_prefixes(prefixes, "test")[: chosen.evaluation.prefixes]
        warn_of_repeats("test", held_out)
        for run in runs.values():
            warn_of_seen(held_out, run.settings)
        return Asked(list(adversaries), held_out, None, partial(load, chosen, held_out))

    def load(chosen: Settings, held_out: Sequence[Prefix]) -> Parts:
        named, other, judge, chosen = _taking_part(adversaries, defender, scorer, held_out, chosen)
        kept = [name for name, run in runs.items() if run.kept_start]
        facts = {
            "targets": list(adversaries), "kept_start": kept, "settings_of": odd if settings is None else None,
            "prefixes": facts_of_prefixes(held_out, source, BadRows()),
        }  # fmt: skip
        further = [objects.as_scorer(scorer) for scorer in scorers]
        return Parts(named, other, judge, further, held_out, chosen, facts)

    folder = None if out is None else Path(out)
    return measured(
        ask, folder, retry=retry_errors, replace=replace, again="the same call", progress=progress_of(progress)
    )


def measured(
    ask: Callable[[], Asked],
    out: Path | None,
    *,
    retry: bool,
    replace: bool,
    again: str,
    progress: Progress,
    later: list[Kept] | None = None,
) -> Evaluation:
    """An evaluation, written to a folder if one is named; among several processes the first one writes.

    Args:
        ask: Reads the texts, and says what is known before the models are loaded.
        out: The folder.
        retry: Whether conversations of the evaluation that is there are taken, but for those in which something failed.
        replace: As in :func:`evaluate`.
        again: What goes on after an interruption, in words.
        progress: Where progress is shown.
        later: Takes the conversations that are kept, for the caller to close; closed at once where not given.
    """
    if out is None and retry:
        raise UserError("retry_errors needs the folder of the earlier results: out=...")
    with nullcontext() if out is None or not is_main() else results_folder(out):
        asked = ask()
        if out is not None and not replace:
            _refuse_less(out / SUMMARY, asked)
        parts = asked.load()
        encoder = SentenceEncoder.load(named) if (named := parts.settings.evaluation.encoder) else None
        about = {"defender_sha256": parts.defender.weights_sha256(), **parts.defender.facts()}
        if out is not None:
            _mind_earlier(out / SUMMARY, asked, parts, about["defender_sha256"], retry=retry, replace=replace)
        facts = {**parts.facts, **about, "started_in": None if out is None else started_in(out)}
        kept = None
        if out is not None:
            decides = about | {"defender": parts.defender.name, "scorer": parts.scorer.name, "versions": versions()}
            kept = Kept(out, decides | {"dialogues": facts.get("dialogues")}, retry=retry)
        keepers = kept.keepers(parts.adversaries, parts.settings, parts.prefixes) if kept else {}
        with going_on(lambda: kept.remedy(again)) if kept else nullcontext():
            result = measure(
                parts.adversaries, parts.defender, parts.scorer, parts.prefixes, parts.settings,
                others=parts.others, encoder=encoder, progress=progress, facts=facts, keepers=keepers,
            )  # fmt: skip
        if kept is not None and out is not None and is_main():
            result.write(out)
            kept.count(turn for paths in result.trajectories.values() for path in paths for turn in path.turns)
            Kept.close([kept]) if later is None else later.append(kept)
    return result


def _refuse_less(path: Path, asked: Asked) -> None:
    """Refuse to replace results of more, or of something else, as far as that is known before models are loaded.

    Raises:
        UserError: There are such.
    """
    try:
        earlier = Summary.read(path) if path.is_file() else None
    except UserError:
        return
    if earlier is not None and (less := list(_less(earlier, asked, asked.settings))):
        raise refused(_known(path, earlier), "evaluation", less)


def _known(path: Path, earlier: Summary | None) -> str:
    """What a folder holds, in words."""
    if earlier is None:
        return held(path, "that cannot be read")
    counts = sorted({row.prefixes for row in earlier.adversaries.values()})
    return held(path, f"({', '.join(earlier.adversaries)}; {' or '.join(map(str, counts))} prefixes)")


def _mind_earlier(path: Path, asked: Asked, parts: Parts, sha256: str | None, *, retry: bool, replace: bool) -> None:
    """Tell of results that are replaced; refuse to replace those of more, or of something else, unless asked to.

    Raises:
        UserError: There are such, and ``replace`` is not asked for.
        NothingLeftError: They are of this evaluation, and nothing in them is left to ``retry``.
    """
    if not path.is_file():
        return
    try:
        earlier = Summary.read(path)
    except UserError:
        _log.info(f"note: {_known(path, None)}; they are replaced when this is done")
        return
    less = [*_less(earlier, asked, parts.settings), *_other_models(earlier, parts, sha256)]
    if less and not replace:
        raise refused(_known(path, earlier), "evaluation", less)
    if retry and not Kept.waiting(path.parent):
        counts = {row.prefixes for row in earlier.adversaries.values()}
        if not less and counts == {len(parts.prefixes)} and set(earlier.adversaries) == set(parts.adversaries):
            raise NothingLeftError(
                f"no evaluation in '{path.parent}' has failed replies to ask for again; leave it out"
            )
        return
    _log.info(f"note: {_known(path, earlier)}; they are replaced when this is done")
    if earlier.labels is not None:
        _log.warning(
            f"the shares in '{path}' that people's labels corrected ('{earlier.labels.source}') are replaced too; "
            f"correct the new ones with: astprompter evaluate {path.parent} --labels FILE"
        )


def _less(earlier: Summary, asked: Asked, settings: Settings | None) -> Iterator[str]:
    """What an evaluation has less of than an earlier one, and what else decides it."""
    config, given = earlier.config, asked.prefixes
    if max((row.prefixes for row in earlier.adversaries.values()), default=0) > len(given):
        yield f"{len(given)} prefixes"
    elif config.prefixes and texts_hash(given[: config.prefixes.count]) != config.prefixes.sha256:
        yield "other prefixes"
    yield from (f"no '{name}'" for name in earlier.adversaries if name not in asked.names)
    if settings is not None:
        resampled = any(name.startswith(f"{RESAMPLE}:") for name in earlier.adversaries)
        old, new = (_decides(found, resampled) for found in (config.settings, settings.as_dict()))
        yield from differing(old, new)


def _other_models(earlier: Summary, parts: Parts, sha256: str | None) -> Iterator[str]:
    """Whom else an evaluation measures, and which scorers it lacks."""
    config = earlier.config
    if not config.measured_on(parts.defender.name, sha256):
        yield f"the defender '{parts.defender.name}'"
    if config.scorer != parts.scorer.name:
        yield f"the scorer '{parts.scorer.name}'"
    others = {other.name for other in parts.others}
    further = [name for name in earlier.scorers.names if name != config.scorer] if earlier.scorers else []
    yield from (f"no scorer '{name}'" for name in further if name not in others)


def _decides(settings: Mapping[str, Any], resampled: bool) -> dict[str, Any]:
    """Settings that decide what an evaluation measures, but for those that name what has a name or hash of its own."""
    keys = (*_READ_BY, "evaluation.eta") if resampled else _READ_BY
    found = {**deciding(settings), **{key: dotted(settings).get(key) for key in keys}}
    return {key: value for key, value in found.items() if key not in _NAMED and not key.endswith(".device")}


def _taking_part(
    adversaries: Mapping[str, ModelLike],
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Sequence[Prefix],
    settings: Settings,
) -> tuple[dict[str, Speaker], Speaker, Scorer, Settings]:
    """Adversaries by name, defender and scorer, and the settings with what is known of them."""
    members = {name: given.members if isinstance(given, Run) else [given] for name, given in adversaries.items()}
    flat = [one for several in members.values() for one in several]
    loaded, replying, judge, settings = objects.participants(flat, defender, scorer, settings)
    left = iter(loaded)
    named = {name: as_one(name, [next(left) for _ in several], prefixes, settings) for name, several in members.items()}
    return named, replying, judge, settings


def as_one(name: str, members: Sequence[Speaker], prefixes: Sequence[Prefix], settings: Settings) -> Speaker:
    """The adversary of a run, or those of a set, which meet equally many of the prefixes each."""
    if len(members) == 1:
        return members[0]
    assigned = in_turn([prefix.text for prefix in prefixes], len(members), settings.seed)
    return Mixture(members, assigned, name)


def settings_of_first(runs: Mapping[str, Run], overrides: Sequence[str] = ()) -> tuple[Settings | None, str | None]:
    """Settings of the first run, which count for all; and its name, where others were trained under others."""
    found = {name: settings_in(run.path, overrides) for name, run in runs.items()}
    if not found:
        return None, None
    (first, chosen), *others = found.items()
    odd = None
    for name, settings in others:
        mine, theirs = dotted(chosen.as_dict()), dotted(settings.as_dict())
        differ = [key for key in mine if key.partition(".")[0] in _MEASURED_BY and mine[key] != theirs[key]]
        if differ:
            odd = first
            _log.warning(
                f"'{name}' was trained under other settings than '{first}', which count for all: {', '.join(differ)}"
            )
    return chosen, odd
