"""The scorer's share of the collection time on the embedded models, and collection seconds per pair with it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

import torch

import common
from astprompter.base.protocols import Context, Scorer
from astprompter.base.randomness import keys_of
from astprompter.config import load_settings
from astprompter.rollout.grow import grow_trees
from astprompter.workflows.load import load_training_models
from astprompter.workflows.train import load_texts


class Timed:
    """A scorer with a clock around it."""

    def __init__(self, inner: Scorer, device: str) -> None:
        self.name, self.seconds, self._inner, self._device = inner.name, 0.0, inner, device

    def score(self, texts: Sequence[str], contexts: Sequence[Context] | None = None) -> list[float]:
        """The inner scorer's values."""
        start = common.clock(self._device)
        values = self._inner.score(texts, contexts)
        self.seconds += common.clock(self._device) - start
        return values


def main() -> None:
    """Measure and report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trees", type=int, default=32)
    parser.add_argument("--waves", type=int, nargs="*", default=[4, 16, 32])
    parser.add_argument("--horizon", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device, horizon = options.device, options.horizon
    settings = load_settings("embedded", [f"{part}.device={device}" for part in ("adversary", "defender", "scorer")])
    models = load_training_models(settings)
    prefixes = load_texts(settings).train[: options.trees]
    assert len(prefixes) == options.trees, "fewer prefixes than trees"
    rows = []
    for place, trees_per_batch in enumerate(options.waves):
        totals, shares = [], []
        for repeat in range(options.repeats + 1):
            # Other keys each time, since the scorer remembers texts that it has seen.
            keys = keys_of(place * (options.repeats + 1) + repeat, "tree", 0, len(prefixes))
            scorer, start = Timed(models.scorer, device), common.clock(device)
            grow_trees(
                models.adversary, models.defender, scorer, prefixes, keys,
                horizon=horizon, branching=2, weights=common.WEIGHTS, trees_per_batch=trees_per_batch,
            )  # fmt: skip
            if repeat:  # the first warms up
                totals.append(common.clock(device) - start)
                shares.append(scorer.seconds / totals[-1])
        pairs = len(prefixes) * (2**horizon - 1)
        rows.append(
            {
                "trees_per_batch": trees_per_batch,
                "s_per_pair": statistics.median(totals) / pairs,
                "scorer_share": statistics.median(shares),
            }
        )
    title = f"scoring within collection, embedded models, horizon {horizon}, {options.trees} trees"
    common.report("scoring", title, rows, device=device, command=sys.argv)


if __name__ == "__main__":
    main()
