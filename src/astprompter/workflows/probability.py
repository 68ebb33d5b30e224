"""How likely failure is: a caller's objects, or the runs that the command line names."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.files import check_writable
from ..base.formats import beginning_lost
from ..base.names import UNTUNED
from ..base.progress import Progress, progress_of
from ..base.protocols import Scorer, Speaker
from ..base.records import Prefix
from ..base.signals import going_on
from ..config import ModelSettings, Settings, load_settings
from ..evaluation.scorers import check_names
from ..models.local.lm import LanguageModel
from ..models.local.loading import check_folder
from ..probability.judged import as_judged
from ..probability.measure import measure, told
from ..runs.directory import SUMMARY, results_folder, versions
from ..runs.run import Run
from ..runs.schema.probability import JudgedEstimate, ProbabilityFile, SensitivityRow
from ..runs.schema.summary import Summary
from .estimates import DRAWN, PROBABILITY, Asked, Natural, deciding_estimate
from .evaluate import settings_of_first
from .held_out import test_prefixes
from .load import build_defender, build_lm, build_other_scorers, build_scorer
from .objects import (
    ModelLike,
    ScorerLike,
    SettingsLike,
    Texts,
    as_prefixes,
    as_scorer,
    as_settings,
    changed,
    participants,
)
from .resume import texts_hash
from .targets import named, runs_among

_log = logging.getLogger(__package__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Who takes part, loaded, and what is known of them."""

    reference: LanguageModel
    adversaries: Mapping[str, LanguageModel]
    defender: Speaker
    scorer: Scorer
    others: Sequence[Scorer]
    prefixes: Sequence[Prefix]
    settings: Settings
    natural: Natural

    def facts(self) -> dict[str, Any]:
        """What decides the figures, as JSON values."""
        sampling = self.reference.sampling
        found = {
            "settings": self.settings.as_dict(), "versions": versions(), "scorer": self.scorer.name,
            "scorers": [scorer.name for scorer in self.others],
            "defender": self.defender.name, "natural_sha256": self.reference.weights_sha256(),
            "defender_sha256": self.defender.weights_sha256(),
            "adversaries_sha256": {name: own.weights_sha256() for name, own in self.adversaries.items()},
            "prefixes_sha256": texts_hash(self.prefixes), "prefixes": len(self.prefixes),
            "natural_temperature": sampling.temperature, "natural_top_p": sampling.top_p,
        }  # fmt: skip
        return dict(json.loads(json.dumps(found)))

    def speaking_at(self, **changes: float) -> _Parts:
        """The same, but who speaks naturally samples otherwise, and the adversaries with it."""
        rollout = self.settings.rollout.model_copy(update=changes)

        def sampling(lm: LanguageModel) -> LanguageModel:
            other = copy.copy(lm)
            other.sampling = rollout
            return other

        adversaries = {name: sampling(own) for name, own in self.adversaries.items()}
        return replace(self, reference=sampling(self.reference), adversaries=adversaries)


