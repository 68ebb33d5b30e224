"""Whether ``torch.compile`` pays in the update: forward and backward of one packed tree, compiled and not, in turn."""

from __future__ import annotations

import statistics
import sys

import torch

import common
from astprompter.training.packing import pack, sequence_logps, sequences_of


def main() -> None:
    """Measure and report."""
    options = common.arguments(__doc__ or "").parse_args()
    torch.set_num_threads(options.threads)
    shape, device = common.SHAPES[options.shape], options.device
    lm = common.make_lm(shape, device=device)
    pairs, _ = common.made_pairs(shape, 7, horizon=3)
    packed = pack(sequences_of(pairs), share=True)
    plain = lm.model.transformer.forward
    forwards = {"not compiled": plain, "torch.compile": torch.compile(plain, dynamic=False)}

    def seconds(side: str) -> float:
        lm.model.transformer.forward = forwards[side]
        lm.model.zero_grad()
        start = common.clock(device)
        sequence_logps(lm, packed).sum().backward()
        return common.clock(device) - start

    first = {side: seconds(side) for side in forwards}
    found: dict[str, list[float]] = {side: [] for side in forwards}
    for _ in range(options.repeats):
        for side in forwards:
            found[side].append(seconds(side))
    base = found["not compiled"]
    rows = [
        {
            "side": side,
            "first_s": first[side],
            "s_per_pass": statistics.median(values),
            "times_plain": statistics.median(value / other for value, other in zip(values, base, strict=True)),
        }
        for side, values in found.items()
    ]
    title = f"torch.compile, shape {shape.name}, one packed tree of {packed.ids.shape[1]} tokens"
    common.report(f"compiled_{shape.name}", title, rows, device=device, command=sys.argv)


if __name__ == "__main__":
    main()
