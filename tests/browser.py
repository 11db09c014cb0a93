"""A real headless Chromium, driven over the DevTools protocol on a pipe: no driver to install, no port to open."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "google-chrome", "chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--no-first-run",
)
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39, "Backspace": 8}
"""Windows' virtual key codes, which Chromium's own handling of a key goes by."""


def find_chromium() -> str | None:
    """The browser named by SRPO_CHROMIUM, or the first one installed."""
    return os.environ.get("SRPO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason=f"no browser: install one of {', '.join(NAMES)}, or name it in SRPO_CHROMIUM"
)


class Browser:
    """One tab; what its page complains about is kept in `problems`."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Result of one command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session and not method.startswith("Browser."):
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def open(self, path: Path, width: int = 1100, height: int = 900, phone: bool = False, dark: bool = False) -> float:
        """Show a file; returns the seconds until it had loaded and answered."""
        screen = {"width": width, "height": height, "mobile": phone, "deviceScaleFactor": 2 if phone else 1}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        started = time.perf_counter()
        self.run("window.left = true")
        self.call("Page.navigate", url=path.resolve().as_uri())
        arrived = f"!window.left && location.href === {path.resolve().as_uri()!r}"
        self.wait(f"{arrived} && document.readyState === 'complete'")
        return time.perf_counter() - started

    def run(self, expression: str) -> Any:
        """Value of a JavaScript expression on the page; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until a JavaScript condition holds."""
        ends = time.perf_counter() + seconds
        while not self.run(condition):
            assert time.perf_counter() < ends, f"still not so after {seconds} s: {condition}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key, as a person does."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = KEYS.get(key, ord(key[0].upper()))
        pressed = {"key": key, "code": key if len(key) > 1 else "", "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def click(self, selector: str, across: float = 0.5) -> None:
        """Click an element with the mouse, so far across it, halfway down."""
        box = f"document.querySelector({selector!r})"
        self.run(f"{box}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y = self.run(f"(r => [r.x + r.width * {across}, r.y + r.height / 2])({box}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """What is in the window, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep errors and warnings of the console, uncaught exceptions, and every request to a network."""
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif event.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("file:", "data:", "about:", "blob:")):
                self.problems.append(f"asked for {url}")


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with its profile in an empty folder, ended afterwards."""
    program = find_chromium()
    assert program
    (to_read, to_send), (ours, theirs) = os.pipe(), os.pipe()
    # Chromium reads commands from descriptor 3 and answers on 4.
    command = f'exec "$@" 3<&{to_read} 4>&{theirs}'
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_read, theirs),
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read), os.close(theirs)
    try:
        driver = Browser(to_send, ours)
        yield driver
        driver.call("Browser.close")
    finally:
        os.close(to_send), os.close(ours)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
