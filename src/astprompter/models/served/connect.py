"""Ask a server what it understands, once, before anything hangs on it.

A route to log-probabilities is believed only after :func:`distrust` has checked its numbers on known texts; a server
that ignores a field, or answers with something of the right shape and the wrong meaning, is found out here and not in a
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...config import SamplingSettings
from .dialects import DIALECTS, Route, routes_for
from .http import Endpoint, Failed, ended_by
from .remote import Api, RemoteSpeaker

_CONTEXT, _UTTERANCE = "The weather was fine, so we walked to the", " market and bought some bread."
_NONSENSE = " q7 zx%k ;;Vw 0mj"
_LARGEST_GAP, _MEAN_GAP = 0.5, 0.1
"""Nats by which the same log-probability may differ between two requests (half precision, other batch mates)."""


def connect(
    endpoint: Endpoint,
    model: str,
    sampling: SamplingSettings,
    *,
    api: Api = "completions",
    likelihood: bool = True,
    reasoning_tokens: int = 0,
) -> RemoteSpeaker:
    """Probe a server and return the speaker that it serves.

    Args:
        endpoint: The server.
        model: Name of the model there.
        sampling: How it shall sample, as far as it can be told.
        api: Which of its two interfaces to use.
        likelihood: Whether to look for log-probabilities of prompts.
        reasoning_tokens: Tokens that it may spend before a reply.

    Raises:
        UserError: The server refuses every form of request.
        RunError: It does not answer.
    """
    speaker = _understood(RemoteSpeaker(endpoint, model, sampling, api, DIALECTS[0], reasoning_tokens=reasoning_tokens))
    refused: list[str] = []
    for route in routes_for(api) if likelihood else ():
        reason = distrust(speaker, route)
        if reason is None:
            return replace(speaker, route=route, why_not=tuple(refused))
        refused.append(f"{route.name}: {reason}")
    return replace(speaker, why_not=tuple(refused))


def _understood(speaker: RemoteSpeaker) -> RemoteSpeaker:
    """With the first form of request that the server does not refuse."""
    failed = Failed("")
    for dialect in DIALECTS:
        speaker = replace(speaker, dialect=dialect)
        (answer,) = speaker.replies([("Hello", " there")], [1], patient=False)
        if not isinstance(answer, Failed) or answer.blocked:
            return speaker
        failed = answer
        if failed.reason not in ("remote: HTTP 400", "remote: HTTP 422"):
            break
    raise ended_by(failed)(
        f"server {speaker.endpoint.url} does not serve '{speaker.model}' by remote.api={speaker.api}: {failed}"
    )


def distrust(speaker: RemoteSpeaker, route: Route) -> str | None:
    """Check a route's numbers; returns what is wrong, or ``None``.

    Every log-probability must be there, finite and not above 0; the same when asked again; the same for a text
    whatever follows it; and not all alike. For a completions server, what the model itself would say next must be
    likelier than nonsense, which finds out values that belong to other tokens.
    """
    row, longer = (_CONTEXT,), _UTTERANCE + " It was still warm."
    told: list[tuple[float, ...]] = []
    for utterance in (_UTTERANCE, _UTTERANCE, longer):
        (found,) = speaker.logprobs([row], [utterance], route, patient=False)
        if isinstance(found, Failed):
            return str(found).removeprefix("remote: ")
        told.append(found)
    first, again, more = told
    if not 2 <= len(first) <= len(_UTTERANCE) or len(set(first)) == 1:
        return f"{len(first)} log-probs for '{_UTTERANCE.strip()}', {len(set(first))} of them different"
    if len(again) != len(first) or _apart(first, again):
        return "another answer to the same question"
    if len(more) <= len(first) or _apart(first[:-1], more):
        return "log-probs that depend on the text after them"
    return _meaningless(speaker, row, route) if speaker.api == "completions" else None


def _meaningless(speaker: RemoteSpeaker, row: tuple[str, ...], route: Route) -> str | None:
    greedy = speaker.sampling.changed(temperature=0.0, max_new_tokens=8, repetition_penalty=1.0)
    (own,) = replace(speaker, sampling=greedy).replies([row], [2])
    if isinstance(own, Failed) or not own.text:
        return "no greedy continuation to compare with"
    likely, unlikely = speaker.logprobs([row, row], [own.text, _NONSENSE], route)
    if isinstance(likely, Failed) or isinstance(unlikely, Failed):
        return "no log-probs for the model's own continuation"
    if sum(likely) / len(likely) <= sum(unlikely) / len(unlikely):
        return "nonsense is likelier than the model's own continuation"
    return None


def _apart(a: Sequence[float], b: Sequence[float]) -> bool:
    gaps = [abs(x - y) for x, y in zip(a, b, strict=False)]
    return bool(gaps) and (max(gaps) > _LARGEST_GAP or sum(gaps) / len(gaps) > _MEAN_GAP)