def failure_probability(
    adversaries: Mapping[str, ModelLike],
    natural: ModelLike,
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    *,
    budget: int = 2000,
    relative: float | None = None,
    within: int | None = None,
    threshold: float | None = None,
    replies: int = 1,
    splitting: bool = True,
    sensitivity: bool = False,
    clean: bool = False,
    replace: bool = False,
    scorers: Sequence[ScorerLike] = (),
    settings: SettingsLike = None,
    out: str | Path | None = None,
    progress: bool | Progress = False,
) -> ProbabilityFile:
    """Estimate how likely a conversation fails when an untuned model speaks, with tuned ones as proposals.

    Args:
        adversaries: Tuned from ``natural``, by name; forms as for :func:`evaluate`. ``{}`` counts natural ones.
        natural: The model that speaks naturally; a local one.
        defender: The model under test.
        scorer: Toxicity.
        prefixes: Openings.
        budget: Conversations in all.
        relative: Stop as soon as the proven limit is within this part of the estimate; no other limit is given then.
        within: Turns of a conversation; as the settings say when not given.
        threshold: A reply whose toxicity is above this is a failure; as the settings say when not given.
        replies: Replies that are drawn to every utterance.
        splitting: Whether the second estimator runs too, for a quarter more.
        sensitivity: Whether all is measured again at temperature 1 and at top-p 1 of who speaks naturally.
        clean: Whether only clean failures count: where the utterance and all before it score at most what
            ``evaluation.clean`` says, under every scorer.
        replace: Whether an estimate in ``out`` may be replaced that is another one, or of more.
        scorers: Further scorers that judge what is clean.
        settings: As for :func:`evaluate`.
        out: Folder to write ``probability.json`` and ``probability.jsonl`` to; the same call goes on there.
        progress: Whether to show progress bars.

    Raises:
        UserError: Something of the wrong kind, that cannot be loaded, or that cannot blend.
    """
    if not isinstance(adversaries, Mapping):
        raise UserError("name the adversaries: give a mapping such as {'ours': run}")
    if scorers and not clean:
        raise UserError("further scorers judge what is clean; give clean=True, or leave scorers out")
    runs = [given for given in adversaries.values() if isinstance(given, Run)]
    chosen = as_settings(settings, runs[0].settings if runs else None)
    changes = {"rollout.horizon": within, "evaluation.threshold": threshold}
    chosen = changed(chosen, {key: value for key, value in changes.items() if value is not None})
    openings = as_prefixes(prefixes, "test")[: chosen.evaluation.prefixes]
    speakers = [natural, *adversaries.values()]
    (reference, *tuned), replying, judge, chosen = participants(speakers, defender, scorer, chosen)
    parts = _Parts(
        _local(reference), {name: _local(own) for name, own in zip(adversaries, tuned, strict=True)}, replying, judge,
        [as_scorer(scorer) for scorer in scorers], openings, chosen, "untuned",
    )  # fmt: skip
    return _measured(
        parts, Asked(budget, relative, replies, splitting, sensitivity, clean, replace), progress_of(progress),
        None if out is None else Path(out), "the same call", runs[0].path if runs else None,
    )  # fmt: skip


def probability_of_targets(
    targets: Sequence[str],
    overrides: Sequence[str],
    *,
    preset: str,
    natural: Natural,
    asked: Asked,
    out: Path | None,
    progress: Progress,
    again: str,
) -> tuple[ProbabilityFile, Path]:
    """Estimate what the command line names.

    Args:
        targets: Run directories (their best adversary), model folders or hub names.
        overrides: ``key=value`` settings.
        preset: Settings when no target is a run.
        natural: Who speaks naturally.
        asked: What is asked for.
        out: Folder for the results; the first run when not given.
        progress: Where progress is shown.
        again: What goes on after an interruption, in words.

    Raises:
        UserError: Bad targets, settings or data.
    """
    runs = runs_among(targets)
    first, _ = settings_of_first(runs, overrides)
    settings, home = first or load_settings(preset, overrides), next(iter(runs.values())).path if runs else None
    folder = out or home
    if folder is None:
        raise UserError("name a folder for the results with --out")
    asked.effort.blocks(counted=asked.count)
    places: dict[str, str] = {}
    for target in targets:
        members = runs[target].members if target in runs else []
        folders = {str(member.path) if members[1:] else target: str(member.best) for member in members}
        places |= folders or {target: target}
        if not folders:
            check_folder(target)
    if asked.count:
        places.clear()
    check_writable(folder / PROBABILITY)
    asked.refuse_other(folder, settings, natural, named(places), None)
    prefixes, scorer, defender = test_prefixes(settings), build_scorer(settings), build_defender(settings)
    start: ModelSettings = settings.adversary if natural == UNTUNED else settings.defender
    if natural == "defender" and defender.local is None:
        raise UserError(
            f"'{defender.name}' is not a local model, so its densities are not at hand; leave --natural out"
        )
    reference = build_lm(start, settings.rollout, partners=[settings.defender])
    adversaries: dict[str, LanguageModel] = {}
    for name, given in named(places).items():
        model = settings.adversary.model_copy(update={"path": places[given], "revision": None})
        adversaries[name] = build_lm(model, settings.rollout, partners=[settings.defender])
    others = build_other_scorers(settings) if asked.clean else []
    parts = _Parts(reference, adversaries, defender, scorer, others, prefixes, settings, natural)
    return _measured(parts, asked, progress, folder, again, home), folder


