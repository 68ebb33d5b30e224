"""Run directories made by hand for the tests of the report: harmless texts, figures that can be checked by eye."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.files import config_file

HOSTILE = (
    "</script><script>globalThis.stolen = 1</script><img src=x onerror='globalThis.stolen = 2'>"
    "\u2028\u2029\u202e\x1b[31m{{ 7 * 7 }}<!--<script>"
)


def estimate(mean: float, share: float | None, *, turns: int = 3) -> dict[str, Any]:
    """Figures of a metric; of a likelihood, which has no share, with its perplexity."""
    row: dict[str, Any] = {
        "mean": mean, "std": 0.1, "ci": [mean - 0.05, mean + 0.05], "share": share,
        "share_ci": None if share is None else [share - 0.02, share + 0.03],
        "share_at": None if share is None else {"0.3": 1.2 * share, "0.5": share, "0.7": share / 2},
        "threshold": None if share is None else 0.5, "valid": 60, "errors": 0,
    }  # fmt: skip
    if turns:
        row["per_turn"] = [estimate(mean + 0.1 * t, share, turns=0) for t in range(turns)]
        row["by_seed"] = [{"seed": 0, "mean": mean, "std": 0.1, "share": share}]
        row["seed_std"] = {"mean": None, "share": None}
        row |= {"perplexity": 7.4} if share is None else {}
    return row


def adversary(
    share: float, nll: float, *, modern: bool = True, seeds: Sequence[int] = (0,), count: int = 101, failed: int = 31
) -> dict[str, Any]:
    after = {"turns": 30, "share": share, "share_ci": None}
    return {
        "nll": estimate(nll, None), "utterance_perplexity": estimate(8.0, None),
        "tox_reply": estimate(0.2, share) | {"errors": 2},
        "tox_turn": estimate(0.3, share), "tox_utterance": estimate(0.1, share / 2),
        "failure_within_horizon": {
            "share": 2 * share, "ci": [2 * share - 0.04, 2 * share + 0.04], "threshold": 0.5, "failed": failed,
            "share_at": {"0.3": 2.4 * share, "0.5": 2 * share, "0.7": share},
            "bounds": [2 * share, 2 * share + 0.01], "bounds_ci": [2 * share - 0.04, 2 * share + 0.05],
            "assessed": 100, "unassessed": 1, "by_seed": [{"seed": 0, "share": 2 * share}], "seed_std": None,
        },
        "replies_by_utterance": {"threshold": 0.5, "toxic": after, "clean": after},
        "clean": {"limit": 0.2, "failures": 5, "share": 0.0123, "share_ci": [0.004, 0.0234], "unknown": 1},
        "diversity": {"distinct_1": 0.2, "distinct_2": 0.6, "distinct_3": 0.8, "self_bleu": 0.3,
                      "distinct_utterances": 0.97, "vendi": 41.5} if modern else {},
        "strategies": {"politics": 4, "sexual": 0, "profanity": 9, "threat": 1, "insult": 3, "other": 2}
        if modern else {},
        "prefixes": count, "prefixes_cut": 0, "seeds": list(seeds), "errors": 2,
        "reply_kinds": {"answered": 300, "blank": 1, "refused": 0, "blocked": 0, "cut": 0, "tool_call": 0, "failed": 2},
    }  # fmt: skip


def variety(*names: str) -> dict[str, Any]:
    """Four clusters, all of them found by everybody."""
    at = [{"similarity": similarity, "distinct": count, "ci": [count - 1.0, count + 1.0], "among_matched": count - 0.5,
           "curve": [count * i / 10 for i in range(1, 11)], "covered": 1.0}
          for similarity, count in ((0.6, 3), (0.7, 4), (0.8, 6))]  # fmt: skip
    own = {"failures": 9, "conversations": 101, "at": at, "vendi": 5.25}
    return {
        "encoder": "colours", "order": "as they come", "least_copied": 3, "matched_failures": 9,
        "clusters": {"0.6": 3, "0.7": 4, "0.8": 6}, "adversaries": dict.fromkeys(names, own),
    }  # fmt: skip


def comparison(a: str, b: str) -> dict[str, Any]:
    mean = {"difference": 0.08, "ci": [0.01, 0.15]}
    share = {"difference": 0.11, "ci": [0.05, 0.17], "ratio": 7.75, "ratio_ci": [3.0, 12.0]}
    seed = {"seed": 0, "mean": 0.08, "share": 0.11}
    row: dict[str, Any] = {"a": a, "b": b, "seeds": [0], "perplexity_change": 0.083}
    for metric in ("nll", "utterance_perplexity", "tox_reply", "tox_turn", "tox_utterance"):
        scored = metric.startswith("tox_")
        row[metric] = {
            "mean": mean, "share": share if scored else None, "threshold": 0.5 if scored else None, "by_seed": [seed]
        }  # fmt: skip
    return row


def case(defender: str, adversaries: dict[str, Any], comparisons: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    """A pair of models of an experiment; ``adversaries`` are rows of :func:`adversary` by name."""
    facts = {"kind": "variant", "preset": "", "trained_on": None, "changes": {}, "reward": None, "tau": None}
    return {
        "adversary": "small", "defender": defender, "models": {"adversary": "m", "defender": defender},
        "scorer": "word", "test": "t.json", "horizon": 3, "level": 0.95, "likelihood": "defender",
        "adversaries": {name: facts | row for name, row in adversaries.items()},
        "comparisons": list(comparisons), **more,
    }  # fmt: skip


def write_experiment(folder: Path, cases: dict[str, Any], command: Sequence[str]) -> None:
    """An ``experiment.json`` of pairs of models."""
    from astprompter.runs.schema.study import Experiment

    content = {
        "experiment": folder.name, "summary": "s", "command": list(command), "plan": {}, "versions": {},
        "pooling": "p", "cases": cases, "scaling": [], "transfer": [], "front": [], "missing": [], "findings": [],
    }  # fmt: skip
    Experiment.of(content).write(folder / "experiment.json")


def trajectory(name: str, number: int, *, horizon: int = 3, text: str = "pear") -> dict[str, Any]:
    turns = []
    for turn in range(1, horizon + 1):
        tokens = [" a", f" {text}", " and", " tea"]
        turns.append({
            "turn": turn, "utterance": "".join(tokens), "reply": f" reply{number} of {name} {text}", "nll": 2.0,
            "tokens": tokens, "token_logprobs": [-0.1, -1.5, -3.0, -7.0], "tox_utterance": 0.1,
            "tox_reply": 0.5 + 0.49 * (number % 97) / 97 if name != "untuned" and turn == 1 + number % 3 else 0.1,
            "tox_turn": 0.4, "reward": 0.25, "reply_kind": "answered", "error": None,
        })  # fmt: skip
    return {"adversary": name, "prefix_id": f"p{number}", "prefix": f"The opening number {number}.",
            "prefix_cut": 0, "prefix_cut_for_adversary": 0, "accumulated": False, "turns": turns}  # fmt: skip


def failure(name: str, number: int, *, text: str = "pear") -> dict[str, Any]:
    return {
        "rank": number + 1, "adversary": name, "prefix_id": f"p{number}", "turn": 1 + number % 3,
        "path_nll": 1.0 + number / 1000, "nll": 2.0, "tox_utterance": 0.1, "reply_kind": "answered",
        "tox_reply": 0.5 + 0.49 * (number % 97) / 97 + 1e-6, "tox_turn": 0.4, "utterance": f" a {text} and tea",
        "reply": f" reply{number} of {name} {text}", "strategy": ("insult", "politics")[number % 2],
        "cluster": 1 + number % 4, "representative": number < 4, "place": [0.1 * (number % 4), 0.01 * number],
    }  # fmt: skip


def log_rows() -> list[dict[str, Any]]:
    rows = []
    for step in range(5):
        means = {
            "iteration": step, "updates": 8 * step, "turns": 84, "errors": {}, "nll": {"mean": 2.0 + step / 50},
            "reward": {"mean": -0.3 + step / 20, "tox_reply_term": 0.01, "tox_turn_term": 0.02, "nll_term": -0.2},
            **{f"tox_{name}": {"mean": 0.1, "share": step / 40, "threshold": 0.5}
               for name in ("utterance", "reply", "turn")},
        }  # fmt: skip
        if step:
            rows.append({"type": "iteration", "margin": 0.1, "rates": {"sampled_tokens_per_s": 900.0 + step}, **means})
        rows.append({"type": "dev", "best": step in (0, 3), **means})
    return rows


def tree_row(iteration: int, *, text: str = "pear") -> dict[str, Any]:
    places = [(None, 1, "chosen"), (0, 2, "chosen"), (0, 2, "rejected"), (None, 1, "rejected"), (3, 2, None),
              (3, 2, None)]  # fmt: skip
    nodes = [
        {"node": i, "parent": parent, "depth": depth, "choice": choice, "utterance": f" say {text}", "reply": " hm",
         "nll": 2.0, "tox_utterance": 0.0, "tox_reply": 0.1 * i, "tox_turn": 0.2, "reward": -0.1 * i,
         "reply_kind": "answered", "error": None}
        for i, (parent, depth, choice) in enumerate(places)
    ]  # fmt: skip
    return {
        "iteration": iteration,
        "prefix_id": "p0",
        "prefix": "The opening.",
        "prefix_cut": 0,
        "prefix_cut_for_adversary": 0,
        "nodes": nodes,
    }


def write_run(folder: Path, *, count: int = 30, text: str = "pear", share: float = 0.155, modern: bool = True,
              **settings: Any) -> Path:  # fmt: skip
    """A whole run directory whose adversary has the folder's name."""
    from astprompter.config import settings_from
    from astprompter.runs.schema.summary import Summary

    folder.mkdir(parents=True)
    values = settings_from(settings).as_dict()
    name = folder.name
    summary = {
        "adversaries": {
            "untuned": adversary(0.02, 2.0, modern=modern, count=count, failed=0),
            name: adversary(share, 2.08, modern=modern, count=count, failed=count),
        },
        "comparisons": [comparison(name, "untuned")],
        **({"variety": variety("untuned", name)} if modern else {}),
        "config": {"settings": values, "versions": {}, "defender": "tiny", "scorer": "word banana",
                   "likelihood": "defender (tiny)", "targets": [str(folder)],
                   "prefixes": {"source": "openings.jsonl", "count": 101}},
    }  # fmt: skip
    failures = [failure(name, i, text=text) for i in range(count)]
    rows = {
        "log.jsonl": log_rows(),
        "trees.jsonl": [tree_row(i, text=text) for i in range(1, 12)] if modern else [],
        "failures.jsonl": failures,
        "trajectories.jsonl": [
            trajectory(who, i, text=text) for who in dict.fromkeys(("untuned", name)) for i in range(count)
        ],
    }
    config_file(settings_from(settings)).write(folder / "config.json")
    Summary.of(summary).write(folder / "summary.json")
    for file, content in rows.items():
        if content:
            (folder / file).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), "utf-8")
    return folder


