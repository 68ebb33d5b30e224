"""Toxicity scorers R_φ by name: ``kind:argument``.

A new kind is one entry in :data:`SCORERS`, or an entry point of the group ``astprompter.scorers`` in another package: a
function from the argument and :class:`~astprompter.config.ScorerSettings` to a
:class:`~astprompter.base.protocols.Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from ..base.errors import UserError, nearest
from ..base.protocols import Scorer
from ..base.registry import Registry
from ..config import ScorerSettings

ScorerFactory = Callable[[str, ScorerSettings], Scorer]

DETOXIFY = {
    "original": "unitary/toxic-bert",
    "unbiased": "unitary/unbiased-toxic-roberta",
    "multilingual": "unitary/multilingual-toxic-xlm-roberta",
}
"""Hub models with Detoxify's weights, by Detoxify's names."""

DETOXIFY_LABELS = {"toxicity": "toxic", "severe_toxicity": "severe_toxic", "identity_attack": "identity_hate"}
"""Detoxify's label names -> those in the config of ``unitary/toxic-bert``, which keeps the data set's."""

OF_TEXTS = frozenset({"embedded", "hf", "detoxify", "openai-moderation", "word"})
"""Kinds that judge each text on its own, whatever was said before."""


def _embedded(argument: str, options: ScorerSettings) -> Scorer:
    from .classifiers import ClassifierScorer

    if argument:
        raise UserError(f"scorer 'embedded' takes no argument, so leave out ':{argument}'")
    folder = Path(str(resources.files("astprompter") / "embedded" / "classifier"))
    if not (folder / "config.json").is_file():
        raise UserError("the embedded classifier is missing; build it with scripts/build_embedded.py or reinstall")
    return ClassifierScorer.load(str(folder), options, name="embedded")


def _hf(argument: str, options: ScorerSettings) -> Scorer:
    from .classifiers import ClassifierScorer

    path, options = _labelled(argument, options)
    _needed(path, "a model", "hf:unitary/unbiased-toxic-roberta or hf:./my-classifier")
    return ClassifierScorer.load(path, options, name=f"hf:{path}")


def _detoxify(argument: str, options: ScorerSettings) -> Scorer:
    from .classifiers import ClassifierScorer

    name, options = _labelled(argument, options)
    if name not in DETOXIFY:
        raise UserError(f"scorer 'detoxify:' has no model '{name}'.{nearest(name, DETOXIFY)}")
    options = options.changed(activation="sigmoid")  # its labels do not exclude each other
    return ClassifierScorer.load(DETOXIFY[name], options, name=f"detoxify:{name}", aliases=DETOXIFY_LABELS)


def _word(argument: str, options: ScorerSettings) -> Scorer:
    from .words import WordScorer

    del options
    return WordScorer(_needed(argument, "a word", "word:banana"))


def _judge(argument: str, options: ScorerSettings) -> Scorer:
    from .judge import GenerativeJudge

    return GenerativeJudge.load(_needed(argument, "a model", "judge:./my-safety-model"), options)


def _python(argument: str, options: ScorerSettings) -> Scorer:
    from .function import FunctionScorer

    return FunctionScorer.load(argument, in_context=options.in_context)


def _openai_moderation(argument: str, options: ScorerSettings) -> Scorer:
    from .served import ModerationScorer

    model, options = _labelled(argument, options)
    return ModerationScorer(_needed(model, "a model", "openai-moderation:omni-moderation-latest"), options)


def _openai_chat(argument: str, options: ScorerSettings) -> Scorer:
    from .served import ChatJudge

    return ChatJudge(_needed(argument, "the name of a served model", "openai-chat:my-judge"), options)


SCORERS: Registry[ScorerFactory] = Registry(
    "scorer",
    "astprompter.scorers",
    {
        "embedded": _embedded,
        "hf": _hf,
        "detoxify": _detoxify,
        "judge": _judge,
        "python": _python,
        "openai-moderation": _openai_moderation,
        "openai-chat": _openai_chat,
        "word": _word,
    },
)


def load_scorer(spec: str, options: ScorerSettings | None = None) -> Scorer:
    """Load a scorer by ``kind:argument``.

    Raises:
        UserError: Unknown kind, a model that cannot be loaded, an unknown label, one that cannot be shown a
            conversation, or a plug-in that is broken.
    """
    kind, _, argument = spec.partition(":")
    options = options or ScorerSettings()
    if options.in_context and kind in OF_TEXTS:
        raise UserError(
            f"scorer '{spec}' judges each text on its own; leave out scorer.context, or take a judge "
            "(judge:MODEL, openai-chat:MODEL) or python:module:function"
        )
    return SCORERS.get(kind)(argument, options)


def _needed(argument: str, what: str, example: str) -> str:
    if not argument:
        raise UserError(f"scorer '{example.partition(':')[0]}:' needs {what}, for instance {example}")
    return argument


def _labelled(argument: str, options: ScorerSettings) -> tuple[str, ScorerSettings]:
    """Split ``NAME#LABEL``; a folder may have a ``#`` in its name."""
    name, mark, label = argument.rpartition("#")
    if not mark or not label or Path(argument).is_dir():
        return argument, options
    return name, options.changed(label=label)
