"""Log-probabilities of many utterances in one forward pass, each distinct token computed once.

The sequences of a minibatch (prompt + chosen, prompt + rejected) share prompts, and pairs of one rollout tree share
most of their text. They are merged into *tries*: a token that follows the same tokens is one node. A trie is laid out
as one row; a mask lets a node see its ancestors only, and positions count from the root, so every log-probability
(and gradient) is that of the separate sequence. Models that refuse such a mask get a row per sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..base.records import PreferencePair
from ..models.local.lm import LanguageModel
from .loss import divergence

_LOGITS_AT_ONCE = 32_000_000


@dataclass(frozen=True, slots=True)
class Packed:
    """A minibatch laid out for one forward pass.

    Attributes:
        ids: Tokens, int64 [rows, width]; padding repeats id 0.
        positions: Depth of each token below its root, int64 [rows, width].
        mask: Who may see whom, bool [rows, 1, width, width], padding sees itself only; or, where nothing is shared,
            which tokens are real, bool [rows, width].
        states: Flat places (row · width + column) whose next token is scored, int64 [scored].
        targets: The token scored there, int64 [scored].
        owners: Which sequence the scored token belongs to, int64 [uses].
        uses: Index into ``states`` of each use: siblings may share scored tokens, int64 [uses].
        lengths: Scored tokens of each sequence, int64 [sequences].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    states: Tensor
    targets: Tensor
    owners: Tensor
    uses: Tensor
    lengths: Tensor

    @property
    def tokens(self) -> int:
        """Token slots that the forward pass computes, padding included."""
        return self.ids.numel()


@dataclass(slots=True)
class _Trie:
    """One row under construction: node i has token ``ids[i]``, parent ``parents[i]`` (-1 at a root)."""

    ids: list[int]
    parents: list[int]
    index: dict[tuple[int, int], int]

    def walk(self, parent: int, tokens: Sequence[int]) -> list[int]:
        path = []
        for token in tokens:
            node = self.index.get((parent, token))
            if node is None:
                node = len(self.ids)
                self.index[parent, token] = node
                self.ids.append(token)
                self.parents.append(parent)
            path.append(node)
            parent = node
        return path

    def add(self, pair: PreferencePair) -> None:
        parent = self.walk(-1, pair.prompt_ids)[-1]
        self.walk(parent, pair.chosen_ids)
        self.walk(parent, pair.rejected_ids)

    def visibility(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Ancestor mask [nodes, nodes] and depth [nodes]; parents come before children."""
        count = len(self.ids)
        mask, depth = np.zeros((count, count), dtype=bool), np.zeros(count, dtype=np.int64)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node, :node] = mask[parent, :node]
                depth[node] = depth[parent] + 1
            mask[node, node] = True
        return mask, depth


Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]
"""(prompt ids, scored ids) of each sequence."""


def sequences_of(pairs: Sequence[PreferencePair]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Chosen and rejected of every pair, interleaved: 2i is chosen, 2i + 1 rejected."""
    return [(pair.prompt_ids, side) for pair in pairs for side in (pair.chosen_ids, pair.rejected_ids)]


def forward_groups(pairs: Sequence[PreferencePair], tokens: int) -> list[list[int]]:
    """Split pairs into forward passes of about ``tokens`` padded tokens: families together, then like sizes.

    Returns:
        Indices of the pairs of each pass; every pair stands in exactly one.
    """
    blocks: list[tuple[int, list[int]]] = []  # distinct tokens, pairs
    for members in _members([pair.prompt_ids for pair in pairs]):
        trie, block = _Trie([], [], {}), list[int]()
        for index in members:
            size = len(trie.ids)
            trie.add(pairs[index])
            if block and len(trie.ids) > tokens:
                blocks.append((size, block))
                trie, block = _Trie([], [], {}), []
                trie.add(pairs[index])
            block.append(index)
        blocks.append((len(trie.ids), block))
    groups = groups_of([size for size, _ in blocks], tokens)
    return [[index for place in group for index in blocks[place][1]] for group in groups]


def groups_of(sizes: Sequence[int], tokens: int) -> list[list[int]]:
    """Split rows of so many tokens into groups of about ``tokens`` padded ones, like sizes together: their indices."""
    groups: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        if not groups or (len(groups[-1]) + 1) * sizes[index] > tokens:
            groups.append([])
        groups[-1].append(index)
    return groups


def trees_together(pairs: Sequence[PreferencePair], rng: np.random.Generator) -> list[int]:
    """An order of the pairs in which those that share text are neighbours, families and their pairs shuffled."""
    families = _members([pair.prompt_ids for pair in pairs])
    return [int(i) for place in rng.permutation(len(families)) for i in rng.permutation(families[place])]


def pack(sequences: Sequences, *, share: bool = True) -> Packed:
    """Lay sequences out as tries, one row per family of prompts.

    Args:
        sequences: Prompts (at least one token) and scored tokens (at least one).
        share: ``False`` gives every sequence a row of its own and a mask of real tokens, for models that refuse
            masks of ancestors.
    """
    rows = _families([prompt for prompt, _ in sequences]) if share else list(range(len(sequences)))
    tries = [_Trie([], [], {}) for _ in range(max(rows) + 1)]
    scored: dict[tuple[int, int], int] = {}
    states: list[tuple[int, int]] = []
    targets: list[int] = []
    owners: list[int] = []
    uses: list[int] = []
    for owner, (row, (prompt, tokens)) in enumerate(zip(rows, sequences, strict=True)):
        parent = tries[row].walk(-1, prompt)[-1]
        for token, node in zip(tokens, tries[row].walk(parent, tokens), strict=True):
            if (row, node) not in scored:
                scored[row, node] = len(states)
                states.append((row, parent))
                targets.append(token)
            owners.append(owner)
            uses.append(scored[row, node])
            parent = node
    width = max(len(trie.ids) for trie in tries)
    ids = np.zeros((len(tries), width), dtype=np.int64)
    positions = np.zeros((len(tries), width), dtype=np.int64)
    real = np.zeros((len(tries), width), dtype=bool)
    mask = np.broadcast_to(np.eye(width, dtype=bool), (len(tries), width, width)).copy()
    for row, trie in enumerate(tries):
        count = len(trie.ids)
        ids[row, :count], real[row, :count] = trie.ids, True
        mask[row, :count, :count], positions[row, :count] = trie.visibility()
    return Packed(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask)[:, None] if share else torch.from_numpy(real),
        states=torch.tensor([row * width + column for row, column in states]),
        targets=torch.tensor(targets),
        owners=torch.tensor(owners),
        uses=torch.tensor(uses),
        lengths=torch.tensor([len(tokens) for _, tokens in sequences]),
    )


