"""What a server may understand: forms of request, and routes to log-probabilities of prompts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...config import SamplingSettings
from .answers import BadAnswerError

Entries = list[tuple[str, float]]
"""Tokens of a prompt, each by a name of its own, with their log-probabilities; ``nan`` for the first one."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A form of request for sampled text.

    Attributes:
        name: For logs.
        fields: From sampling settings and a seed to JSON fields.
        not_sent: Sampling settings that it cannot carry.
    """

    name: str
    fields: Callable[..., dict[str, Any]]
    not_sent: tuple[str, ...] = ()


def _openai(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    return {"seed": seed, **_plain(sampling, seed=seed)}


def _plain(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    del seed
    return {"max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}


def _newer(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    fields = _openai(sampling, seed=seed)
    return {"max_completion_tokens": fields.pop("max_tokens"), **fields}


def _reasoning(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    return {"max_completion_tokens": _plain(sampling, seed=seed)["max_tokens"]}


def _vllm(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    return {
        **_openai(sampling, seed=seed),
        "repetition_penalty": sampling.repetition_penalty,
        "min_tokens": sampling.min_new_tokens,
        "top_k": -1,  # all: without them the server takes these two from the model's generation_config.json
        "min_p": 0.0,
    }


def _transformers(sampling: SamplingSettings, *, seed: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "min_new_tokens": sampling.min_new_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "do_sample": sampling.temperature > 0,
    }
    if sampling.temperature > 0:
        chosen |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return {"seed": seed, "max_tokens": sampling.max_new_tokens, "generation_config": json.dumps(chosen)}


DIALECTS = (
    Dialect("vllm", _vllm),
    Dialect("transformers", _transformers),
    Dialect("openai", _openai, ("repetition_penalty", "min_new_tokens")),
    Dialect("openai, newer", _newer, ("repetition_penalty", "min_new_tokens")),
    Dialect("plain", _plain, ("repetition_penalty", "min_new_tokens", "seed")),
    Dialect("reasoning", _reasoning, ("repetition_penalty", "min_new_tokens", "seed", "temperature", "top_p")),
)
"""Tried in this order; the first one that the server does not refuse is used."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to ask for the log-probabilities of a prompt.

    Attributes:
        name: For logs and tables.
        fields: JSON fields beside the conversation.
        read: Takes the answer apart; raises :class:`BadAnswerError`.
    """

    name: str
    fields: Mapping[str, Any]
    read: Callable[[Any], Entries]


def _read_prompt_logprobs(answer: Any) -> Entries:
    """A table from token ids to log-probs for each token: in the choice (completions), or beside it (chat)."""
    choice = _only_choice(answer)
    table = choice.get("prompt_logprobs") or answer.get("prompt_logprobs")
    ids = choice.get("prompt_token_ids") or answer.get("prompt_token_ids")
    if not isinstance(table, list) or not table:
        raise BadAnswerError("answer has no prompt_logprobs")
    usage = answer.get("usage")
    counted = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    if len(table) != (len(ids) if isinstance(ids, list) else counted):
        raise BadAnswerError("answer has a wrong number of log-probs")
    entries: Entries = []
    for place, row in enumerate(table):
        if row is None and place == 0:
            entries.append((str(ids[0]) if isinstance(ids, list) else "", math.nan))
            continue
        if not isinstance(row, Mapping) or not row:
            raise BadAnswerError("answer has a token without log-prob")
        if not isinstance(ids, list) and len(row) != 1:
            raise BadAnswerError("answer does not say which token is the prompt's")
        token = str(ids[place]) if isinstance(ids, list) else next(iter(row))
        value = row.get(token)
        entries.append((token, _number(value.get("logprob") if isinstance(value, Mapping) else value)))
    return entries


def _read_echo(answer: Any) -> Entries:
    """The prompt's own tokens as if they had been generated; what really was generated is cut off."""
    logprobs = _only_choice(answer).get("logprobs")
    tokens = logprobs.get("tokens") if isinstance(logprobs, Mapping) else None
    values = logprobs.get("token_logprobs") if isinstance(logprobs, Mapping) else None
    if not isinstance(tokens, list) or not isinstance(values, list) or not tokens:
        raise BadAnswerError("answer has no echoed log-probs")
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
    if len(tokens) != len(values) or not isinstance(count, int) or not 0 < count <= len(tokens):
        raise BadAnswerError("answer has a wrong number of log-probs")
    first = math.nan if values[0] is None else _number(values[0])
    return [
        (str(tokens[0]), first),
        *((str(t), _number(v)) for t, v in zip(tokens[1:count], values[1:count], strict=True)),
    ]


def _only_choice(answer: Any) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise BadAnswerError("answer has no choices")
    return choices[0]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > 1e-3:
        raise BadAnswerError("answer has a log-prob that is none")
    return float(value)


_ASK = {"temperature": 0, "max_tokens": 1}
_VLLM = Route("prompt_logprobs", {**_ASK, "prompt_logprobs": 0, "return_token_ids": True}, _read_prompt_logprobs)
_ECHO = Route("echo", {**_ASK, "echo": True, "logprobs": 1, "max_tokens": 0}, _read_echo)
_ECHO_ONE = Route("echo, one token", {**_ASK, "echo": True, "logprobs": 1}, _read_echo)


def routes_for(api: str) -> tuple[Route, ...]:
    """Routes that an interface may offer, best first."""
    return (_VLLM, _ECHO, _ECHO_ONE) if api == "completions" else (_VLLM,)
