"""The main loop on tiny models: learning, resuming, refusing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from astprompter.base.errors import RunError, UserError
from astprompter.base.files import append_rows
from astprompter.base.records import Node, PreferencePair, Prefix, RolloutTree, Speech, Turn
from astprompter.config import settings_from
from astprompter.models.local.lm import weights_hash
from astprompter.models.local.loading import load_model
from astprompter.runs.directory import LOG
from astprompter.runs.schema.run import LogRow
from astprompter.training.metrics import summary_line, why_no_pairs
from astprompter.training.optimizer import learning_rate
from astprompter.training.preference import PreferenceTrainer
from astprompter.training.state import Clock
from helpers.files import read_rows
from helpers.tiny import WordScorer
from helpers.trainers import OPENINGS, settings, stable, trainer


@pytest.mark.slow
def test_training_raises_the_reward_and_leaves_the_defender_alone(tmp_path: Path, tokenizer: Any) -> None:
    # The utterance itself is rewarded, over one turn: random models' replies hardly depend on it.
    chosen = settings_from(
        {
            **settings(updates=36, pairs_per_iteration=64, batch_size=16, dev_every=3, dev_prefixes=32).as_dict(),
            "rollout": {"horizon": 1, "max_new_tokens": 4},
            "reward": {"alpha": 0.0, "beta": 1.0, "lambda": 0.0},
            "supervision": {"q": 0.0},
        }
    )
    run = trainer(tmp_path / "run", tokenizer, chosen)
    run.dev = OPENINGS * 4
    before = weights_hash(run.models.defender.model)
    run.run()
    rows = read_rows(tmp_path / "run" / LOG)
    dev = [row["reward"]["mean"] for row in rows if row["type"] == "dev"]
    assert max(dev) > dev[0] + 0.1
    assert weights_hash(run.models.defender.model) == before
    assert weights_hash(run.models.adversary.model) != before
    best = max(range(len(dev)), key=dev.__getitem__)
    saved = load_model(str(tmp_path / "run" / "best"))
    assert weights_hash(saved) != before
    assert [row["best"] for row in rows if row["type"] == "dev"][best]


@pytest.mark.slow
def test_resumed_run_is_the_unbroken_run(tmp_path: Path, tokenizer: Any) -> None:
    chosen = settings(save_pairs=True, dev_every=2, updates=15, reuse=1)
    straight = trainer(tmp_path / "a", tokenizer, chosen)
    straight.run()
    broken = trainer(tmp_path / "b", tokenizer, chosen)
    stop = broken.iterate
    count = 0

    def killed() -> Any:
        nonlocal count
        count += 1
        if count == 3:
            for name in (LOG, "trees.jsonl"):
                append_rows(broken.directory.path / name, [{"type": "iteration", "torn": True}])
            raise KeyboardInterrupt
        return stop()

    broken_iterate = pytest.MonkeyPatch()
    broken_iterate.setattr(PreferenceTrainer, "iterate", lambda self: killed())
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    broken_iterate.undo()
    resumed = trainer(tmp_path / "b", tokenizer, chosen, resume=True)
    assert resumed.state.iteration == 2
    resumed.run()
    assert weights_hash(resumed.models.adversary.model) == weights_hash(straight.models.adversary.model)
    for name in ("log.jsonl", "pairs.jsonl", "trees.jsonl"):
        assert stable(read_rows(tmp_path / "a" / name)) == stable(read_rows(tmp_path / "b" / name))
    moments = [
        [run.updater.optimizer.state[parameter] for parameter in run.models.adversary.model.parameters()]
        for run in (straight, resumed)
    ]
    for a, b in zip(*moments, strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
        assert a["step"] == b["step"]


@pytest.mark.slow
def test_a_run_that_is_trained_longer_is_the_longer_run(tmp_path: Path, tokenizer: Any) -> None:
    straight = trainer(tmp_path / "a", tokenizer, settings(updates=9))
    straight.run()
    first = trainer(tmp_path / "b", tokenizer, settings(updates=6))
    first.run()
    ends = [row["updates"] for row in read_rows(tmp_path / "a" / LOG) if row["type"] == "iteration"]
    assert 6 in ends  # an iteration ends where the shorter run did
    longer = trainer(tmp_path / "b", tokenizer, settings(updates=9), resume=True)
    assert longer.state == first.state
    longer.run()
    assert longer.state == straight.state
    assert weights_hash(longer.models.adversary.model) == weights_hash(straight.models.adversary.model)
    assert stable(read_rows(tmp_path / "a" / LOG)) == stable(read_rows(tmp_path / "b" / LOG))
    best = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in "ab"]
    assert best[0] == best[1]


@pytest.mark.slow
def test_resuming_before_the_first_iteration_evaluates_the_untuned_policy_once(tmp_path: Path, tokenizer: Any) -> None:
    straight = trainer(tmp_path / "a", tokenizer, settings())
    straight.run()
    broken = trainer(tmp_path / "b", tokenizer, settings())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreferenceTrainer, "iterate", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            broken.run()
    trainer(tmp_path / "b", tokenizer, settings(), resume=True).run()
    assert stable(read_rows(tmp_path / "a" / LOG)) == stable(read_rows(tmp_path / "b" / LOG))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]), ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.25])],
)
def test_learning_rate_by_hand(schedule: str, expected: list[float]) -> None:
    training = settings(warmup_updates=4, updates=12, schedule=schedule).training
    rates = [learning_rate(training, done) / 1e-3 for done in (0, 1, 2, 3, 4, 8, 10)]
    assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_one_tree_per_dev_evaluation_is_kept(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "run", tokenizer, settings(updates=9, dev_every=2, save_pairs=True))
    run.run()
    rows = read_rows(tmp_path / "run" / "trees.jsonl")
    dev = [row["iteration"] for row in read_rows(tmp_path / "run" / LOG) if row["type"] == "dev"]
    assert [row["iteration"] for row in rows] == dev[1:]  # none before the first iteration
    nodes = rows[0]["nodes"]
    assert [node["depth"] for node in nodes] == [1, 2, 2, 1, 2, 2]
    assert [node["parent"] for node in nodes] == [None, 0, 0, None, 3, 3]
    texts = {row[side] for row in read_rows(tmp_path / "run" / "pairs.jsonl") for side in ("chosen", "rejected")}
    for first, second in ((0, 3), (1, 2), (4, 5)):
        pair = sorted((nodes[first], nodes[second]), key=lambda node: -node["reward"])
        assert [node["choice"] for node in pair] in (["chosen", "rejected"], [None, None])
        if pair[0]["choice"]:
            assert pair[0]["reward"] > pair[1]["reward"]
    assert any(node["choice"] == "chosen" and node["utterance"] in texts for row in rows for node in row["nodes"])


@pytest.mark.slow
def test_accumulation_is_one_larger_batch(tmp_path: Path, tokenizer: Any) -> None:
    one = trainer(tmp_path / "a", tokenizer, settings(updates=1))
    two = trainer(tmp_path / "b", tokenizer, settings(updates=1, max_tokens_per_batch=50))
    rows = [one.iterate(), two.iterate()]
    assert rows[0].loss == pytest.approx(rows[1].loss, rel=1e-5)
    assert rows[0].gradient_norm == pytest.approx(rows[1].gradient_norm, rel=1e-4)
    for a, b in zip(*(run.models.adversary.model.parameters() for run in (one, two)), strict=True):
        # The first moment is a tenth of the gradient; the weights themselves are its sign, noise included.
        first, second = one.updater.optimizer.state[a]["exp_avg"], two.updater.optimizer.state[b]["exp_avg"]
        assert float((first - second).norm()) <= 1e-4 * float(first.norm()) + 1e-6


@pytest.mark.slow
def test_first_update_has_the_loss_of_the_formula(tmp_path: Path, tokenizer: Any) -> None:
    # Before any update π_θ = π_ref, so h = 0 and the IPO loss is (1/(2τ))² = 25 at τ = 0.1.
    row = trainer(tmp_path / "a", tokenizer, settings(updates=1)).iterate()
    assert row.h == pytest.approx(0.0, abs=1e-3)
    assert row.loss == pytest.approx(25.0, abs=1e-2)


@pytest.mark.slow
def test_reference_is_the_start_of_the_adversary_when_the_defender_differs(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(updates=1), defender_seed=5)
    assert run.iterate().h == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("loss", [{"kind": "dpo"}, {"reduction": "mean"}, {"kind": "margin", "eta": 0.5}])
def test_other_losses_train(tmp_path: Path, tokenizer: Any, loss: dict[str, Any]) -> None:
    chosen = settings_from(settings(updates=2).as_dict() | {"loss": loss})
    row = trainer(tmp_path / "a", tokenizer, chosen).iterate()
    assert row.updates == 2
    assert row.skipped_updates == 0


@pytest.mark.parametrize(
    ("q", "count", "low", "high"),
    [(0.0, 21, 0, 0), pytest.param(0.5, 192, 70, 122, marks=pytest.mark.slow), (1.0, 21, 21, 21)],
)
def test_q_swaps_pairs(tmp_path: Path, tokenizer: Any, q: float, count: int, low: int, high: int) -> None:
    values = settings(pairs_per_iteration=count, updates=1).as_dict() | {"supervision": {"q": q}}
    values["rollout"]["horizon"] = 3
    run = trainer(tmp_path / "a", tokenizer, settings_from(values))
    pairs = run.iterate().pairs
    assert low <= pairs.supervised <= high


@pytest.mark.slow
def test_supervision_counted_by_the_pairs_wanted_makes_up_for_those_that_are_not_found(
    tmp_path: Path, tokenizer: Any
) -> None:
    values = settings(pairs_per_iteration=24, batch_size=24, updates=1, min_margin=9.0).as_dict()
    pairs = []
    for unit in ("pair", "wanted"):
        values["supervision"] = {"q": 0.5, "unit": unit}
        pairs.append(trainer(tmp_path / unit, tokenizer, settings_from(values)).iterate().pairs)
    assert (pairs[0].on_policy, pairs[0].supervised, pairs[1].on_policy) == (0, 0, 0)
    assert 4 <= pairs[1].supervised <= 20  # binomial, mean 12, standard deviation 2.4


def test_pairs_of_a_margin_are_used_again_for_a_while(tmp_path: Path, tokenizer: Any) -> None:
    run = trainer(tmp_path / "run", tokenizer, settings(reuse=2, reuse_margin=0.25))

    def pair(name: int, margin: float, source: Any = "on_policy", logp: float = -1.0) -> PreferencePair:
        return PreferencePair((name,), (1, 2), (3,), margin, source, 0, "", "", logp, -2.0)

    collected = [
        [pair(0, 0.5), pair(1, 0.2), pair(2, 0.25), pair(3, 9.0, "supervised"), pair(4, 1.0, logp=-math.inf)],
        [pair(5, 0.7)],
        [],
        [],
    ]
    again = []
    for run.state.iteration, pairs in enumerate(collected):
        again.append(run._again(pairs))
    assert [[pair.prompt_ids[0] for pair in pairs] for pairs in again] == [[], [0, 2], [0, 2, 5], [5]]
    assert again[1][0] == collected[0][0]  # with the log-probabilities of the reference that were stored


@pytest.mark.slow
def test_per_episode_supervision_makes_an_eighth_at_depth_three(tmp_path: Path, tokenizer: Any) -> None:
    values = settings(pairs_per_iteration=400, updates=1).as_dict() | {"supervision": {"q": 0.5, "unit": "episode"}}
    values["rollout"]["horizon"] = 3
    pairs = trainer(tmp_path / "a", tokenizer, settings_from(values)).iterate().pairs
    share = pairs.supervised / (pairs.supervised + pairs.on_policy)
    assert 0.07 < share < 0.19  # 1 / (1 + 7) = 12.5 %


def test_non_finite_losses_change_nothing_and_stop_after_ten(tmp_path: Path, tokenizer: Any, monkeypatch: Any) -> None:
    import astprompter.training.preference as module

    run = trainer(tmp_path / "a", tokenizer, settings(pairs_per_iteration=60, updates=60))
    before = weights_hash(run.models.adversary.model)
    monkeypatch.setattr(module, "ipo_loss", lambda *sides, tau: sides[0] * float("nan"))
    with pytest.raises(UserError, match="10 updates in a row"):
        run.iterate()
    assert weights_hash(run.models.adversary.model) == before


@pytest.mark.parametrize(
    ("turns", "margin", "why", "remedy"),
    [
        ([(0.5, 1, None), (0.5, 2, None)], 0.0, "equal rewards 1 times", "livelier data.train"),
        (
            [(0.5, 1, None), (0.6, 2, None)],
            0.5,
            "margin below training.min_margin 1 times",
            "lower training.min_margin",
        ),
        ([(0.5, 1, None), (0.6, 1, None)], 0.0, "equal utterances 1 times", "rollout.temperature"),
        ([(0.5, 1, None), (math.nan, 2, "timeout")], 0.0, "no reward 1 times; 1 turns: 'timeout'", "mend"),
    ],
)
def test_why_no_pair_came_out_is_counted(turns: list[Any], margin: float, why: str, remedy: str) -> None:
    nodes = [
        Node(Turn(Speech(" a", (token,)), Speech(" b"), 1.0, (-1.0,), 0.0, 0.0, 0.0, reward, error), (1,))
        for reward, token, error in turns
    ]
    errors = {error: 1 for _, _, error in turns if error}
    said = why_no_pairs([RolloutTree(Prefix("p", "x"), nodes)], margin, errors)
    assert said.startswith(f"{why}. ")
    assert remedy in said


@pytest.mark.slow
def test_a_run_whose_best_is_its_start_says_so(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(updates=1))
    run.state.best_reward, run.state.best_iteration = 1e6, 0
    run.resumed = True
    run.run()
    assert "training kept its start" in caplog.text


@pytest.mark.slow
def test_a_reward_that_never_differs_stops_the_run(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    class Flat(WordScorer):
        def score(self, texts: Any, contexts: Any = None) -> list[float]:
            return [0.25 for _ in texts]

    few = settings(pairs_per_iteration=3, dev_every=30).as_dict()
    values = few | {"supervision": {"q": 0}, "reward": {"lambda": 0}}
    run = trainer(tmp_path / "a", tokenizer, settings_from(values), scorer=Flat())
    with pytest.raises(UserError, match="20 iterations in a row gave no preference pair: equal rewards 3 times"):
        run.run()
    (said,) = [record for record in caplog.records if "gave no preference pair" in record.message]
    assert (said.levelname, said.message.partition(".")[0]) == (
        "WARNING", "iteration 1 gave no preference pair: equal rewards 3 times"
    )  # fmt: skip
    assert "reward.lambda above 0" in said.message


def test_supervision_without_texts_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"supervision\.q"):
        trainer(tmp_path / "a", tokenizer, settings(), texts=[])


@pytest.mark.slow
def test_best_folder_is_a_normal_model_folder(tmp_path: Path, tokenizer: Any) -> None:
    trainer(tmp_path / "a", tokenizer, settings(updates=3)).run()
    best = tmp_path / "a" / "best"
    generation = json.loads((best / "generation_config.json").read_text())
    assert (generation["max_new_tokens"], generation["top_p"], generation["temperature"]) == (4, 0.9, 0.7)
    assert generation["min_new_tokens"] == 2
    assert "Content warning" in (best / "README.md").read_text()
    assert (best / "tokenizer.json").exists()
    assert not list((tmp_path / "a").rglob("*.bin")) + list((tmp_path / "a").rglob("*.pt"))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("No space left on device"),
        pytest.param(OSError(28, "No space left on device"), marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_leaves_the_previous_best(
    tmp_path: Path, tokenizer: Any, error: Exception, monkeypatch: Any
) -> None:
    run = trainer(tmp_path / "a", tokenizer, settings(updates=1))
    run.measure_dev()
    before = {path.name: path.read_bytes() for path in run.directory.best.iterdir()}

    def full(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(run.models.adversary.model, "save_pretrained", full)
    run.state.best_reward = -9.0
    with pytest.raises(RunError, match=r"cannot write the best adversary to '.*best': No space left on device"):
        run.measure_dev()
    assert {path.name: path.read_bytes() for path in run.directory.best.iterdir()} == before


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    trainer(tmp_path / "a", tokenizer, settings())
    with pytest.raises(UserError, match="--resume"):
        trainer(tmp_path / "a", tokenizer, settings())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        trainer(tmp_path / "b", tokenizer, settings())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json.tmp").write_text("{")  # killed while it was made
    trainer(tmp_path / "c", tokenizer, settings())


@pytest.mark.slow
def test_batches_of_trees_hold_the_same_pairs(tmp_path: Path, tokenizer: Any) -> None:
    runs = [trainer(tmp_path / name, tokenizer, settings(batching=name)) for name in ("pairs", "trees")]
    pairs = [run.collector.collect(run.state, Clock()).pairs for run in runs]
    assert pairs[0] != pairs[1]
    assert sorted(pairs[0], key=repr) == sorted(pairs[1], key=repr)


@pytest.mark.slow
def test_models_without_tree_masks_train_the_same_and_it_is_said_once(
    tmp_path: Path, tokenizer: Any, caplog: Any
) -> None:
    caplog.set_level("INFO", "astprompter")
    rows = []
    for name in ("packed", "separate"):
        run = trainer(tmp_path / name, tokenizer, settings(updates=3), defender_seed=1)
        if name == "separate":
            run.models.adversary.packs = run.models.reference.packs = False
            assert not [line for line in caplog.messages if "refuses a mask" in line]
        run.run()
        rows.append([row for row in read_rows(tmp_path / name / LOG) if row["type"] == "iteration"])
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-3)
    assert len([line for line in caplog.messages if "refuses a mask" in line]) == 2  # adversary and reference


def test_what_gave_nothing_says_so_once_and_stops_in_the_end(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    idle = trainer(tmp_path / "run", tokenizer, settings())
    idle._heed_no_pair([], {})
    idle._heed_no_pair([], {})
    assert [record.levelname for record in caplog.records if "gave no preference pair" in record.message] == ["WARNING"]
    assert "no eliciting text gave one; use other data.eliciting" in caplog.text
    idle.idle = 20
    with pytest.raises(RunError, match="20 iterations in a row gave no preference pair"):
        idle._heed_no_pair([], {})
    assert summary_line(LogRow(type="iteration", iteration=3, updates=7)).endswith("update     7")
