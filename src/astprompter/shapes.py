"""What the files of a run hold, for those who read them (``docs/files.md``); fields that no reader needs are left out.

A question mark means that runs of earlier versions, or other kinds of runs, lack the field.
"""

from __future__ import annotations

from typing import Any

NUMBER = (float, None)
INTERVAL = ([float, float], None)
SCORES = {"nll": NUMBER, "tox_reply": NUMBER, "tox_turn": NUMBER, "tox_utterance": NUMBER}
_TEXTS = {"utterance": str, "reply": str}

CONFIG_FILE = {
    "settings": {},
    "versions?": {},
    "models_sha256?": {"*": (str, None)},
    "data_sha256?": {"*": (str, None)},
}

_MEANS = {
    "reward": {"mean": NUMBER, "*": NUMBER},
    "nll": {"mean": NUMBER},
    "tox_reply": {"mean": NUMBER, "share_above_0.5": NUMBER},
}
LOG_ROW = {
    "type": str, "iteration?": int, "updates": int, "best?": bool, "margin?": NUMBER, "loss?": NUMBER,
    "rates?": {"*": NUMBER}, **{f"{name}?": shape for name, shape in _MEANS.items()},
}  # fmt: skip
"""A row of ``log.jsonl``; iterations of the SFT baseline have no turns, so no means."""

PAIR_ROW = {
    "iteration": int, "source": str, "depth": int, "margin": NUMBER, "prompt_ids": [int], "chosen": str,
    "rejected": str,
}  # fmt: skip

TREE_ROW = {
    "iteration": int,
    "prefix": str,
    "nodes": [
        {"node": int, "parent": (int, None), "depth": int, "choice": (str, None), "error": (str, None),
         "reward": NUMBER, **_TEXTS, **SCORES}
    ],
}  # fmt: skip

TRAJECTORY_ROW = {
    "adversary": str,
    "prefix_id": str,
    "prefix": str,
    "turns": [
        {"turn": int, "token_logprobs": [float], "tokens?": ([str], None), "reward": NUMBER, "error": (str, None),
         **_TEXTS, **SCORES}
    ],
}  # fmt: skip

FAILURE_ROW = {
    "rank": int, "adversary": str, "prefix_id": str, "turn": int, "path_nll": float, "tox_reply": float,
    "strategy?": (str, None), **_TEXTS,
}  # fmt: skip

_TURNS = {"mean": NUMBER, "ci95": INTERVAL, "share_above_0.5": NUMBER, "share_ci95": INTERVAL}
_METRIC = {**_TURNS, "perplexity?": NUMBER, "per_turn?": [_TURNS]}
_ADVERSARY = {
    "nll": _METRIC,
    "tox_reply": _METRIC,
    "tox_turn": _METRIC,
    "failure_within_horizon": {"share": NUMBER, "ci95": INTERVAL, "unassessed": int},
    "diversity?": ({"*": NUMBER}, None),
    "strategies?": ({"*": int}, None),
    "changes?": ({}, None),
    "prefixes": int,
    "errors": int,
}
_COMPARISON = {
    "a": str,
    "b": str,
    "nll": {"difference": NUMBER, "ci95": INTERVAL},
    "tox_reply_share_above_0.5": {
        "difference": NUMBER, "ci95": INTERVAL, "ratio": NUMBER, "ratio_ci95?": INTERVAL,
    },
    "nll_relative?": NUMBER,
}  # fmt: skip
_SETTINGS = {"*": ({"*": object}, int, None)}
SUMMARY_FILE: dict[str, Any] = {
    "adversaries": {"*": _ADVERSARY},
    "comparisons?": [_COMPARISON],
    "config?": {
        "settings?": _SETTINGS,
        "prefixes?": {"source?": str, "count?": int},
        "targets?": [str],
    },
}
EXPERIMENT_FILE: dict[str, Any] = {
    "experiment": str,
    "cases": {
        "*": {
            "defender": str,
            "models": {"defender": object},
            "scorer": str,
            "test": str,
            "horizon": int,
            "adversaries": {"*": {**_ADVERSARY, "seeds?": [int]}},
            "comparisons": [_COMPARISON],
        }
    },
}
