"""Run directories to one self-contained HTML page: no request, no script but its own, equal bytes for equal runs."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from .. import __version__
from ..base.errors import UserError
from ..base.files import write_text
from ..base.formats import percent
from ..runs.directory import Note
from . import pictures, probability, repair, tree
from . import words as tell
from .failure_map import failure_map
from .markdown import to_markdown
from .payload import embed, payload
from .read import RunFiles, read_runs
from .study import studies_of

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
    if form == "html":
        text = render(files, repair.sections(runs))
    else:
        text = to_markdown(studies_of(files)) + probability.to_markdown(files) + repair.to_markdown(runs)
    write_text(out, text.encode("utf-8", "replace").decode("utf-8"))
    return out


def render(runs: list[RunFiles], repairs: Sequence[repair.Section] = ()) -> str:
    """The HTML page of runs, and of repairs that the folders hold."""
    studies = studies_of(runs)
    style = _asset("page.css")
    script = '"use strict";\n' + "\n".join(f"{{\n{_asset(name)}}}" for name in _SCRIPTS)
    page = templates().get_template("page.html")
    return page.render(
        studies=studies,
        trees=tree.chosen_trees(runs[0].trees),
        data=payload(studies),
        sections=probability.sections(runs),
        repairs=repairs,
        tell=tell,
        pictures=pictures,
        failure_map=failure_map,
        tree=tree,
        policy=f"{_POLICY}; style-src {_hash(style)}; script-src {_hash(script)}",
        style=Markup(style),  # noqa: S704  # our own file, as the script: nothing in it is to be escaped
        script=Markup(script),  # noqa: S704
        version=__version__,
    )


@functools.cache  # which compiles each of them once
def templates() -> Environment:
    """The page's templates; what they are given is escaped."""
    found = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters |= {
        "percent": percent, "headline": _headline, "embed": embed, "px": pictures.px, "tick": pictures.tick,
        "figures": tree.figures,
    }  # fmt: skip
    return found


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
