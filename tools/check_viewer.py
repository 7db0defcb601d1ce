"""Look a page of `dragoman view` over in headless Chromium; needs Chromium and, for axe, npm.

    python tools/check_viewer.py runs/quickstart/view.html --pictures pictures

In light and dark, wide and narrow: the accessibility checker axe must find nothing, no script may fail or be
refused, nothing may be asked for but the page itself, and however long the response, few elements may be
drawn. Prints one line each, with the time to open and to jump to the end; pictures are for looking at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

from chromium import Browser, Tab, axe_source

SIZES = {"wide": (1280, 800), "narrow": (420, 860)}
MOST_ELEMENTS = 6000
AXE_RUN = (
    "axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations.map("
    "(found) => `${found.id}: ${found.help}: ${found.nodes[0].html}`))"
)


def main() -> int:
    """Print what is wrong with the page; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args()
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        axe = axe_source(Path(folder))
    wrong: list[str] = []
    with Browser() as browser:
        for scheme in ("light", "dark"):
            for name, size in SIZES.items():
                tab = Tab(browser, options.page, size=size, scheme=scheme)
                where = f"{scheme} {name}"
                if options.pictures:
                    tab.screenshot(options.pictures / f"{scheme}-{name}.png")
                wrong += [f"{where}: {problem}" for problem in look_over(tab, options.page, axe, where)]
                if options.pictures:
                    tab.screenshot(options.pictures / f"{scheme}-{name}-end.png")
                tab.close()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


def look_over(tab: Tab, page: Path, axe: str, where: str) -> list[str]:
    """Problems of one opened page, which is left at its end."""
    start = time.monotonic()
    tab.press("End")
    seconds = time.monotonic() - start
    elements = tab.evaluate("document.querySelectorAll('*').length")
    print(f"{where}: opens in {tab.open_seconds:.2f} s, to the end in {seconds:.2f} s, {elements} elements")
    problems = [f"{elements} elements, expected at most {MOST_ELEMENTS}"] if elements > MOST_ELEMENTS else []
    tab.evaluate(axe + "; null")
    problems += tab.evaluate(AXE_RUN)
    tab.press("f")
    problems += [f"with a filter: {problem}" for problem in tab.evaluate(AXE_RUN)]
    tab.press("F")
    problems += [f"script: {error}" for error in tab.errors]
    foreign = [url for url in tab.requests if url != page.resolve().as_uri()]
    return problems + [f"asks for {url}" for url in foreign]


if __name__ == "__main__":
    sys.exit(main())
