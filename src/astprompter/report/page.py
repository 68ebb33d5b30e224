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
from ..base.formats import number, percent
from ..base.names import HUMAN, PROBING
from ..evaluation.grid import Grid
from ..evaluation.tables import diversity
from ..runs.directory import Note
from . import pictures, tree
from .markdown import to_markdown
from .payload import embed, payload
from .read import RunFiles, read_runs
from .study import Study, commands, conclusion, export_command, study_of, tables, unmeasured

FORMATS = ("html", "md")
_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'"
_SCRIPTS = ("text.js", "failures.js", "tree.js")


def write_report(
    runs: Sequence[Path], *, out: Path | None = None, form: str = "html", note: Note | None = None
) -> Path:
    """Write the page of one or more runs.

    Args:
        runs: Run directories, or folders of them; the conclusion is about the first measured one.
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
    text = render(files) if form == "html" else to_markdown(study_of(files))
    write_text(out, text.encode("utf-8", "replace").decode("utf-8"))
    return out


def render(runs: list[RunFiles]) -> str:
    """The HTML page of runs."""
    study = study_of(runs)
    style = _asset("page.css")
    script = '"use strict";\n' + "\n".join(f"{{\n{_asset(name)}}}" for name in _SCRIPTS)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "headline": _headline}
    template = environment.from_string(_asset("page.html"))
    data = payload(study)
    return template.render(
        study=study,
        policy=f"{_POLICY}; style-src {_hash(style)}; script-src {_hash(script)}",
        # Our own files, and JSON without any markup character: nothing in them is to be escaped again.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        data=Markup(embed(data)),  # noqa: S704
        conclusion=conclusion(study),
        facts=_facts(study),
        pictures=_pictures(study),
        curves=[(run.name, curves) for run in runs if (curves := pictures.learning(run))],
        trees=[(row.iteration, tree.picture(row, study.threshold)) for row in tree.chosen_trees(runs[0].trees)],
        tables=[(grid, [_key(study, row[0].value) for row in grid.rows]) for grid in tables(study)],
        diversity=_diversity(study),
        headlines=_headlines(study),
        commands=commands(study),
        export=export_command(study),
        unmeasured=unmeasured(study),
        counts={"failures": len(data["failures"]), "strategies": bool(data["strategies"])},
        largest=_largest,
        version=__version__,
    )


def _asset(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _headline(text: str) -> Markup:
    """The conclusion with its shares in their adversaries' colours and its intervals set back."""
    slots = iter(range(8))
    quiet = re.sub(r"\[[^\]]*\]", lambda found: f"<span>{found[0]}</span>", str(escape(text)))
    share = r"\d[\d.]*%"
    return Markup(re.sub(share, lambda found: f'<em class="s{next(slots)}">{found[0]}</em>', quiet))  # noqa: S704


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _facts(study: Study) -> list[tuple[str, str]]:
    """What was tested, with what."""
    facts, settings, run = study.facts, study.settings, study.run
    rows = [("Defender, frozen", facts.defender if facts else str(settings.get("defender", {}).get("path", "?")))]
    if study.main and facts:
        start = settings.get("adversary", {}).get("path")
        replayed = study.main.key in (HUMAN, PROBING)
        rows.append(("Adversary", f"{study.main.label}, from {start}" if start and not replayed else study.main.label))
        rows.append(("Judge of toxicity", facts.scorer))
        count = facts.prefixes.count if facts.prefixes else study.main.figures.prefixes
        source = facts.prefixes.source if facts.prefixes else "given"
        rows.append(("Held-out openings", f"{count} ({Path(source).name or source})"))
        samples = "one sample" if study.seeds < 2 else f"one sample of each of {study.seeds} seeds"
        rows.append(("Horizon", f"{study.horizon} turns, {samples} for each opening"))
        rows.append(("Likelihood by", facts.likelihood))
    reward = settings.get("reward", {})
    if reward:
        rows.append(("Reward", f"α {reward.get('alpha')}, β {reward.get('beta')}, λ {reward.get('lambda')}"))
    steps = [row.updates for row in run.log]
    if steps:
        several = ", the first of several" if study.seeds > 1 else ""
        rows.append(("Training", f"{max(steps)} updates, seed {settings.get('seed', 0)}{several}"))
    return rows


def _pictures(study: Study) -> dict[str, Any]:
    pair = [a for a in (study.main, study.untuned) if a is not None]
    return {
        "waffles": [(a, pictures.waffle(a)) for a in pair],
        "front": pictures.front(study.adversaries),
        "toxicity": pictures.build_up(study.adversaries, share=True),
        "nll": pictures.build_up(study.adversaries, share=False),
        "distribution": pictures.distribution(study),
        "forest": pictures.forest(study),
        "strategies": pictures.strategies(study.adversaries),
    }


def _headlines(study: Study) -> dict[str, str]:
    """What each figure shows, said in words by its own numbers; a neutral title where they say nothing."""
    titles = {"front": "Toxicity against likelihood", "turns": "Turn by turn", "nll": "How likely the text is"}
    comparison = study.main.comparison() if study.main else None
    if study.main is None or comparison is None or study.untuned is None or comparison.b != study.untuned.key:
        return titles
    share = comparison.tox_reply.share
    if share is not None and share.ratio is not None:
        titles["front"] = f"{number(share.ratio, 1)} times the untuned share of toxic replies"
    if comparison.perplexity_change is not None:
        change = percent(comparison.perplexity_change, sign=True)
        titles["nll"] = f"The perplexity of what it writes: {change} against untuned"
    turns = [turn.share for turn in study.main.figures.tox_reply.per_turn]
    if len(turns) > 1 and None not in (turns[0], turns[-1]):
        titles["turns"] = f"From {percent(turns[0])} at turn 1 to {percent(turns[-1])} at turn {len(turns)}"
    return titles


def _diversity(study: Study) -> tuple[Grid, list[tuple[int, str]]]:
    """The table of diversity, and the keys of its rows."""
    grid = diversity([(a.label, a.figures) for a in study.adversaries if a.figures.diversity])
    return grid, [_key(study, row[0].value) for row in grid.rows]


def _key(study: Study, label: object) -> tuple[int, str]:
    """Colour of an adversary, and the settings in which it differs."""
    found = next(a for a in study.adversaries if a.label == label)
    return found.slot % 8, ", ".join(found.changes[:3])


def _largest(grid: Grid, place: int) -> float:
    """What a full bar of a column means: all of it for a share, else its largest value."""
    values = [value for row in grid.rows if isinstance(value := row[place].value, (int, float))]
    return 1.0 if grid.columns[place].kind == "percent" else max(values, default=0.0) or 1.0
