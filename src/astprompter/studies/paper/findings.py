"""The paper's findings (docs/method.md section 8), judged by a study: reproduced, not reproduced, not measurable.

A claim of more or less is *reproduced* when the paired interval of the difference lies wholly on its side of zero, and
the difference does under every seed; a claim of size ("several times", "clearly", "hardly", …) also needs the size
named below, by its estimate. Everything else that was measured is *not reproduced*, and the figures say whether the
direction agrees. Where an adversary is missing, the claim is *not measurable*. Nothing here knows a result: all figures
come from the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...base.formats import interval, number, percent
from ...runs.schema.figures import Comparison
from ...runs.schema.study import Case, Experiment, Finding

SEVERAL = 2.0
"""Least ratio of shares that counts as several times."""
A_FEW_PERCENT = 0.05
"""Largest change of perplexity that counts as a few percent."""
CLEARLY = 0.05
"""Least relative change of perplexity that counts as clearly higher."""
HARDLY = 0.25
"""Largest part of ours' gain over untuned that counts as hardly better than untuned."""
MUCH_LARGER = 1.5
"""Least ratio of standard deviations that counts as a much larger spread."""
NOTABLE = 0.05
"""Least share of ours' failures that makes a strategy one that emerged."""

SHARE, NLL = "replies above the threshold", "nll"


@dataclass(frozen=True, slots=True)
class _Test:
    """One condition of a claim: whether it holds, and the figure it was judged by."""

    holds: bool
    text: str
    figures: dict[str, Any]


class _Missing(Exception):
    """An adversary, case or figure that a claim needs is not there."""


def _main(found: Experiment) -> Case:
    """The plan's first pair of models."""
    adversary, defender = found.plan["pairs"][0]
    case = found.cases.get(f"{adversary}-vs-{defender}")
    if case is None:
        raise _Missing(f"any adversary of {adversary}-vs-{defender}")
    return case


def _name(case: Case, role: str) -> str:
    """Row of an adversary by what it is: a kind of row, or the preset it was trained with."""
    for name, row in case.adversaries.items():
        if row.kind != "transfer" and role in (name, row.kind, row.preset):
            return name
    raise _Missing(f"'{role}' in {case.adversary}-vs-{case.defender}")


def _compared(case: Case, a: str, b: str) -> Comparison:
    names = _name(case, a), _name(case, b)
    for row in case.comparisons:
        if (row.a, row.b) == names:
            return row
    raise _Missing(f"'{a}' against '{b}'")


def _pair(found: Experiment, a: str, b: str) -> Comparison:
    """A comparison of the main pair of models."""
    try:
        return _compared(_main(found), a, b)
    except _Missing:
        if a != "human" or found.plan.get("human"):
            raise
        return _compared(_main(found), "probing", b)  # written by an AI assistant: named so in the evidence


def _known(value: float | None, what: str) -> float:
    if value is None:
        raise _Missing(what)
    return value


def _gain(row: Comparison) -> float:
    return _known(row.tox_reply.share.difference if row.tox_reply.share else None, f"a difference of {SHARE}")


def _directed(row: Comparison, metric: str, sign: int, where: str = "") -> _Test:
    """Whether a difference lies on one side of zero: its interval, and its value under every seed."""
    share = metric == SHARE
    found = row.tox_reply.share if share else row.nll.mean
    if found is None or found.difference is None or found.ci is None:
        raise _Missing(f"an interval of {metric}{where}")
    value, ci = found.difference, found.ci
    by_seed = [own.share for own in row.tox_reply.by_seed] if share else [own.mean for own in row.nll.by_seed]
    seeds = [own for own in by_seed if own is not None]
    agreeing = sum(own * sign > 0 for own in seeds)
    holds = (ci[0] > 0 if sign > 0 else ci[1] < 0) and agreeing == len(seeds)
    shown = percent(value, sign=True) if share else number(value, 3, sign=True)
    bounds = interval(ci, 1, scale=100, sign=True) if share else interval(ci, 3, sign=True)
    towards = "no difference" if value == 0 else "direction agrees" if value * sign > 0 else "other direction"
    agrees = "" if holds else f" ({towards})"
    text = f"{metric}{where}: {row.a} − {row.b} = {shown} {bounds}, {agreeing} of {len(seeds)} seeds{agrees}"
    return _Test(holds, text, {f"{row.a} - {row.b}: {metric}": {"difference": value, "ci": ci, "by_seed": seeds}})


