"""Any Hugging Face sequence classifier as scorer, Detoxify's weights included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..base.errors import UserError, nearest
from ..config import ScorerSettings
from ..models.local.lm import explained, resolve_device
from .first_token import shorten_last_layer
from .remembering import RememberingScorer

_NO_ALIASES: Mapping[str, str] = {}


class ClassifierScorer(RememberingScorer):
    """Scores texts with one label of a sequence classifier (protocol :class:`~astprompter.base.protocols.Scorer`).

    Texts longer than the model's context lose their end.

    Attributes:
        labels: All labels of the model, in its order.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        label: str,
        activation: str,
        batch_size: int,
        aliases: Mapping[str, str] = _NO_ALIASES,
    ) -> None:
        """Wrap a loaded classifier.

        Args:
            model: A sequence classifier.
            tokenizer: Its tokenizer.
            name: Name for logs and tables; the label is added.
            label: Label to score, by name.
            activation: ``sigmoid``, ``softmax``, or ``auto`` to follow the model's problem type.
            batch_size: Texts per forward pass.
            aliases: Other names of labels: name -> name in the model's config.

        Raises:
            UserError: Unknown label, or ``activation="auto"`` on a model that names no problem type.
        """
        self.model, self.tokenizer, self.batch_size = model.eval(), tokenizer, batch_size
        config = model.config
        self.labels = [config.id2label[i] for i in range(config.num_labels)]
        known = label if label in self.labels else aliases.get(label, label)
        self._label = _label_index(self.labels, known, name)
        self._sigmoid = _uses_sigmoid(config.problem_type, activation, name)
        super().__init__(f"{name} ({self.labels[self._label]})")
        self._pad = _pad_id(model, tokenizer, name)
        self._limit = _limit_of(model, tokenizer)
        shorten_last_layer(model)

    @classmethod
    def load(
        cls, path: str, options: ScorerSettings, *, name: str, aliases: Mapping[str, str] = _NO_ALIASES
    ) -> ClassifierScorer:
        """Load model and tokenizer from safetensors, without remote code, in float32.

        Raises:
            UserError: Something cannot be loaded; the message names the model.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with explained(path, "classifier"):
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path,
                revision=options.revision,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(path, revision=options.revision, trust_remote_code=False)
        if loading["missing_keys"]:
            first = sorted(loading["missing_keys"])[0]
            raise UserError(f"'{path}' is not a trained sequence classifier: it has no weights for '{first}'")
        model = model.to(resolve_device(options.device)).requires_grad_(False)
        return cls(
            model,
            tokenizer,
            name=name,
            label=options.label,
            activation=options.activation,
            batch_size=options.batch_size,
            aliases=aliases,
        )

    def _score_new(self, texts: Sequence[str]) -> list[float]:
        return [row[self._label] for row in self._rows(texts)]

    def _rows(self, texts: Sequence[str]) -> Iterator[list[float]]:
        """One row of label scores per text, computed in batches of similar length."""
        if not texts:
            return iter(())
        import torch

        encoded = self.tokenizer(list(texts), truncation=True, max_length=self._limit)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        result: list[list[float]] = [[] for _ in texts]
        device = self.model.device
        with torch.no_grad():
            for start in range(0, len(order), self.batch_size):
                part = order[start : start + self.batch_size]
                width = max(1, *(len(encoded[i]) for i in part))
                ids = torch.tensor([[*encoded[i], *[self._pad] * (width - len(encoded[i]))] for i in part])
                mask = torch.arange(width) < torch.tensor([len(encoded[i]) for i in part])[:, None]
                logits = self.model(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits.float()
                scores = logits.sigmoid() if self._sigmoid else logits.softmax(dim=1)
                for i, row_scores in zip(part, scores.tolist(), strict=True):
                    result[i] = row_scores
        return iter(result)


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
