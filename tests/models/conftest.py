"""A tiny chat model behind a server of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helpers.server import TinyServer, serving
from helpers.tiny import make_chat_tokenizer, make_model


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    tokenizer = make_chat_tokenizer()
    return make_model("llama", len(tokenizer), seed=1), tokenizer


@pytest.fixture
def server(parts: Any) -> Iterator[TinyServer]:
    with serving(*parts) as running:
        yield running