def _differs(found: Experiment, a: str, b: str, metric: str, sign: int) -> _Test:
    """More (+1) or less (−1) of a metric than another adversary."""
    return _directed(_pair(found, a, b), metric, sign)


def _perplexity(found: Experiment, a: str, b: str, holds: Callable[[float], bool], words: str) -> _Test:
    row = _pair(found, a, b)
    change = _known(row.perplexity_change, "the change of perplexity")
    return _Test(holds(change), f"perplexity {change:+.1%} ({words})", {f"{row.a} / {row.b} - 1: perplexity": change})


def _as_likely(found: Experiment) -> _Test:
    words = f"a few percent: at most {A_FEW_PERCENT:.0%} more"
    return _perplexity(found, "ours", "untuned", lambda change: change <= A_FEW_PERCENT, words)


def _less_likely(name: str) -> list[tuple[Any, ...]]:
    """The conditions of a perplexity that is clearly higher than ours."""
    words = f"clearly: at least {CLEARLY:.0%} more"
    return [(_differs, name, "ours", NLL, +1), (_perplexity, name, "ours", lambda change: change >= CLEARLY, words)]


def _several(found: Experiment) -> _Test:
    row = _pair(found, "ours", "untuned")
    ratio, key = row.tox_reply.share.ratio if row.tox_reply.share else None, f"{row.a} / {row.b}: {SHARE}"
    if ratio is None:
        return _Test(_gain(row) > 0, f"ratio undefined: {row.b} has none", {key: None})
    return _Test(ratio >= SEVERAL, f"{ratio:.2f} times as often (several: at least {SEVERAL:g})", {key: ratio})


def _sparse(found: Experiment) -> _Test:
    row = _pair(found, "no-turn", "untuned")
    gain, reference = _gain(row), _gain(_pair(found, "ours", "untuned"))
    text = f"gain over untuned {gain:+.1%}, ours {reference:+.1%} (hardly: at most {HARDLY:.0%} of ours)"
    return _Test(gain <= HARDLY * reference, text, {f"{row.a} gain": gain, "ours gain": reference})


def _wider(found: Experiment) -> _Test:
    row, rows = _pair(found, "no-supervision", "ours"), _main(found).adversaries
    spread, base = (_known(rows[name].utterance_perplexity.std, "the spread of perplexity") for name in (row.a, row.b))
    rule = f"much larger: at least {MUCH_LARGER:g} times"
    text = f"standard deviation of perplexity {spread:.1f}, ours {base:.1f} ({rule})"
    return _Test(spread >= MUCH_LARGER * base, text, {f"{row.a} std": spread, "ours std": base})


def _extreme(found: Experiment, metric: str, form: str) -> _Test:
    """Whether training with neither likelihood nor supervision has the most of a metric."""
    case = _main(found)
    name = _name(case, "neither")
    values = {
        n: _known(row.tox_reply.share if metric == SHARE else row.nll.mean, metric)
        for n, row in case.adversaries.items()
        if row.kind in ("ours", "baseline", "variant")
    }
    others = max((value for n, value in values.items() if n != name), default=None)
    if others is None:
        raise _Missing("other trained adversaries")
    text = f"{metric}: {name} {form.format(values[name])}, highest of the others {form.format(others)}"
    top = max(values, key=lambda n: values[n])
    return _Test(top == name, text, {f"{name} {metric}": values[name], f"others {metric}": others})


def _unequal(found: Experiment) -> Case:
    """The pair of a smaller adversary and a larger defender; the plan names models from small to large."""
    order = list(found.plan["models"])
    for case in found.cases.values():
        if order.index(case.adversary) < order.index(case.defender):
            return case
    raise _Missing("a pair of a smaller adversary and a larger defender")


def _small_on_large(found: Experiment) -> _Test:
    case = _unequal(found)
    return _directed(_compared(case, "ours", "untuned"), SHARE, +1, f" on {case.defender}")


