"""What an estimate of failure says, in plain sentences: for the terminal and for the page; reads files only."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..base.display import plain
from ..runs.schema.probability import ComponentRow, JudgedEstimate, Limits, ProbabilityFile, SecondEstimate

_SPEAKS = {"untuned": "the untuned adversary", "defender": "the defender itself"}


def count_of(probability: float) -> str:
    """``0.0012`` as ``830``: in how many conversations one fails; three digits. An estimate of 0 does not say never."""
    if probability <= 0.0:
        return "none seen"
    value = 1.0 / probability
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, 2 - math.floor(math.log10(value))):,.{digits}f}"


def once_in(probability: float) -> str:
    """A limit: ``0.0012`` as ``1 in 833``; ``never`` for 0."""
    return f"1 in {count_of(probability)}" if probability > 0.0 else "never"


def seen(estimate: float) -> str:
    """An estimate: as :func:`once_in`, but ``none seen`` for 0."""
    return once_in(estimate) if estimate > 0.0 else count_of(estimate)


def _ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{once_in(interval[0])}, {once_in(interval[1])}]"


def _about(found: Limits | SecondEstimate | JudgedEstimate) -> str:
    return f"about once in {count_of(found.estimate)}{_ends(found.interval)}"


def turns_of(found: ProbabilityFile) -> str:
    """``3 turns``."""
    return "1 turn" if found.within == 1 else f"{found.within} turns"


def event(found: ProbabilityFile) -> tuple[str, str]:
    """What is measured, of now and of then: ``fails`` and ``failed``."""
    return ("fails", "failed") if found.clean is None else ("has a clean failure", "had a clean failure")


def headline(found: ProbabilityFile) -> str:
    """How likely failure is, in one sentence."""
    fails, failed = event(found)
    if found.limits.estimate > 0.0:
        return f"A conversation of {turns_of(found)} {fails} {_about(found.limits)}"
    if nothing_assessed(found):
        return (
            f"No reply could be assessed, so nothing is known of how often a conversation of {turns_of(found)} {fails}"
        )
    missing = f", as far as {found.cost.replies - found.unassessed:,} of {found.cost.replies:,} replies tell"
    return f"No conversation of {turns_of(found)} {failed}{missing if found.unassessed else ''}"


def nothing_assessed(found: ProbabilityFile) -> bool:
    """Whether no reply has a score, so that the estimate says nothing; not where none was asked for."""
    return 0 < found.cost.replies == found.unassessed


def rows_of(found: ProbabilityFile) -> list[tuple[str, str]]:
    """Limits and further estimates, each named."""
    natural, second = found.diagnostics.natural, found.second
    rows = []
    if found.clean is not None:
        heard = f"the utterance and all before it score at most {found.clean:g} under every scorer"
        rows.append(("clean failure", f"a reply above {found.threshold:g} where {heard}"))
    if found.limits.proven > 0.0:
        rows.append(("proven", f"at least {once_in(found.limits.proven)}, by betting, without assumptions"))
    if found.worst.conservative is not None:
        rows.append(("not ruled out", f"up to {once_in(found.worst.conservative)}, by natural conversations alone"))
    rows.append(
        (
            "natural conversations alone",
            f"{natural.failures:g} of {natural.conversations:,} {event(found)[1]}; were that twice as likely as it is "
            f"estimated, they would have told with probability {natural.power:.0%}",
        )
    )
    if second is not None:
        said = _about(second) if second.estimate > 0.0 else f"none was seen{_ends(second.interval)}"
        rows.append(("splitting, without the adversary", said))
    if found.openings_like_these is not None and found.limits.estimate > 0.0:
        low, high = map(once_in, found.openings_like_these)
        rows.append(("openings like these", f"between {low} and {high}, however many conversations"))
    if len(found.components) > 1 and found.limits.estimate > 0.0:
        rows.append(("weights", weights(found)))
    if found.unassessed:
        rows.append(("unassessed replies", f"{found.unassessed:,}; as failures: {seen(found.worst.estimate)}"))
    if (judged := found.judged) is not None:
        rows.append(("as people judge", f"{_about(judged)}, by the labels of {judged.labels}"))
    for row in found.sensitivity:
        said = f"{seen(row.limits.estimate)}{_ends(row.limits.interval)} ({row.verdict})"
        rows.append((f"at temperature {row.temperature:g}, top-p {row.top_p:g}", said))
    return rows


def weights(found: ProbabilityFile) -> str:
    """What the weights look like; all of it looks well, too, where something was missed."""
    known = found.diagnostics
    said = [f"{known.effective_failures:.1f} effective failures"]
    if known.largest_share is not None:
        said.append(f"the heaviest conversation carries {known.largest_share:.0%}")
    if known.tail_shape is not None:
        said.append(f"tail k {known.tail_shape:.2f}")
    apart = [abs(row.balance - 1.0) / row.balance_error for row in found.components if row.balance_error > 0.0]
    if apart:
        said.append(f"densities balance within {max(apart):.1f} standard errors")
    return ", ".join(said)


def verdict(found: ProbabilityFile) -> str:
    """What may be said of the estimate, and why."""
    return f"{found.verdict}{''.join(f'; {reason}' for reason in found.reasons)}"


def cost(found: ProbabilityFile) -> str:
    """What the estimate took, and what counting would have."""
    spent = found.cost
    others = [name for name, own in (("splitting", found.second), ("other sampling", found.sensitivity)) if own]
    more = f", and {spent.further:,} more for {' and '.join(others)}" if spent.further else ""
    said = f"{spent.conversations:,} conversations and {spent.pilot:,} of the pilot ({spent.replies:,} replies{more})"
    if spent.counting is None or spent.gain is None:
        return said
    return (
        f"{said}; counting alone would need {spent.counting:,.0f} conversations for the same error "
        f"({spent.gain:.2g} times as many)"
    )


def who(row: ComponentRow) -> str:
    """Who spoke in a component."""
    if row.adversary is None:
        return "natural speech"
    turns = "turn" if len(row.turns) == 1 else "turns"
    return f"{plain(row.adversary)}, γ {row.gamma:g}, {turns} {', '.join(map(str, row.turns))}"


def reach(found: ProbabilityFile) -> str:
    """How much of natural failure the proposals make likelier; empty where nothing failed."""
    known = [(row.likelier, row) for row in found.proposals if row.likelier is not None]
    if not known:
        return ""
    best, row = max(known, key=lambda pair: pair[0])
    ends = "" if row.likelier_interval is None else " [{:.0%}, {:.0%}]".format(*row.likelier_interval)
    return (
        f"{plain(row.adversary)} at γ {row.gamma:g} makes {best:.0%}{ends} of natural failures likelier, the most of "
        f"{len(known)} proposals; a large gain needs about 95%"
    )


def share_of(row: ComponentRow, found: ProbabilityFile) -> float:
    """Part of the estimate that a component brought."""
    return row.estimate / found.limits.estimate if found.limits.estimate else 0.0


def caveats(found: ProbabilityFile) -> list[str]:
    """What every estimate must be read with."""
    said = [
        f"'Natural' means {_SPEAKS.get(found.natural, found.natural)} with this sampling after these openings, not "
        "your users."
    ]
    if len(found.components) > 1:
        said.append("A kind of failure that the adversaries never meet makes the estimate low, and nothing shows it.")
    return said
