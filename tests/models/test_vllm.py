"""A real vLLM against the same model loaded here: likelihood, greedy replies, chat, a run from end to end.

``ASTPROMPTER_VLLM`` names a vLLM that runs (``http://localhost:8000/v1``), or an environment that has one; that one
serves the model folder ``ASTPROMPTER_VLLM_MODEL``. docs/remote.md has the recipe.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from astprompter.base.protocols import Speaker
from astprompter.base.records import Speech
from astprompter.config import settings_from
from astprompter.models.served.remote import RemoteSpeaker
from astprompter.workflows.load import build_defender
from helpers.commands import call
from helpers.files import read_rows
from helpers.tiny import keys_for

WHERE = os.environ.get("ASTPROMPTER_VLLM", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WHERE, reason="needs ASTPROMPTER_VLLM, see docs/remote.md")]
OPENINGS = ["The garden is lovely in spring,", "Hello. I went to the market and"]
SAID = [" and my neighbour said that the roses", " the man there told me: I can't"]
LARGEST_GAP = 0.012
"""Nats per token between the two likelihoods of an utterance: what a server in half precision showed."""


def served_by(url: str) -> Any:
    """What a server says of its first model."""
    with urlopen(f"{url}/models", timeout=60) as answer:  # noqa: S310
        return json.loads(answer.read())["data"][0]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if WHERE.startswith("http"):
        yield WHERE
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [f"{WHERE}/bin/vllm", "serve", os.environ["ASTPROMPTER_VLLM_MODEL"], "--dtype", "float32"]
    process = subprocess.Popen(  # noqa: S603
        [*command, "--max-model-len", "1024", "--enforce-eager", "--port", str(port)],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(900):
            assert process.poll() is None, "the server ended"
            try:
                served_by(f"http://127.0.0.1:{port}/v1")
                break
            except (URLError, OSError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def chosen(url: str, path: str, api: str) -> Any:
    """A run's settings of a defender: greedy, so that both must say the same."""
    return settings_from(
        {
            "defender": {"path": path, "chat": "on" if api == "chat" else "off"},
            "rollout": {"max_new_tokens": 8, "temperature": 0.0},
            "remote": {"base_url": url, "api": api, "timeout": 900.0},
        }
    )


def led(speaker: Speaker) -> tuple[list[tuple[float, ...]], list[str]]:
    """Log-probabilities of the utterances, and the replies."""
    session = speaker.start(OPENINGS, turns=1)
    heard = session.hear([Speech(text) for text in SAID], likelihood=True)
    assert heard is not None
    return heard, [reply.text for reply in session.speak(keys_for(2))]


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_it_is_the_model_that_is_loaded_here(url: str, api: str) -> None:
    model = served_by(url)
    served = build_defender(chosen(url, f"openai:{model['id']}", api))
    assert isinstance(served, RemoteSpeaker)
    assert served.route is not None
    assert (served.route.name, served.dialect.name, served.dialect.not_sent) == ("prompt_logprobs", "vllm", ())
    theirs, replies = led(served)
    ours, own = led(build_defender(chosen(url, model["root"], api)))
    assert replies == own
    assert [len(values) for values in theirs] == [len(values) for values in ours]  # the same tokens
    gaps = [abs(a - b) for one, other in zip(theirs, ours, strict=True) for a, b in zip(one, other, strict=True)]
    assert max(gaps) < LARGEST_GAP
    assert led(served) == (theirs, replies)  # and the same again


def test_training_and_evaluation_against_it(url: str, tmp_path: Path, capsys: Any) -> None:
    model = served_by(url)
    settings = [
        f"defender.path=openai:{model['id']}", f"remote.base_url={url}", "remote.timeout=900", "scorer.spec=word:a",
        "rollout.max_new_tokens=8", "rollout.horizon=2", "training.updates=2", "training.pairs_per_iteration=3",
        "training.batch_size=3", "training.dev_prefixes=2", "training.warmup_updates=0", "supervision.q=0",
        "training.learning_rate=1e-3", "evaluation.resamples=100", "evaluation.prefixes=3",
    ]  # fmt: skip
    run = str(tmp_path / "run")
    for arguments in (["train", "-o", run, *settings], ["evaluate", run]):
        code, _, errors = call(capsys, *arguments)
        assert code == 0, errors
    config = json.loads((tmp_path / "run" / "config.json").read_bytes())
    assert config["likelihood"] == f"defender (openai:{model['id']})"
    assert config["remote"]["likelihood"] == "prompt_logprobs"
    log = read_rows(tmp_path / "run" / "log.jsonl")
    assert [row["updates"] for row in log if row["type"] == "iteration"] == [1, 2]
    assert all(row["errors"] == {} for row in log)
    here = build_defender(chosen(url, model["root"], "completions"))
    rows = read_rows(tmp_path / "run" / "trajectories.jsonl")
    assert len(rows) == 2 * 3  # untuned and ours
    session = here.start([row["prefix"] for row in rows], turns=2)
    for turn in range(2):
        turns = [row["turns"][turn] for row in rows]
        heard = session.hear([Speech(one["utterance"]) for one in turns], likelihood=True) or []
        nlls = [-sum(values) / len(values) for values in heard]
        assert nlls == pytest.approx([one["nll"] for one in turns], abs=LARGEST_GAP)
        session.hear([Speech(one["reply"]) for one in turns])