def _families(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Row of each prompt: those that share at least half of the shorter one stand together.

    In lexicographic order prompts of one tree are neighbours, its root prompt first if it is there.
    """
    rows, row = [0] * len(prompts), -1
    first: Sequence[int] = ()
    for index in sorted(range(len(prompts)), key=lambda i: tuple(prompts[i])):
        prompt = prompts[index]
        short = min(len(prompt), len(first))
        shared = next((i for i in range(short) if prompt[i] != first[i]), short)
        if row < 0 or 2 * shared < short:
            row, first = row + 1, prompt
        rows[index] = row
    return rows


def _members(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of the prompts of each family, in lexicographic order."""
    members: dict[int, list[int]] = {}
    rows = _families(prompts)
    for index in sorted(range(len(prompts)), key=lambda i: tuple(prompts[i])):
        members.setdefault(rows[index], []).append(index)
    return list(members.values())


def scored_states(lm: LanguageModel, packed: Packed) -> Tensor:
    """Hidden states before every scored token, float [scored, width], on the model's device."""
    hidden = lm.forward(*(part.to(lm.device) for part in (packed.ids, packed.mask, packed.positions)))
    return hidden.flatten(0, 1)[packed.states.to(lm.device)]


def sequence_logps(lm: LanguageModel, packed: Packed, *, average: bool = False) -> Tensor:
    """Log π(scored tokens | prompt) of every sequence, nats: float [sequences].

    Args:
        lm: The policy or the reference.
        packed: From :func:`pack`.
        average: Mean per token instead of the sum (then τ means something else).
    """
    device = lm.device
    targets = packed.targets.to(device)
    slab = max(1, _LOGITS_AT_ONCE // lm.vocabulary_size)
    with lm.precision():
        states = scored_states(lm, packed)
        parts = [
            -torch.nn.functional.cross_entropy(
                lm.logits(states[start : start + slab]).float(), targets[start : start + slab], reduction="none"
            )
            for start in range(0, len(states), slab)
        ]
    logprobs = torch.cat(parts)[packed.uses.to(device)]
    totals = torch.zeros(len(packed.lengths), device=device).index_add(0, packed.owners.to(device), logprobs)
    return totals / packed.lengths.to(device) if average else totals


def sequence_divergences(lm: LanguageModel, reference: LanguageModel, packed: Packed) -> Tensor:
    """Sum over the scored tokens of KL(π_ref ‖ π) at their places, over the whole vocabulary, nats: float [sequences].

    Logits are made in slabs, and made anew for the gradient, so that memory holds those of one slab.

    Args:
        lm: The policy.
        reference: What it is held to; it has no gradient.
        packed: From :func:`pack`.
    """
    device = lm.device
    slab = max(1, _LOGITS_AT_ONCE // lm.vocabulary_size)

    def apart(ours: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            old = reference.logits(theirs).float()
        return divergence(old, lm.logits(ours).float())

    with lm.precision():
        with torch.no_grad():
            old = scored_states(reference, packed)
        new = scored_states(lm, packed)
        parts = [
            checkpoint(apart, new[start : start + slab], old[start : start + slab], use_reentrant=False)
            for start in range(0, len(new), slab)
        ]
    found = torch.cat(parts)[packed.uses.to(device)]
    return torch.zeros(len(packed.lengths), device=device).index_add(0, packed.owners.to(device), found)
