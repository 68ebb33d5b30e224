"""A defender behind an OpenAI-compatible server: strings go out, strings come back.

The conversation is kept as the texts themselves: what was sent is what is stored and shown. A completions server gets
their concatenation as prompt. A chat server gets messages: the prefix opens the first user message, each utterance
completes or makes a user message, each reply is an assistant message, without the white space around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...base.randomness import key_of
from ...base.records import Keys, Speech
from ...config import SamplingSettings
from .dialects import DIALECTS, Dialect, Route, distrust, routes_for
from .http import BadAnswerError, Endpoint, Failed, ended_by

Api = Literal["completions", "chat"]
Parts = tuple[str, ...]
"""A conversation: prefix, utterance, reply, utterance, … ."""
_LATER = "after a remote error"


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """What the probe at start found out, for logs and ``summary.json``.

    Attributes:
        url: Address of the server.
        model: Name of the model there.
        api: ``completions`` or ``chat``.
        dialect: Which form of request carries the sampling settings.
        not_sent: Sampling settings that the server does not take, so that its own defaults hold.
        likelihood: The route to log-probabilities of prompts; ``None`` where there is none that can be trusted.
        why_not: Why each other route was refused.
    """

    url: str
    model: str
    api: Api
    dialect: str
    not_sent: tuple[str, ...]
    likelihood: str | None
    why_not: tuple[str, ...]


class RemoteSpeaker:
    """A served model (protocol :class:`~astprompter.base.records.Speaker`)."""

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        sampling: SamplingSettings,
        *,
        api: Api = "completions",
        likelihood: bool = True,
    ) -> None:
        """Probe the server.

        Args:
            endpoint: The server.
            model: Name of the model there.
            sampling: How it shall sample, as far as it can be told.
            api: Which of its two interfaces to use.
            likelihood: Whether to look for log-probabilities of prompts.

        Raises:
            UserError: The server refuses every form of request.
            RunError: It does not answer.
        """
        self.endpoint, self.model, self.api, self.sampling = endpoint, model, api, sampling
        self.dialect = self._find_dialect()
        self.route: Route | None = None
        refused: list[str] = []
        if likelihood:
            self.route, refused = self._find_route()
        self.facts = RemoteFacts(
            endpoint.url, model, api, self.dialect.name, self.dialect.not_sent,
            self.route.name if self.route else None, tuple(refused),
        )  # fmt: skip

    @property
    def name(self) -> str:
        """Name for logs and tables."""
        return f"openai:{self.model}"

    def start(self, prefixes: Sequence[str], *, turns: int) -> RemoteSession:
        """Open one conversation per prefix; the server decides what is too long, which makes an error turn."""
        del turns
        return RemoteSession(self, [(prefix,) for prefix in prefixes], [None] * len(prefixes))

    def replies(
        self,
        rows: Sequence[Parts],
        keys: Sequence[int],
        *,
        sampling: SamplingSettings | None = None,
        patient: bool = True,
    ) -> list[str | Failed]:
        """One sampled reply per conversation."""
        chosen = sampling or self.sampling
        bodies = [
            {**self._conversation(row), **self.dialect.fields(chosen, seed=key >> 33)}
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
        contents = ["".join(row[:2]).strip(), *(part.strip() for part in row[2:])]
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
        return {"model": self.model, "messages": messages}

    def _reply_of(self, answer: Any) -> str:
        """Text of the only choice."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise BadAnswerError("answer has no choices")
        if self.api == "completions":
            text = choices[0].get("text")
        else:
            message = choices[0].get("message")
            message = message if isinstance(message, Mapping) else {}
            content = message.get("content", False)
            text = content or message.get("refusal") or ("" if content is None or content == "" else None)
            if isinstance(text, str):
                text = f" {text.strip()}" if text.strip() else ""  # as it joins a plain conversation
        if not isinstance(text, str):
            raise BadAnswerError("answer has no text")
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair is no text

    def _find_dialect(self) -> Dialect:
        """The first form of request that the server does not refuse.

        Raises:
            UserError: It refuses all.
            RunError: It does not answer at all.
        """
        failed = Failed("")
        for dialect in DIALECTS:
            self.dialect = dialect
            (answer,) = self.replies([("Hello", " there")], [1], patient=False)
            if not isinstance(answer, Failed):
                return dialect
            failed = answer
            if failed.reason not in ("remote: HTTP 400", "remote: HTTP 422"):
                break
        raise ended_by(failed)(
            f"server {self.endpoint.url} does not serve '{self.model}' by remote.api={self.api}: "
            f"{failed.reason} ({failed.detail})"
        )

    def _find_route(self) -> tuple[Route | None, list[str]]:
        """The first route to log-probabilities that passes every check, and why the ones before it did not."""
        refused: list[str] = []
        for route in routes_for(self.api):
            reason = distrust(self, route)
            if reason is None:
                return route, refused
            refused.append(f"{route.name}: {reason}")
        return None, refused


class RemoteSession:
    """Conversations with a served model; see :class:`astprompter.base.records.Session`.

    A row whose request failed is over: its turn is an error, and so are its later turns, without further requests.
    """

    def __init__(self, speaker: RemoteSpeaker, rows: Sequence[Parts], errors: Sequence[str | None]) -> None:
        self._speaker, self._rows, self._errors = speaker, list(rows), list(errors)

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row; log-probabilities where the server gives them."""
        before = self._rows
        self._rows = [(*row, speech.text) for row, speech in zip(before, speeches, strict=True)]
        route = self._speaker.route
        if not likelihood or route is None:
            return None
        live = [i for i, error in enumerate(self._errors) if error is None and speeches[i].text]
        found = self._speaker.logprobs([before[i] for i in live], [speeches[i].text for i in live], route)
        result: list[tuple[float, ...]] = [()] * len(before)
        for i, values in zip(live, found, strict=True):
            if isinstance(values, Failed):
                self._errors[i] = values.reason
            else:
                result[i] = values
        return result

    def speak(self, keys: Keys) -> list[Speech]:
        """Ask for one reply per row; a row that fails gets an empty speech that says why."""
        live = [i for i, error in enumerate(self._errors) if error is None]
        found = self._speaker.replies([self._rows[i] for i in live], [int(keys[i]) for i in live])
        spoken = [Speech("", error=error) for error in self._errors]
        for i, reply in zip(live, found, strict=True):
            spoken[i] = Speech("", error=reply.reason) if isinstance(reply, Failed) else Speech(reply)
        self._rows = [(*row, speech.text) for row, speech in zip(self._rows, spoken, strict=True)]
        self._errors = [None if speech.error is None else _LATER for speech in spoken]
        return spoken

    def branch(self, rows: Sequence[int]) -> RemoteSession:
        """Continue chosen rows, repeats allowed; they are only texts."""
        return RemoteSession(self._speaker, [self._rows[i] for i in rows], [self._errors[i] for i in rows])

    def transcript(self) -> None:
        """A server keeps its tokens to itself."""
        return


def _mark(text: str) -> str:
    """A word that is one token with its space nearly everywhere, and shares nothing with the text."""
    return next((f" {word}" for word in ("the", "and", "of", "to", "in") if word not in text.lower()), " =")


def _shared(a: Sequence[str], b: Sequence[str]) -> int:
    """How many first items two lists share."""
    count = min(len(a), len(b))
    return next((i for i in range(count) if a[i] != b[i]), count)