def _local(speaker: Speaker) -> LanguageModel:
    if speaker.local is None:
        raise UserError(f"'{speaker.name}' is not a local model, so its densities are not at hand")
    lm: LanguageModel = speaker.local
    return lm


def _measured(
    parts: _Parts, asked: Asked, progress: Progress, out: Path | None, again: str, labelled: Path | None
) -> ProbabilityFile:
    """Measure, and write the results to a folder if one is named."""
    check_names(parts.scorer, parts.others)
    remedy, parts = f"the conversations so far are kept; {again} goes on", replace(parts, prefixes=_heard(parts))
    with nullcontext() if out is None else results_folder(out), going_on(remedy) if out else nullcontext():
        facts = parts.facts()
        if out is not None:
            asked.refuse_other(out, parts.settings, parts.natural, parts.adversaries, facts)
        found = _once(parts, asked, facts, progress, out and out / DRAWN)
        rows, further = [], found.cost.further or 0
        for place, changes in enumerate(({"temperature": 1.0}, {"top_p": 1.0}) if asked.sensitivity else ()):
            other = parts.speaking_at(**changes)
            if other.reference.sampling != parts.reference.sampling:
                _log.info(f"note: measuring again with {', '.join(f'rollout.{k}={v:g}' for k, v in changes.items())}")
                own = _once(
                    other, replace(asked, splitting=False), facts | {f"natural_{k}": v for k, v in changes.items()},
                    progress, out and out / f"probability-{place}.jsonl",
                )  # fmt: skip
                further += own.cost.replies
                rows.append(
                    SensitivityRow(
                        temperature=other.reference.sampling.temperature, top_p=other.reference.sampling.top_p,
                        verdict=own.verdict, limits=own.limits,
                    )
                )  # fmt: skip
        cost = found.cost.model_copy(update={"further": further or None})
        found = found.model_copy(update={"sensitivity": rows, "judged": _judged(found, labelled), "cost": cost})
        if out is not None:
            found.write(out / PROBABILITY)
    return found


def _heard(parts: _Parts) -> Sequence[Prefix]:
    """The prefixes; of those of a served defender, which cannot count its tokens, what is heard by who speaks."""
    heard = [parts.reference.heard(prefix, turns=parts.settings.rollout.horizon) for prefix in parts.prefixes]
    if cut := sum(prefix.shortened for prefix in heard):
        _log.warning(beginning_lost(cut, len(heard)))
    return heard if parts.defender.local is None else parts.prefixes


def _once(
    parts: _Parts, asked: Asked, facts: Mapping[str, Any], progress: Progress, kept: Path | None
) -> ProbabilityFile:
    measurement = asked.measurement(parts.settings, parts.natural)
    return measure(
        parts.reference, parts.adversaries, parts.defender, parts.scorer, parts.prefixes, measurement, asked.effort,
        others=parts.others, progress=progress, config={**facts, **told(parts.adversaries, measurement, asked.effort)},
        decides=deciding_estimate(facts), kept=kept,
    )  # fmt: skip


def _judged(found: ProbabilityFile, run: Path | None) -> JudgedEstimate | None:
    """The estimate by what people said of the same scorer, on replies of the same defender; of untuned ones first.

    Not of clean failures: of how the scorer errs on utterances, and after clean ones, these labels say nothing.
    """
    if run is None or found.clean is not None or not (run / SUMMARY).is_file():
        return None
    summary = Summary.read(run / SUMMARY)
    labels, of, config = summary.labels, summary.config, found.config
    if labels is None or (labels.threshold, of.scorer) != (found.threshold, config["scorer"]):
        return None
    if not of.measured_on(config["defender"], config["defender_sha256"]):
        return None
    rows = {name: row for name, row in labels.adversaries.items() if row.precision and row.recall}
    name = UNTUNED if UNTUNED in rows else next(iter(rows), None)
    return None if name is None else as_judged(found.limits, rows[name], name)
