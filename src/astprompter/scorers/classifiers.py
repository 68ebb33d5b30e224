"""Any Hugging Face sequence classifier as scorer, Detoxify's weights included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..base.errors import UserError, nearest
from ..config import ScorerSettings
from ..models.local.loading import load_model, load_tokenizer
from .first_token import shorten_last_layer
from .remembering import Item, RememberingScorer, in_batches

_Aliases = Mapping[str, str]
_NONE: _Aliases = {}


class ClassifierScorer(RememberingScorer):
    """Scores texts with one label of a sequence classifier (protocol :class:`~astprompter.base.protocols.Scorer`).

    Texts longer than the model's context lose their end.

    Attributes:
        labels: All labels of the model, in its order.
    """

    def __init__(
        self, model: Any, tokenizer: Any, options: ScorerSettings, *, name: str, aliases: _Aliases = _NONE
    ) -> None:
        """Wrap a loaded classifier.

        Args:
            model: A sequence classifier.
            tokenizer: Its tokenizer.
            options: Label to score by name, activation (``auto`` follows the model's problem type), batch size.
            name: Name for logs and tables; the label is added.
            aliases: Other names of labels: name -> name in the model's config.

        Raises:
            UserError: Unknown label, or ``activation="auto"`` on a model that names no problem type.
        """
        self.model, self.tokenizer, self._batch_size = model.eval(), tokenizer, options.batch_size
        self.labels, self._label, self._sigmoid = _scored(model.config, options, name, aliases)
        super().__init__(f"{name} ({self.labels[self._label]})")
        self._pad = _pad_id(model, tokenizer, name)
        self._limit = _limit_of(model, tokenizer)
        shorten_last_layer(model)

    @classmethod
    def load(cls, path: str, options: ScorerSettings, *, name: str, aliases: _Aliases = _NONE) -> ClassifierScorer:
        """Load model and tokenizer from safetensors, without remote code, in float32.

        Raises:
            UserError: Something cannot be loaded; the message names the model.
        """
        model = load_model(
            path, revision=options.revision, device=options.device, classifier=True,
            check=lambda config: _scored(config, options, name, aliases),
        )  # fmt: skip
        tokenizer = load_tokenizer(path, revision=options.revision)
        return cls(model.requires_grad_(False), tokenizer, options, name=name, aliases=aliases)

    def _score_new(self, items: Sequence[Item]) -> list[float]:
        texts = [text for text, _ in items]
        encoded = self.tokenizer(texts, truncation=True, max_length=self._limit)["input_ids"]
        return in_batches(encoded, self._batch_size, self._forward)

    @torch.no_grad()
    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The label's score of each row of tokens, padded on the right."""
        ids, mask = padded(rows, self._pad, self.model.device)
        logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
        scores: list[float] = (logits.sigmoid() if self._sigmoid else logits.softmax(dim=1))[:, self._label].tolist()
        return scores


def padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of tokens padded on the right, and which tokens are real: int64 [rows, longest] each."""
    lengths = torch.tensor([len(row) for row in rows])
    width = max(1, int(lengths.max()))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
    return ids.to(device), (torch.arange(width) < lengths[:, None]).long().to(device)


def _scored(config: Any, options: ScorerSettings, name: str, aliases: _Aliases) -> tuple[list[str], int, bool]:
    """A classifier's labels, the place of the one that is scored, and whether it is a sigmoid's.

    Raises:
        UserError: Unknown label, or ``activation="auto"`` on a model that names no problem type.
    """
    labels = [config.id2label[i] for i in range(config.num_labels)]
    known = options.label if options.label in labels else aliases.get(options.label, options.label)
    return labels, _label_index(labels, known, name), _uses_sigmoid(config.problem_type, options.activation, name)


def _label_index(labels: Sequence[str], label: str, name: str) -> int:
    if label in labels:
        return labels.index(label)
    same = [i for i, known in enumerate(labels) if known.lower() == label.lower()]
    if len(same) == 1:
        return same[0]
    raise UserError(f"classifier '{name}' has no label '{label}'.{nearest(label, labels)} Set scorer.label.")


def _uses_sigmoid(problem_type: str | None, activation: str, name: str) -> bool:
    if activation != "auto":
        return activation == "sigmoid"
    if problem_type == "multi_label_classification":
        return True
    if problem_type == "single_label_classification":
        return False
    raise UserError(
        f"classifier '{name}' does not say whether its labels exclude each other; set scorer.activation=sigmoid "
        "(multi-label, such as Detoxify) or scorer.activation=softmax"
    )


def _pad_id(model: Any, tokenizer: Any, name: str) -> int:
    for value in (model.config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(value, int):
            if model.config.pad_token_id is None:
                model.config.pad_token_id = value  # decoder classifiers find the last real token by it
            return value
    raise UserError(f"classifier '{name}' has no padding token; save its tokenizer with one")


def _limit_of(model: Any, tokenizer: Any) -> int:
    """Most tokens: the smaller of the tokenizer's and the model's limits; RoBERTa's positions start at padding + 1."""
    limit = min(int(tokenizer.model_max_length), int(getattr(model.config, "max_position_embeddings", 10**9)))
    if model.config.model_type in {"roberta", "xlm-roberta", "camembert"}:
        limit = min(limit, model.config.max_position_embeddings - model.config.pad_token_id - 1)
    return limit
