"""Headless Chromium, driven over its DevTools pipe: real keys and pointers, requests and errors seen.

Protocol: https://chromedevtools.github.io/devtools-protocol/ ; messages are JSON ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
CODES = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35}
CODES |= {"PageUp": 33, "PageDown": 34, "Enter": 13, "Escape": 27, "Tab": 9}
SECONDS = 60


def find_chromium() -> str | None:
    """The browser's command, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def axe_source(folder: Path) -> str:
    """The accessibility checker axe, from its pinned package. AssetError if it cannot be fetched."""
    with tarfile.open(fetch(AXE, folder, download)) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


class Browser:
    """A browser with a profile of its own, closed at the end of a `with` block."""

    def __init__(self) -> None:
        command = find_chromium()
        assert command is not None, "there is no Chromium on the PATH"
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        read_commands, self._out = os.pipe()
        self._in, write_answers = os.pipe()
        # The browser reads from descriptor 3 and writes to 4; the shell puts the pipes there.
        shell = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'
        flags = [*FLAGS, f"--user-data-dir={self._profile.name}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", command, *flags],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command; events that arrive meanwhile are kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self.receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser did not answer within {SECONDS} s"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))


class Tab:
    """A page in a browser. `open_seconds` is from the request to the load event and the first frame."""

    def __init__(
        self,
        browser: Browser,
        page: Path,
        *,
        size: tuple[int, int] = (1280, 800),
        scheme: str = "light",
    ) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        width, height = size
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)
        browser.events.clear()
        start = time.monotonic()
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.open_seconds = time.monotonic() - start

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression or of a promise, as JSON."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other; a character stands for itself."""
        for key in keys:
            text = {"text": key} if len(key) == 1 else {}
            code = CODES.get(key, ord(key.upper()) if key.isalpha() and len(key) == 1 else 0)
            for kind in ("keyDown", "keyUp"):
                self._call(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    windowsVirtualKeyCode=code,
                    **(text if kind == "keyDown" else {}),
                )
        self.settle()

    def type(self, text: str) -> None:
        """Enter text where the focus is."""
        self._call("Input.insertText", text=text)
        self.settle()

    def hover(self, selector: str) -> None:
        """Put the pointer in the middle of an element."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", **self._middle(selector))
        self.settle()

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        place = {**self._middle(selector), "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, **place)
        self.settle()

    def settle(self) -> None:
        """Wait until what was done is on the screen."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def screenshot(self, path: Path) -> None:
        """A picture of what is in the window."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def violations(self, axe: str) -> list[Any]:
        """What the accessibility checker, whose source `axe` is, finds wrong with the page as it stands."""
        self.evaluate(axe + "; null")
        return list(
            self.evaluate(
                "axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations.map("
                "(v) => [v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html + n.failureSummary)]))"
            )
        )

    @property
    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened."""
        sent = self._seen("Network.requestWillBeSent")
        return [event["request"]["url"] for event in sent]

    @property
    def errors(self) -> list[str]:
        """Exceptions of scripts, and what the browser logged (refused scripts and loads among it)."""
        thrown = [event["exceptionDetails"]["text"] for event in self._seen("Runtime.exceptionThrown")]
        return thrown + [event["entry"]["text"] for event in self._seen("Log.entryAdded")]

    def _seen(self, method: str) -> list[dict[str, Any]]:
        mine = (event for event in self._browser.events if event.get("sessionId") == self._session)
        return [event["params"] for event in mine if event["method"] == method]

    def _middle(self, selector: str) -> dict[str, float]:
        found = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        return dict(
            self.evaluate(
                f"(() => {{ const box = {found};"
                " return {x: box.left + box.width / 2, y: box.top + box.height / 2}; })()"
            )
        )

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def _wait_for(self, method: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not self._seen(method):
            self._browser.events.append(self._browser.receive(deadline))
