"""A program that pretends to be the command line: what the jobs of a study start, where training itself is no matter.

It notes each call in ``calls.txt`` of the study's folder. A file ``break-NAME`` there makes the adversary's jobs fail,
and ``hold-NAME-SEED`` keeps its training at its third update.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def rewrite(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def train(study: Path, out: Path, settings: dict[str, Any]) -> None:
    """Write the files of a finished run, or of one at its third update."""
    config = json.loads((study.parent / "config.json").read_text())
    versioned = {"format": config["format"]}

    def save(updates: int) -> None:
        write(out / "checkpoint" / "state.json", {**versioned, "counters": {"updates": updates}, "log_bytes": {}})

    write(out / "config.json", config | {"settings": settings})
    save(3)
    name = f"{out.name}-{settings['seed']}"
    write(study / "pids" / name, os.getpid())
    while (study / f"hold-{name}").exists():
        time.sleep(0.01)
    (out / "best").mkdir(exist_ok=True)
    save(settings["training"]["updates"])
    hashes = {"defender": "a", "reference": "a"}
    write(out / "frozen.json", {**versioned, "before": hashes, "after": hashes})


def main(command: str, *arguments: str) -> None:
    import yaml

    out = Path(arguments[arguments.index("--out") + 1])
    settings = yaml.safe_load(Path(arguments[arguments.index("--preset") + 1]).read_text())["settings"]
    study = out.parents[3]

    def note(what: str) -> None:
        with (study / "calls.txt").open("a") as log:
            print(json.dumps([command, out.name, settings["seed"], what]), file=log)

    def stop(number: int, frame: Any) -> None:
        note(f"signal {number}")
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    note("resumed" if "--resume" in arguments else "begun")
    print("some output\nlast words of", out.name)
    if (study / f"break-{out.name}").exists():
        sys.exit(1)
    if command == "train":
        train(study, out, settings)
    else:
        summary = json.loads((study.parent / "summary.json").read_text())
        summary["config"] |= {"settings": settings, "targets": [arguments[0]]}
        write(out / "summary.json", summary)
    note("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
