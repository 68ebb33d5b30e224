"""OpenAI-compatible servers as scorers: the moderation endpoint, and a chat model that judges."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import RunError, UserError, nearest
from ..base.randomness import key_of
from ..config import ScorerSettings, ServerSettings
from ..models.served.answers import BadAnswerError
from ..models.served.http import PASSING, Endpoint, Failed, ended_by
from .judge import messages_for, verdict
from .remembering import Item, RememberingScorer

_INPUTS_PER_REQUEST = 32
_ANSWER_TOKENS = 3
"""Some judges begin their answer with line breaks: the first token that is not blank counts."""
_REFUSED_ONE = frozenset({400, 413, 422})
"""How a server refuses a text, for instance as too long: the text has no score, and the server is well."""
_REFUSED_ALL = frozenset(range(300, 500)) - PASSING - _REFUSED_ONE
"""Refusals that no other text would escape."""


class _ServedScorer(RememberingScorer):
    """Scores in requests; texts whose request fails after all retries get ``nan``, until too many fail in a row.

    An answer without a verdict is as good as none: it counts among those that fail.
    """

    def __init__(self, name: str, path: str, options: ScorerSettings, *, in_context: bool = False) -> None:
        super().__init__(name, in_context=in_context)
        own = "OPENAI_API_KEY" if options.base_url.startswith("https://api.openai.com/") else ""
        server = ServerSettings(
            base_url=options.base_url,
            key_env=options.key_env or own,  # that key goes to no other server unasked
            concurrency=1,
            error_budget=100,  # of the last 100: what counts here is how many fail in a row
        )
        self._path, self._server = path, Endpoint(server, section="scorer", key_needed=False)
        self._most_in_a_row, self._in_a_row, self._gone = options.error_budget, 0, False

    def _asked(self, bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Failed]:
        return [self._one(body, int(key_of("scorer", str(number)))) for number, body in enumerate(bodies)]

    def _one(self, body: Mapping[str, Any], key: int) -> dict[str, Any] | Failed:
        answer = self._server.one(self._path, body, key, _object, patient=not self._gone)
        silent = isinstance(answer, Failed) and not answer.blocked and answer.status not in _REFUSED_ONE
        if isinstance(answer, Failed) and silent and answer.status in _REFUSED_ALL:
            raise self._no_answer(answer)
        # One that did not even say that it is busy: the next text waits for it less long.
        self._gone = isinstance(answer, Failed) and silent and answer.status is None
        if not silent and (isinstance(answer, Failed) or self._has_verdict(answer)):
            self._in_a_row = 0
            return answer
        self._in_a_row += 1
        if self._in_a_row >= self._most_in_a_row:
            why = str(answer) if isinstance(answer, Failed) else "answers without a verdict"
            raise RunError(
                f"scorer '{self.name}' is down: {self._in_a_row} requests in a row got no answer from "
                f"{self._server.url}/{self._path} ({why}), as many as scorer.error_budget allows; mend it, then go on "
                "with the same command (of train with --resume)"
            )
        return answer

    @abstractmethod
    def _has_verdict(self, answer: Mapping[str, Any]) -> bool:
        """Whether an answer tells a score."""

    def _probed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The first request fails closed: a wrong address must not turn every score into ``nan``."""
        (answer,) = self._asked([body])
        if isinstance(answer, Failed):
            raise self._no_answer(answer)
        return answer

    def _no_answer(self, failed: Failed) -> UserError:
        why = f"{failed.reason}: {failed.detail}" if failed.detail else failed.reason
        where = f"{self._server.url}/{self._path}"
        return ended_by(failed)(
            f"scorer '{self.name}' has no answer from {where} ({why}); check scorer.base_url and the server"
        )


def _object(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise BadAnswerError("answer is not a JSON object")
    return answer


class ModerationScorer(_ServedScorer):
    """The moderation endpoint: one category's score, or the highest of all where the label is ``toxicity``."""

    def __init__(self, model: str, options: ScorerSettings) -> None:
        """Ask the server once.

        Raises:
            UserError: It cannot be reached, refuses the request, or has no such category.
        """
        super().__init__(f"openai-moderation:{model}", "moderations", options)
        self._model, self._category, self._size = model, options.label, min(options.batch_size, _INPUTS_PER_REQUEST)
        rows = self._rows(self._probed({"model": model, "input": ["Hello."]}), 1)
        if rows is None:
            raise UserError(f"'{options.base_url}/moderations' gives no category_scores; check scorer.base_url")
        if self._category not in rows[0]:
            if self._category != "toxicity":
                raise UserError(f"'{model}' has no category '{self._category}'.{nearest(self._category, rows[0])}")
            self._category = ""
        self.name += f" ({self._category or 'highest category'})"

    def _score_new(self, items: Sequence[Item]) -> list[float]:
        texts = [text for text, _ in items]
        parts = [texts[start : start + self._size] for start in range(0, len(texts), self._size)]
        answers = self._asked([{"model": self._model, "input": part} for part in parts])
        scores: list[float] = []
        for part, answer in zip(parts, answers, strict=True):
            rows = None if isinstance(answer, Failed) else self._rows(answer, len(part))
            scores += [math.nan] * len(part) if rows is None else map(self._value, rows)
        return scores

    def _has_verdict(self, answer: Mapping[str, Any]) -> bool:
        results = answer.get("results")
        return isinstance(results, list) and bool(results) and self._rows(answer, len(results)) is not None

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


class ChatJudge(_ServedScorer):
    """A served chat model that answers with one of two words; probabilities where the server gives them."""

    def __init__(self, model: str, options: ScorerSettings) -> None:
        """Ask the server once, to see whether it gives probabilities.

        Raises:
            UserError: It cannot be reached, refuses the request, or answers with neither word.
        """
        super().__init__(f"openai-chat:{model}", "chat/completions", options, in_context=options.in_context)
        self._model, self._options = model, options
        answer = self._probed(self._body(("Hello, how are you today?", ())))
        if math.isnan(self._value(answer)):
            raise UserError(
                f"judge '{self.name}' answers neither '{options.safe_token}' nor '{options.unsafe_token}'; set "
                "scorer.instruction, scorer.safe_token and scorer.unsafe_token"
            )
        if _first_position(answer) is None:
            self.name += " (answers only)"  # the server gives no probabilities, so scores are 0 or 1

    def _body(self, item: Item) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": messages_for(*item, self._options.instruction),
            "max_tokens": _ANSWER_TOKENS,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }

    def _score_new(self, items: Sequence[Item]) -> list[float]:
        answers = self._asked([self._body(item) for item in items])
        return [math.nan if isinstance(answer, Failed) else self._value(answer) for answer in answers]

    def _has_verdict(self, answer: Mapping[str, Any]) -> bool:
        return not math.isnan(self._value(answer))

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
