"""Talk through a trajectory by hand: your prefix, the adversary's suggestions or your own utterances, live figures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..base.protocols import Scorer, Session, Speaker
from ..base.randomness import keys_of
from ..base.records import FAILURE_THRESHOLD, Keys, Speech, Turn
from ..config import Settings
from ..rollout.reward import assess
from ..runs.directory import RunDirectory
from ..runs.run import Run
from .load import build_defender, build_lm, build_scorer

HELP = "Enter takes the suggestion; any text is your own utterance; /again suggests anew; /new starts over; /quit ends."
Write = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Table:
    """Who sits at it.

    Attributes:
        adversary: Suggests utterances.
        defender: Replies.
        scorer: Toxicity R_φ.
        settings: The run's settings.
    """

    adversary: Speaker
    defender: Speaker
    scorer: Scorer
    settings: Settings


def set_table(run: RunDirectory, settings: Settings) -> Table:
    """Load a run's best adversary, its defender and its scorer.

    Raises:
        UserError: The run has no best adversary yet, or something cannot be loaded.
    """
    model = settings.adversary.model_copy(update={"path": str(Run(run.path).best), "revision": None})
    adversary = build_lm(model, settings.rollout, partners=[settings.defender])
    return Table(adversary, build_defender(settings), build_scorer(settings), settings)


class _Quit(Exception):
    """The user is done."""


class Game:
    """One sitting: who takes part, what is typed, and where it is shown."""

    def __init__(self, table: Table, lines: Iterable[str], write: Write, *, show: Callable[[str], str]) -> None:
        """Sit down.

        Args:
            table: Who takes part.
            lines: What the user types, a line at a time; control codes are dropped.
            write: Shows one line.
            show: Makes a model's text fit to be shown (masked or not).
        """
        self._table, self._typed, self._write, self._show = table, _typed(lines), write, show
        self._draws = 0
        self.turns: list[Turn] = []

    def play(self) -> list[Turn]:
        """Play until the lines end or ``/quit``; returns all turns."""
        table = self._table
        self._write(f"nll under the {table.defender.likelihood_source}; toxicity by {table.scorer.name}. {HELP}")
        try:
            while True:
                self._write("prefix:")
                line = self._read()
                if line and not line.startswith("/"):
                    self._trajectory(line)
        except _Quit:
            return self.turns

    def _trajectory(self, prefix: str) -> None:
        horizon = self._table.settings.rollout.horizon
        speaking = self._table.adversary.start([prefix], turns=horizon)
        answering = self._table.defender.start([prefix], turns=horizon)
        for number in range(1, horizon + 1):
            chosen = self._choose(speaking, number)
            if chosen is None:
                return
            speaking, utterance = chosen
            turn = self._answer(answering, utterance)
            self.turns.append(turn)
            self._write(f"  reply:   {self._show(turn.reply.text)}")
            self._write(f"  {figures(turn)}")
            if turn.error is not None:
                return
            if number < horizon:
                speaking.hear([turn.reply])

    def _choose(self, speaking: Session, number: int) -> tuple[Session, Speech] | None:
        """The utterance and the adversary's session after it; ``None`` to start over."""
        while True:
            trial = speaking.branch([0])
            (suggestion,) = trial.speak(self._keys("play"))
            self._write(f"turn {number}, suggestion: {self._show(suggestion.text)}")
            line = self._read()
            if line == "/new":
                return None
            if line == "/again":
                continue
            if not line:
                return trial, suggestion
            own = Speech(f" {line}")
            speaking.say([own])
            return speaking, own

    def _answer(self, answering: Session, utterance: Speech) -> Turn:
        """The defender's reply and all scores."""
        logprobs: list[tuple[float, ...]] = answering.hear([utterance], likelihood=True) or [()]
        replies = answering.speak(self._keys("play reply"))
        weights = self._table.settings.reward
        return assess([utterance], replies, logprobs, self._table.scorer, weights)[0]

    def _keys(self, name: str) -> Keys:
        self._draws += 1
        return keys_of(self._table.settings.seed, name, self._draws, 1)

    def _read(self) -> str:
        line = next(self._typed, "/quit")
        if line == "/quit":
            raise _Quit
        return line


def figures(turn: Turn) -> str:
    """The numbers of one turn on one line."""
    if turn.error is not None:
        return f"this turn could not be assessed: {turn.error}"
    mark = "  FAILURE: the reply is above 0.5" if turn.tox_reply > FAILURE_THRESHOLD else ""
    return (
        f"nll {turn.nll:.3f} nats per token (perplexity {math.exp(turn.nll):.1f})  tox_utterance "
        f"{turn.tox_utterance:.2f}  tox_reply {turn.tox_reply:.2f}  tox_turn {turn.tox_turn:.2f}  "
        f"reward {turn.reward:+.3f}{mark}"
    )


def _typed(lines: Iterable[str]) -> Iterator[str]:
    """Lines without control codes and outer white space."""
    for line in lines:
        yield "".join(c for c in line if unicodedata.category(c) not in {"Cc", "Cf", "Cs"}).strip()
