"""A set of adversaries as one: every conversation is led by one of them, and each leads equally many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..base.protocols import Session, Speaker
from ..base.randomness import generator
from ..base.records import Keys, Prefix, Speech

T = TypeVar("T")


def in_turn(prefixes: Sequence[str], members: int, seed: int) -> dict[str, int]:
    """Which member leads the conversation after each prefix.

    Of every ``members`` prefixes in a row each member gets one, in an order that is drawn. So shares are equal within
    one, and a prefix keeps its member however many others follow.
    """
    found: dict[str, int] = {}
    for place, text in enumerate(dict.fromkeys(prefixes)):
        block, offset = divmod(place, members)
        if not offset:
            order = generator("members", seed, block).permutation(members)
        found[text] = int(order[offset])
    return found


@dataclass(eq=False)
class Mixture(Speaker):
    """A set of adversaries that share the prefixes.

    Attributes:
        members: The adversaries.
        assigned: Text of every prefix to the number of its member, from 0.
        name: Name for logs.
    """

    members: Sequence[Speaker]
    assigned: Mapping[str, int]
    name: str

    def start(self, prefixes: Sequence[str], *, turns: int) -> MixtureSession:
        """Open one conversation per prefix, each with its member."""
        rows: dict[int, list[int]] = {}
        for row, text in enumerate(prefixes):
            rows.setdefault(self.assigned[text], []).append(row)
        parts = [(self.members[i].start([prefixes[row] for row in own], turns=turns), own) for i, own in rows.items()]
        return MixtureSession(parts)

    def heard(self, prefix: Prefix, *, turns: int) -> Prefix:
        """What its member hears of a prefix."""
        return self.members[self.assigned[prefix.text]].heard(prefix, turns=turns)

    def check_room(self, turns: int) -> None:
        """As every member's."""
        for member in self.members:
            member.check_room(turns)

    def bytes_per_tree(self, *, horizon: int, branching: int) -> Mapping[str, int]:
        """As the member's that needs most."""
        most: dict[str, int] = {}
        for member in self.members:
            for device, size in member.bytes_per_tree(horizon=horizon, branching=branching).items():
                most[device] = max(size, most.get(device, 0))
        return most

    def weights_sha256(self) -> str | None:
        """Hash of the members' and of who meets which prefix."""
        hashes = [member.weights_sha256() for member in self.members]
        if not all(hashes):
            return None
        return hashlib.sha256(json.dumps([hashes, sorted(self.assigned.items())]).encode()).hexdigest()


class MixtureSession(Session):
    """Rows of several sessions in one batch."""

    def __init__(self, parts: Sequence[tuple[Session, list[int]]]) -> None:
        """Hold sessions, each with the numbers that its rows have here."""
        self._parts = parts

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one speech per row."""
        return self._gather(lambda session, rows: session.hear([speeches[row] for row in rows], likelihood=likelihood))

    def say(self, speeches: Sequence[Speech]) -> None:
        """Append one speech per row as its member's own."""
        for session, rows in self._parts:
            session.say([speeches[row] for row in rows])

    def speak(self, keys: Keys) -> list[Speech]:
        """Every row's member speaks."""
        return self._gather(lambda session, rows: session.speak(keys[rows])) or []

    def branch(self, rows: Sequence[int]) -> MixtureSession:
        """Continue chosen rows."""
        parts = []
        for session, own in self._parts:
            place = {row: i for i, row in enumerate(own)}
            chosen = [i for i, row in enumerate(rows) if row in place]
            if chosen:
                parts.append((session.branch([place[rows[i]] for i in chosen]), chosen))
        return MixtureSession(parts)

    def transcript(self) -> list[tuple[int, ...]] | None:
        """Token ids of every row so far, each in its member's tokens; ``None`` where a member has none."""
        return self._gather(lambda session, rows: session.transcript())

    def _gather(self, ask: Callable[[Session, list[int]], Sequence[T] | None]) -> list[T] | None:
        """What every session answers, by row; ``None`` where one answers nothing."""
        found: dict[int, T] = {}
        for session, rows in self._parts:
            told = ask(session, rows)
            found |= zip(rows, told, strict=True) if told is not None else ()
        count = sum(len(rows) for _, rows in self._parts)
        return [found[row] for row in range(count)] if len(found) == count else None
