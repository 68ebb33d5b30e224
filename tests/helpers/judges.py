"""Judges of both kinds: served over a real socket, and tiny ones in a folder; and a tiny classifier."""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from helpers.tiny import make_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LABELS = {0: "obscene", 1: "toxicity", 2: "threat"}


def judge_folder(folder: Path, *, template: str | None = TEMPLATE, answers: bool = True) -> Path:
    """A tiny judge: its first hidden unit is large for every token, and the heads of both answer words read it."""
    tokenizer = make_tokenizer()
    marks = ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=256, tie_word_embeddings=False)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
        if answers:
            with torch.no_grad():
                model.model.embed_tokens.weight[:, 0] = 6.0
                for layer in model.model.layers:  # nothing writes to that unit again
                    layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
                for word in ("safe", "unsafe"):
                    model.lm_head.weight[tokenizer(word)["input_ids"][0], 0] = 20.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Served:
    """A small OpenAI-compatible server on a real socket; ``replies`` overrides what it answers, one by one."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.logprobs = True
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                served.requests.append((self.path, dict(self.headers), body))
                status, headers, content = (
                    served.replies.pop(0) if served.replies else (200, {}, served.answer(self.path, body))
                )
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Served:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, body: Any) -> Any:
        if path == "/v1/moderations":
            return {"results": [{"category_scores": self.categories(text)} for text in body["input"]]}
        text = body["messages"][-1]["content"]
        p = self.categories(text)["rude"]
        place = {"token": "safe", "top_logprobs": [{"token": "safe", "logprob": math.log(0.9 * (1 - p) + 1e-9)},
                                                   {"token": " un", "logprob": math.log(0.8 * p + 1e-9)},
                                                   {"token": "unsafe", "logprob": math.log(0.1 * p + 1e-9)},
                                                   {"token": "dunno", "logprob": math.log(0.1)}]}  # fmt: skip
        choice = {"message": {"content": "\n\nUnsafe\nS10" if p > 0.5 else "safe"}}
        blank = {"token": "\n\n", "top_logprobs": []}
        return {"choices": [choice | ({"logprobs": {"content": [blank, place]}} if self.logprobs else {})]}

    @staticmethod
    def categories(text: str) -> dict[str, float]:
        return {"rude": min(1.0, len(text) / 200), "loud": 0.25 if "!" in text else 0.0}


def classifier(folder: Path, kind: str = "bert", **config: Any) -> Path:
    tokenizer = make_tokenizer()
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{end} $A", special_tokens=[(end, 0)])
    if kind != "gpt2":
        tokenizer.pad_token = end
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder)
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "num_labels": 3,
        "id2label": LABELS,
        "label2id": {name: i for i, name in LABELS.items()},
        "problem_type": "multi_label_classification",
        **config,
    }
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "bert":
            model: Any = BertForSequenceClassification(BertConfig(max_position_embeddings=40, **sizes, **common))
        elif kind == "roberta":
            model = RobertaForSequenceClassification(
                RobertaConfig(max_position_embeddings=42, pad_token_id=1, **sizes, **common)
            )
        else:
            model = GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=40, **common))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder
