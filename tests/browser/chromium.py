"""Pages in headless Chromium: a script is run in them, and what it finds comes back as JSON."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from dragoman.assets.entry import Archive, Registry
from dragoman.assets.fetch import download, fetch

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
)
AXE = Archive(
    registry=Registry.NPM,
    package="axe-core",
    version="4.10.2",
    filename="axe-core-4.10.2.tgz",
    sha256="9ea2d2d6917da998122bdacfd3b473e31ead53f4b87146c716a12edf89158100",
    members=(("package/axe.min.js", "axe.min.js"),),
)


def find_chromium() -> str | None:
    """The browser's command, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def axe_source(folder: Path) -> str:
    """The accessibility checker axe, from its pinned package."""
    with tarfile.open(fetch(AXE, folder, download)) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def run_in_page(
    page: Path, script: str, folder: Path, *, size: str = "1280,800", screenshot: Path | None = None
) -> Any:
    """What `script`, the body of an async function, returns in the page. `$` finds elements by id."""
    command = find_chromium()
    assert command is not None
    runner = (
        "<script>addEventListener('load', async () => { const $ = (id) => document.getElementById(id);"
        " let found; try { found = {value: await (async () => { " + script + " })()}; }"
        " catch (error) { found = {error: String(error && error.stack || error)}; }"
        " const out = document.createElement('pre'); out.id = 'test-result';"
        " out.textContent = JSON.stringify(found); document.body.append(out); });</script>"
    )
    copy = folder / f"{page.stem}-test.html"
    copy.write_text(page.read_text("utf-8").replace("</body>", runner + "</body>"), encoding="utf-8")
    shot = [] if screenshot is None else [f"--screenshot={screenshot}"]
    dump = ["--dump-dom"] if screenshot is None else []
    result = subprocess.run(
        [
            *(command, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={size}"),
            *("--virtual-time-budget=60000", *shot, *dump, copy.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    if screenshot is not None:
        return None
    match = re.search(r'<pre id="test-result">(.*?)</pre>', result.stdout, re.DOTALL)
    assert match is not None, f"the script did not end: {result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    found = json.loads(html.unescape(match[1]))
    assert "error" not in found, found["error"]
    return found["value"]
