"""What the code needs of a speaker, its conversations and a scorer.

A class that inherits from a protocol here gets the answers that are written out below (no tokens, no memory, its own
likelihood), so that a plug-in's class says only what is special about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .records import Keys, Prefix, Speech


class Session(Protocol):
    """A batch of live conversations in lock step, one row each; hears and speaks, and can branch."""

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row.

        Args:
            speeches: What the other side said, one per row.
            likelihood: Whether to return this speaker's log-probability of every heard token.

        Returns:
            Log-probabilities in nats, one tuple per row (empty where the speech did not fit or was
            empty), or ``None`` when not asked for or when the speaker cannot tell.
        """

    def speak(self, keys: Keys) -> list[Speech]:
        """Sample one continuation per row and append it; row r draws from ``keys[r]`` alone."""

    def branch(self, rows: Sequence[int]) -> Session:
        """Return a session whose row i continues this session's row ``rows[i]``, caches included."""

    def say(self, speeches: Sequence[Speech]) -> None:
        """Put words into this speaker's mouth: append one speech per row, written by somebody else, as its own."""
        self.hear(speeches)

    def transcript(self) -> list[tuple[int, ...]] | None:
        """Token ids of every row so far, or ``None`` for a speaker without tokens."""
        return None

    def unknown(self) -> list[str | None] | None:
        """Why the likelihood of what each row heard last is not known; ``None`` where it did not fit, or nothing is."""
        return None


class Speaker(Protocol):
    """A model, script or server that can take part in conversations.

    Attributes:
        name: Name for logs and tables.
        accumulates: Each of its utterances holds those before it, so it is heard straight after the prefix.
        likelihood_proxy: Whose likelihood it tells in place of its own, in words; ``None`` where it is its own.
        local: Itself, where it is a :class:`~astprompter.models.local.lm.LanguageModel`: a policy whose weights are at
            hand, that can be compared with others, tuned, or used as reference.
    """

    name: str
    accumulates: bool = False
    likelihood_proxy: str | None = None
    local: Any = None

    def start(self, prefixes: Sequence[str], *, turns: int) -> Session:
        """Open one conversation per prefix.

        Args:
            prefixes: Opening texts.
            turns: How many turns must fit; over-long prefixes lose tokens on the left, once, here.
        """

    def heard(self, prefix: Prefix, *, turns: int) -> Prefix:
        """What :meth:`start` leaves of a prefix: its text as heard, and how many tokens were cut."""
        del turns
        return prefix

    @property
    def likelihood_source(self) -> str:
        """Whose likelihood every nll is, in words."""
        return self.likelihood_proxy or f"defender ({self.name})"

    def check_room(self, turns: int) -> None:
        """Refuse a horizon for which there is no room.

        Raises:
            UserError: A context is too short for so many turns.
        """
        del turns

    def pieces(self, speech: Speech) -> tuple[str, ...]:
        """Text of every token that its log-probabilities of a heard speech belong to; empty where it cannot tell.

        The pieces joined are the speech; a token inside a character is empty.
        """
        del speech
        return ()

    def bytes_per_tree(self, *, horizon: int, branching: int) -> Mapping[str, int]:
        """Memory that one tree needs at its last depth, by the name of the device; empty where none is needed here."""
        del horizon, branching
        return {}

    def weights_sha256(self) -> str | None:
        """Hash of the weights; ``None`` where they are not at hand."""
        return None

    def facts(self) -> dict[str, Any]:
        """What is known about it beside its weights, for ``config.json`` and ``summary.json``."""
        return {"remote": None, "likelihood": self.likelihood_source}


Context = tuple[str, ...]
"""What was said before a text: the prefix, then utterances and replies in turn."""


class Scorer(Protocol):
    """Toxicity R_φ of texts."""

    @property
    def name(self) -> str:
        """Name for logs and tables."""

    def score(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[float]:
        """Score texts.

        Args:
            texts: Texts in any order; blank ones score 0 without being read.
            contexts: What was said before each text, a tuple; a scorer that judges texts on their own ignores it.

        Returns:
            One value in [0, 1] per text, in the same order.
        """


class Encoder(Protocol):
    """Vectors of texts, by which like texts are told.

    Attributes:
        name: Name for tables.
    """

    name: str

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """A unit vector for each text, [texts, width]."""
