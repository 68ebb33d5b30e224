"""A whole iteration: collection and update, against level-batched ``generate`` and TRL on as many pairs."""

from __future__ import annotations

import sys

import torch

import common
from collection import by_level
from update import Ours, trl_side


def main() -> None:
    """Measure and report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trees", type=int, default=8)
    parser.add_argument("--horizon", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, device, horizon = common.SHAPES[options.shape], options.device, options.horizon
    lms = [common.make_lm(shape, seed=seed, device=device) for seed in (0, 1)]
    peers = [common.make_model(shape, seed=seed, device=device) for seed in (0, 1)]
    prefixes = common.make_prefixes(shape, options.trees)
    roots = [lms[0].encode_prefix(prefix.text, turns=horizon) for prefix in prefixes]
    pairs = common.pairs_of(common.collect(*lms, prefixes, horizon=horizon, trees_per_batch=options.trees))
    trainer, peer = Ours(shape, device), trl_side(shape, device, pairs, options.batch, ahead=False)

    def ours() -> None:
        found = common.pairs_of(common.collect(*lms, prefixes, horizon=horizon, trees_per_batch=options.trees))
        assert len(found) == len(pairs)
        trainer.run(found, options.batch)

    def theirs() -> None:
        by_level(*peers, roots, horizon=horizon, trees_per_batch=options.trees, device=device)
        peer()

    seconds = common.alternate({"ours": ours, "generate + TRL": theirs}, repeats=options.repeats, device=device)
    factor = common.ratios(seconds, "ours")
    rows = [
        {"side": name, "s_per_pair": sorted(values)[len(values) // 2] / len(pairs), "times_ours": factor[name]}
        for name, values in seconds.items()
    ]
    title = f"whole iteration, shape {shape.name}, horizon {horizon}, {len(pairs)} pairs"
    common.report(f"iteration_{shape.name}", title, rows, device=device, command=sys.argv)


if __name__ == "__main__":
    main()
