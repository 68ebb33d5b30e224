"""Toxicity scorers R_φ by name: ``kind:argument``.

A new kind is one entry in :data:`KINDS`: a function from the argument and :class:`ScorerOptions` to a
:class:`~astprompter.types.Scorer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from ..errors import UserError, nearest
from ..types import Scorer

Activation = Literal["auto", "sigmoid", "softmax"]


@dataclass(frozen=True, slots=True)
class ScorerOptions:
    """Settings that a kind may use.

    Attributes:
        label: Label to score, by name.
        activation: How logits become scores.
        revision: Hub branch, tag or commit.
        device: Where the classifier runs.
        batch_size: Texts per forward pass.
    """

    label: str = "toxicity"
    activation: Activation = "auto"
    revision: str | None = None
    device: str = "auto"
    batch_size: int = 64


def _embedded(argument: str, options: ScorerOptions) -> Scorer:
    from .classifiers import ClassifierScorer

    del argument
    folder = Path(str(resources.files("astprompter") / "embedded" / "classifier"))
    if not (folder / "config.json").is_file():
        raise UserError("the embedded classifier is missing; build it with scripts/build_embedded.py or reinstall")
    return ClassifierScorer.load(str(folder), options, name="embedded")


def _hf(argument: str, options: ScorerOptions) -> Scorer:
    from .classifiers import ClassifierScorer

    if not argument:
        raise UserError(
            "scorer 'hf:' needs a model, for instance hf:unitary/unbiased-toxic-roberta or hf:./my-classifier"
        )
    return ClassifierScorer.load(argument, options, name=f"hf:{argument}")


def _word(argument: str, options: ScorerOptions) -> Scorer:
    from .words import WordScorer

    del options
    if not argument:
        raise UserError("scorer 'word:' needs a word, for instance word:banana")
    return WordScorer(argument)


KINDS: dict[str, Callable[[str, ScorerOptions], Scorer]] = {"embedded": _embedded, "hf": _hf, "word": _word}


def load_scorer(spec: str, options: ScorerOptions | None = None) -> Scorer:
    """Load a scorer by ``kind:argument``.

    Raises:
        UserError: Unknown kind, a model that cannot be loaded, or an unknown label.
    """
    kind, _, argument = spec.partition(":")
    if kind not in KINDS:
        raise UserError(f"unknown scorer '{spec}'.{nearest(kind, KINDS)}")
    return KINDS[kind](argument, options or ScorerOptions())
