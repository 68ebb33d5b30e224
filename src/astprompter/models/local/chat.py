"""A local chat model as defender or adversary: messages under its chat template, with the cache kept.

A *defender* is the assistant: the prefix opens the first user message, the first utterance completes it, every later
utterance is a user message, every reply an assistant message. So nothing is said in the defender's name that it did
not say, roles alternate as templates demand, and an utterance's likelihood is that of its own tokens in the user
message, given all before it.

An *adversary* has the roles reversed: it is the assistant of its own conversation. What it hears (the prefix, then
every reply) is a user message; what it says (every utterance) is an assistant message.

The template is taken apart once, into what stands before and after a message. A probe renders whole conversations
and compares; a template whose rendering of n + 1 messages does not extend that of n is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

from ...base.errors import UserError, words_of
from ...base.messages import as_messages
from ...base.protocols import Session
from ...base.records import Keys, Prefix, Speech
from ...config import SamplingSettings
from .base import special_ids
from .lm import LanguageModel, Role
from .lora import unwrapped
from .session import LMSession

_MARKS = ("alpha", "bravo", "charlie")
_PROBE = ("Hello there.", "good day, and you", "Fine (thanks)!", "the end is near", "is it?")


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids that stand around messages.

    Attributes:
        opening: Before the first user message.
        answer: Between a user message and the assistant's.
        ask: Between an assistant message and the next user message, the end of the assistant's turn included.
    """

    opening: tuple[int, ...]
    answer: tuple[int, ...]
    ask: tuple[int, ...]


