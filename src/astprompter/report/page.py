"""Run directories to one self-contained HTML page: no request, no script but its own, equal bytes for equal runs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from .. import __version__
from ..base.errors import UserError
from ..base.files import write_text
from ..runs.directory import Note
from . import figures, tree
from .markdown import to_markdown
from .payload import embed, payload
from .read import Row, RunFiles, read_runs
from .study import Adversary, Study, commands, export_command, interval, percent, study_of, unmeasured, verdict

FORMATS = ("html", "md")
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'"
_SCRIPTS = ("text.js", "failures.js", "tree.js")
_DIVERSITY = (
    ("distinct_1", "distinct-1"), ("distinct_2", "distinct-2"), ("distinct_3", "distinct-3"),
    ("self_bleu", "self-BLEU"), ("distinct_utterances", "distinct utterances"), ("vendi", "Vendi score"),
)  # fmt: skip


def write_report(
    runs: Sequence[Path], *, out: Path | None = None, form: str = "html", note: Note | None = None
) -> Path:
    """Write the page of one or more runs.

    Args:
        runs: Run directories, or folders of them; the first measured one gives the verdict.
        out: File to write; ``report.html`` or ``report.md`` in the first run when not given.
        form: ``html`` or ``md``; Markdown holds the figures as tables, and masks all text.
        note: As for :func:`~astprompter.report.read.read_runs`.

    Returns:
        The file.

    Raises:
        UserError: Unknown format; a folder is no run, its files are damaged or from another version, or the file
            cannot be written.
    """
    if form not in FORMATS:
        raise UserError(f"unknown format '{form}'; known: {', '.join(FORMATS)}")
    if not runs:
        raise UserError("name at least one run directory")
    out = out or runs[0] / f"report.{form}"
    if out.is_dir():
        raise UserError(f"'{out}' is a folder; name a file with --out, for instance {out / f'report.{form}'}")
    files = read_runs(runs, note=note)
    try:
        text = render(files) if form == "html" else to_markdown(study_of(files))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"the files of '{', '.join(map(str, runs))}' are incomplete or from another version "
            f"({type(error).__name__}: {error}); evaluate the run again"
        ) from error
    write_text(out, text.encode("utf-8", "replace").decode("utf-8"))
    return out


def render(runs: list[RunFiles]) -> str:
    """The HTML page of runs."""
    study = study_of(runs)
    style = _asset("page.css")
    script = '"use strict";\n' + "\n".join(f"{{\n{_asset(name)}}}" for name in _SCRIPTS)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "headline": _headline}
    template = environment.from_string(_asset("page.html"))
    data = payload(study)
    return template.render(
        study=study,
        policy=f"{_POLICY}; style-src {_hash(style)}; script-src {_hash(script)}",
        # Our own files, and JSON without any markup character: nothing in them is to be escaped again.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=Markup(embed(data)),  # noqa: S704
        verdict=verdict(study),
        facts=_facts(study),
        pictures=_pictures(study),
        curves=[(run.name, curves) for run in runs if (curves := figures.learning(run))],
        trees=[(row["iteration"], tree.picture(row)) for row in tree.chosen_trees(runs[0].trees)],
        comparisons=[(a, row) for a in study.others() if (row := a.comparison()) is not None],
        diversity=_diversity(study.adversaries),
        headlines=_headlines(study),
        commands=commands(study),
        export=export_command(study),
        unmeasured=unmeasured(study),
        counts={"failures": len(data["failures"]), "strategies": bool(data["strategies"])},
        version=__version__,
    )


def _asset(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _headline(text: str) -> Markup:
    """The verdict with its shares in their adversaries' colours and its intervals set back."""
    slots = iter(range(8))
    quiet = re.sub(r"\[[^\]]*\]", lambda found: f"<span>{found[0]}</span>", str(escape(text)))
    share = "\\d[\\d.]*\u00a0%"
    return Markup(re.sub(share, lambda found: f'<em class="s{next(slots)}">{found[0]}</em>', quiet))  # noqa: S704


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _facts(study: Study) -> list[tuple[str, str]]:
    """What was tested, with what."""
    facts, settings = study.facts, study.settings
    run = study.main.run if study.main else study.runs[0]
    rows = [("Defender, frozen", str(facts.get("defender") or settings.get("defender", {}).get("path", "?")))]
    if study.main:
        start = settings.get("adversary", {}).get("path")
        replayed = study.main.key in ("human", "probing")
        rows.append(("Adversary", f"{study.main.label}, from {start}" if start and not replayed else study.main.label))
        rows.append(("Judge of toxicity", str(facts.get("scorer", "?"))))
        prefixes = facts.get("prefixes", {})
        count, source = prefixes.get("count", study.main.figures["prefixes"]), str(prefixes.get("source", "test"))
        rows.append(("Held-out openings", f"{count} ({Path(source).name or source})"))
        seeds = facts.get("seeds", 1)
        samples = "one sample" if seeds < 2 else f"one sample of each of {seeds} seeds"
        rows.append(("Horizon", f"{study.horizon} turns, {samples} for each opening"))
        rows.append(("Likelihood by", str(facts.get("likelihood", "?"))))
    reward = settings.get("reward", {})
    if reward:
        rows.append(("Reward", f"α {reward.get('alpha')}, β {reward.get('beta')}, λ {reward.get('lambda')}"))
    steps = [row["updates"] for row in run.log]
    if steps:
        several = ", the first of several" if facts.get("seeds", 1) > 1 else ""
        rows.append(("Training", f"{max(steps)} updates, seed {settings.get('seed', 0)}{several}"))
    return rows


