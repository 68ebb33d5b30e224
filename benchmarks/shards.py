"""Memory of each of several processes by stage, with the policy whole and in shards (``training.shard``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
from astprompter.base.processes import join, leave, rank, share
from astprompter.config import load_settings
from astprompter.training.optimizer import Updater
from astprompter.training.packing import pack, sequences_of


def resident() -> int:
    """Bytes in use: resident ones of this process, or allocated ones on the card."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_during(work: Callable[[], object]) -> int:
    """Most bytes in use while ``work`` runs, sampled every 2 ms."""
    done, most = threading.Event(), resident()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    done.set()
    thread.join()
    return max(most, resident())


def measure(shape: common.Shape, *, shard: bool) -> dict[str, Any]:
    """Two rounds of speaking and updating in this process; bytes per parameter of the second, above those before."""
    join()
    before = resident()
    lm = common.make_lm(shape, device="cuda" if torch.cuda.is_available() else "cpu")
    count = sum(parameter.numel() for parameter in lm.model.parameters())
    settings = load_settings("embedded", [f"training.shard={str(shard).lower()}"]).training
    updater = Updater(settings, lm)
    pairs, _ = common.made_pairs(shape, 2, horizon=1)
    prefixes = [prefix.text for prefix in common.make_prefixes(shape, 2)]

    def collecting() -> None:
        with updater.placement.gathered():
            lm.start(prefixes, turns=1).speak(np.arange(2, dtype=np.uint64))

    def updating() -> None:
        packed = pack(sequences_of(share(pairs)), share=lm.packs)
        updater.placement.logps(packed).sum().backward()
        updater.step(0.0, 0)

    peaks: dict[str, int] = {}
    for _ in range(2):
        peaks = {stage.__name__: peak_during(stage) for stage in (collecting, updating)}
        peaks["between"] = resident()
    who = {"policy": "in shards" if shard else "whole", "process": rank(), "parameters": count}
    found = {name: round((value - before) / count, 2) for name, value in peaks.items()}
    leave()
    return {**who, **found}


def main() -> None:
    """Start the processes, once per way, and print what each holds."""
    parser = common.arguments(__doc__ or "")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--worker", choices=["whole", "shard"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(measure(common.SHAPES[options.shape], shard=options.worker == "shard")), flush=True)
        return
    for way in ("whole", "shard"):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(options.processes),
            __file__, "--shape", options.shape, "--threads", str(options.threads), "--worker", way,
        ]  # fmt: skip
        # Memory that is freed goes back at once, so that what is resident is what is in use.
        env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)  # noqa: S603 - ours
        print(done.stdout, end="")


if __name__ == "__main__":
    main()
