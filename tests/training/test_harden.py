"""The repair of a defender on tiny models: its loss by hand, what it keeps, resuming, what it may not see."""

from __future__ import annotations

import copy
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from astprompter.base.records import PreferencePair, Prefix
from astprompter.base.vectors import words_of
from astprompter.config import Settings, load_preset, merge, settings_from
from astprompter.models.local.lm import LanguageModel, weights_hash
from astprompter.models.local.reference import frozen_start
from astprompter.rollout.repair import draw_replies
from astprompter.runs.directory import ATTACKS, LOG, RunDirectory
from astprompter.runs.schema.run import Benign, Failures, LogRow, Spoken
from astprompter.runs.schema.state import Counters
from astprompter.training.benign import BenignConversations
from astprompter.training.harden import HardenTrainer, RepairModels
from astprompter.training.loss import divergence
from astprompter.training.packing import pack, sequence_divergences
from astprompter.training.sharding import Placement
from helpers.files import config_file, read_rows
from helpers.tiny import FAMILIES, PREFIXES, make_model, probed_once
from helpers.trainers import BRIEF, OPENINGS, stable

HELD_OUT = [Prefix(f"h{i}", f"{text[:20]} Then it rained.") for i, text in enumerate(PREFIXES)]


class Vowels:
    """A reply is toxic when it holds many of some harmless letters; a tiny model writes such replies now and then."""

    name = "vowels"

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [min(0.95, sum(text.count(letter) for letter in "aeiou") / 4) for text in texts]


def settings(**sections: Any) -> Settings:
    values: dict[str, Any] = {}
    merge(values, load_preset("harden").settings)
    merge(values, {
        "rollout": {"horizon": 2, "max_new_tokens": 4},
        "training": {"updates": 6, "pairs_per_iteration": 8, "batch_size": 4, "learning_rate": 1e-3,
                     "warmup_updates": 1, "dev_every": 1, "dev_prefixes": 4},
        "harden": {"adversaries": ["untuned"], "prefixes": 6, "samples": 4, "benign": 6, "benign_batch": 2,
                   "budget": 0.2, "variety_budget": 1.0},
        "evaluation": {"clean": 0.99, "threshold": 0.45},
    })  # fmt: skip
    merge(values, sections)
    return settings_from(values)


def trainer(path: Path, tokenizer: Any, chosen: Settings, *, resume: bool = False, **options: Any) -> HardenTrainer:
    lms = {}
    for name, seed in (("policy", 0), ("tuned", 3), ("untuned", 1)):
        with probed_once("gpt2", len(tokenizer)):
            lms[name] = LanguageModel(
                make_model("gpt2", len(tokenizer), seed=seed), tokenizer, name=name, sampling=BRIEF
            )
    with probed_once("gpt2", len(tokenizer)):
        start = frozen_start(lms["policy"], "policy")
    models = RepairModels(
        lms["policy"], start, start, options.get("scorer", Vowels()), free_reference=False,
        attackers={"tuned": lms["tuned"], "untuned": lms["untuned"]}, speaker=lms["untuned"],
        adversary_sha256=start.weights_sha256(), defender_sha256=start.weights_sha256(),
        others=options.get("others", ()), held_to=options.get("held_to", start),
    )  # fmt: skip
    run = RunDirectory.open(path) if resume else RunDirectory.create(path, config_file(chosen))
    made = HardenTrainer(chosen, models, OPENINGS, HELD_OUT, [], run)
    if resume:
        made.resume()
    return made


def test_divergence_by_hand() -> None:
    # old (1/2, 1/2), new (1/4, 3/4): KL = ½ log 2 + ½ log ⅔ = ½ log(4/3)
    old, new = torch.zeros(1, 2), torch.log(torch.tensor([[0.25, 0.75]]))
    assert divergence(old, new).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert divergence(new, new).item() == pytest.approx(0.0, abs=1e-6)
    never = torch.tensor([[-math.inf]])  # a vocabulary that was filled up: nobody says its last token
    tuned = torch.cat([new, never], dim=1).requires_grad_()
    filled = divergence(torch.cat([old, never], dim=1), tuned).sum()
    filled.backward()
    assert filled.item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert tuned.grad is not None
    assert tuned.grad.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_divergence_and_its_gradient_are_those_of_separate_sequences(
    make_lm: Any, family: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("astprompter.training.packing._LOGITS_AT_ONCE", 3 * 320)  # slabs of three positions
    lm, other = make_lm(family), make_lm(family, seed=1)
    rows = [(5, 9, 17, 3, 44), (5, 9, 30, 31, 32, 33, 34), (99, 98)]
    expected = []
    for ids in rows:
        tables = [m.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1] for m in (other, lm)]
        old, new = tables[0].detach().log_softmax(-1), tables[1].log_softmax(-1)
        expected.append((old.exp() * (old - new)).sum())
    torch.stack(expected).sum().backward()
    wanted = [p.grad.clone() for p in lm.model.parameters() if p.grad is not None]
    lm.model.zero_grad()
    for share in (False, True):
        got = sequence_divergences(lm, other, pack([(ids[:1], ids[1:]) for ids in rows], share=share))
        torch.testing.assert_close(got, torch.stack(expected).detach(), rtol=0, atol=1e-5)
        got.sum().backward()
        for ours, theirs in zip([p.grad for p in lm.model.parameters() if p.grad is not None], wanted, strict=True):
            assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm()) + 1e-7
        lm.model.zero_grad()


def test_the_loss_of_an_update_by_hand(tmp_path: Path, tokenizer: Any) -> None:
    chosen = settings(loss={"tau": 0.25}, harden={"sft": 0.5, "keep": 7.0}, training={"learning_rate": 1e-9})
    run = trainer(tmp_path / "a", tokenizer, chosen)
    with torch.no_grad():
        for parameter in run.models.adversary.model.parameters():
            parameter.add_(0.02 * torch.ones_like(parameter))
    pair = PreferencePair((5, 9, 17), (7, 8), (30, 31, 32), 0.5, "on_policy", 0, ref_chosen_logp=-9.0,
                          ref_rejected_logp=-14.0)  # fmt: skip
    policy, reference = (lm.model for lm in (run.models.adversary, run.models.reference))

    def table(model: Any, ids: Any) -> torch.Tensor:
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)

    with torch.no_grad():
        logps = [
            sum(float(table(policy, (*pair.prompt_ids, *ids))[2 + i, token]) for i, token in enumerate(ids))
            for ids in (pair.chosen_ids, pair.rejected_ids)
        ]
        rows = [run.benign.rows[i] for i in _first_of(run)]
        kls = [
            (table(reference, ids).exp() * (table(reference, ids) - table(policy, ids))).sum(-1)[:-1] for ids in rows
        ]
    h = (logps[0] - logps[1]) - (-9.0 + 14.0)
    kl = float(torch.cat(kls).mean())
    facts = run.update([pair])
    assert facts is not None
    assert kl > 1e-4
    assert facts["kl"] == pytest.approx(kl, rel=1e-3)
    assert facts["chosen_nll"] == pytest.approx(-logps[0] / 2, rel=1e-4)
    assert facts["loss"] == pytest.approx((h - 2) ** 2 + 0.5 * -logps[0] / 2 + 7.0 * kl, rel=1e-3)


def _first_of(run: HardenTrainer) -> list[int]:
    from astprompter.base.randomness import shuffled_epochs

    return list(shuffled_epochs(len(run.benign.rows), 0, 2, run.settings.seed, "held to"))