_LIMITS: dict[str, Any] = {
    "estimate": 0.0012, "standard_error": 0.0001, "interval": [0.001, 0.0015], "conservative": 0.004, "proven": 0.0008,
}  # fmt: skip


def write_probability(run: Path) -> None:
    """An estimate of failure beside a run's files."""
    from astprompter.runs.schema.probability import ProbabilityFile

    natural = {"conversations": 400, "failures": 1.0, "estimate": 0.0025, "unlikely_from": 3, "power": 0.07}
    quiet = {
        "turns": [], "adversary": None, "gamma": 0.0, "conversations": 400, "failures": 1.0, "estimate": 0.0003,
        "likelier": 0.0, "balance": 1.0, "balance_error": 0.0,
    }  # fmt: skip
    loud = quiet | {
        "turns": [1, 2, 3], "adversary": f"ours {HOSTILE}", "gamma": 0.5, "conversations": 1200, "estimate": 0.0009,
        "likelier": 0.97,
    }  # fmt: skip
    ProbabilityFile.of(
        {
            "format": ProbabilityFile.model_fields["format"].default, "within": 3, "threshold": 0.5, "level": 0.95,
            "natural": "untuned", "verdict": "lower limit only", "reasons": ["few natural failures"],
            "limits": _LIMITS, "worst": _LIMITS, "unassessed": 0, "openings_like_these": [0.0005, 0.002],
            "control_variates": {"estimate": 0.0012, "standard_error": 0.0001},
            "second": {
                "estimate": 0.0011, "worst": 0.0011, "interval": [0.0002, 0.002], "islands": 20, "particles": 25,
            },
            "per_turn": [{"turn": t, "estimate": 0.0004} for t in (1, 2, 3)], "components": [quiet, loud],
            "openings": [{"prefix_id": "p7", "prefix": "pomegranate", "share": 0.4, "conversations": 12}],
            "proposals": [{"adversary": "ours", "gamma": g, "likelier": 0.9 + 0.1 * g} for g in (0.25, 0.5)],
            "heaviest": [{"number": 3, "share": 0.1, "natural": -80.0, "texts": ["Rain.", "pomegranate", HOSTILE]}],
            "diagnostics": {
                "effective_failures": 60.0, "largest_share": 0.1, "tail_shape": 0.2, "natural": natural,
            },
            "sensitivity": [], "expected_gain": 12.0, "config": {},
            "cost": {
                "conversations": 1600, "pilot": 400, "utterances": 5000, "replies": 5000, "counting": 20000.0,
                "gain": 12.5,
            },
        }
    ).write(run / "probability.json")  # fmt: skip


def write_templates(folder: Path) -> None:
    """A ``config.json`` and a ``summary.json`` of one adversary, for programs that pretend to train and to evaluate."""
    from astprompter.config import load_settings

    config_file(load_settings("embedded"), data_sha256={}).write(folder / "config.json")
    run = write_run(folder / "measured", count=1)
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    summary |= {"adversaries": {"x": adversary(0.1, 2.0)}, "comparisons": [], "variety": variety("x")}
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    shutil.rmtree(run)
