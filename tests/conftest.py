"""Tiny models of four families, built in the process; a harmless word plays the part of toxicity.

Nothing heavy is imported before a test needs it: the process that only hands tests to its workers needs none of it.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of every worker, and of the processes that tests start

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from helpers.branches import counted, uncounted

if TYPE_CHECKING:
    from astprompter.config import SamplingSettings
    from astprompter.models.local.lm import LanguageModel
    from helpers.zygote import Zygote

# The same examples every time, so that a failure is a failure everywhere; "large" looks further: --hypothesis-profile
# large, or HYPOTHESIS_PROFILE=large. No database: nothing is remembered between runs.
_COMMON: dict[str, Any] = {"database": None, "deadline": None}
_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
hypothesis_settings.register_profile(
    "quick", max_examples=25, derandomize=True, suppress_health_check=_SHARED, **_COMMON
)
hypothesis_settings.register_profile("large", max_examples=1000, suppress_health_check=_SHARED, **_COMMON)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # while everything is imported
    if hasattr(config, "workerinput"):
        with uncounted():
            from transformers import GPT2LMHeadModel  # noqa: F401


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    with uncounted():  # what is only imported takes no branch worth a third more time
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with counted("slow" if item.get_closest_marker("slow") else "fast"):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def one_thread_and_no_bars() -> None:
    import torch
    import typer.main
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    typer.main.get_command = functools.cache(typer.main.get_command)  # else made anew whenever a test calls a command
    disable_progress_bar()
    gc.freeze()  # the million objects of the libraries, which no later search for garbage need look at
    gc.enable()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: Any, monkeypatch: Any) -> None:
    """No test sees what the user prepared, nor leaves anything there."""
    monkeypatch.setenv("ASTPROMPTER_CACHE", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(scope="session")
def forks(tmp_path_factory: Any) -> Iterator[Zygote]:
    """Starts commands as processes of their own, at once, since they need not load the libraries again."""
    from helpers.zygote import zygote

    with zygote(tmp_path_factory.mktemp("forks")) as made:
        yield made


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from helpers.tiny import make_tokenizer

    return make_tokenizer()


@pytest.fixture
def make_lm(tokenizer: Any) -> Callable[..., LanguageModel]:
    from astprompter.models.local.lm import LanguageModel
    from helpers.tiny import SHORT, make_model, probed_once

    def build(
        family: str = "gpt2", *, sampling: SamplingSettings = SHORT, seed: int = 0, **options: Any
    ) -> LanguageModel:
        own = options.pop("tokenizer", tokenizer)
        context = options.pop("context", 256)
        model = make_model(family, len(own), seed=seed, context=context)
        with probed_once(family, len(own), seed, context):
            return LanguageModel(model, own, name=f"tiny-{family}", sampling=sampling, **options)

    return build
