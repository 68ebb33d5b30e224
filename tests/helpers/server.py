"""A small OpenAI-compatible server over a real socket, with a real tiny model behind it, that can also misbehave."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from weakref import WeakKeyDictionary

import torch

_said: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()  # what models were asked before, and said
KNOWN = {"model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "echo", "logprobs"}


def choice(chat: bool, text: str | None, why: str = "stop", **message: Any) -> dict[str, Any]:
    """An answer of one choice, in the form of either interface."""
    said = {"message": {"role": "assistant", "content": text, **message}} if chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": why, **said}]}


CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
KINDS: dict[str, tuple[str | None, str, dict[str, Any]]] = {
    "blank": (" \n ", "stop", {}),
    "half a character": ("bad half \ud83d", "stop", {}),
    "refusal": (None, "stop", {"refusal": "I would rather not."}),
    "filtered": (None, "content_filter", {}),
    "half filtered": ("It was", "content_filter", {}),
    "cut": ("", "length", {}),
    "thinking": (None, "length", {"reasoning_content": "Let me think about"}),
    "open thought": ("<think>Let me think about", "length", {}),
    "thought": ("<think>Let me think.</think>\n\nFine.", "stop", {}),
    "tools": (None, "tool_calls", {"tool_calls": [CALL]}),
}
"""Answers that are no plain text, by the name of the fault: text, finish_reason, and what else the message holds."""
FILTERS: dict[str, dict[str, Any]] = {
    "azure": {"error": {
        "message": "The response was filtered.", "type": None, "param": "prompt", "code": "content_filter",
        "status": 400, "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
    }},
    "azure, inner": {"error": {
        "message": "no", "code": "BadRequest", "innererror": {"code": "ResponsibleAIPolicyViolation"},
    }},
    "openai": {"error": {
        "message": "Invalid prompt: your prompt was flagged.", "type": "invalid_request_error", "param": None,
        "code": "invalid_prompt",
    }},
    "policy": {"error": {"message": "no", "type": "invalid_request_error", "code": "content_policy_violation"}},
}  # fmt: skip
"""What a content filter answers with HTTP 400, in Azure's and OpenAI's forms."""


class TinyServer(ThreadingHTTPServer):
    """Speaks vLLM's fields.

    Attributes:
        flavour: ``vllm`` takes every field; ``echo`` and ``bare`` refuse fields that OpenAI's API lacks, and ``bare``
            has no log-probabilities.
        fault: Called with (number of the request, body); returns the name of a fault, or ``None``.
        lie: How log-probabilities are falsified.
        seen: Bodies and headers of all requests.
        script: From a body to an answer in place of the model's; ``None`` leaves it to the model.
    """

    daemon_threads = True

    def __init__(self, model: Any, tokenizer: Any, *, flavour: str = "vllm") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer, self.flavour = model, tokenizer, flavour
        self.fault: Callable[[int, dict[str, Any]], str | None] = lambda number, body: None
        self.lie: str | None = None
        self.script: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda body: None
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def logits(self, ids: list[int]) -> torch.Tensor:
        """[tokens, vocabulary]; the model always says the same, so it is asked once."""
        known, key = _said.setdefault(self.model, {}), tuple(ids)
        if key not in known:
            with torch.no_grad():
                known[key] = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        return known[key]

    def logprobs(self, ids: list[int]) -> list[float]:
        table = self.logits(ids).log_softmax(-1)
        return [float(table[i - 1, token]) for i, token in enumerate(ids) if i > 0]

    def generate(self, ids: list[int], body: dict[str, Any]) -> list[int]:
        """Plain sampling, one forward per token, from the request's own seed."""
        generator = torch.Generator().manual_seed(body.get("seed", 0))
        new: list[int] = []
        temperature = body.get("temperature", 1.0)
        while len(new) < body.get("max_tokens", body.get("max_completion_tokens", 16)):
            logits = self.logits(ids + new)[-1].clone()
            logits[0] = -torch.inf if len(new) < body.get("min_tokens", 0) else logits[0]
            token = int(
                torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
                if temperature
                else logits.argmax()
            )
            if token == 0:
                break
            new.append(token)
        return new