def test_the_policy_that_is_kept_fails_least_within_the_budget(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(harden={"budget": 0.01, "variety_budget": 0.05}))

    def row(share: float | None, nll: float, vendi: float | None = 20.0, iteration: int = 1) -> LogRow:
        failing = Failures(count=1, share=share, clean=0)
        before, after = (Spoken(tokens=6.0, distinct_2=0.0, vendi=of) for of in (20.0, vendi))
        return LogRow(type="dev", iteration=iteration, updates=1, failures=failing,
                      benign=Benign(tokens=9, nll_before=2.0, nll=nll, kl=0.0, replies=9, spoken_before=before,
                                    spoken=after))  # fmt: skip

    assert run.is_best(row(0.5, 2.0))
    run.state.best_failures = 0.5
    for of, best in (
        ((0.4, 2.019), True), ((0.4, 2.021), False), ((0.5, 2.0), False), ((None, 2.0), False), ((0.0, 1.5), True),
        ((0.4, 2.0, 19.1), True), ((0.4, 2.0, 18.9), False), ((0.4, 2.0, None), False), ((0.4, 2.0, 25.0), True),
    ):  # fmt: skip
        assert run.is_best(row(*of)) is best, of
    run.state = Counters()
    start = row(0.3, 2.0, 18.0, iteration=0)  # a later round may begin with a model that is over a budget
    assert run.is_best(start)
    run.keep(start)
    assert not run.is_best(row(0.2, 2.0, 18.0))
    assert run.is_best(row(0.4, 2.0, 19.5))  # what keeps to the budgets is taken before it


def test_new_replies_in_benign_conversations_are_the_same_for_the_same_model(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings())
    row = run.dev_row().benign
    assert row is not None
    assert row.replies == 4 * len(run.held_out.conversations)
    assert row.spoken == row.spoken_before == run.spoken_before
    assert row.fall == 0.0
    said = [
        reply
        for one in draw_replies(run.held_out.conversations, run.models.adversary, samples=4, seed=run.settings.seed)
        for reply in one.replies[1:]
    ]
    assert len(said) == row.replies
    assert run.spoken_before.tokens == pytest.approx(sum(len(reply.token_ids or ()) for reply in said) / len(said))
    pairs = [pair for reply in said for pair in pairwise(words_of(reply.text))]
    assert run.spoken_before.distinct_2 == pytest.approx(len(set(pairs)) / len(pairs))
    with torch.no_grad():
        for parameter in run.models.adversary.model.parameters():
            parameter.mul_(3.0)
    assert run.dev_row().benign != row


def test_benign_conversations_end_before_the_first_text_that_is_not_clean(tmp_path: Path, tokenizer: Any) -> None:
    from helpers.tiny import WordScorer

    run = trainer(tmp_path / "a", tokenizer, settings(), scorer=WordScorer())
    whole = run.benign
    assert run.nll_before == pytest.approx(run.held_out.nll(run.updater.placement), rel=1e-6)
    assert run.held_out.divergence() == pytest.approx(0.0, abs=1e-6)
    stricter = trainer(tmp_path / "b", tokenizer, settings(evaluation={"clean": 0.3}), scorer=WordScorer()).benign
    assert 0 < stricter.tokens < whole.tokens
    assert {row[: len(short)] for short in stricter.rows for row in whole.rows if row[: len(short)] == short}
    with pytest.raises(Exception, match=r"is clean \(evaluation.clean=0\)"):
        BenignConversations.of([], run.models.adversary, run.models.reference, clean=0.0, most=99)


def test_a_later_repair_is_held_to_what_the_first_defender_was(tmp_path: Path, tokenizer: Any) -> None:
    with probed_once("gpt2", len(tokenizer)):
        first = LanguageModel(make_model("gpt2", len(tokenizer), seed=5), tokenizer, name="first", sampling=BRIEF)
    run = trainer(tmp_path / "a", tokenizer, settings(), held_to=first)
    own = trainer(tmp_path / "b", tokenizer, settings())
    assert run.benign.rows != own.benign.rows  # they are the first one's conversations
    assert run.held_out.divergence() > 0.0  # the policy is already elsewhere
    assert run.nll_before == pytest.approx(run.held_out.nll(Placement(first, shard=False)), rel=1e-6)
    assert run.nll_before != pytest.approx(run.held_out.nll(run.reference), rel=1e-3)
    assert run.models.hashes["held to"] == first.weights_sha256()
    assert "held to" not in own.models.hashes


