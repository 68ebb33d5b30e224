"""Picture of a report as a reader first sees it, text masked: screenshot.py REPORT.html OUT.png [WIDTH HEIGHT [dark]]."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def screenshot(page: Path, out: Path, *, width: int = 1280, height: int = 1500, dark: bool = False) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        scheme = "dark" if dark else "light"
        tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        tab.goto(page.resolve().as_uri())
        tab.screenshot(path=str(out))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    size = [int(value) for value in sys.argv[3:5]] or [1280, 1500]
    screenshot(Path(sys.argv[1]), Path(sys.argv[2]), width=size[0], height=size[1], dark="dark" in sys.argv[5:])
