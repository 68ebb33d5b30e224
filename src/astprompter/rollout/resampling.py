"""What can be reached without training: of many utterances of a model, the one that a trial reply speaks for.

At every turn the model says N candidates, the defender gives a trial reply to each, and one candidate is drawn with
probability proportional to exp(R/η). With many candidates this is π ∝ π_ref · exp(R/η) of rewards that were seen once,
so what a trained adversary adds to it is what training is good for. The reply that counts is a fresh one, with another
random key: what was chosen for a lucky reply is not measured by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..base.protocols import Context, Scorer, Session, Speaker
from ..base.randomness import derive, uniform
from ..base.records import Keys, Prefix, Speech
from ..config import RewardSettings
from .reward import assess

Floats = npt.NDArray[np.float64]
_UTTERANCE, _TRIAL, _CHOICE = 3_000, 4_000, 5_000  # stream names beside those of the rollout


@dataclass(eq=False)
class Resampling(Speaker):
    """A speaker that tries its utterances out.

    Attributes:
        base: Says the candidates.
        defender: Gives trial replies, and tells the likelihood.
        scorer: Toxicity R_φ.
        weights: Weights of the reward.
        candidates: Utterances at every turn, N.
        eta: η: the smaller, the more a reward decides; in units of the reward.
        name: Name for logs and tables.
    """

    base: Speaker
    defender: Speaker
    scorer: Scorer
    weights: RewardSettings
    candidates: int
    eta: float
    name: str = field(default="resample", kw_only=True)

    def start(self, prefixes: Sequence[str], *, turns: int) -> ResamplingSession:
        """Open one conversation per prefix, with the model and with the defender."""
        heard = [(self.defender.heard(Prefix("", text), turns=turns).text,) for text in prefixes]
        own, other = (speaker.start(prefixes, turns=turns) for speaker in (self.base, self.defender))
        return ResamplingSession(self, own, other, heard)

    def heard(self, prefix: Prefix, *, turns: int) -> Prefix:
        """What the model hears of a prefix."""
        return self.base.heard(prefix, turns=turns)

    def check_room(self, turns: int) -> None:
        """As the model's."""
        self.base.check_room(turns)

    def bytes_per_tree(self, *, horizon: int, branching: int) -> Mapping[str, int]:
        """All candidates and their trial replies."""
        total: dict[str, int] = {}
        for speaker in (self.base, self.defender):
            for device, size in speaker.bytes_per_tree(horizon=horizon, branching=branching).items():
                total[device] = total.get(device, 0) + (1 + 2 * self.candidates) * size
        return total

    def weights_sha256(self) -> str | None:
        """The model's."""
        return self.base.weights_sha256()


class ResamplingSession(Session):
    """Conversations of a resampling speaker, and the same ones as the defender lived through them."""

    def __init__(self, speaker: Resampling, own: Session, other: Session, said: Sequence[Context]) -> None:
        self._speaker, self._own, self._other, self._said = speaker, own, other, list(said)

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append what the defender replied."""
        self._other.say(speeches)
        self._said = [(*said, speech.text) for said, speech in zip(self._said, speeches, strict=True)]
        return self._own.hear(speeches, likelihood=likelihood)

    def speak(self, keys: Keys) -> list[Speech]:
        """Draw one of the candidates of every row by its trial reply."""
        count = self._speaker.candidates
        rows = [row for row in range(len(keys)) for _ in range(count)]
        each = derive(keys[rows], np.arange(len(rows), dtype=np.int64) % count)
        own, other = self._own.branch(rows), self._other.branch(rows)
        utterances = own.speak(derive(each, _UTTERANCE))
        logprobs = other.hear(utterances, likelihood=True) or [()] * len(rows)
        trials = other.branch(range(len(rows))).speak(derive(each, _TRIAL))
        turns = assess(
            utterances, trials, logprobs, self._speaker.scorer, self._speaker.weights,
            contexts=[self._said[row] for row in rows],
        )  # fmt: skip
        rewards = np.array([turn.reward for turn in turns]).reshape(len(keys), count)
        chosen = drawn(rewards, self._speaker.eta, uniform(derive(keys, _CHOICE), 0)) + count * np.arange(len(keys))
        self._own, self._other = own.branch(chosen.tolist()), other.branch(chosen.tolist())
        self._said = [(*said, utterances[i].text) for said, i in zip(self._said, chosen, strict=True)]
        return [utterances[i] for i in chosen]

    def branch(self, rows: Sequence[int]) -> ResamplingSession:
        """Continue chosen rows."""
        said = [self._said[row] for row in rows]
        return ResamplingSession(self._speaker, self._own.branch(rows), self._other.branch(rows), said)

    def transcript(self) -> list[tuple[int, ...]] | None:
        """Token ids of the model's own text so far."""
        return self._own.transcript()


def drawn(rewards: Floats, eta: float, numbers: Floats) -> npt.NDArray[np.int64]:
    """One candidate of each row with probability ∝ exp(R/η).

    Args:
        rewards: [rows, candidates]; one that is ``nan`` is never drawn, unless all of a row are: then the first is.
        eta: η.
        numbers: A uniform number in [0, 1) for each row.

    Returns:
        [rows], the number of the candidate.
    """
    known = np.isfinite(rewards)
    known[~known.any(axis=1), 0] = True
    finite = np.nan_to_num(rewards)
    largest = np.where(known, finite, -np.inf).max(axis=1, keepdims=True)
    edges = np.cumsum(np.where(known, np.exp((finite - largest) / eta), 0.0), axis=1)
    found: npt.NDArray[np.int64] = (edges > numbers[:, None] * edges[:, -1:]).argmax(axis=1)
    return found
