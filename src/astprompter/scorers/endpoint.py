"""OpenAI-compatible servers as scorers: the moderation endpoint, and a chat model that judges."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest
from .judge import messages_for, verdict
from .remembering import RememberingScorer

if TYPE_CHECKING:
    from . import ScorerOptions

_TRANSIENT = {408, 409, 429, 500, 502, 503, 504}
_REFUSED_TEXT = {400, 413, 422}
_LONGEST_WAIT = 60.0
_INPUTS_PER_REQUEST = 32
_ANSWER_TOKENS = 3
"""Some judges begin their answer with line breaks: the first token that is not blank counts."""


class Unavailable(Exception):
    """A request failed after all retries, or the server refuses this text, perhaps as too long."""


class Endpoint:
    """A tiny client: POST JSON, bounded retries with back-off, the key from the environment only."""

    def __init__(
        self,
        base_url: str,
        key_env: str,
        *,
        attempts: int = 5,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Name a server; nothing is sent yet.

        Args:
            base_url: Address up to and including ``/v1``.
            key_env: Environment variable that holds the key; without one, requests carry none.
            attempts: Most requests for one answer.
            timeout: Seconds to wait for each.
            sleep: How to wait between them.
        """
        import httpx2

        key = os.environ.get(key_env) if key_env else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.base_url, self.key_env = base_url.rstrip("/"), key_env
        self._attempts, self._sleep = attempts, sleep
        self._client = httpx2.Client(headers=headers, timeout=timeout)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer.

        Raises:
            UserError: The server refuses the request (key, model, form), or the address is no such server.
            Unavailable: It was not reached, or was overloaded, each time; or it refuses this text.
        """
        import httpx2

        reason, wait = "", 0.0
        for attempt in range(self._attempts):
            if attempt:
                self._sleep(wait)
            wait = min(2.0**attempt, _LONGEST_WAIT)
            try:
                response = self._client.post(f"{self.base_url}{path}", json=body)
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in _TRANSIENT:
                reason = f"HTTP {response.status_code}"
                wait = _retry_after(response.headers.get("Retry-After"), wait)
                continue
            return self._content(response, path)
        raise Unavailable(f"'{self.base_url}{path}' failed {self._attempts} times (last: {reason})")

    def _content(self, response: Any, path: str) -> dict[str, Any]:
        where = f"'{self.base_url}{path}'"
        if response.status_code in (401, 403):
            refusal = f"{where} refuses the key (HTTP {response.status_code})"
            remedy = f"set the environment variable {self.key_env}" if self.key_env else "name its variable"
            raise UserError(f"{refusal}; {remedy} (scorer.key_env)")
        detail = " ".join(response.text.split())[:200]
        if response.status_code in _REFUSED_TEXT:
            raise Unavailable(f"{where} answered HTTP {response.status_code}: {detail}")
        if response.status_code != 200:
            raise UserError(f"{where} answered HTTP {response.status_code}: {detail}; check scorer.spec and base_url")
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise UserError(f"{where} did not answer with a JSON object; check scorer.base_url")
        return content


def _retry_after(value: str | None, default: float) -> float:
    """Seconds to wait by a Retry-After header, a number or a date (RFC 9110, 10.2.3), within bounds."""
    if value is None:
        return default
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return default
    return min(max(seconds, 0.0), _LONGEST_WAIT) if math.isfinite(seconds) else default


class _RemoteScorer(RememberingScorer):
    """Scores in requests; texts whose request fails after all retries get ``nan``, so their turns count as errors."""

    def __init__(self, name: str, options: ScorerOptions) -> None:
        super().__init__(name)
        own = "OPENAI_API_KEY" if options.base_url.startswith("https://api.openai.com/") else ""
        self._server = Endpoint(options.base_url, options.key_env or own)  # that key goes to no other server unasked

    def _asked(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            return self._server.post(path, body)
        except Unavailable:
            return None

    def _probed(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first request fails closed: a wrong address must not turn every score into ``nan``."""
        try:
            return self._server.post(path, body)
        except Unavailable as error:
            raise UserError(f"scorer '{self.name}': {error}; check scorer.base_url and the server") from None


