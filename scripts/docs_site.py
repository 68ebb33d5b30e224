"""Hooks of the documentation site (``mkdocs.yml``): pages that are made from the code, and links that leave ``docs/``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)\s#]+)(?:#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the references of commands, settings and the API."""
    pages = {"commands": commands(), "settings": settings(), "api": api()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file outside ``docs/`` names the file: the site does not hold it."""
    if "/" in page.file.src_uri:
        return markdown  # '..' leads to docs/ itself from there

    def named(link: re.Match[str]) -> str:
        if not (PROJECT / link[2]).exists():
            raise SystemExit(f"a document links to '../{link[2]}', which does not exist")
        return f"{link[1]} (`{link[2]}`)"

    return _LINK.sub(named, markdown)


def commands() -> str:
    """Every command with its help, arguments and options, from the command line itself."""
    import typer

    from astprompter.cli.app import app

    group: Any = typer.main.get_command(app)
    parts = ["# Commands", "", _plain(group.help), ""]
    for name, command in _leaves("astprompter", group):
        parts += [f"## {name}", "", _plain(command.help), "", "| | meaning | default |", "|---|---|---|"]
        for parameter in command.params:
            words = " ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                words = f"`{parameter.metavar or parameter.name.upper()}`"
            default = "" if parameter.default in (None, "", False) or callable(parameter.default) else parameter.default
            parts.append(f"| {_cell(words)} | {_cell(_plain(parameter.help))} | {_cell(str(default))} |")
        parts.append("")
    return "\n".join(parts)


def _leaves(name: str, command: Any) -> list[tuple[str, Any]]:
    """Commands without subcommands, by their full names."""
    if not hasattr(command, "commands"):
        return [(name, command)]
    return [leaf for key, inner in command.commands.items() for leaf in _leaves(f"{name} {key}", inner)]


def settings() -> str:
    """Every setting, by section: default and help text, from the models that check them; and the presets."""
    import yaml

    from astprompter.config import Settings, known_keys, load_preset, preset_names

    parts = [
        "# Settings", "",
        "Given as `key=value` or `--set key=value`, or in a preset's file. `astprompter train --print-config` prints "
        "them all with their values.", "",
    ]  # fmt: skip
    section = ""
    for key, (default, text) in known_keys().items():
        head = key.partition(".")[0] if "." in key else "general"
        if head != section:
            section = head
            field = Settings.model_fields.get(head)
            said = ((field.annotation.__doc__ or "") if field is not None and "." in key else "").strip()
            parts += ["", f"## {head}", "", said, "", "| setting | default | meaning |", "|---|---|---|"]
        shown = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True).split("\n")[0]
        parts.append(f"| `{key}` | `{shown}` | {_cell(text)} |")
    parts += ["", "## Presets", ""]
    for name in preset_names():
        preset = load_preset(name)
        parts += [f"### {name}", "", preset.summary, "", " ".join(preset.why.split()), ""]
        parts += ["```yaml", yaml.safe_dump(preset.settings, sort_keys=False).rstrip() or "{}", "```", ""]
        if preset.extends:
            parts += [f"Extends `{preset.extends}`.", ""]
    return "\n".join(parts)


def api() -> str:
    """The public names, each with its docstring."""
    import astprompter

    parts = [
        "# Python API",
        "",
        "The stable names are those of `astprompter.__all__`. [From Python](../python.md) shows them at work.",
        "",
    ]
    parts += [f"::: {getattr(astprompter, name).__module__}.{name}\n" for name in astprompter.__all__]
    return "\n".join(parts)


def _plain(text: str | None) -> str:
    """A help text without console markup."""
    return re.sub(r"\[/?(?:bold|dim|red|green|yellow|cyan)[^\]]*\]", "", text or "").strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
