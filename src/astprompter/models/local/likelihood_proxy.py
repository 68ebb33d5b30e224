"""A named local model that tells likelihoods in place of a defender that cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...base.protocols import Session, Speaker
from ...base.records import Keys, Prefix, Speech


class LikelihoodProxy(Speaker):
    """A defender whose likelihoods are another model's.

    Attributes:
        defender: Speaks.
        model: Hears the same conversation and tells likelihoods.
    """

    def __init__(self, defender: Speaker, model: Speaker) -> None:
        self.defender, self.model, self.name = defender, model, defender.name
        self.likelihood_proxy = f"stand-in ({model.name}), not the defender's ({defender.name})"

    def start(self, prefixes: Sequence[str], *, turns: int) -> LikelihoodProxySession:
        """Open one conversation per prefix with both."""
        return LikelihoodProxySession(
            self.defender.start(prefixes, turns=turns), self.model.start(prefixes, turns=turns)
        )

    def heard(self, prefix: Prefix, *, turns: int) -> Prefix:
        """What the defender hears of a prefix."""
        return self.defender.heard(prefix, turns=turns)

    def check_room(self, turns: int) -> None:
        """Refuse a horizon that is too long for either."""
        self.defender.check_room(turns)
        self.model.check_room(turns)

    def bytes_per_tree(self, *, horizon: int, branching: int) -> Mapping[str, int]:
        """What both need together."""
        both = (speaker.bytes_per_tree(horizon=horizon, branching=branching) for speaker in (self.defender, self.model))
        return sum(map(Counter, both), Counter[str]())

    def pieces(self, speech: Speech) -> tuple[str, ...]:
        """The model's tokens, since the log-probabilities are its."""
        return self.model.pieces(speech)

    def weights_sha256(self) -> str | None:
        """The defender's."""
        return self.defender.weights_sha256()

    def facts(self) -> dict[str, Any]:
        """The defender's, and whose likelihood it is."""
        return {**self.defender.facts(), "likelihood": self.likelihood_source}


class LikelihoodProxySession(Session):
    """Two sessions that hear the same."""

    def __init__(self, defender: Session, model: Session) -> None:
        self._defender, self._model = defender, model

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row on both sides; the stand-in's log-probabilities."""
        self._defender.hear(speeches)
        return self._model.hear(speeches, likelihood=likelihood)

    def unknown(self) -> list[str | None] | None:
        """The model's reasons."""
        return self._model.unknown()

    def speak(self, keys: Keys) -> list[Speech]:
        """The defender's replies, which the stand-in hears."""
        replies = self._defender.speak(keys)
        self._model.say(replies)
        return replies

    def branch(self, rows: Sequence[int]) -> LikelihoodProxySession:
        """Continue chosen rows on both sides."""
        return LikelihoodProxySession(self._defender.branch(rows), self._model.branch(rows))

    def transcript(self) -> list[tuple[int, ...]] | None:
        """The defender's tokens, if it has any."""
        return self._defender.transcript()
