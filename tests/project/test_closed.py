"""Nothing gets in or out that should not: no pickle, no remote code, no key in any output, no other socket."""

from __future__ import annotations

import ast
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch

import astprompter
from helpers.server import serving
from helpers.sources import tree_of
from helpers.tiny import make_model, make_tokenizer, run_command, write_models

SOURCES = sorted(Path(astprompter.__file__).parent.rglob("*.py"))
KEY = "sk-Sentinel/4711+geheim"
SETTINGS = [
    "rollout.max_new_tokens=4", "rollout.horizon=2", "training.updates=4", "training.pairs_per_iteration=4",
    "training.batch_size=2", "training.dev_prefixes=3", "training.warmup_updates=1", "training.save_pairs=true",
    "supervision.q=0", "scorer.spec=word:a", "evaluation.resamples=100",
]  # fmt: skip
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NETWORK_MODULES = {
    "httpx2",
    "httpx",
    "requests",
    "socket",
    "urllib.request",
    "http.client",
    "aiohttp",
    "huggingface_hub",
}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.slow
def test_no_source_reads_or_writes_pickles_or_runs_what_it_read() -> None:
    """By the syntax tree: imports, calls and arguments."""
    for path in SOURCES:
        tree = tree_of(path)
        assert not {name.partition(".")[0] for name in imported(tree)} & UNSAFE_MODULES, path
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert name not in {"torch.save", "torch.load", "np.load", "np.save", "yaml.load", "eval", "exec"}, path
            assert given.get("trust_remote_code", "False") == "False", path
            assert given.get("allow_pickle", "False") == "False", path
            if name == "PeftModel.from_pretrained":  # takes a pickle only where this file is missing
                assert 'cached_file(path, "adapter_model.safetensors"' in path.read_text("utf-8"), path
            elif name.endswith(".from_pretrained") and "Model" in name:
                assert given.get("use_safetensors") == "True", f"{path}: {name}"


@pytest.mark.slow
def test_only_two_modules_reach_for_the_network() -> None:
    """A server by its address, and data sets that a user asks for; telemetry would be a third."""
    found = {path.name for path in SOURCES if imported(tree_of(path)) & NETWORK_MODULES}
    assert found == {"http.py", "download.py"}


@pytest.fixture
def connections(monkeypatch: Any) -> list[Any]:
    """Addresses that any code of the process tries to reach."""
    seen: list[Any] = []
    for name in ("connect", "connect_ex"):
        real = getattr(socket.socket, name)

        def connect(self: Any, address: Any, real: Any = real) -> Any:
            seen.append(address)
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, connect)
    resolve = socket.getaddrinfo

    def resolved(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        seen.append((host, port))
        return resolve(host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return seen


@pytest.fixture
def pickles(monkeypatch: Any) -> list[str]:
    """Calls that would read or write a pickle."""
    import pickle

    seen: list[str] = []
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "dump"), (pickle, "dumps"),
                         (torch, "save"), (torch, "load")):  # fmt: skip
        real = getattr(module, name)

        def called(*rest: Any, real: Any = real, name: str = name, **more: Any) -> Any:
            seen.append(name)
            return real(*rest, **more)

        monkeypatch.setattr(module, name, called)
    return seen


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "input"
    write_models(folder, model=0)
    return folder


def everything(monkeypatch: Any, run: Path, folder: Path, *settings: str) -> None:
    """Train, measure, report and export."""
    texts = [f"data.{name}={folder / 'texts.jsonl'}" for name in ("train", "dev", "test")]
    chosen = [f"adversary.path={folder / 'model'}", *texts, *SETTINGS, *settings]
    assert run_command(monkeypatch, "train", "-o", str(run), *chosen) == 0
    assert run_command(monkeypatch, "evaluate", str(run), "--show-text", "--max-errors", "0.5") == 0
    assert run_command(monkeypatch, "report", str(run)) == 0
    assert run_command(monkeypatch, "export", str(run), "--to", "trl") == 0


def files(run: Path) -> Iterator[Path]:
    return (path for path in run.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_local_run_needs_no_network_and_leaves_plain_files(
    inputs: Path, tmp_path: Path, monkeypatch: Any, connections: list[Any], pickles: list[str]
) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    run = tmp_path / "run"
    everything(monkeypatch, run, inputs, f"defender.path={inputs / 'model'}")
    assert connections == []
    assert pickles == []
    kinds = {path.suffix for path in files(run)}
    assert kinds == {".json", ".jsonl", ".safetensors", ".md", ".html"}
    for path in files(run):
        content = path.read_bytes()
        assert not content.startswith((b"\x80", b"PK", b"\x93NUMPY")), path
        if path.suffix in (".json", ".jsonl"):
            for line in content.decode().split("\n") if path.suffix == ".jsonl" else [content.decode()]:
                json.loads(line or "0", parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))


@pytest.mark.slow
def test_a_key_is_in_no_output_and_only_its_server_is_reached(
    inputs: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, caplog: Any, connections: list[Any]
) -> None:
    """The server fails now and then, and repeats the key in the message."""
    monkeypatch.setenv("TINY_KEY", KEY)
    monkeypatch.setenv("ASTPROMPTER_DEBUG", "1")  # tracebacks count too
    monkeypatch.setattr("astprompter.models.served.http._FIRST_WAIT", 0.0)
    tokenizer = make_tokenizer()
    run = tmp_path / "run"
    said: list[str] = []
    with serving(make_model("gpt2", len(tokenizer)), tokenizer) as server, caplog.at_level(logging.DEBUG):
        broken: list[str] = []
        server.fault = lambda n, body: broken[0] if broken else "status:400" if n > 60 and n % 19 == 0 else None
        way = [f"remote.base_url={server.url}", "remote.key_env=TINY_KEY", "defender.path=openai:tiny"]
        everything(monkeypatch, run, inputs, *way)
        assert any(headers.get("Authorization") == f"Bearer {KEY}" for _, headers in server.seen)
        errors = [turn["error"] for line in (run / "trajectories.jsonl").read_text().splitlines()
                  for turn in json.loads(line)["turns"]]  # fmt: skip
        assert "remote: HTTP 400" in errors  # so the message with the key was there to be written
        for fault, code in (("status:401", 2), ("status:500", 1)):
            broken[:] = [fault]
            assert run_command(monkeypatch, "evaluate", str(run)) == code
        assert {tuple(address[:2]) for address in connections} == {("127.0.0.1", server.server_port)}
        address = server.url
    assert run_command(monkeypatch, "evaluate", str(run)) == 1  # it is gone
    captured = capsys.readouterr()
    said += [captured.out, captured.err, caplog.text]
    assert "[key]" in captured.err + caplog.text
    assert address in captured.err
    outputs = {str(path): path.read_bytes().decode("latin-1") for path in files(tmp_path)}
    outputs["terminal and log"] = "".join(said)
    secrets = (KEY, quote(KEY, safe=""), quote(KEY), json.dumps(KEY)[1:-1].replace("/", "\\/"), "geheim")
    assert [name for name, text in outputs.items() if any(secret in text for secret in secrets)] == []
