"""A real server of others: ``transformers serve``, text only, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.import_utils import is_serve_available

from astprompter.base.records import Speech
from astprompter.config import SamplingSettings, ServerSettings
from astprompter.models.local.lm import LanguageModel
from astprompter.models.served.connect import connect
from astprompter.models.served.http import Endpoint
from astprompter.models.served.remote import RemoteSpeaker
from helpers.tiny import keys_for, make_chat_tokenizer, make_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="needs transformers[serving]"),
]
GREEDY = SamplingSettings(max_new_tokens=8, min_new_tokens=2, temperature=0.0, repetition_penalty=1.1)
DRAWN = SamplingSettings(max_new_tokens=8, min_new_tokens=2, temperature=1.0, top_p=0.95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("served") / "tiny"
    tokenizer = make_chat_tokenizer()
    make_model("llama", len(tokenizer), seed=1).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    process = subprocess.Popen(  # noqa: S603
        [*command, "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=20)


def speaker(url: str, folder: Path, sampling: SamplingSettings, *, api: Any = "completions") -> RemoteSpeaker:
    return connect(Endpoint(ServerSettings(base_url=url, concurrency=1)), str(folder), sampling, api=api)


def test_its_greedy_replies_are_those_of_the_model_loaded_here(url: str, folder: Path) -> None:
    served = speaker(url, folder, GREEDY)
    assert served.dialect.name == "transformers"
    assert served.dialect.not_sent == ()
    tokenizer = make_chat_tokenizer()
    here = LanguageModel(make_model("llama", len(tokenizer), seed=1), tokenizer, name="here", sampling=GREEDY)
    openings = ["The garden is lovely in spring,", "Hello."]
    sessions = [who.start(openings, turns=1) for who in (served, here)]
    for session in sessions:
        session.hear([Speech(" and so it goes")] * 2)
    theirs, ours = ([speech.text for speech in session.speak(keys_for(2))] for session in sessions)
    assert theirs == ours


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_one_request_at_a_time_draws_the_same_text_again(url: str, folder: Path, api: str) -> None:
    served = speaker(url, folder, DRAWN, api=api)
    keys = keys_for(3) << 40
    first, again = (served.start(["Hello."] * 3, turns=1).speak(keys) for _ in range(2))
    assert first == again
    assert len({speech.text for speech in first}) == 3
    assert all(speech.error is None for speech in first)


def test_it_tells_no_likelihood_and_the_probe_says_why(url: str, folder: Path) -> None:
    served = speaker(url, folder, GREEDY)
    assert served.route is None
    assert "prompt_logprobs: HTTP 422 (Unexpected fields in the request" in served.why_not[0]
