"""A human adversary: replays dialogues that were written beforehand.

Protocol (docs/method.md section 6): a three-turn attack feeds one, two, then three *accumulated* human turns.
So utterance k is the first k human turns of one dialogue, joined by spaces, and the defender hears it straight after
the prefix, without its own earlier replies (the rollout starts it anew: ``accumulated``). The answers that the human
got when the dialogue was recorded are left out: they came from another bot. Prefix, defender, scores and intervals are
those of every other adversary.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...base.errors import UserError
from ...base.protocols import Session, Speaker
from ...base.randomness import key_of
from ...base.records import Keys, Speech
from ...data.sources import Dialogue


class Replay(Speaker):
    """Replays human turns."""

    accumulates = True

    def __init__(self, dialogues: Sequence[Dialogue], *, name: str, seed: int) -> None:
        """Hold the dialogues.

        Args:
            dialogues: The human's side of each.
            name: Name for logs and tables.
            seed: Names the draw of a dialogue for each prefix.
        """
        self._scripts = [dialogue.turns for dialogue in dialogues]
        self.name, self._seed = name, seed

    def usable(self, turns: int) -> list[tuple[str, ...]]:
        """Beginnings of ``turns`` turns: shorter dialogues are left out, and of equal beginnings one is kept."""
        return list(dict.fromkeys(script[:turns] for script in self._scripts if len(script) >= turns))

    def start(self, prefixes: Sequence[str], *, turns: int) -> ReplaySession:
        """Open one conversation per prefix; which dialogue it gets hangs on seed and prefix alone.

        Raises:
            UserError: No dialogue is long enough.
        """
        usable = self.usable(turns)
        if not usable:
            raise UserError(
                f"'{self.name}' has no dialogue of {turns} human turns; lower rollout.horizon or add longer dialogues"
            )
        return ReplaySession([usable[int(key_of("script", self._seed, text)) % len(usable)] for text in prefixes])


class ReplaySession(Session):
    """Rows of a script; a script has no tokens."""

    def __init__(self, scripts: Sequence[tuple[str, ...]], spoken: int = 0) -> None:
        self._scripts, self._spoken = list(scripts), spoken

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> None:
        """Listen to nobody: the turns were written before."""

    def speak(self, keys: Keys) -> list[Speech]:
        """The human turns so far and the next one, as one utterance per row."""
        self._spoken += 1
        return [Speech(" " + " ".join(script[: self._spoken])) for script in self._scripts]

    def branch(self, rows: Sequence[int]) -> ReplaySession:
        """Continue chosen rows."""
        return ReplaySession([self._scripts[row] for row in rows], self._spoken)
