"""What is no number reaches neither weights nor pairs: it is skipped, counted, logged; too much of it stops the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from astprompter.base.errors import RunError
from astprompter.config import RewardSettings, settings_from
from astprompter.models.local.lm import weights_hash
from astprompter.models.local.loading import load_model
from astprompter.rollout.reward import mean_nll
from astprompter.runs.directory import LOG, PAIRS
from astprompter.training.checkpoint import damage
from astprompter.training.preference import PreferenceTrainer
from helpers.files import read_rows
from helpers.tiny import WordScorer
from helpers.trainers import settings, trainer

NAN, INF = math.nan, math.inf


def run_of(path: Path, tokenizer: Any, **training: Any) -> PreferenceTrainer:
    values = settings(save_pairs=True, **training).as_dict() | {"supervision": {"q": 0.0}}
    return trainer(path, tokenizer, settings_from(values), defender_seed=5)


def finite_weights(run: PreferenceTrainer) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in run.models.adversary.model.parameters())


def only_good_turns_are_paired(run: PreferenceTrainer, reason: str) -> None:
    """Train; every iteration counts errors of this reason, and no pair holds the text that caused them."""
    run.run()
    rows = [row for row in read_rows(run.directory.path / LOG) if row["type"] == "iteration"]
    assert sum(row["errors"].get(reason, 0) for row in rows) > 0
    assert set().union(*(row["errors"] for row in rows)) == {reason}
    assert all(row["skipped_updates"] == 0 for row in rows)
    assert all(math.isfinite(row["reward"]["mean"]) for row in rows)
    assert finite_weights(run)


class Odd(WordScorer):
    """No number for every text with a 't'."""

    def __init__(self, value: float) -> None:
        self.value = value

    def score(self, texts: Any, contexts: Any = None) -> list[float]:
        return [self.value if "t" in text else score for text, score in zip(texts, super().score(texts), strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_scores(tmp_path: Path, tokenizer: Any, value: float) -> None:
    values = settings(save_pairs=True, updates=6, dev_every=2).as_dict() | {"supervision": {"q": 0.0}}
    run = trainer(tmp_path / "run", tokenizer, settings_from(values), scorer=Odd(value))
    only_good_turns_are_paired(run, "score is not finite")
    pairs = read_rows(tmp_path / "run" / PAIRS)
    assert pairs
    assert not any("t" in pair[side] for pair in pairs for side in ("chosen", "rejected"))


@pytest.mark.slow
@pytest.mark.parametrize("value", [NAN, -INF, INF])
def test_log_probabilities(tmp_path: Path, tokenizer: Any, value: float) -> None:
    """A defender whose likelihood of every utterance with a 't' is no number."""
    run = run_of(tmp_path / "run", tokenizer, updates=6, dev_every=2)
    session = type(run.models.defender.start(["x"], turns=1))
    real = session.hear

    def hear(self: Any, speeches: Any, *, likelihood: bool = False) -> Any:
        found = real(self, speeches, likelihood=likelihood)
        if not likelihood or found is None:
            return found
        return [(value, *row[1:]) if "t" in speech.text else row for speech, row in zip(speeches, found, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "hear", hear)
        only_good_turns_are_paired(run, "log-likelihood is not finite")
    pairs = read_rows(tmp_path / "run" / PAIRS)
    assert pairs
    assert not any("t" in pair[side] for pair in pairs for side in ("chosen", "rejected"))


@pytest.mark.slow
def test_a_defender_whose_logits_become_nan(tmp_path: Path, tokenizer: Any) -> None:
    run = run_of(tmp_path / "run", tokenizer, pairs_per_iteration=3, dev_every=30)
    before = weights_hash(run.models.adversary.model)
    with torch.no_grad():
        run.models.defender.model.transformer.ln_f.weight.fill_(NAN)  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=r"20 iterations in a row.*'logits are not finite'"):
        run.run()
    assert read_rows(tmp_path / "run" / PAIRS) == []
    assert weights_hash(run.models.adversary.model) == before
    row = read_rows(tmp_path / "run" / LOG)[0]
    assert (row["type"], row["best"], row["reward"]["mean"]) == ("dev", False, None)
    assert not (tmp_path / "run" / "best").exists()


def spoilt_gradient(model: Any) -> Any:
    """The loss is finite, its gradient is not."""
    return next(model.parameters()).register_hook(lambda gradient: gradient * NAN)


@pytest.mark.parametrize("kind", ["loss", pytest.param("gradient", marks=pytest.mark.slow)])
def test_updates(tmp_path: Path, tokenizer: Any, kind: str, monkeypatch: Any) -> None:
    """One update of three is spoilt: it is skipped and counted, and no other is."""
    import astprompter.training.preference as module

    run = run_of(tmp_path / "run", tokenizer, pairs_per_iteration=12, batch_size=4, dev_every=3)
    real, calls = module.ipo_loss, 0
    hooks: list[Any] = []

    def loss(*sides: Any, tau: float) -> Any:
        nonlocal calls
        calls += 1
        while hooks:
            hooks.pop().remove()
        if calls % 3 != 2:
            return real(*sides, tau=tau)
        if kind == "loss":
            return real(*sides, tau=tau) * NAN
        hooks.append(spoilt_gradient(run.models.adversary.model))
        return real(*sides, tau=tau)

    monkeypatch.setattr(module, "ipo_loss", loss)
    run.run()
    rows = [row for row in read_rows(tmp_path / "run" / LOG) if row["type"] == "iteration"]
    skipped, made = sum(row["skipped_updates"] for row in rows), rows[-1]["updates"]
    assert made == 9
    assert calls == made + skipped
    assert skipped == sum(call % 3 == 2 for call in range(1, calls + 1)) > 2
    assert finite_weights(run)
    assert run.state.skipped_in_a_row == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_ten_in_a_row_stop_the_run_even_over_several_iterations(
    tmp_path: Path, tokenizer: Any, kind: str, monkeypatch: Any
) -> None:
    """Three updates an iteration: a count that began anew with each would never come to ten."""
    import astprompter.training.preference as module

    run = run_of(tmp_path / "run", tokenizer, pairs_per_iteration=12, batch_size=4, updates=60, dev_every=3)
    run.iterate()
    run._save()
    before = weights_hash(run.models.adversary.model)
    if kind == "loss":
        monkeypatch.setattr(module, "ipo_loss", lambda *sides, tau: sides[0] * NAN)
    else:
        spoilt_gradient(run.models.adversary.model)
    with pytest.raises(RunError, match=r"10 updates in a row had a non-finite .*last checkpoint is good"):
        run.run()
    assert weights_hash(run.models.adversary.model) == before
    checkpoint = tmp_path / "run" / "checkpoint"
    assert damage(checkpoint) is None
    assert 6 <= json.loads((checkpoint / "state.json").read_text())["counters"]["skipped_in_a_row"] < 10
    assert all(row["skipped_updates"] > 0 for row in read_rows(tmp_path / "run" / LOG) if row["type"] == "iteration")
    assert bool(load_model(str(tmp_path / "run" / "best")))


@pytest.mark.parametrize("odd", [[NAN], [-1.0, -INF], [-INF, INF], [1e308, 1e308, INF]])
def test_no_mean_of_what_is_no_number(odd: list[float]) -> None:
    assert math.isnan(mean_nll(odd))
    weights = RewardSettings()
    assert math.isnan(weights.reward(tox_reply=odd[-1], tox_turn=0.5, nll=odd[0] * math.copysign(1, odd[-1])))


def test_infinities_that_would_cancel_are_no_reward() -> None:
    assert math.isnan(RewardSettings().reward(tox_reply=INF, tox_turn=0.5, nll=INF))
