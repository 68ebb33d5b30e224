"""Data sets that astprompter can fetch and clean by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .cache import DIALOGUES, ELICITING, PREFIXES, cache_folder


@dataclass(frozen=True, slots=True)
class Published:
    """A data set on the web.

    Attributes:
        name: Name on the command line.
        summary: What it is.
        kind: What it becomes: prefixes, eliciting texts, or dialogues of a human adversary.
        licence: Its licence, or what its makers say instead.
        page: Page of its makers.
        url: Address of the file.
        size: Bytes, where its makers' index says; the server is asked too.
        sha256: Checksum, where its makers give one; else that of the first download is recorded.
    """

    name: str
    summary: str
    kind: str
    licence: str
    page: str
    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def download(self) -> Path:
        """Where the file is kept."""
        return cache_folder() / "downloads" / self.name / self.url.rpartition("/")[2]


CATALOG = {
    item.name: item
    for item in (
        Published(
            name="reddit-corpus-small",
            summary="8,286 Reddit threads of 100 subreddits (ConvoKit): the paper's prefixes",
            kind=PREFIXES,
            licence="none stated for the texts, which are Reddit users'; ConvoKit's code: MIT",
            page="https://convokit.cornell.edu/documentation/reddit-small.html",
            url="https://zissou.infosci.cornell.edu/convokit/datasets/subreddit-corpus/reddit-corpus-small.corpus.zip",
        ),
        Published(
            name="real-toxicity-prompts",
            summary="99,442 sentences with toxicity scores (Gehman et al. 2020): the paper's weak supervision",
            kind=ELICITING,
            licence="Apache-2.0",
            page="https://huggingface.co/datasets/allenai/real-toxicity-prompts",
            url="https://huggingface.co/datasets/allenai/real-toxicity-prompts/resolve/main/prompts.jsonl",
        ),
        Published(
            name="bot-adversarial-dialogue",
            summary="dialogues in which people goaded bots (Xu et al. 2021): the paper's human baseline",
            kind=DIALOGUES,
            licence="none stated for the data; ParlAI's code: MIT",
            page="https://github.com/facebookresearch/ParlAI/tree/main/parlai/tasks/bot_adversarial_dialogue",
            url="http://parl.ai/downloads/bot_adversarial_dialogue/dialogue_datasets_v0.2.tar.gz",
            size=3_209_168,
            sha256="2178b022fac154ddd9b570f6386abc4cd3e7ceb4476f0bebfbce5941424461eb",
        ),
    )
}
