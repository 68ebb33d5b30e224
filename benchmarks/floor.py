"""How close each stage comes to what this machine's matrix products and copies allow."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable

import numpy as np
import torch

import common
from astprompter.base.records import Speech
from astprompter.training.packing import pack, sequences_of
from update import Ours


def matmul_rate(device: str) -> float:
    """FLOP/s of a float32 product of 1024 x 1024 matrices, the best of ten."""
    a, b = torch.randn(2, 1024, 1024, device=device)
    return 2 * 1024**3 / min(_time(lambda: a @ b, device) for _ in range(10))


def copy_bandwidth(device: str) -> float:
    """Bytes/s read from a tensor far larger than the caches, the best of ten."""
    a = torch.randn(64, 2**20, device=device)
    return a.numel() * 4 / min(_time(a.sum, device) for _ in range(10))


def _time(work: Callable[[], object], device: str) -> float:
    start = common.clock(device)
    work()
    return common.clock(device) - start


class Stages:
    """The three stages as work: prefill of an utterance, decode of a reply, an update over whole trees.

    Attributes:
        pairs: Pairs of the update.
        per_tree: Pairs of a tree, which are a minibatch.
    """

    def __init__(self, shape: common.Shape, device: str, *, rows: int, prefix: int, trees: int) -> None:
        new = common.SAMPLING.max_new_tokens
        self._lm = common.make_lm(shape, device=device)
        self._lm.end_ids, self._lm.banned_early = (), self._lm.banned  # no row ends early: the work is known
        self._roots = torch.randint(1, shape.vocabulary, (rows, prefix)).tolist()
        words = torch.randint(1, shape.vocabulary, (rows, new)).tolist()
        self._said = [Speech("", tuple(row), self._lm.vocabulary) for row in words]
        self._trainer = Ours(shape, device)
        self._trainer.references = lambda pairs: torch.zeros(len(pairs), 2)  # type: ignore[method-assign]
        self.pairs, self.per_tree = common.made_pairs(shape, trees * 7, horizon=3)
        self._trainer.run(self.pairs[: self.per_tree], self.per_tree)  # once in a training AdamW makes its moments

    def ready(self) -> dict[str, Callable[[], object]]:
        """The stages, to be run once each and in this order."""
        session, keys = self._lm.start_ids(self._roots), np.arange(len(self._roots), dtype=np.uint64)
        session.branch(range(len(self._roots)))  # computes the prefix
        return {
            "prefill": lambda: session.hear(self._said, likelihood=True),
            "decode": lambda: session.speak(keys),
            "update": lambda: self._trainer.run(self.pairs, self.per_tree),
        }


def main() -> None:
    """Measure and report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=128, help="rows of prefill and decode")
    parser.add_argument("--prefix", type=int, default=60)
    parser.add_argument("--trees", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, device, rows = common.SHAPES[options.shape], options.device, options.rows
    layers, width, vocabulary = shape.layers, shape.width, shape.vocabulary
    body = 12 * layers * width**2  # weights of the matrix products
    new, prefix = common.SAMPLING.max_new_tokens, options.prefix
    stages = Stages(shape, device, rows=rows, prefix=prefix, trees=options.trees)
    pairs, per_tree = stages.pairs, stages.per_tree
    packed = [pack(sequences_of(pairs[i : i + per_tree])) for i in range(0, len(pairs), per_tree)]

    def attention(queries: float, columns: float) -> float:
        return 4 * layers * width * queries * columns

    head = 2 * width * vocabulary
    prefill = rows * new * (2 * body + head) + attention(rows * new, prefix + new / 2)
    decode = rows * ((new - 1) * 2 * body + new * head) + attention(rows * (new - 1), prefix + 1.5 * new)
    update = sum(3 * (p.tokens * 2 * body + len(p.targets) * head + attention(p.tokens, p.ids.size(1))) for p in packed)
    weights = (body + width * vocabulary) * 4
    cache = 2 * layers * width * rows * (prefix + 1.5 * new) * 4
    read = new * (weights + cache)
    rate, bandwidth = matmul_rate(device), copy_bandwidth(device)
    times: dict[str, list[float]] = {"prefill": [], "decode": [], "update": []}
    for _ in range(options.repeats):
        for name, work in stages.ready().items():
            times[name].append(_time(work, device))
    # The optimizer reads and writes parameters, gradients and two moments once per minibatch.
    optimizer = len(packed) * 10 * (body + width * vocabulary) * 4 / bandwidth
    floors = {
        "prefill": prefill / rate, "decode": max(decode / rate, read / bandwidth), "update": update / rate + optimizer
    }  # fmt: skip
    table = [
        {"stage": name, "floor_s": floors[name], "measured_s": statistics.median(values),
         "floor_share": floors[name] / statistics.median(values)}
        for name, values in times.items()
    ]  # fmt: skip
    title = (
        f"floor, shape {shape.name}: products {rate / 1e9:.0f} GFLOP/s, reads {bandwidth / 1e9:.1f} GB/s, {rows} rows, "
        f"prefix {prefix}"
    )
    common.report(
        f"floor_{shape.name}", title, table, device=device, command=sys.argv, flops_per_s=rate, bytes_per_s=bandwidth
    )


if __name__ == "__main__":
    main()
