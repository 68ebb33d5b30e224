"""Train the embedded models for hours and tell whether memory or the time of an iteration grows.

    python scripts/soak.py [HOURS] [FOLDER]

The learning rate is tiny, so that texts stay alike and iterations comparable. Time is CPU time of the process, since
other work on the machine changes the clock's. Exits with 1 when the last quarter of the iterations takes more than a
tenth more memory or CPU time than the quarter after the first ten iterations.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = [
    "training.updates=1000000", "training.pairs_per_iteration=96", "training.batch_size=24",
    "training.learning_rate=1e-8", "training.dev_every=10", "training.dev_prefixes=20", "training.save_pairs=true",
]  # fmt: skip
WARM_UP, ALLOWED_GROWTH = 10, 1.1


def usage_of(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def iterations_in(log: Path) -> int:
    return sum('"type": "iteration"' in line for line in log.open()) if log.exists() else 0


def watch(process: subprocess.Popen[bytes], log: Path, seconds: float) -> list[dict[str, float]]:
    """One row per change of the number of finished iterations: CPU seconds an iteration, resident MiB."""
    rows: list[dict[str, float]] = []
    started, done, cpu_before = time.monotonic(), 0, 0.0
    while process.poll() is None and time.monotonic() - started < seconds:
        time.sleep(0.5)
        now = iterations_in(log)
        if now == done:
            continue
        cpu, memory = usage_of(process.pid)
        hours = (time.monotonic() - started) / 3600
        rows.append({"iteration": now, "hours": hours, "cpu_s": (cpu - cpu_before) / (now - done), "mib": memory})
        done, cpu_before = now, cpu
    return rows


def verdict(rows: list[dict[str, float]]) -> int:
    rows = rows[WARM_UP:]
    quarter = len(rows) // 4
    if not quarter:
        sys.exit("too short to compare: give it more time")
    grown = False
    for key, unit in (("cpu_s", "CPU seconds an iteration"), ("mib", "MiB resident")):
        first, last = (statistics.median(row[key] for row in part) for part in (rows[:quarter], rows[-quarter:]))
        grown = grown or last > ALLOWED_GROWTH * first
        print(f"{unit}: first quarter {first:.2f}, last quarter {last:.2f} (medians), {last / first - 1:+.1%}")
    print(f"{rows[-1]['iteration']:.0f} iterations in {rows[-1]['hours']:.2f} hours: {'GROWS' if grown else 'steady'}")
    return int(grown)


def main() -> int:
    hours = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="soak-"))
    command = [sys.executable, "-m", "astprompter", "train", "-o", str(folder / "run"), *SETTINGS]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)  # noqa: S603 - our own
        rows = watch(process, folder / "run" / "log.jsonl", hours * 3600)
        if process.poll() is not None:
            sys.exit(f"training ended by itself: see {folder / 'output.txt'}")
        process.send_signal(signal.SIGTERM)
        process.wait()
    (folder / "soak.json").write_text(json.dumps(rows, indent=1) + "\n")
    return verdict(rows)


if __name__ == "__main__":
    sys.exit(main())
