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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from .base.errors import RunError, UserError
    from .base.progress import Progress
    from .base.protocols import Scorer, Session, Speaker
    from .base.records import (
        ElicitingText,
        Node,
        PreferencePair,
        Prefix,
        RolloutTree,
        Speech,
        Trajectory,
        Turn,
    )
    from .config import Settings, load_settings
    from .evaluation.evaluate import Evaluation
    from .runs.run import Run
    from .workflows.collect import grow_trees, make_pairs
    from .workflows.evaluate import evaluate
    from .workflows.objects import load_eliciting, load_model, load_prefixes, load_scorer
    from .workflows.train import sft, train

__all__ = [
    "ElicitingText",
    "Evaluation",
    "Node",
    "PreferencePair",
    "Prefix",
    "Progress",
    "RolloutTree",
    "Run",
    "RunError",
    "Scorer",
    "Session",
    "Settings",
    "Speaker",
    "Speech",
    "Trajectory",
    "Turn",
    "UserError",
    "evaluate",
    "grow_trees",
    "load_eliciting",
    "load_model",
    "load_prefixes",
    "load_scorer",
    "load_settings",
    "make_pairs",
    "sft",
    "train",
]

_MODULES = {
    "base.errors": ("RunError", "UserError"),
    "base.progress": ("Progress",),
    "base.protocols": ("Scorer", "Session", "Speaker"),
    "base.records": (
        "ElicitingText", "Node", "PreferencePair", "Prefix", "RolloutTree", "Speech", "Trajectory", "Turn",
    ),
    "config": ("Settings", "load_settings"),
    "evaluation.evaluate": ("Evaluation",),
    "runs.run": ("Run",),
    "workflows.collect": ("grow_trees", "make_pairs"),
    "workflows.evaluate": ("evaluate",),
    "workflows.objects": ("load_eliciting", "load_model", "load_prefixes", "load_scorer"),
    "workflows.train": ("sft", "train"),
}  # fmt: skip
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


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