class _Handler(BaseHTTPRequestHandler):
    server: TinyServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append((body, dict(self.headers)))
        fault = self.server.fault(number, body)
        if fault is not None:
            return self._misbehave(fault)
        if (answer := self.server.script(body)) is not None:
            return self._send(200, answer)
        if self.server.flavour != "vllm" and set(body) - KNOWN:
            return self._send(400, {"error": {"message": f"Unrecognized: {sorted(set(body) - KNOWN)}"}})
        with self.server.lock:
            answer = self._chat(body) if self.path.endswith("/chat/completions") else self._complete(body)
        return self._send(200, answer)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        ids = server.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]
        new = server.generate(ids, body)
        choice: dict[str, Any] = {"index": 0, "text": server.tokenizer.decode(new), "finish_reason": "length"}
        if server.flavour == "vllm" and "prompt_logprobs" in body:
            choice |= {"prompt_logprobs": self._table(ids), "prompt_token_ids": ids}
        if server.flavour != "bare" and body.get("echo"):
            values = server.logprobs([*ids, *new])
            tokens = [server.tokenizer.decode([i]) for i in (*ids, *new)]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [None, *self._falsified(values)]}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": len(new)}}

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        ids = server.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        text = server.tokenizer.decode(server.generate(ids, body), skip_special_tokens=True)
        answer: dict[str, Any] = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
        if server.flavour == "vllm" and "prompt_logprobs" in body:
            answer |= {"prompt_logprobs": self._table(ids), "prompt_token_ids": ids}
        return answer

    def _table(self, ids: list[int]) -> list[Any]:
        values = self._falsified(self.server.logprobs(ids))
        rows: list[Any] = [{str(token): {"logprob": v, "rank": 1}} for token, v in zip(ids[1:], values, strict=False)]
        return [None, *rows]

    def _falsified(self, values: list[float]) -> list[float]:
        lies: dict[str | None, list[float]] = {
            None: values,
            "constant": [-1.0] * len(values),
            "negated": [-10 - v for v in values],
            "positive": [-v for v in values],
            "restless": [v - 2 * (len(self.server.seen) % 3) for v in values],
            "hindsight": [v * (1 + 0.1 * len(values)) for v in values],
            "nan": [math.nan for _ in values],
            "short": values[:-1],
        }
        return lies[self.server.lie]

    def _send(self, status: int, answer: Any, *, headers: dict[str, str] | None = None, cut: int = 0) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) + cut))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        if cut:
            self.close_connection = True

    def _misbehave(self, fault: str) -> None:
        kind, _, argument = fault.partition(":")
        said = f"no, {self.headers.get('Authorization', 'nobody')}\x1b[31m"
        refusals: dict[str, tuple[int, dict[str, str]]] = {
            "status": (int(argument or 0) if kind == "status" else 0, {}),
            "later": (429, {"Retry-After": argument}),
            "redirect": (302, {"Location": "http://127.0.0.1:1/v1/completions"}),
        }
        answers: dict[str, Any] = {
            "half": b'{"choices": [{"text": " half',
            "html": b"<html><body>502 Bad Gateway</body></html>",
            "empty": {"choices": []},
            "none": {"choices": [{"index": 0}]},
            "list": [1, 2],
            "surrogate": b'{"choices": [{"index": 0, "text": " half \\ud83d"}]}',
            "truncated": b'{"choices": [',
        }
        chat = self.path.endswith("/chat/completions")
        if fault in KINDS:
            text, why, more = KINDS[fault]
            self._send(200, choice(chat, text, why, **more))
        elif fault in FILTERS:
            self._send(400, FILTERS[fault])
        elif kind in refusals:
            status, headers = refusals[kind]
            self._send(status, {"error": {"message": said}}, headers=headers)
        elif kind in answers:
            self._send(200, answers[kind], cut=100 if kind == "half" else 0)
        elif kind == "drip":  # one byte at a time, each of them in time
            self._send(200, b"{", cut=100)
            with suppress(BrokenPipeError, ConnectionResetError):  # nobody waits for all of it
                for _ in range(25):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
        else:  # hang, or drop the connection without a word
            time.sleep(float(argument or 0))
            self.close_connection = True


@contextmanager
def serving(model: Any, tokenizer: Any, *, flavour: str = "vllm") -> Iterator[TinyServer]:
    server = TinyServer(model, tokenizer, flavour=flavour)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