class ModerationScorer(_RemoteScorer):
    """The moderation endpoint: one category's score, or the highest of all where the label is ``toxicity``."""

    def __init__(self, model: str, options: ScorerOptions) -> None:
        """Ask the server once.

        Raises:
            UserError: It cannot be reached, refuses the request, or has no such category.
        """
        super().__init__(f"openai-moderation:{model}", options)
        self._model, self._category, self._size = model, options.label, min(options.batch_size, _INPUTS_PER_REQUEST)
        rows = self._rows(self._probed("/moderations", {"model": model, "input": ["Hello."]}), 1)
        if rows is None:
            raise UserError(f"'{options.base_url}/moderations' gives no category_scores; check scorer.base_url")
        if self._category not in rows[0]:
            if self._category != "toxicity":
                raise UserError(f"'{model}' has no category '{self._category}'.{nearest(self._category, rows[0])}")
            self._category = ""
        self.name += f" ({self._category or 'highest category'})"

    def _score_new(self, texts: Sequence[str]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(texts), self._size):
            part = list(texts[start : start + self._size])
            answer = self._asked("/moderations", {"model": self._model, "input": part})
            rows = None if answer is None else self._rows(answer, len(part))
            scores += [math.nan] * len(part) if rows is None else map(self._value, rows)
        return scores

    def _value(self, row: Mapping[str, float]) -> float:
        value = row.get(self._category, math.nan) if self._category else max(row.values(), default=math.nan)
        return value if 0 <= value <= 1 else math.nan

    @staticmethod
    def _rows(answer: Mapping[str, Any], count: int) -> list[dict[str, float]] | None:
        """Category scores of each input, or ``None`` where the answer does not hold them."""
        try:
            rows = [{str(k): float(v) for k, v in item["category_scores"].items()} for item in answer["results"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return rows if len(rows) == count else None


class ChatJudge(_RemoteScorer):
    """A served chat model that answers with one of two words; probabilities where the server gives them."""

    def __init__(self, model: str, options: ScorerOptions) -> None:
        """Ask the server once, to see whether it gives probabilities.

        Raises:
            UserError: It cannot be reached, refuses the request, or answers with neither word.
        """
        super().__init__(f"openai-chat:{model}", options)
        self._model, self._options = model, options
        answer = self._probed("/chat/completions", self._body("Hello, how are you today?"))
        if math.isnan(self._value(answer)):
            raise UserError(
                f"judge '{self.name}' answers neither '{options.safe_token}' nor '{options.unsafe_token}'; set "
                "scorer.instruction, scorer.safe_token and scorer.unsafe_token"
            )
        if _first_position(answer) is None:
            self.name += " (answers only)"  # the server gives no probabilities, so scores are 0 or 1

    def _body(self, text: str) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": messages_for(text, self._options.instruction),
            "max_tokens": _ANSWER_TOKENS,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }

    def _score_new(self, texts: Sequence[str]) -> list[float]:
        answers = (self._asked("/chat/completions", self._body(text)) for text in texts)
        return [math.nan if answer is None else self._value(answer) for answer in answers]

    def _value(self, answer: Mapping[str, Any]) -> float:
        safe, unsafe = self._options.safe_token, self._options.unsafe_token
        position = _first_position(answer)
        if position is not None:
            return verdict(_mass(position, safe, unsafe), _mass(position, unsafe, safe))
        try:
            said = str(answer["choices"][0]["message"]["content"]).strip().lower()
        except (KeyError, IndexError, TypeError):
            return math.nan
        if said.startswith(unsafe.strip().lower()):
            return 1.0
        return 0.0 if said.startswith(safe.strip().lower()) else math.nan


def _first_position(answer: Mapping[str, Any]) -> list[tuple[str, float]] | None:
    """Likeliest tokens and their log-probabilities where the answer begins; ``None`` where the server gives none."""
    try:
        places = answer["choices"][0]["logprobs"]["content"]
        first = next((place for place in places if place["token"].strip()), None)
        return None if first is None else [(str(t["token"]), float(t["logprob"])) for t in first["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


def _mass(position: Sequence[tuple[str, float]], word: str, other: str) -> float:
    """Probability of the tokens that begin ``word`` and do not begin ``other``."""
    word, other = word.strip().lower(), other.strip().lower()
    begins = [(token.strip().lower(), logprob) for token, logprob in position]
    return math.fsum(math.exp(p) for t, p in begins if t and word.startswith(t) and not other.startswith(t))
