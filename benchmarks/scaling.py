"""Our cost per pair as horizon, number of trees and prefix length grow, beside the tokens the cost model predicts."""

from __future__ import annotations

import statistics
import sys
from typing import Any

import torch

import common
from astprompter.training.packing import pack, sequences_of
from update import Ours

SPEECH = common.SAMPLING.max_new_tokens


def predicted_tokens(prefix: int, horizon: int) -> float:
    """Distinct tokens of a packed tree per pair: (P + 2u(2^d − 1) + 2u(2^(d−1) − 1)) / (2^d − 1)."""
    pairs = 2**horizon - 1
    return (prefix + 2 * SPEECH * pairs + 2 * SPEECH * (2 ** (horizon - 1) - 1)) / pairs


def concatenated_tokens(prefix: int, horizon: int) -> float:
    """Tokens of separate chosen and rejected sequences per pair, without padding."""
    pairs = 2**horizon - 1
    total = sum(2**k * 2 * (prefix + 2 * SPEECH * k + SPEECH) for k in range(horizon))
    return total / pairs


def main() -> None:
    """Measure and report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--horizons", type=int, nargs="*", default=[2, 3, 4, 5])
    parser.add_argument("--trees", type=int, nargs="*", default=[4, 16, 64, 128])
    parser.add_argument("--prefixes", type=int, nargs="*", default=[30, 60, 120, 240])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, device = common.SHAPES[options.shape], options.device
    ours = [common.make_lm(shape, seed=seed, device=device) for seed in (0, 1)]
    trainer = Ours(shape, device)
    cases = [(h, 4, 60) for h in options.horizons] + [(3, t, 60) for t in options.trees]
    cases += [(3, 4, p) for p in options.prefixes]
    rows: list[dict[str, Any]] = []
    for horizon, trees, prefix in dict.fromkeys(cases):
        per_tree = 2**horizon - 1
        openings = common.make_prefixes(shape, trees, tokens=prefix)
        pairs, _ = common.made_pairs(shape, min(trees, 8) * per_tree, horizon=horizon, prefix=prefix)
        work = {
            "collect": lambda o=openings, h=horizon: common.collect(
                *ours, o, horizon=h, trees_per_batch=max(1, 512 // 2**h)
            ),
            "update": lambda p=pairs, n=per_tree: trainer.run(p, n),
        }
        seconds = common.alternate(work, repeats=options.repeats, device=device)
        packed = [pack(sequences_of(pairs[i : i + per_tree])).tokens for i in range(0, len(pairs), per_tree)]
        rows.append(
            {
                "horizon": horizon, "trees": trees, "prefix": prefix,
                "collect_s_per_pair": statistics.median(seconds["collect"]) / (trees * per_tree),
                "update_s_per_pair": statistics.median(seconds["update"]) / len(pairs),
                "tokens_per_pair": sum(packed) / len(pairs), "predicted": predicted_tokens(prefix, horizon),
                "concatenated": concatenated_tokens(prefix, horizon),
            }
        )  # fmt: skip
        assert abs(rows[-1]["tokens_per_pair"] / rows[-1]["predicted"] - 1) < 0.1, "the cost model is wrong"
    common.report(f"scaling_{shape.name}", f"scaling, shape {shape.name}", rows, device=device, command=sys.argv)


if __name__ == "__main__":
    main()
