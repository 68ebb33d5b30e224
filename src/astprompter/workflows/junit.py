"""The verdicts of an evaluation as JUnit XML, which continuous integration shows; texts are masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from ..base.display import masked, plain
from ..base.files import write_text
from ..runs.schema.results import FailureRow
from ..runs.schema.suite import RetestFile
from .gates import Unassessed, Verdict

_SHOWN = 5
"""Failures that stand in a test that failed."""


def write_junit(
    path: Path,
    verdicts: Sequence[Verdict],
    unassessed: Sequence[Unassessed],
    failures: Mapping[str, Sequence[FailureRow]],
    max_errors: float,
) -> None:
    """Write a test suite for each adversary of each defender: a test for each gate, and one for what was assessed.

    Args:
        path: The file.
        verdicts: What the gates say.
        unassessed: What could not be assessed.
        failures: Rows of ``failures.jsonl`` by defender.
        max_errors: Share of replies that may be unassessed.

    Raises:
        RunError: It cannot be written.
    """
    root = ElementTree.Element("testsuites", name="astprompter")
    for enough in unassessed:
        who = (enough.defender, enough.adversary)
        own = [verdict for verdict in verdicts if (verdict.defender, verdict.adversary) == who]
        suite = ElementTree.SubElement(root, "testsuite", name=f"{_named(who[1])} against {_named(who[0])}")
        case = _case(suite, who, f"unassessed replies at most {max_errors:g}")
        if enough.exceeded:
            ElementTree.SubElement(case, "error", message=str(enough), type="unassessed")
        for verdict in own:
            case = _case(suite, who, f"{verdict.gate.figure} at most {verdict.gate.most:g} by {verdict.gate.by}")
            message = f"{verdict.words}: {verdict}"
            if verdict.outcome == "unknown":
                ElementTree.SubElement(case, "error", message=message, type="unassessed")
            elif verdict.outcome == "exceeded":
                element = ElementTree.SubElement(case, "failure", message=message, type="gate")
                rows = [row for row in failures[who[0]] if row.adversary == who[1]][:_SHOWN]
                element.text = "\n".join(map(_shown, rows))
            else:
                ElementTree.SubElement(case, "system-out").text = message
    _write(path, root)


def write_retest(path: Path, found: RetestFile) -> None:
    """Write a test for each case of a suite; one that fails again, or newly, is a failure.

    Cases that a repair was trained on are skipped: they are no test of it.

    Args:
        path: The file.
        found: What the test of the suite found.

    Raises:
        RunError: It cannot be written.
    """
    root, defender = ElementTree.Element("testsuites", name="astprompter"), found.config.defender
    suite = ElementTree.SubElement(root, "testsuite", name=f"suite against {_named(defender)}")
    for row in found.cases:
        case = _case(suite, (defender, "suite"), f"case {row.case}")
        interval = f", interval {row.ci[0]:.4f} to {row.ci[1]:.4f}" if row.ci else ""
        message = f"{row.outcome}: {row.failed} of {row.assessed} samples fail{interval}"
        if row.trained_on:  # no test of the repair, and no part of the gate
            ElementTree.SubElement(case, "skipped", message=f"a repair was trained on it; {message}")
        elif row.outcome == "unassessed":
            ElementTree.SubElement(case, "error", message=message, type="unassessed")
        elif row.failed:
            element = ElementTree.SubElement(case, "failure", message=message, type=row.outcome.replace(" ", "_"))
            element.text = f"most toxic reply {row.worst_score or 0.0:.2f}: {masked(row.worst_reply or '')}"
        else:
            ElementTree.SubElement(case, "system-out").text = message
    _write(path, root)


def _write(path: Path, root: ElementTree.Element) -> None:
    """Make every text one that XML may hold, count, and write."""
    for element in root.iter():
        element.attrib.update({key: plain(value) for key, value in element.items()})
        element.text = element.text and "\n".join(map(plain, element.text.split("\n")))
    for suite in root:
        for kind, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(kind, str(len(suite.findall(f".//{tag}"))))
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, 0)) for suite in root)))
    ElementTree.indent(root)
    write_text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n')


def _case(suite: ElementTree.Element, who: tuple[str, str], name: str) -> ElementTree.Element:
    place = f"astprompter.{_named(who[0])}.{_named(who[1])}"
    return ElementTree.SubElement(suite, "testcase", classname=place, name=name)


def _named(name: str) -> str:
    """A name of somebody else's, with plain white space, and never blank."""
    return " ".join(plain(name).split()) or "(blank)"


def _shown(row: FailureRow) -> str:
    nll = "unknown" if row.path_nll is None else f"{row.path_nll:.3f}"
    return (
        f"{row.rank}. turn {row.turn} after {plain(row.prefix_id)}: tox_reply {row.tox_reply:.2f}, path nll {nll}\n"
        f"  utterance {masked(row.utterance)}\n  reply {masked(row.reply)}"
    )
