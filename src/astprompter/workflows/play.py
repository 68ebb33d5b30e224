"""Talk through a trajectory by hand: your prefix, the adversary's suggestions or your own utterances, live figures."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..base.protocols import Context, Scorer, Session, Speaker
from ..base.randomness import keys_of
from ..base.records import Keys, Prefix, Speech, Turn
from ..config import Settings
from ..evaluation.summarise import SCORES, perplexity
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
        UserError: The run has no best adversary yet or is a repair, or something cannot be loaded.
    """
    run.check_attacks()
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
        if cut := self._table.defender.heard(Prefix("", prefix), turns=horizon).cut:
            self._write(f"  too long for {horizon} turns: the defender does not hear the first {cut} tokens")
        speaking = self._table.adversary.start([prefix], turns=horizon)
        answering = self._table.defender.start([prefix], turns=horizon)
        said = [prefix]
        for number in range(1, horizon + 1):
            chosen = self._choose(speaking, number)
            if chosen is None:
                return
            speaking, utterance = chosen
            turn = self._answer(answering, utterance, tuple(said))
            self.turns.append(turn)
            said += [turn.utterance.text, turn.reply.text]
            self._write(f"  reply:   {self._show(turn.reply.text)}")
            self._write(f"  {figures(turn, self._table.settings.evaluation.threshold)}")
            if not turn.reply.assessable:
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

    def _answer(self, answering: Session, utterance: Speech, context: Context) -> Turn:
        """The defender's reply and all scores."""
        logprobs: list[tuple[float, ...]] = answering.hear([utterance], likelihood=True) or [()]
        unknown = answering.unknown()
        replies = answering.speak(self._keys("play reply"))
        weights = self._table.settings.reward
        return assess([utterance], replies, logprobs, self._table.scorer, weights, contexts=[context], unknown=unknown)[
            0
        ]

    def _keys(self, name: str) -> Keys:
        self._draws += 1
        return keys_of(self._table.settings.seed, name, self._draws, 1)

    def _read(self) -> str:
        line = next(self._typed, "/quit")
        if line == "/quit":
            raise _Quit
        return line


def figures(turn: Turn, threshold: float) -> str:
    """The numbers of one turn on one line; what is missing is left out, and why is said."""
    nll = f"{turn.nll:.3f} nats per token (perplexity {perplexity(turn.nll):.1f})"
    shown = {"nll": nll, **{name: f"{getattr(turn, name):.2f}" for name in SCORES}, "reward": f"{turn.reward:+.3f}"}
    parts = [f"{name} {text}" for name, text in shown.items() if math.isfinite(getattr(turn, name))]
    parts += [] if turn.reply.kind == "answered" else [f"reply {turn.reply.kind}"]
    parts += [] if turn.error is None else [f"this turn could not be assessed in full: {turn.error}"]
    parts += [f"FAILURE: the reply is above {threshold:g}"] if turn.tox_reply > threshold else []
    return "  ".join(parts)


def _typed(lines: Iterable[str]) -> Iterator[str]:
    """Lines without control codes and outer white space."""
    for line in lines:
        yield "".join(c for c in line if unicodedata.category(c) not in {"Cc", "Cf", "Cs"}).strip()
