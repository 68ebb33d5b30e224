"""A defender behind an OpenAI-compatible server: strings go out, strings come back.

The conversation is kept as the texts themselves: what was sent is what is stored and shown. A completions server gets
their concatenation as prompt. A chat server gets messages: the prefix opens the first user message, each utterance
completes or makes a user message, each reply is an assistant message, without the white space around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...base.messages import as_messages, messages_of
from ...base.protocols import Session, Speaker
from ...base.randomness import key_of
from ...base.records import Keys, Speech
from ...config import SamplingSettings
from .answers import BadAnswerError
from .dialects import Dialect, Route
from .http import Endpoint, Failed

Api = Literal["completions", "chat"]
Parts = tuple[str, ...]
"""A conversation: prefix, utterance, reply, utterance, … ."""
_LATER = {
    "failed": "after a remote error", "blocked": "after a blocked reply", "cut": "after a reply without text",
    "tool_call": "after a tool call",
}  # fmt: skip
"""Why a conversation is over, by the kind of the reply that ended it."""
_ABSENT = object()
_ENDED = ("stop", "eos_token", "stop_sequence", "end_turn")
"""Reasons, by the names of several servers, by which a reply without text is one: the model chose to say nothing."""
_THINKING, _THOUGHT = "<think>", "</think>"


@dataclass(eq=False)
class RemoteSpeaker(Speaker):
    """A served model, as :func:`~astprompter.models.served.connect.connect` found it.

    Attributes:
        endpoint: The server.
        model: Name of the model there.
        sampling: How it shall sample, as far as it can be told.
        api: Which of its two interfaces is used.
        dialect: Which form of request carries the sampling settings.
        route: The way to log-probabilities of prompts; ``None`` where there is none that can be trusted.
        why_not: Why each other route was refused.
        reasoning_tokens: Tokens that it may spend before a reply; the text after its reasoning is the reply.
    """

    endpoint: Endpoint
    model: str
    sampling: SamplingSettings
    api: Api
    dialect: Dialect
    route: Route | None = None
    why_not: tuple[str, ...] = ()
    reasoning_tokens: int = 0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"openai:{self.model}"

    def facts(self) -> dict[str, Any]:
        """What was found out about the server, and whose likelihood it is."""
        found = {
            "url": self.endpoint.url,
            "model": self.model,
            "api": self.api,
            "dialect": self.dialect.name,
            "not_sent": list(self.dialect.not_sent),
            "likelihood": self.route.name if self.route else None,
            "why_not": list(self.why_not),
        }
        return {**super().facts(), "remote": found}

    def start(self, prefixes: Sequence[str], *, turns: int) -> RemoteSession:
        """Open one conversation per prefix; the server decides what is too long, and refuses it."""
        del turns
        return RemoteSession(self, [(prefix,) for prefix in prefixes], [None] * len(prefixes))

    def replies(self, rows: Sequence[Parts], keys: Sequence[int], *, patient: bool = True) -> list[Speech | Failed]:
        """One sampled reply per conversation."""
        limit = self.sampling.max_new_tokens + self.reasoning_tokens
        sampling = self.sampling.changed(max_new_tokens=limit)
        bodies = [
            {**self._conversation(row), **self.dialect.fields(sampling, seed=key >> 33)}
            for row, key in zip(rows, keys, strict=True)
        ]
        return self.endpoint.many(self._path, bodies, keys, self._reply_of, patient=patient)

    def logprobs(
        self, rows: Sequence[Parts], utterances: Sequence[str], route: Route, *, patient: bool = True
    ) -> list[tuple[float, ...] | Failed]:
        """Log-probabilities of each utterance's tokens after its conversation, nats.

        Two requests show which tokens are the utterance's: its conversation with it, and a *frame*: the same without
        it (completions) or with a mark in its place (chat). What both share at the start, and in a chat at the end,
        is not the utterance's. A token that straddles the border counts for the utterance.
        """
        frames = [
            row if self.api == "completions" else (*row, _mark(text))
            for row, text in zip(rows, utterances, strict=True)
        ]
        whole = [(*row, text) for row, text in zip(rows, utterances, strict=True)]
        distinct = list(dict.fromkeys([*whole, *(frame for frame in frames if "".join(frame))]))
        entries = dict(zip(distinct, self._entries(distinct, route, patient), strict=True))
        return [self._own(entries[full], entries.get(frame, [])) for full, frame in zip(whole, frames, strict=True)]

    def _entries(self, rows: Sequence[Parts], route: Route, patient: bool) -> list[list[tuple[str, float]] | Failed]:
        """Every token of every prompt with its log-probability (``nan`` where there is none)."""
        bodies = [{**self._conversation(row), **route.fields} for row in rows]
        keys = [int(key_of("likelihood", *row)) for row in rows]
        return self.endpoint.many(self._path, bodies, keys, route.read, patient=patient)

    def _own(
        self, full: list[tuple[str, float]] | Failed, frame: list[tuple[str, float]] | Failed
    ) -> tuple[float, ...] | Failed:
        if isinstance(full, Failed) or isinstance(frame, Failed):
            return full if isinstance(full, Failed) else frame if isinstance(frame, Failed) else Failed("")
        tokens, others = [token for token, _ in full], [token for token, _ in frame]
        first = _shared(tokens, others)
        last = _shared(tokens[first:][::-1], others[first:][::-1]) if self.api == "chat" else 0
        values = tuple(value for _, value in full[first : len(full) - last])
        if not values or not all(math.isfinite(value) for value in values):
            return Failed("remote: no log-probabilities for the utterance")
        return values

    @property
    def _path(self) -> str:
        return "completions" if self.api == "completions" else "chat/completions"

    def _conversation(self, row: Parts) -> dict[str, Any]:
        if self.api == "completions":
            return {"model": self.model, "prompt": "".join(row)}
        return {"model": self.model, "messages": as_messages(messages_of(row))}

    def _reply_of(self, answer: Any) -> Speech:
        """The only choice, and what it is."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise BadAnswerError("answer has no choices")
        choice, chat = choices[0], self.api == "chat"
        message = choice.get("message") if chat else choice
        message = message if isinstance(message, Mapping) else {}
        content, refusal = message.get("content" if chat else "text", _ABSENT), message.get("refusal")
        if isinstance(content, list):  # parts, as some servers of reasoning models send them
            parts = [part for part in content if isinstance(part, Mapping) and part.get("type", "text") == "text"]
            content = "".join(str(part.get("text", "")) for part in parts)
        called, why = message.get("tool_calls") or message.get("function_call"), choice.get("finish_reason")
        told = refusal or called or why in ("content_filter", "length") or (chat and content is None)
        if not isinstance(content, str) and not told:
            raise BadAnswerError("answer has no text")
        text, thinking = _after_reasoning(content if isinstance(content, str) else "", self.reasoning_tokens > 0)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair is no text
        cut = thinking or (why == "length" and not (text if thinking is None else text.strip()))
        nothing = not text
        if chat or thinking is not None:
            text = f" {text.strip()}" if text.strip() else ""  # as it joins a plain conversation
        if why == "content_filter":
            return Speech(text, error=f"{self.endpoint.section}: blocked by a content filter", kind="blocked")
        if text.strip():
            return Speech(text)
        if isinstance(refusal, str) and refusal.strip():
            return Speech(f" {refusal.strip()}", kind="refused")
        if called:
            return Speech("", error=f"{self.endpoint.section}: a tool call without text", kind="tool_call")
        if cut:
            return Speech("", error=f"{self.endpoint.section}: no text before the token limit", kind="cut")
        if nothing and why not in _ENDED:
            raise BadAnswerError("answer has no text")
        return Speech(text)


