"""Branches that the tests take, by room; exits with 1 where a core room is below the bar, in per cent.

coverage run -m pytest -n auto && coverage combine && coverage json && python scripts/coverage.py coverage.json 90
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

CORE = ("base", "config", "runs", "data", "models", "scorers", "rollout", "training", "evaluation")


def by_room(report: Path) -> dict[str, tuple[int, int]]:
    """Branches taken and branches in all, by room."""
    taken: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for name, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        place = name.split("astprompter/")[1]
        room = place.split("/")[0].removesuffix(".py")
        taken[room] += file["summary"]["covered_branches"]
        whole[room] += file["summary"]["num_branches"]
    return {room: (taken[room], whole[room]) for room in whole}


def main() -> int:
    rooms, bar = by_room(Path(sys.argv[1])), float(sys.argv[2])
    low = []
    for room, (taken, whole) in sorted(rooms.items()):
        share = taken / whole if whole else 1.0
        mark = ("below" if 100 * share < bar else "core") if room in CORE else ""
        print(f"{room:<14} {taken:>5} of {whole:>5} branches {100 * share:6.1f} %  {mark}")
        low += [room] if mark == "below" else []
    missing = [room for room in CORE if room not in rooms]
    if low or missing:
        print(f"below {bar:g} % of branches: {', '.join(low) or 'none'}; not measured: {', '.join(missing) or 'none'}")
    return 1 if low or missing else 0


if __name__ == "__main__":
    sys.exit(main())
