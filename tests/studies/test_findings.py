"""Claims of the paper, judged by figures that are written here by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from astprompter.base.errors import UserError
from astprompter.studies.paper.findings import CLAIMS, judged
from astprompter.studies.plan import (
    load_plan,
    plan_names,
)


def comparison(a: str, b: str, share: float, nll: float, *, ratio: float = 3.0, width: float = 0.01) -> dict[str, Any]:
    def difference(value: float) -> dict[str, Any]:
        return {"difference": value, "ci": [value - width, value + width]}

    return {
        "a": a,
        "b": b,
        "nll": {"mean": difference(nll), "by_seed": [{"mean": nll} for _ in range(2)]},
        "tox_reply": {"share": {**difference(share), "ratio": ratio}, "by_seed": [{"share": share} for _ in range(2)]},
        "perplexity_change": float(np.expm1(nll)),
    }


def adversary(kind: str, preset: str, share: float, nll: float, std: float = 5.0) -> dict[str, Any]:
    strategies = (
        {"politics": 4, "sexual": 3, "profanity": 9, "other": 4}
        if kind == "ours"
        else {"politics": 1, "sexual": 0, "profanity": 2}
    )
    return {
        "kind": kind, "preset": preset, "tox_reply": {"share": share}, "nll": {"mean": nll},
        "utterance_perplexity": {"std": std}, "strategies": strategies, "failure_within_horizon": {"assessed": 100},
    }  # fmt: skip


def case(defender: str = "small", model: str = "small") -> dict[str, Any]:
    rows = {
        "untuned": adversary("untuned", "", 0.05, 2.0), "human": adversary("human", "", 0.08, 4.0),
        "ours": adversary("ours", "", 0.25, 2.03), "sft": adversary("baseline", "sft", 0.1, 2.6),
        "no-reply": adversary("variant", "no-reply", 0.15, 1.95), "no-turn": adversary("variant", "no-turn", 0.06, 2.0),
        "no-likelihood": adversary("variant", "no-likelihood", 0.4, 2.8),
        "no-supervision": adversary("variant", "no-supervision", 0.2, 2.0, std=11.0),
        "neither": adversary("variant", "neither", 0.6, 3.5),
    }  # fmt: skip
    pairs = [(name, base) for base in ("untuned", "ours") for name in rows if name != base]
    comparisons = [
        comparison(
            a, b, rows[a]["tox_reply"]["share"] - rows[b]["tox_reply"]["share"],
            rows[a]["nll"]["mean"] - rows[b]["nll"]["mean"],
            ratio=rows[a]["tox_reply"]["share"] / rows[b]["tox_reply"]["share"],
        )
        for a, b in pairs
    ]  # fmt: skip
    return {"adversary": model, "defender": defender, "adversaries": rows, "comparisons": comparisons}


def story() -> dict[str, Any]:
    """A summary with the paper's shape."""
    cases = {"small-vs-small": case(), "small-vs-large": case("large"), "large-vs-large": case("large", "large")}
    scaling = [comparison("large-vs-large", "small-vs-large", -0.05, -0.2)]
    plan = {"models": {"small": "s", "large": "l"}, "pairs": [["small", "small"], ["small", "large"]]}
    return {"cases": cases, "scaling": scaling, "plan": plan}


def as_models(value: Any, path: tuple[str, ...] = ()) -> Any:
    """Attributes instead of keys, as models have, but for what is a mapping in them too."""
    if isinstance(value, list):
        return [as_models(item, path) for item in value]
    if not isinstance(value, dict) or path[:1] == ("plan",):
        return value
    found = {key: as_models(item, (*path, key)) for key, item in value.items()}
    mapping = path[-1:] in ([("cases",), ("adversaries",), ("strategies",)])
    return found if mapping else SimpleNamespace(**found)


def outcomes(summary: dict[str, Any]) -> list[Any]:
    return judged(CLAIMS, as_models(summary))


def verdicts(summary: dict[str, Any]) -> dict[str, str]:
    return {item.id: item.verdict for item in outcomes(summary)}


def test_a_summary_of_the_papers_shape_reproduces_everything() -> None:
    assert set(verdicts(story()).values()) == {"reproduced"}
    assert list(verdicts(story())) == ["1", "2a", "2b", "3a", "3b", "4a", "4b", "5", "6a", "6b", "7"]


def test_nothing_measured_is_nothing_measurable() -> None:
    empty = {**story(), "cases": {}, "scaling": []}
    assert set(verdicts(empty).values()) == {"not measurable"}


def row_of(summary: dict[str, Any], a: str, b: str, name: str = "small-vs-small") -> dict[str, Any]:
    return next(row for row in summary["cases"][name]["comparisons"] if (row["a"], row["b"]) == (a, b))


def rows_of(summary: dict[str, Any]) -> dict[str, Any]:
    return dict(summary["cases"]["small-vs-small"]["adversaries"])


def set_share(row: dict[str, Any], value: float) -> None:
    row["tox_reply"]["share"] |= {"difference": value, "ci": [value - 0.01, value + 0.01]}


def widen(row: dict[str, Any], metric: str) -> None:
    found = row["nll"]["mean"] if metric == "nll" else row["tox_reply"]["share"]
    found["ci"] = [-9.0, 9.0]


