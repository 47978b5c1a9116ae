"""Debian's Chromium without a window, driven by its DevTools protocol through a pair of pipes.

The protocol is JSON with a zero byte behind each message (``--remote-debugging-pipe``), so that neither a driver
program, nor a port, nor a package is needed. What a page may do is recorded: requests, messages on the console, errors.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless",
    "--no-sandbox",  # root may not use it, and the page is our own
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

_PATIENCE_SECONDS = 120.0
"""How long an answer may take; on a busy machine the first one takes longest."""


@dataclass
class Tab:
    """A tab of the browser.

    Attributes
    ----------
    requests : list of str
        Addresses that were asked for.
    messages : list of str
        What came on the console, and errors that nothing caught.
    """

    browser: Chromium
    session: str
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Carry out a command of the protocol, and give its result."""
        return self.browser.call(method, self.session, **parameters)

    def show(self, path: Path, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Open a file in a window of this size, in a light or dark scheme, and wait until it has loaded."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.browser.loaded.discard(self.session)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.browser.wait(lambda: self.session in self.browser.loaded, f"{path} to load")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])


class Chromium:
    """A running browser.

    Parameters
    ----------
    profile : Path
        An empty folder for what it keeps.
    """

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        assert program, "the page is looked at in Debian's chromium, which is not installed: apt-get install chromium"
        self.loaded: set[str] = set()
        self._tabs: dict[str, Tab] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._numbers = itertools.count(1)
        self._rest = b""
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # It reads commands from the file descriptor 3 and writes answers to 4.
        redirect = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", redirect, "chromium", program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def tab(self) -> Tab:
        """A new tab, which is watched from the beginning."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Carry out a command of the protocol, and give its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self._answers, f"the answer to {method}")
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, done: Any, what: str) -> None:
        """Hear what the browser says until something is so."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while not done():
            left = end - time.monotonic()
            ready, _, _ = select.select([self._from], [], [], max(0, left))
            assert ready, f"chromium was waited for in vain: {what}"
            data = os.read(self._from, 1 << 16)
            assert data, f"chromium ended while it was waited for: {what}"
            *messages, self._rest = (self._rest + data).split(b"\0")
            for message in messages:
                self._hear(json.loads(message))

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        session, method, values = message.get("sessionId", ""), message["method"], message["params"]
        tab = self._tabs.get(session)
        if tab is None:
            return
        if method == "Page.loadEventFired":
            self.loaded.add(session)
        elif method == "Network.requestWillBeSent":
            tab.requests.append(values["request"]["url"])
        elif method == "Log.entryAdded":
            tab.messages.append(values["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            tab.messages.append(" ".join(str(value.get("value")) for value in values["args"]))
        elif method == "Runtime.exceptionThrown":
            tab.messages.append(values["exceptionDetails"]["text"])

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        os.close(self._to)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Chromium]:
    """A browser for as long as the context is open."""
    browser = Chromium(profile)
    try:
        yield browser
    finally:
        browser.close()
