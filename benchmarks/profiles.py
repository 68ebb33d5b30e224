"""Where the time of each stage goes: the torch profiler over the stages of ``floor.py`` and over the scorer."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import common
from astprompter.config import load_settings
from astprompter.scorers import load_scorer
from astprompter.workflows.train import load_texts
from floor import Stages

MOST = 7
"""Operations shown of each stage."""


def profiled(name: str, work: Callable[[], object], device: str) -> list[dict[str, Any]]:
    """The operations that take most of a stage, by their own time, and the share of time spent in the kernel.

    That is page faults of fresh memory, nearly all of it: nothing here reads files.
    """
    before, start = resource.getrusage(resource.RUSAGE_SELF), common.clock(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device != "cpu" else [])]
    with profile(activities=activities) as found:
        work()
    after, seconds = resource.getrusage(resource.RUSAGE_SELF), common.clock(device) - start
    own = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    operations = sorted(found.key_averages(), key=lambda entry: getattr(entry, own), reverse=True)
    total = sum(getattr(entry, own) for entry in operations)
    rows = [
        {"stage": name, "operation": entry.key, "calls": entry.count, "share": getattr(entry, own) / total}
        for entry in operations[:MOST]
    ]
    kernel = {"calls": after.ru_minflt - before.ru_minflt, "share": (after.ru_stime - before.ru_stime) / seconds}
    return [*rows, {"stage": name, "operation": "(in the kernel, page faults)", **kernel}]


def main() -> None:
    """Measure and report."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=128, help="rows of prefill and decode")
    parser.add_argument("--trees", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, device = common.SHAPES[options.shape], options.device
    texts = [prefix.text[:120] for prefix in load_texts(load_settings("embedded")).train[:768]]
    scorer = load_scorer("embedded")
    scorer.score(["to warm up"])
    stages = Stages(shape, device, rows=options.rows, prefix=60, trees=options.trees)
    work = {**stages.ready(), "scorer (embedded)": lambda: scorer.score(texts)}
    rows = [row for name, part in work.items() for row in profiled(name, part, device)]
    title = f"profiles, shape {shape.name}, {options.rows} rows, {options.trees} trees"
    common.report(f"profiles_{shape.name}", title, rows, device=device, command=sys.argv)


if __name__ == "__main__":
    main()
