"""Draw what ``astprompter evaluate`` prints for a run as an SVG: the picture in the README.

python scripts/picture.py RUN OUT.svg
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from astprompter.console import comparison_lines, failures_table, results_table
from astprompter.runlog import FAILURES, RunDirectory, read_rows, read_summary


def main() -> None:
    run, out = RunDirectory.open(Path(sys.argv[1])), Path(sys.argv[2])
    summary = read_summary(run.path)
    console = Console(record=True, width=132)
    console.print("[bold]$ make demo[/bold]")
    console.print(results_table(summary))
    for line in comparison_lines(summary["comparisons"]):
        console.print(escape(line), highlight=False)
    console.print(failures_table(read_rows(run.path / FAILURES)[:5], show_text=False))
    console.save_svg(str(out), title="astprompter")


if __name__ == "__main__":
    main()
