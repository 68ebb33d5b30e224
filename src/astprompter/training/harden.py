"""The repair of a defender: it is attacked, and learns its own harmless replies to what it failed at (docs/repair.md).

Each iteration lets the adversaries attack the defender as it is by then, draws more replies to what it failed at, and
prefers its least toxic reply to its most toxic one. On benign conversations it is held to what it was: by the
divergence in every update, and by a limit for the one that is kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..base.errors import RunError
from ..base.processes import share, spread, sum_over_processes
from ..base.protocols import Scorer, Speaker
from ..base.randomness import generator, keys_of, shuffled_epochs
from ..base.records import Keys, PreferencePair, Prefix, RolloutTree, Speech
from ..models.local.lm import LanguageModel
from ..rollout.distinct import distinct_among
from ..rollout.failing import Failure, failures_in, kinds_first
from ..rollout.grow import turns_of
from ..rollout.repair import Drawn, Repair, case_of, draw_replies, repairs
from ..rollout.run import roll_out
from ..runs.directory import ATTACKS, PAIRS
from ..runs.schema.learnt import AttackRow, PairRow
from ..runs.schema.run import Benign, Failures, LogRow, Pairs, Spoken
from .benign import BenignConversations
from .best import save_repaired
from .metrics import mean, speaking_rates, tree_row
from .packing import forward_groups, pack, sequences_of
from .preference import facts_of, pair_losses, with_references
from .sharding import Placement
from .state import Clock, TrainingModels
from .trainer import Trainer

_log = logging.getLogger(__package__)
_QUIET_ITERATIONS_IN_A_ROW = 3
_IDLE_ITERATIONS_IN_A_ROW = 10
_NEW_REPLIES = 4
"""To each held-out benign conversation, for their length and variety."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairModels(TrainingModels):
    """Who takes part in a repair: ``adversary`` is the defender that is tuned, the reference its start.

    Attributes:
        attackers: Who attacks, by name; frozen.
        speaker: The untuned speaker, to whom the defender's replies are benign conversations; frozen.
        others: Further scorers; a reply is a failure where all call it toxic.
        held_to: Whose benign conversations must stay; frozen, often the reference.
    """

    attackers: Mapping[str, Speaker] = field(default_factory=dict)
    speaker: Speaker
    others: Sequence[Scorer] = ()
    held_to: LanguageModel

    @property
    def speakers(self) -> tuple[Speaker, ...]:
        """Who speaks."""
        return self.adversary, *self.attackers.values(), self.speaker

    @property
    def hashes(self) -> dict[str, str | None]:
        """Hashes of the weights at the start, by name."""
        attacking = {f"attacker {name}": speaker.weights_sha256() for name, speaker in self.attackers.items()}
        held_to = {} if self.held_to is self.reference else {"held to": self.held_to.weights_sha256()}
        return {"defender": self.defender_sha256, **attacking, **held_to}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the new replies to an attack gave: a pair, or why there is none."""

    pair: PreferencePair | None
    why: str = ""


class HardenTrainer(Trainer[PreferencePair]):
    """Tunes the defender on its own replies; an example is a pair of replies to one attack.

    Attributes:
        reference: The defender as it was, as the loss takes it.
        benign: Benign conversations of ``held_to``, in tokens, that updates hold it to.
        held_out: Others, that the policy which is kept is held to.
        nll_before: Mean nll of those under the model that it is held to, nats per token.
        spoken_before: What that model replies in them.
    """

    examples = "pairs"
    kept_start: ClassVar[str] = (
        "no policy failed less within harden.budget and harden.variety_budget, so best/ is the defender as it was: "
        "raise harden.keep or the budgets, or lower training.learning_rate"
    )
    models: RepairModels

    def __post_init__(self) -> None:
        super().__post_init__()
        settings, size = self.settings, len(self.prefixes)
        self.reference = Placement(self.models.reference, shard=False)
        order = shuffled_epochs(size, 0, min(size, settings.harden.benign), settings.seed, "benign")
        self.benign = self._benign([self.prefixes[i] for i in order], "benign")
        self.held_out = self._benign(self.dev[: settings.training.dev_prefixes], "held-out benign")
        self.nll_before = self.held_out.nll(Placement(self.models.held_to, shard=False))
        self.spoken_before = self._spoken(self.models.held_to)

    @property
    def done(self) -> bool:
        """Whether all updates are taken, nothing fails any more, or what fails gives no pair any more."""
        state = self.state
        return super().done or state.quiet >= _QUIET_ITERATIONS_IN_A_ROW or state.idle >= _IDLE_ITERATIONS_IN_A_ROW

    def collect(self, clock: Clock) -> tuple[list[PreferencePair], dict[str, Any]]:
        """Let the adversaries attack, and draw further replies to what fails."""
        settings, state = self.settings, self.state
        count, first = settings.harden.prefixes, state.trees
        order = shuffled_epochs(len(self.prefixes), first, count, settings.seed, "prefixes")
        trees = self._attack(
            [self.prefixes[i] for i in order], keys_of(settings.seed, "tree", first, count), first, "attacking"
        )
        state.trees += count
        self.tree = tree_row(state.iteration + 1, trees[0], settings)
        found, verdicts = self._failures(trees, first)
        clock.lap("collect")
        chosen = kinds_first(found, settings.training.pairs_per_iteration)
        outcomes = self._outcomes(chosen)
        pairs = [one.pair for one in outcomes]
        clock.lap("replies")
        state.quiet = 0 if found or not verdicts else state.quiet + 1
        state.idle = 0 if any(pairs) else state.idle + 1
        if state.idle in (1, _IDLE_ITERATIONS_IN_A_ROW) and (found or not verdicts):
            self._tell_of_no_pair(outcomes)
        rows = [
            AttackRow(
                iteration=state.iteration + 1, case=one.case, opening=case_of(one.conversation.prefix, ()),
                adversary=one.adversary, prefix_id=one.prefix_id, turn=one.turn, clean=one.clean, margin=pair.margin,
            )
            for one, pair in zip(chosen, pairs, strict=True)
            if pair is not None
        ]  # fmt: skip
        self._log(ATTACKS, rows)
        known = with_references([pair for pair in pairs if pair is not None], self.reference, settings)
        known = [known[i] for i in generator(settings.seed, "iteration", state.iteration).permutation(len(known))]
        if settings.training.save_pairs:
            self._log(PAIRS, [PairRow.of_pair(state.iteration, pair) for pair in known])
        clock.lap("reference")
        turns = [turn for tree in trees for turn in turns_of(tree.children)]
        return known, {
            "trees": len(trees),
            "pairs": Pairs(on_policy=len(known), supervised=0),
            "margin": mean([pair.margin for pair in known]),
            **self._metrics(trees, found, verdicts),
            "rates": speaking_rates(turns, clock.laps["collect"]),
        }

    def _tell_of_no_pair(self, outcomes: Sequence[_Outcome]) -> None:
        counts = Counter(one.why for one in outcomes)
        why = ", ".join(f"{count} attacks {reason}" for reason, count in counts.items()) or "no reply could be judged"
        head = f"iteration {self.state.iteration + 1} gave no pair"
        if self.state.idle > 1:
            head = f"{self.state.idle} iterations in a row gave no pair, so the repair ends"
        _log.warning(f"{head}: {why}")

    def update(self, batch: Sequence[PreferencePair]) -> dict[str, float] | None:
        """One step on preference loss + ``harden.sft`` · nll of chosen replies + ``harden.keep`` · KL(as it was ‖ now).

        ``None`` when the loss or gradient is not finite (nothing is changed).
        """
        policy, settings, most = self.models.adversary, self.settings, self.settings.training.max_tokens_per_batch
        own, count, average = share(batch), len(batch), settings.loss.reduction == "mean"
        tokens = sum(len(pair.chosen_ids) for pair in batch)
        known = [(pair.ref_chosen_logp, pair.ref_rejected_logp) for pair in own]
        references = torch.tensor(known, device=policy.device).reshape(len(own), 2)
        margins = torch.tensor([pair.margin for pair in own], device=policy.device)
        lengths = torch.tensor([len(pair.chosen_ids) if average else 1 for pair in own], device=policy.device)
        sums, nll = torch.zeros(5, device=policy.device), torch.zeros((), device=policy.device)
        for part in forward_groups(own, most):
            packed = pack(sequences_of([own[i] for i in part]), share=policy.packs)
            logps = self.updater.placement.logps(packed, average=average).view(-1, 2)
            loss, its_sums = pair_losses(logps, references[part], margins[part], settings.loss)
            chosen = -(logps[:, 0] * lengths[part]).sum() / tokens
            (loss.sum() / count + settings.harden.sft * chosen).backward()  # type: ignore[no-untyped-call]
            sums, nll = sums + its_sums, nll + chosen.detach()
        rows = settings.harden.benign_batch
        kl = self.benign.hold(settings.harden.keep, self.state.updates * rows, rows, settings.seed)
        facts = facts_of((sum_over_processes(sums) / count).tolist(), settings.loss)
        facts["chosen_nll"], facts["kl"] = float(sum_over_processes(nll)), float(sum_over_processes(kl))
        facts["loss"] += settings.harden.sft * facts["chosen_nll"] + settings.harden.keep * facts["kl"]
        norm = self.updater.step(facts["loss"], self.state.updates)
        return None if norm is None else {**facts, "gradient_norm": norm}

    def dev_row(self) -> LogRow:
        """How often the policy fails on the dev prefixes, and what it costs on benign conversations."""
        settings, prefixes = self.settings, self.dev[: self.settings.training.dev_prefixes]
        trees = self._attack(prefixes, keys_of(settings.seed, "dev", 0, len(prefixes)), 0, "dev evaluation")
        benign = Benign(
            tokens=self.held_out.tokens, nll_before=self.nll_before, nll=self.held_out.nll(self.updater.placement),
            kl=self.held_out.divergence(), replies=len(self.held_out.rows) * _NEW_REPLIES,
            spoken_before=self.spoken_before, spoken=self._spoken(self.models.adversary),
        )  # fmt: skip
        return LogRow(
            type="dev", iteration=self.state.iteration, updates=self.state.updates, benign=benign,
            **self._metrics(trees, *self._failures(trees, 0)),
        )  # fmt: skip

    def is_best(self, row: LogRow) -> bool:
        """Whether the policy of a dev row fails less than any before it, within both budgets; the start may be over."""
        share, best = row.failures.share if row.failures else None, self.state.best_failures
        if share is None or not self._within(row):
            return share is not None and row.iteration == 0
        return best is None or not self.state.best_within or share < best

    def keep(self, row: LogRow) -> None:
        """Save the policy of a dev row."""
        self.state.best_failures = row.failures.share if row.failures else None
        self.state.best_within = self._within(row)
        logged = self.directory.log()
        before = next((one for one in logged if one.type == "dev"), row)
        pairs = sum(one.pairs.on_policy for one in logged if one.pairs)
        save_repaired(self.directory.best, self.models.adversary, self.settings, before, row, pairs)

    def _within(self, row: LogRow) -> bool:
        """Whether the policy of a dev row keeps to both budgets; not where that is not known."""
        budgets, fall = self.settings.harden, row.benign.fall if row.benign else None
        return bool(
            row.benign and row.benign.rise <= budgets.budget and fall is not None and fall <= budgets.variety_budget
        )

    def _spoken(self, defender: LanguageModel) -> Spoken:
        settings = self.settings
        return self.held_out.spoken(
            defender, samples=_NEW_REPLIES, seed=settings.seed,
            trees_per_batch=settings.rollout.trees_per_batch,
        )  # fmt: skip

    def _benign(self, prefixes: Sequence[Prefix], name: str) -> BenignConversations:
        settings, models = self.settings, self.models
        trees = roll_out(
            models.speaker, models.held_to, models.scorer, prefixes,
            keys_of(settings.seed, name, 0, len(prefixes)), settings,
            branching=1, task="benign conversations", progress=self.progress,
        )  # fmt: skip
        return BenignConversations.of(
            trees, models.adversary, models.held_to, clean=settings.evaluation.clean,
            trees_per_batch=settings.rollout.trees_per_batch, most=settings.training.max_tokens_per_batch,
        )  # fmt: skip

    def _metrics(self, trees: Sequence[RolloutTree], found: Sequence[Failure], verdicts: int) -> dict[str, Any]:
        turns = [turn for tree in trees for turn in turns_of(tree.children)]
        part = len(found) / verdicts if verdicts else None
        return self._turn_metrics(turns) | {
            "failures": Failures(count=len(found), share=part, clean=sum(one.clean for one in found)),
            "distinct_failures": distinct_among([one.texts for one in found]),
        }

    def _attack(self, prefixes: Sequence[Prefix], keys: Keys, first: int, task: str) -> list[RolloutTree]:
        """One conversation with the policy from each prefix, led by the next adversary, from number ``first`` on."""
        models, found, size = self.models, dict[int, RolloutTree](), len(self.models.attackers)
        for number, attacker in enumerate(models.attackers.values()):
            if own := [i for i in range(len(prefixes)) if (first + i) % size == number]:
                trees = roll_out(
                    attacker, models.adversary, models.scorer, [prefixes[i] for i in own], keys[own], self.settings,
                    branching=1, task=task, progress=self.progress,
                )  # fmt: skip
                found.update(zip(own, trees, strict=True))
        return [found[i] for i in range(len(prefixes))]

    def _failures(self, trees: Sequence[RolloutTree], first: int) -> tuple[list[Failure], int]:
        names, chosen = list(self.models.attackers), self.settings.evaluation
        led = [names[(first + i) % len(names)] for i in range(len(trees))]
        return failures_in(
            trees, led, self.models.others, first=first, threshold=chosen.threshold, clean=chosen.clean
        )  # fmt: skip

    def _outcomes(self, found: Sequence[Failure]) -> list[_Outcome]:
        """A pair of replies to each failure, where its new replies give one; each process its share."""
        settings, models = self.settings, self.models
        judges = [models.scorer, *models.others]

        def work(mine: list[int]) -> list[_Outcome]:
            drawn = draw_replies(
                [found[i].conversation for i in mine], models.adversary, samples=settings.harden.samples,
                seed=settings.seed, trees_per_batch=settings.rollout.trees_per_batch, progress=self.progress,
            )  # fmt: skip
            extremes = repairs(drawn, judges, threshold=settings.evaluation.threshold)
            made = zip((found[i].turn for i in mine), drawn, extremes, strict=True)
            return [
                _Outcome(None, one) if isinstance(one, str) else _Outcome(_pair(one, replies, turn), "without tokens")
                for turn, replies, one in made
            ]

        return spread(_Outcome, len(found), work)


def _pair(repair: Repair, drawn: Drawn, turn: int) -> PreferencePair | None:
    """The pair in tokens of the defender; ``None`` where one side has none.

    Raises:
        RunError: The defender tells no tokens.
    """
    if drawn.prompt_ids is None:
        raise RunError("the defender tells no tokens; this should not happen")
    chosen, rejected = _ids(repair.chosen), _ids(repair.rejected)
    if not chosen or not rejected:
        return None
    return PreferencePair(
        prompt_ids=drawn.prompt_ids, chosen_ids=chosen, rejected_ids=rejected,
        margin=repair.rejected_toxicity - repair.chosen_toxicity, source="on_policy", depth=turn - 1,
        chosen_text=repair.chosen.text, rejected_text=repair.rejected.text,
    )  # fmt: skip


def _ids(speech: Speech) -> tuple[int, ...]:
    return speech.token_ids or ()