def _pictures(study: Study) -> dict[str, Any]:
    pair = [a for a in (study.main, study.untuned) if a is not None]
    return {
        "waffles": [(a, figures.waffle(a)) for a in pair],
        "front": figures.front(study.adversaries),
        "toxicity": figures.build_up(study.adversaries, "tox_reply", "share_above_0.5"),
        "nll": figures.build_up(study.adversaries, "nll", "mean"),
        "distribution": figures.distribution(study),
        "forest": figures.forest(study),
        "strategies": figures.strategies(study.adversaries),
    }


def _headlines(study: Study) -> dict[str, str]:
    """What each figure shows, said in words by its own numbers; a neutral title where they say nothing."""
    titles = {"front": "Toxicity against likelihood", "turns": "Turn by turn", "nll": "How likely the text is"}
    comparison = study.main.comparison() if study.main else None
    if study.main is None or comparison is None or study.untuned is None or comparison["b"] != study.untuned.key:
        return titles
    share = comparison["tox_reply_share_above_0.5"]
    if share["ratio"] is not None:
        titles["front"] = f"{share['ratio']:.1f} times the untuned share of toxic replies"
    relative = comparison.get("nll_relative")
    if relative is not None:
        titles["nll"] = f"The nll of what it writes: {100 * relative:+.1f}\u00a0% against untuned"
    turns = [turn["share_above_0.5"] for turn in study.main.figures["tox_reply"].get("per_turn", [])]
    if len(turns) > 1 and None not in (turns[0], turns[-1]):
        titles["turns"] = f"From {percent(turns[0])} at turn 1 to {percent(turns[-1])} at turn {len(turns)}"
    return titles


def _diversity(adversaries: Sequence[Adversary]) -> list[tuple[Adversary, list[tuple[str, Any, float]]]]:
    """Per adversary: name, value and bar length (share of the column's largest) of each measure."""
    measured = [(a, row) for a in adversaries if isinstance(row := a.figures.get("diversity"), dict)]
    names = [(key, name) for key, name in _DIVERSITY if any(row.get(key) is not None for _, row in measured)]
    largest = {key: max(_value(row, key) for _, row in measured) or 1.0 for key, _ in names}
    return [(a, [(name, row.get(key), _value(row, key) / largest[key]) for key, name in names]) for a, row in measured]


def _value(row: Row, key: str) -> float:
    return float(row.get(key) or 0.0)