@pytest.mark.slow
def test_a_defender_that_fails_at_nothing_ends_the_repair(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    class Harmless:
        name = "harmless"

        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [0.0 for _ in texts]

    run = trainer(tmp_path / "a", tokenizer, settings(), scorer=Harmless())
    before = weights_hash(run.models.adversary.model)
    run.run()
    assert (run.state.updates, run.state.iteration, run.state.best_iteration) == (0, 3, 0)
    assert weights_hash(run.models.adversary.model) == before
    assert "best/ is the defender as it was" in caplog.text


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_repair_that_finds_no_pair_says_why_and_ends(
    tmp_path: Path, tokenizer: Any, caplog: Any, monkeypatch: Any, silent: bool
) -> None:
    monkeypatch.setattr("astprompter.training.harden._IDLE_ITERATIONS_IN_A_ROW", 2)

    class Constant:
        name = "constant"

        def __init__(self, value: float) -> None:
            self.value = value

        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [self.value for _ in texts]

    run = trainer(
        tmp_path / "a", tokenizer, settings(), scorer=Constant(0.9), others=[Constant(math.nan)] if silent else ()
    )
    run.run()
    assert (run.state.updates, run.state.iteration) == (0, 2)
    why = "no reply could be judged" if silent else " attacks without a harmless reply"
    assert re.search(rf"iteration 1 gave no pair: \d*{why}\n", caplog.text)
    assert re.search(rf"2 iterations in a row gave no pair, so the repair ends: \d*{why}\n", caplog.text)
    first = read_rows(tmp_path / "a" / LOG)[0]
    assert first["failures"]["share"] == (None if silent else 1.0)
    assert (first["best"], first["distinct_failures"] > 0) == (not silent, not silent)


@pytest.mark.slow
def test_a_repair_lowers_the_failures_within_its_budget(tmp_path: Path, tokenizer: Any) -> None:
    chosen = settings(
        training={"updates": 12, "pairs_per_iteration": 16, "batch_size": 8, "dev_prefixes": 8, "dev_every": 3},
        harden={"prefixes": 8, "keep": 10.0, "budget": 0.05},
    )
    run = trainer(tmp_path / "a", tokenizer, chosen)
    attackers = copy.deepcopy([weights_hash(one.model) for one in run.models.attackers.values()])  # type: ignore[attr-defined]
    run.run()
    rows = read_rows(tmp_path / "a" / LOG)
    dev = [row for row in rows if row["type"] == "dev"]
    kept = next(row for row in reversed(dev) if row["best"])
    assert kept["failures"]["share"] < 0.6 * dev[0]["failures"]["share"]
    assert kept["benign"]["nll"] <= 1.05 * kept["benign"]["nll_before"]
    assert [weights_hash(one.model) for one in run.models.attackers.values()] == attackers  # type: ignore[attr-defined]
    assert (tmp_path / "a" / "frozen.json").is_file()
    card = (tmp_path / "a" / "best" / "README.md").read_text()
    assert f"{dev[0]['failures']['share']:.1%} of the replies" in card
    attacks = read_rows(tmp_path / "a" / ATTACKS)
    assert len(attacks) == sum(row["pairs"]["on_policy"] for row in rows if row["type"] == "iteration")
    assert {row["adversary"] for row in attacks} <= {"tuned", "untuned"}
    assert {row["prefix_id"] for row in attacks} <= {prefix.id for prefix in OPENINGS}
    assert all(row["margin"] > 0 for row in attacks)


@pytest.mark.slow
def test_a_resumed_repair_is_the_unbroken_one(tmp_path: Path, tokenizer: Any, monkeypatch: Any) -> None:
    chosen = settings(training={"save_pairs": True, "updates": 4, "dev_every": 2})
    straight = trainer(tmp_path / "a", tokenizer, chosen)
    straight.run()
    broken = trainer(tmp_path / "b", tokenizer, chosen)
    iterate = HardenTrainer.iterate

    def killed(self: HardenTrainer) -> Any:
        if self.state.iteration == 1:
            raise KeyboardInterrupt
        return iterate(self)

    monkeypatch.setattr(HardenTrainer, "iterate", killed)
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    monkeypatch.undo()
    resumed = trainer(tmp_path / "b", tokenizer, chosen, resume=True)
    assert resumed.state.iteration == 1
    resumed.run()
    assert weights_hash(resumed.models.adversary.model) == weights_hash(straight.models.adversary.model)
    for name in (LOG, ATTACKS, "pairs.jsonl"):
        assert stable(read_rows(tmp_path / "a" / name)) == stable(read_rows(tmp_path / "b" / name))
