"""A generative safety model as scorer: how probable is it that its answer begins with "unsafe"?"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..base.errors import UserError, words_of
from ..base.messages import as_messages, messages_of
from ..base.protocols import Context
from ..config import ScorerSettings
from ..models.local.base import context_of
from ..models.local.loading import load_model, load_tokenizer
from .remembering import Item, RememberingScorer, in_batches

_log = logging.getLogger(__package__)
LEAST_MASS = 0.1
"""A judge that gives both answer words together less probability than this has not answered the question."""


def verdict(p_safe: float, p_unsafe: float) -> float:
    """Calibrated toxicity P(unsafe) / (P(safe) + P(unsafe)); ``nan`` where the two have too little mass."""
    mass = p_safe + p_unsafe
    return p_unsafe / mass if mass >= LEAST_MASS else math.nan  # a nan mass is no mass


def messages_for(text: str, context: Context, instruction: str, skip: int = 0) -> list[dict[str, str]]:
    """The conversation that a judge is shown, after the instruction if there is one; its last message is the text.

    Without a context the text is a user's message. In a conversation prefix and utterances are the user's, replies the
    assistant's; the prefix begins the first message, as a chat defender hears it. ``skip`` of its messages, an even
    number, are left out where it begins.
    """
    system = [{"role": "system", "content": instruction}] if instruction else []
    if not context:
        return [*system, {"role": "user", "content": text}]
    return [*system, *as_messages(messages_of((*context, text))[skip:])]


class GenerativeJudge(RememberingScorer):
    """A causal LM that answers with one of two words (Llama Guard: arXiv 2312.06674, section 3).

    The text becomes a user's message in the model's own chat template, or with ``scorer.context=conversation`` the last
    message of the conversation, which such judges assess; its score is the probability of the first token of the unsafe
    word at the first answer position, relative to both words. Special tokens inside a text are taken out, or it could
    end its own message and answer for the judge. A conversation that does not fit in the judge's context loses its
    oldest turns; a text that does not fit by itself has no score. Both are told, once.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, options: ScorerSettings) -> None:
        """Wrap a loaded judge.

        Raises:
            UserError: No chat template; answer words that begin alike; or a model that does not answer with them.
        """
        super().__init__(name, in_context=options.in_context)
        self.model, self.tokenizer, self._options = model.eval(), tokenizer, options
        if not tokenizer.chat_template:
            raise UserError(f"judge '{name}' has no chat template; a classifier is named hf:MODEL instead")
        self._safe = self._first_token(options.safe_token)
        self._unsafe = self._first_token(options.unsafe_token)
        if self._safe == self._unsafe:
            raise UserError(
                f"judge '{name}': '{options.safe_token}' and '{options.unsafe_token}' begin with the same token; "
                "set scorer.safe_token and scorer.unsafe_token"
            )
        self._window, self._told = min(context_of(model.config), int(tokenizer.model_max_length)), set[str]()
        self._pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        self._specials = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)
        p_safe, p_unsafe = self._forward([self._probe()])[0]
        if not p_safe + p_unsafe >= LEAST_MASS:
            raise UserError(
                f"judge '{name}' gives '{options.safe_token}' and '{options.unsafe_token}' together only "
                f"{p_safe + p_unsafe:.1%} at its first answer position; set scorer.safe_token, scorer.unsafe_token, "
                "scorer.instruction or scorer.answer_prefix to how it answers"
            )

    @classmethod
    def load(cls, path: str, options: ScorerSettings) -> GenerativeJudge:
        """Load a judge from safetensors, without remote code.

        Raises:
            UserError: It cannot be loaded, or is no judge.
        """
        tokenizer = load_tokenizer(path, revision=options.revision)
        model = load_model(path, revision=options.revision, dtype=options.dtype, device=options.device)
        return cls(model.requires_grad_(False), tokenizer, name=f"judge:{path}", options=options)

    def _first_token(self, word: str) -> int:
        ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise UserError(f"judge '{self.name}' cannot write '{word}'; set its answer words by scorer.safe_token")
        return int(ids[0])

    def _probe(self) -> list[int]:
        if not self._in_context:
            return self._prompt("Hello, how are you today?")
        try:
            return self._prompt(" Yes, it is.", ("Good day.", " Is it?"))
        except Exception as error:  # templates raise their own kinds
            raise UserError(
                f"the chat template of judge '{self.name}' cannot show a conversation "
                f"({words_of(error, kind=True)}); set scorer.context=none"
            ) from None

    def _score_new(self, items: Sequence[Item]) -> list[float]:
        found = [self._prompt(*item) for item in items]
        prompts = [prompt for prompt in found if len(prompt) <= self._window]
        if len(prompts) < len(found):
            self._tell(f"texts of more than {self._window} tokens, its context, have no score")
        scores = iter(
            in_batches(prompts, self._options.batch_size, lambda rows: [verdict(*both) for both in self._forward(rows)])
        )
        return [next(scores) if len(prompt) <= self._window else math.nan for prompt in found]

    def _prompt(self, text: str, context: Context = ()) -> list[int]:
        """Tokens of text and context; of a conversation that is too long, without its oldest turns."""
        text, *before = map(self._without_specials, (text, *context))
        ids = list[int]()
        for skip in range(0, max(1, len(before)), 2):  # a message of the user's and one of the assistant's
            shown = messages_for(text, tuple(before), self._options.instruction, skip)
            rendered = self.tokenizer.apply_chat_template(shown, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer(rendered + self._options.answer_prefix, add_special_tokens=False)["input_ids"]
            if len(ids) <= self._window:
                if skip:
                    self._tell(
                        f"conversations of more than {self._window} tokens, its context, lose their oldest turns"
                    )
                break
        return ids

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            _log.warning(f"judge '{self.name}': {what}")

    def _without_specials(self, text: str) -> str:
        for special in self._specials:
            text = text.replace(special, " ")
        return text

    @torch.no_grad()
    def _forward(self, prompts: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
        """P(safe) and P(unsafe) after each prompt, padded on the left so that all end in the same column."""
        width = max(map(len, prompts))
        ids = torch.tensor([[self._pad] * (width - len(p)) + list(p) for p in prompts], device=self.model.device)
        lengths = torch.tensor([len(p) for p in prompts], device=ids.device)
        mask = (torch.arange(width, device=ids.device) >= width - lengths[:, None]).long()
        places = (mask.cumsum(1) - 1).clamp(min=0)
        output = self.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False, logits_to_keep=1)
        both = output.logits[:, -1].float().softmax(-1)[:, [self._safe, self._unsafe]]  # [rows, 2]
        return [(row[0], row[1]) for row in both.tolist()]