SHARE = "share"
BREAKS: list[tuple[str, Any]] = [  # every condition of every claim
    ("1", lambda s: row_of(s, "ours", "untuned").update(perplexity_change=0.2)),
    ("1", lambda s: row_of(s, "ours", "untuned")["tox_reply"]["share"].update(ratio=1.9)),
    ("2a", lambda s: widen(row_of(s, "sft", "ours"), "nll")),
    ("2a", lambda s: widen(row_of(s, "sft", "ours"), SHARE)),
    ("2a", lambda s: row_of(s, "sft", "ours").update(perplexity_change=0.04)),
    ("2b", lambda s: set_share(row_of(s, "human", "ours"), 0.2)),
    ("2b", lambda s: widen(row_of(s, "human", "ours"), "nll")),
    ("2b", lambda s: row_of(s, "human", "ours")["nll"]["by_seed"][1].update(mean=-0.1)),
    ("3a", lambda s: set_share(row_of(s, "no-reply", "ours"), 0.0)),
    ("3a", lambda s: widen(row_of(s, "no-reply", "ours"), "nll")),
    ("3a", lambda s: row_of(s, "no-reply", "ours")["tox_reply"]["by_seed"][0].update(share=0.1)),
    ("3b", lambda s: set_share(row_of(s, "no-turn", "untuned"), 0.15)),
    ("4a", lambda s: set_share(row_of(s, "no-likelihood", "ours"), -0.1)),
    ("4a", lambda s: widen(row_of(s, "no-likelihood", "ours"), "nll")),
    ("4a", lambda s: row_of(s, "no-likelihood", "ours").update(perplexity_change=0.04)),
    ("4b", lambda s: rows_of(s)["no-supervision"].update(utterance_perplexity={"std": 6.0})),
    ("4b", lambda s: widen(row_of(s, "no-supervision", "ours"), SHARE)),
    ("5", lambda s: rows_of(s)["sft"].update(nll={"mean": 9.0})),
    ("5", lambda s: rows_of(s)["no-reply"].update(tox_reply={"share": 0.9})),
    ("6a", lambda s: set_share(row_of(s, "ours", "untuned", "small-vs-large"), 0.0)),
    ("6b", lambda s: s["scaling"][0]["nll"].update(mean={"difference": 0.1, "ci": [0.05, 0.15]})),
    ("6b", lambda s: widen(s["scaling"][0], SHARE)),
    *(("7", lambda s, name=name: rows_of(s)["ours"]["strategies"].update({name: 0}))
      for name in ("politics", "sexual", "profanity")),
    ("7", lambda s: rows_of(s)["untuned"].update(failure_within_horizon={"assessed": 20})),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("number", "harm"), BREAKS)
def test_each_condition_of_each_finding_can_fail_alone(number: str, harm: Any) -> None:
    summary = story()
    harm(summary)
    assert {id_ for id_, verdict in verdicts(summary).items() if verdict == "not reproduced"} == {number}


def test_no_gain_at_all_reproduces_no_sparse_reward() -> None:
    summary = story()
    widen(row_of(summary, "ours", "untuned"), SHARE)
    assert (verdicts(summary)["1"], verdicts(summary)["3b"]) == ("not reproduced", "not reproduced")


def test_claims_are_judged_on_the_first_pair_only() -> None:
    summary = story()
    del summary["cases"]["small-vs-small"]
    assert {id_ for id_, verdict in verdicts(summary).items() if verdict != "not measurable"} == {"6a", "6b"}


def test_undecided_differences_tell_their_direction() -> None:
    summary = story()
    row_of(summary, "sft", "ours")["tox_reply"]["share"]["ci"] = [-0.3, 0.1]
    (finding,) = [item for item in outcomes(summary) if item.id == "2a"]
    assert finding.verdict == "not reproduced"
    assert "(direction agrees)" in finding.evidence


@pytest.mark.parametrize(("gone", "ids"), [("sft", {"2a"}), ("no-turn", {"3b"}), ("ours", {"1", "2a", "3b", "7"})])
def test_missing_adversaries_make_their_claims_not_measurable(gone: str, ids: set[str]) -> None:
    summary = story()
    main = summary["cases"]["small-vs-small"]
    del main["adversaries"][gone]
    main["comparisons"] = [row for row in main["comparisons"] if gone not in (row["a"], row["b"])]
    assert ids <= {id_ for id_, verdict in verdicts(summary).items() if verdict == "not measurable"}


def test_probing_stands_in_for_human_and_is_named() -> None:
    summary = story()
    text = json.dumps(summary["cases"]["small-vs-small"]).replace('"human"', '"probing"')
    summary["cases"]["small-vs-small"] = json.loads(text)
    (finding,) = [item for item in outcomes(summary) if item.id == "2b"]
    assert finding.verdict == "reproduced"
    assert "probing − ours" in finding.evidence
    summary["plan"]["human"] = "people.json"  # planned and not measured: nothing stands in
    assert verdicts(summary)["2b"] == "not measurable"


def test_a_plan_is_judged_by_the_claims_that_it_names() -> None:
    assert load_plan("paper").claims == list(CLAIMS)
    for name in plan_names():
        assert set(load_plan(name, ["models.large=big"]).claims) <= set(CLAIMS)
    assert load_plan("variants", ["claims=[]"]).claims == []
    with pytest.raises(UserError, match="no claim '9'; known: 1, 2a"):
        load_plan("paper", ["claims=[9]"])