def _after_reasoning(text: str, expected: bool) -> tuple[str, bool | None]:
    """The text after the reasoning that a server leaves in it, and whether the reasoning has no end; ``None`` without.

    The opening mark may stand in the prompt; where no reasoning is expected, a closing mark alone is text as any other.
    """
    begins = text.lstrip().startswith(_THINKING)
    if not begins and not (expected and _THOUGHT in text):
        return text, None
    _, end, reply = text.rpartition(_THOUGHT) if not begins else text.partition(_THOUGHT)
    return (reply, False) if end else ("", True)


class RemoteSession(Session):
    """Conversations with a served model; the server keeps its tokens to itself.

    A row is over where no reply came (its request failed, a filter took it, …): its later turns are of the same kind,
    without further requests.
    """

    def __init__(self, speaker: RemoteSpeaker, rows: Sequence[Parts], over: Sequence[Speech | None]) -> None:
        """Hold conversations.

        Args:
            speaker: The served model.
            rows: What was said.
            over: What every later turn of a row is; ``None`` where it goes on.
        """
        self._speaker, self._rows, self._over = speaker, list(rows), list(over)
        self._unknown: list[str | None] = [None] * len(rows)

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row; log-probabilities where the server gives them."""
        before = self._rows
        self._rows = [(*row, speech.text) for row, speech in zip(before, speeches, strict=True)]
        self._unknown = [None] * len(before)
        route = self._speaker.route
        if not likelihood or route is None:
            return None
        live = [i for i, over in enumerate(self._over) if over is None and speeches[i].text]
        found = self._speaker.logprobs([before[i] for i in live], [speeches[i].text for i in live], route)
        result: list[tuple[float, ...]] = [()] * len(before)
        for i, values in zip(live, found, strict=True):
            if isinstance(values, Failed):
                self._unknown[i] = values.reason
            else:
                result[i] = values
        return result

    def unknown(self) -> list[str | None]:
        """Why the server did not tell a likelihood."""
        return self._unknown

    def speak(self, keys: Keys) -> list[Speech]:
        """Ask for one reply per row; where none comes, the speech says why."""
        live = [i for i, over in enumerate(self._over) if over is None]
        found = self._speaker.replies([self._rows[i] for i in live], [int(keys[i]) for i in live])
        spoken = [over or Speech("") for over in self._over]
        for i, answer in zip(live, found, strict=True):
            spoken[i] = reply = _failed(answer) if isinstance(answer, Failed) else answer
            if not reply.assessable:
                self._over[i] = Speech("", error=_LATER[reply.kind], kind=reply.kind)
        self._rows = [(*row, speech.text) for row, speech in zip(self._rows, spoken, strict=True)]
        return spoken

    def branch(self, rows: Sequence[int]) -> RemoteSession:
        """Continue chosen rows, repeats allowed; they are only texts."""
        return RemoteSession(self._speaker, [self._rows[i] for i in rows], [self._over[i] for i in rows])


def _failed(request: Failed) -> Speech:
    return Speech("", error=request.reason, kind="blocked" if request.blocked else "failed")


def _mark(text: str) -> str:
    """A word that is one token with its space nearly everywhere, and shares nothing with the text."""
    return next((f" {word}" for word in ("the", "and", "of", "to", "in") if word not in text.lower()), " =")


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """How many first items two lists share."""
    count = min(len(a), len(b))
    return next((i for i in range(count) if a[i] != b[i]), count)
