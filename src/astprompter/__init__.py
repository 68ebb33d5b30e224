"""astprompter: find likely toxic failures of a language model before its users do.

An implementation of ASTPrompter (arXiv 2407.09447): an adversary language model is tuned online to write *likely*
text after which a frozen defender replies with toxic text.

    import astprompter as ap

    adversary = ap.load_model("gpt2", trainable=True)
    defender = ap.load_model("gpt2")
    run = ap.train(adversary, defender, "detoxify:unbiased", "train.jsonl", dev="dev.jsonl", out="runs/mine")
    result = ap.evaluate({"untuned": defender, "ours": run}, defender, "detoxify:unbiased", "test.jsonl")
    print(result.table())

The names of ``__all__``, with their keywords and attributes, are the stable interface: a release that changes one says
so in the change log. Everything else may change without notice. Importing the package loads no heavy library: a name is
loaded when it is first used.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_PLACES = {alias.name: node.module for node in _STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}
"""The public names and their modules, by the one list that type checkers read too."""
__all__ = sorted(_PLACES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """A public name or the version, loaded when it is first used."""
    if name == "__version__":
        value: Any = _version()
    elif name in _PLACES:
        value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("astprompter")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0.0.0"


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
