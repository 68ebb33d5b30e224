"""Peak memory of each side's update, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import common

SIDES = (
    "packed",
    "padded, full logits",
    "padded, logits at utterances",
    "TRL, reference in the step",
    "TRL, reference precomputed",
)


def main() -> None:
    """Measure and report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--trees", type=int, default=2)
    parser.add_argument("--horizon", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for side in SIDES:
        command = [
            sys.executable, str(Path(__file__).with_name("update.py")), "--only", side, "--shape", options.shape,
            "--device", options.device, "--trees", str(options.trees), "--horizon", str(options.horizon),
            "--threads", str(options.threads),
        ]  # fmt: skip
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own script
        found = json.loads(done.stdout.strip().splitlines()[-1])
        rows.append(
            {
                "side": side,
                "peak_MiB": found["peak"] / 2**20,
                "above_models_MiB": (found["peak"] - found["before"]) / 2**20,
            }
        )
    for row in rows:
        row["times_ours"] = row["peak_MiB"] / rows[0]["peak_MiB"]
    title = (
        f"peak memory of the update, shape {options.shape}, horizon {options.horizon}, two models and AdamW included"
    )
    common.report(f"memory_{options.shape}", title, rows, device=options.device, command=sys.argv)


if __name__ == "__main__":
    main()
