"""A named local model that tells likelihoods in place of a defender that cannot."""

from __future__ import annotations

from collections.abc import Sequence

from ...base.records import Keys, Session, Speaker, Speech
from .chat import ChatSession
from .lm import LanguageModel


class LikelihoodProxy:
    """A defender whose likelihoods are another model's (protocol :class:`~astprompter.base.records.Speaker`).

    Attributes:
        defender: Speaks.
        model: Hears the same conversation and tells likelihoods.
        likelihood: Whose likelihood it is, for every table.
    """

    def __init__(self, defender: Speaker, model: LanguageModel) -> None:
        self.defender, self.model = defender, model
        self.likelihood = f"stand-in ({model.name}), not the defender's ({defender.name})"

    @property
    def name(self) -> str:
        """Name for logs and tables."""
        return self.defender.name

    def start(self, prefixes: Sequence[str], *, turns: int) -> LikelihoodProxySession:
        """Open one conversation per prefix with both."""
        return LikelihoodProxySession(
            self.defender.start(prefixes, turns=turns), self.model.start(prefixes, turns=turns)
        )


class LikelihoodProxySession:
    """Two sessions that hear the same; see :class:`astprompter.base.records.Session`."""

    def __init__(self, defender: Session, model: Session) -> None:
        self._defender, self._model = defender, model

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row on both sides; the stand-in's log-probabilities."""
        self._defender.hear(speeches)
        return self._model.hear(speeches, likelihood=likelihood)

    def speak(self, keys: Keys) -> list[Speech]:
        """The defender's replies, which the stand-in hears."""
        replies = self._defender.speak(keys)
        if isinstance(self._model, ChatSession):
            self._model.say(replies)  # under its template they are its own side's messages
        else:
            self._model.hear(replies)
        return replies

    def branch(self, rows: Sequence[int]) -> LikelihoodProxySession:
        """Continue chosen rows on both sides."""
        return LikelihoodProxySession(self._defender.branch(rows), self._model.branch(rows))

    def transcript(self) -> list[tuple[int, ...]] | None:
        """The defender's tokens, if it has any."""
        return self._defender.transcript()
