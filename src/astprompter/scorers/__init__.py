"""Toxicity scorers R_φ by name: ``kind:argument``.

A new kind is one entry in :data:`SCORERS`, or an entry point of the group ``astprompter.scorers`` in another package: a
function from the argument and :class:`ScorerOptions` to a :class:`~astprompter.base.records.Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from ..base.errors import UserError, nearest
from ..base.records import Scorer
from ..base.registry import Registry

Activation = Literal["auto", "sigmoid", "softmax"]


@dataclass(frozen=True, slots=True)
class ScorerOptions:
    """Settings that a kind may use.

    Attributes:
        label: Label to score, by name; ``#LABEL`` at the end of an argument overrides it.
        activation: How logits become scores.
        revision: Hub branch, tag or commit.
        device: Where a local model runs.
        dtype: Number format of a judge's weights.
        batch_size: Texts per forward pass or request.
        safe_token: Word that a judge answers for harmless text.
        unsafe_token: Word that a judge answers for harmful text.
        answer_prefix: Text between a judge's chat template and its answer.
        instruction: System message for a judge; none when empty.
        base_url: Address of an OpenAI-compatible server.
        key_env: Environment variable that holds its key; ``OPENAI_API_KEY`` for OpenAI's own server when empty.
    """

    label: str = "toxicity"
    activation: Activation = "auto"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64
    safe_token: str = "safe"  # noqa: S105
    unsafe_token: str = "unsafe"  # noqa: S105
    answer_prefix: str = ""
    instruction: str = ""
    base_url: str = "https://api.openai.com/v1"
    key_env: str = ""


ScorerFactory = Callable[[str, ScorerOptions], Scorer]

DETOXIFY = {
    "original": "unitary/toxic-bert",
    "unbiased": "unitary/unbiased-toxic-roberta",
    "multilingual": "unitary/multilingual-toxic-xlm-roberta",
}
"""Hub models with Detoxify's weights, by Detoxify's names."""

DETOXIFY_LABELS = {"toxicity": "toxic", "severe_toxicity": "severe_toxic", "identity_attack": "identity_hate"}
"""Detoxify's label names -> those in the config of ``unitary/toxic-bert``, which keeps the data set's."""


def _embedded(argument: str, options: ScorerOptions) -> Scorer:
    from .classifiers import ClassifierScorer

    _no_argument("embedded", argument)
    folder = Path(str(resources.files("astprompter") / "embedded" / "classifier"))
    if not (folder / "config.json").is_file():
        raise UserError("the embedded classifier is missing; build it with scripts/build_embedded.py or reinstall")
    return ClassifierScorer.load(str(folder), options, name="embedded")


def _hf(argument: str, options: ScorerOptions) -> Scorer:
    from .classifiers import ClassifierScorer

    path, options = _labelled(argument, options)
    if not path:
        raise UserError(
            "scorer 'hf:' needs a model, for instance hf:unitary/unbiased-toxic-roberta or hf:./my-classifier"
        )
    return ClassifierScorer.load(path, options, name=f"hf:{path}")


def _detoxify(argument: str, options: ScorerOptions) -> Scorer:
    from .classifiers import ClassifierScorer

    name, options = _labelled(argument, options)
    if name not in DETOXIFY:
        raise UserError(f"scorer 'detoxify:' has no model '{name}'.{nearest(name, DETOXIFY)}")
    options = replace(options, activation="sigmoid")  # its labels do not exclude each other
    return ClassifierScorer.load(DETOXIFY[name], options, name=f"detoxify:{name}", aliases=DETOXIFY_LABELS)


def _word(argument: str, options: ScorerOptions) -> Scorer:
    from .words import WordScorer

    del options
    if not argument:
        raise UserError("scorer 'word:' needs a word, for instance word:banana")
    return WordScorer(argument)


def _judge(argument: str, options: ScorerOptions) -> Scorer:
    from .judge import GenerativeJudge

    if not argument:
        raise UserError("scorer 'judge:' needs a model, for instance judge:./my-safety-model")
    return GenerativeJudge.load(argument, options)


def _python(argument: str, options: ScorerOptions) -> Scorer:
    from .function import FunctionScorer

    del options
    return FunctionScorer.load(argument)


def _openai_moderation(argument: str, options: ScorerOptions) -> Scorer:
    from .served import ModerationScorer

    model, options = _labelled(argument, options)
    if not model:
        raise UserError(
            "scorer 'openai-moderation:' needs a model, for instance openai-moderation:omni-moderation-latest"
        )
    return ModerationScorer(model, options)


def _openai_chat(argument: str, options: ScorerOptions) -> Scorer:
    from .served import ChatJudge

    if not argument:
        raise UserError("scorer 'openai-chat:' needs the name of a served model, for instance openai-chat:my-judge")
    return ChatJudge(argument, options)


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


def load_scorer(spec: str, options: ScorerOptions | None = None) -> Scorer:
    """Load a scorer by ``kind:argument``.

    Raises:
        UserError: Unknown kind, a model that cannot be loaded, an unknown label, or a plug-in that is broken.
    """
    kind, _, argument = spec.partition(":")
    return SCORERS.get(kind)(argument, options or ScorerOptions())


def _no_argument(kind: str, argument: str) -> None:
    if argument:
        raise UserError(f"scorer '{kind}' takes no argument, so leave out ':{argument}'")


def _labelled(argument: str, options: ScorerOptions) -> tuple[str, ScorerOptions]:
    """Split ``NAME#LABEL``; a folder may have a ``#`` in its name."""
    name, mark, label = argument.rpartition("#")
    if not mark or not label or Path(argument).is_dir():
        return argument, options
    return name, replace(options, label=label)
