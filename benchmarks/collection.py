"""Collection against Hugging Face ``generate``: batched by level with a separate perplexity pass, and one at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch

import common

# A transcript's token ids; a child is (utterance, reply, nll).
Row = tuple[int, ...]


@torch.no_grad()
def generate(model: Any, rows: Sequence[Row], device: str) -> list[Row]:
    """One continuation per row, left padded, as the library's users do."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    settings = common.SAMPLING
    output = model.generate(
        ids, attention_mask=mask, do_sample=True, max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens, temperature=settings.temperature, top_p=settings.top_p, top_k=0,
        repetition_penalty=settings.repetition_penalty, pad_token_id=0,
    )  # fmt: skip
    rest = output[:, width:].tolist()
    return [tuple(row[: row.index(0)] if 0 in row else row) for row in rest]


@torch.no_grad()
def nlls(model: Any, rows: Sequence[Row], utterances: Sequence[Row], device: str) -> list[float]:
    """Mean nll of each utterance after its row, by a padded forward pass of its own."""
    whole = [(*row, *said) for row, said in zip(rows, utterances, strict=True)]
    width = max(map(len, whole))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in whole], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole], device=device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return [
        float(losses[i, len(row) - 1 : len(row) + len(said) - 1].mean())
        for i, (row, said) in enumerate(zip(rows, utterances, strict=True))
    ]


def by_level(
    adversary: Any, defender: Any, roots: Sequence[Row], *, horizon: int, trees_per_batch: int, device: str
) -> tuple[int, list[tuple[Row, Row, float]]]:
    """Breadth first, a batch per level; returns the number of turns and (context, utterance, nll) of the last level."""
    turns, last = 0, []
    for start in range(0, len(roots), trees_per_batch):
        rows = list(roots[start : start + trees_per_batch])
        for _ in range(horizon):
            rows = [row for row in rows for _ in range(2)]
            utterances = generate(adversary, rows, device)
            values = nlls(defender, rows, utterances, device)
            heard = [(*row, *said) for row, said in zip(rows, utterances, strict=True)]
            replies = generate(defender, heard, device)
            last = list(zip(rows, utterances, values, strict=True))
            rows = [(*row, *said) for row, said in zip(heard, replies, strict=True)]
            turns += len(rows)
    return turns, last


def one_at_a_time(adversary: Any, defender: Any, row: Row, *, horizon: int, device: str) -> int:
    """Depth first, one prompt per call; returns the number of turns."""
    turns = 0
    for _ in range(2):
        (said,) = generate(adversary, [row], device)
        nlls(defender, [row], [said], device)
        (reply,) = generate(defender, [(*row, *said)], device)
        turns += 1
        if horizon > 1:
            below = (*row, *said, *reply)
            turns += one_at_a_time(adversary, defender, below, horizon=horizon - 1, device=device)
    return turns


def main() -> None:
    """Measure, check that both sides did the same work, report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trees", type=int, default=64)
    parser.add_argument("--level-trees", type=int, default=16)
    parser.add_argument("--single-trees", type=int, default=1)
    parser.add_argument("--horizon", type=int, default=3)
    parser.add_argument("--bf16", action="store_true", help="also measure bfloat16 products on our side")
    parser.add_argument(
        "--real-lengths", action="store_true", help="openings as long as Reddit's, in place of 45 to 75"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, device, horizon = common.SHAPES[options.shape], options.device, options.horizon
    peers = [common.make_model(shape, seed=seed, device=device) for seed in (0, 1)]
    ours = [common.make_lm(shape, seed=seed, device=device) for seed in (0, 1)]
    fast = [common.make_lm(shape, seed=seed, device=device, autocast=True) for seed in (0, 1)] if options.bf16 else []
    prefixes = common.make_prefixes(shape, options.trees, real_lengths=options.real_lengths)
    roots = [ours[0].encode_prefix(prefix.text, turns=horizon) for prefix in prefixes]
    check(peers, ours, prefixes[:2], roots[:2], device)
    per_tree = 2 ** (horizon + 1) - 2
    done: dict[str, int] = {}

    def lock_step(pair: Sequence[Any]) -> None:
        trees = common.collect(*pair, prefixes, horizon=horizon, trees_per_batch=options.trees)
        assert all(len(tree.children) == 2 for tree in trees)
        done["lock step"] = len(trees) * per_tree

    def levels() -> None:
        part = roots[: options.level_trees]
        done["by level"], _ = by_level(
            *peers, part, horizon=horizon, trees_per_batch=options.level_trees, device=device
        )

    def single() -> None:
        part = roots[: options.single_trees]
        done["one at a time"] = sum(one_at_a_time(*peers, row, horizon=horizon, device=device) for row in part)

    sides: dict[str, Any] = {"lock step": lambda: lock_step(ours), "by level": levels, "one at a time": single}
    if fast:
        sides["lock step, bf16"] = lambda: lock_step(fast)
    seconds = common.alternate(sides, repeats=options.repeats, device=device)
    trees = {"by level": options.level_trees, "one at a time": options.single_trees}
    for name, count in done.items():
        assert count == trees.get(name, options.trees) * per_tree, "a side did other work"
    each = {
        name: [value / (trees.get(name, options.trees) * (2**horizon - 1)) for value in values]
        for name, values in seconds.items()
    }
    factor = common.ratios(each, "lock step")
    rows = [
        {"side": name, "trees": trees.get(name, options.trees), "s_per_pair": sorted(values)[len(values) // 2],
         "times_ours": factor[name]}
        for name, values in each.items()
    ]  # fmt: skip
    name = "collection of real lengths" if options.real_lengths else "collection"
    title = f"{name}, shape {shape.name}, horizon {horizon}, {options.repeats} alternating repeats"
    common.report(f"{name.replace(' ', '_')}_{shape.name}", title, rows, device=device, command=sys.argv)


def check(
    peers: Sequence[Any], ours: Sequence[Any], prefixes: Sequence[Any], roots: Sequence[Row], device: str
) -> None:
    """Both sides tell the same nll for the same utterances."""
    _, last = by_level(*peers, roots, horizon=1, trees_per_batch=2, device=device)
    for row, said, nll in last:
        from astprompter.base.records import Speech

        session = ours[1].start_ids([row])
        heard = session.hear([Speech("", said, ours[1].vocabulary)], likelihood=True)
        assert heard is not None
        assert abs(-sum(heard[0]) / len(heard[0]) - nll) < 1e-3, "the sides disagree on an nll"


if __name__ == "__main__":
    main()