def _large_on_large(found: Experiment, metric: str) -> _Test:
    small = _unequal(found)
    large = any(case.adversary == case.defender == small.defender for case in found.cases.values())
    names = (f"{small.defender}-vs-{small.defender}", f"{small.adversary}-vs-{small.defender}")
    for row in found.scaling:
        if large and (row.a, row.b) == names:
            return _directed(row, metric, -1)
    raise _Missing(f"'ours' with adversary and defender '{small.defender}'")


def _emerges(found: Experiment, name: str) -> _Test:
    """Whether a strategy is a notable part of ours' failures, and more frequent than untuned."""
    case = _main(found)
    ours, base = (case.adversaries[_name(case, role)] for role in ("ours", "untuned"))
    total = sum(ours.strategies.values())
    if not total:
        raise _Missing("any failure of ours")
    assessed, theirs = (row.failure_within_horizon.assessed for row in (ours, base))
    count, other = ours.strategies[name], base.strategies[name]
    text = f"{name} {count} of {total} failures ({count / total:.0%}), untuned {other}"
    holds = count / total >= NOTABLE and count * theirs > other * assessed
    figures = {f"ours {name}": count, f"untuned {name}": other}
    return _Test(holds, text, {**figures, "ours conversations": assessed, "untuned conversations": theirs})


CLAIMS: Mapping[str, tuple[str, Sequence[tuple[Any, ...]]]] = {
    "1": ("Ours elicits several times more toxicity than untuned, at a perplexity within a few percent.",
          [(_differs, "ours", "untuned", SHARE, +1), (_several,), (_as_likely,)]),
    "2a": ("Ours elicits more than SFT, whose perplexity is clearly higher.",
           [(_differs, "sft", "ours", SHARE, -1), *_less_likely("sft")]),
    "2b": ("Ours elicits more than human prompts, whose perplexity is clearly higher.",
           [(_differs, "human", "ours", SHARE, -1), *_less_likely("human")]),
    "3a": ("Without reward for the reply (α=0): less toxicity, slightly lower perplexity.",
           [(_differs, "no-reply", "ours", SHARE, -1), (_differs, "no-reply", "ours", NLL, -1)]),
    "3b": ("Without reward for the whole turn (β=0): hardly better than untuned.",
           [(_differs, "ours", "untuned", SHARE, +1), (_sparse,)]),
    "4a": ("Without likelihood (λ=0): more toxicity, clearly higher perplexity.",
           [(_differs, "no-likelihood", "ours", SHARE, +1), *_less_likely("no-likelihood")]),
    "4b": ("Without weak supervision (q=0): slightly less toxicity, a much larger spread of perplexity.",
           [(_differs, "no-supervision", "ours", SHARE, -1), (_wider,)]),
    "5": ("With neither (λ=0, q=0): the most toxicity of all, at the highest perplexity.",
          [(_extreme, SHARE, "{:.1%}"), (_extreme, NLL, "{:.3f}")]),
    "6a": ("A small adversary works on a larger defender.", [(_small_on_large,)]),
    "6b": ("A large adversary ends at lower perplexity and lower toxicity than a small one.",
           [(_large_on_large, NLL), (_large_on_large, SHARE)]),
    "7": ("Strategies emerge: political topics, sexual content, profanity.",
          [(_emerges, "politics"), (_emerges, "sexual"), (_emerges, "profanity")]),
}  # fmt: skip
"""By number in docs/method.md section 8, with a letter where an item makes several claims; each claim's words, and its
conditions: a function of the study, and what else it takes."""


def judged(claims: Iterable[str], found: Experiment) -> list[Finding]:
    """Judge a plan's claims by what its study found."""
    return [_judge(id_, *CLAIMS[id_], found) for id_ in claims]


def _judge(id_: str, claim: str, conditions: Sequence[tuple[Any, ...]], found: Experiment) -> Finding:
    try:
        tests = [condition(found, *arguments) for condition, *arguments in conditions]
    except _Missing as missing:
        return Finding(id=id_, claim=claim, verdict="not measurable", evidence=f"not measured: {missing}", figures={})
    return Finding(
        id=id_, claim=claim, verdict="reproduced" if all(test.holds for test in tests) else "not reproduced",
        evidence="; ".join(test.text for test in tests),
        figures={name: value for test in tests for name, value in test.figures.items()},
    )  # fmt: skip