class ChatModel(LanguageModel):
    """A causal LM under its chat template.

    A speech joins the conversation without the white space around it, and is given on with one leading space, as it
    would continue a plain text. Its tokens are only exchanged with another chat model of the same tokenizer.

    Attributes:
        frame: What stands around messages.
        role: Which side it plays.
    """

    chat = True

    def __init__(self, model: Any, tokenizer: Any, *, role: Role, **options: Any) -> None:
        """Wrap a loaded chat model; options as for :class:`LanguageModel`.

        Raises:
            UserError: No chat template, or one that cannot be rendered message by message.
        """
        super().__init__(model, tokenizer, **options)
        self.role = role
        self.frame = self._take_apart()
        ends = [i for i in self.frame.ask[:1] if i in special_ids(tokenizer) and i not in self.end_ids]
        self.end_ids = (*self.end_ids, *ends)
        self._ban()
        self.chat_vocabulary = f"{self.vocabulary}/chat"

    def encode_prefix(self, text: str, *, turns: int) -> tuple[int, ...]:
        """Token ids of an opening message's last tokens that fit, without its frame."""
        ids, _ = self._fitted(text.strip(), self.prefix_budget(turns))
        return tuple(ids) or tuple(self._encode("."))

    def heard(self, prefix: Prefix, *, turns: int) -> Prefix:
        """What is left of a prefix, and how many tokens were cut."""
        return self._cut(prefix, *self._fitted(prefix.text.strip(), self.prefix_budget(turns)))

    def prefix_budget(self, turns: int) -> int:
        """Most prefix tokens beside ``turns`` turns and their frames.

        Raises:
            UserError: None remain.
        """
        frames = len(self.frame.opening) + turns * (len(self.frame.answer) + len(self.frame.ask))
        budget = super().prefix_budget(turns) - frames
        if budget < 1:
            raise UserError(
                f"model '{self.name}' has a context of {self.context} tokens, too short for {turns} turns and the "
                f"{frames} tokens of its chat template; lower rollout.horizon or rollout.max_new_tokens"
            )
        return budget

    def prompt_of(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The opening user message: left open for a defender, closed and answered by an adversary."""
        return (*self.frame.opening, *ids, *(self.frame.answer if self.role == "adversary" else ()))

    def start_ids(self, rows: Sequence[Sequence[int]]) -> ChatSession:
        """Open one conversation per row of token ids, made by :meth:`prompt_of`."""
        return ChatSession(self, LMSession.open(self, rows), begun=self.role == "adversary")

    def content(self, speech: Speech, *, first: bool) -> tuple[int, ...]:
        """Token ids of a heard speech as a message, or, if ``first``, as the end of the message that is open."""
        if speech.token_ids is not None and speech.vocabulary == self.chat_vocabulary and not first:
            return speech.token_ids
        return self.encode(speech.text) if first else tuple(self._encode(speech.text.strip()))

    def _encode_frame(self, text: str) -> list[int]:
        """Token ids of what a template wrote, markers included; in a message they stay text and forge no message."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _take_apart(self) -> Frame:
        if not self.tokenizer.chat_template:
            raise UserError(f"model '{self.name}' has no chat template; use chat=off, or a model that has one")
        whole = self._render(_MARKS[:3])
        pieces, rest = [], whole
        for mark in _MARKS[:3]:
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise self._refusal("it does not show every message once")
            pieces.append(before)
        if not self._render(_PROBE[:3]).startswith(self._render(_PROBE[:1])):
            raise self._refusal("the rendering of more messages does not extend that of fewer")
        opening, answer, ask = (tuple(self._encode_frame(piece)) for piece in pieces)
        if rest != pieces[1]:
            raise self._refusal("user messages do not all look alike")
        frame = Frame(opening, answer, ask)
        for count in (1, 3, 5):
            self._compare(frame, _PROBE[:count])
        return frame

    def _compare(self, frame: Frame, contents: Sequence[str]) -> None:
        """Frames and contents, encoded one by one, must be the tokens of the whole rendering."""
        ids: list[int] = []
        for place, content in enumerate(contents):
            ids += frame.opening if place == 0 else frame.answer if place % 2 else frame.ask
            ids += self._encode(content)
        if [*ids, *frame.answer] != self._encode_frame(self._render(contents)):
            raise self._refusal("its tokens differ when messages are encoded one by one")

    def _render(self, contents: Sequence[str]) -> str:
        messages = as_messages(contents)
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # templates raise their own kinds
            raise self._refusal(words_of(error) or type(error).__name__) from None

    def _refusal(self, why: str) -> UserError:
        return UserError(
            f"the chat template of model '{self.name}' cannot be used message by message ({why}); use chat=off, "
            "or serve the model and set remote.api=chat"
        )


def speaker_from(
    model: Any,
    tokenizer: Any,
    *,
    sampling: SamplingSettings,
    name: str = "",
    role: Role = "adversary",
    chat: Literal["off", "on", "auto"] = "off",
    heard_tokens: int | None = None,
    autocast: bool = False,
) -> LanguageModel:
    """Wrap a loaded model and its tokenizer as adversary or defender.

    Args:
        model: A causal LM of ``transformers``; put into evaluation mode.
        tokenizer: Its tokenizer.
        sampling: How it samples.
        name: Name for logs and tables; the model's own where empty.
        role: Which side it plays; a defender is frozen.
        chat: ``on`` uses its chat template, ``auto`` does where it has one; ``off`` is plain text.
        heard_tokens: Tokens to reserve for each speech of the other side; default ``max_new_tokens``.
        autocast: Matrix products in bfloat16.

    Raises:
        UserError: The model does not support rollouts, or its template cannot be used message by message.
    """
    model = unwrapped(model).eval()
    if role == "defender":
        model.requires_grad_(False)
    under_template = chat == "on" or (chat == "auto" and bool(tokenizer.chat_template))
    kind: Callable[..., LanguageModel] = partial(ChatModel, role=role) if under_template else LanguageModel
    name = name or model.config.name_or_path or type(model).__name__
    return kind(model, tokenizer, name=name, sampling=sampling, heard_tokens=heard_tokens, autocast=autocast)


class ChatSession(Session):
    """Rows of a chat model."""

    def __init__(self, lm: ChatModel, inner: Session, *, begun: bool) -> None:
        """Frame what an inner session hears.

        Args:
            lm: The model.
            inner: Its conversations, token by token.
            begun: Whether the opening message is closed: the next thing heard is a message of its own.
        """
        self._lm, self._inner, self._begun = lm, inner, begun

    def hear(self, speeches: Sequence[Speech], *, likelihood: bool = False) -> list[tuple[float, ...]] | None:
        """Append one user message per row (or the end of the open one); log-probabilities of its own tokens only."""
        first, frame = not self._begun, self._lm.frame
        before = () if first else frame.ask
        contents = [self._lm.content(speech, first=first) for speech in speeches]
        framed = [Speech("", (*before, *ids, *frame.answer), self._lm.vocabulary) for ids in contents]
        heard = self._inner.hear(framed, likelihood=likelihood)
        self._begun = True
        if heard is None:
            return None
        return [values[len(before) : len(before) + len(ids)] for values, ids in zip(heard, contents, strict=True)]

    def speak(self, keys: Keys) -> list[Speech]:
        """Sample one assistant message per row."""
        return [self.given_on(speech) for speech in self._inner.speak(keys)]

    def say(self, speeches: Sequence[Speech]) -> None:
        """Put words into the assistant's mouth: append what somebody else wrote as its message."""
        rows = [self._lm.content(speech, first=False) for speech in speeches]
        self._inner.hear([Speech("", ids, self._lm.vocabulary) for ids in rows])

    def branch(self, rows: Sequence[int]) -> Self:
        """Continue chosen rows, repeats allowed."""
        return type(self)(self._lm, self._inner.branch(rows), begun=self._begun)

    def transcript(self) -> list[tuple[int, ...]] | None:
        """Token ids of every row so far, frames included."""
        return self._inner.transcript()

    def given_on(self, speech: Speech) -> Speech:
        """A message as the other side hears it."""
        text = speech.text.strip()
        given = f" {text}" if text else speech.text
        return Speech(given, speech.token_ids, self._lm.chat_vocabulary, speech.error, speech.kind)
