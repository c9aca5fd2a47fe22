"""Headless Chromium for tests of pages, driven by its DevTools protocol over a pair of pipes.

No driver, no port, no package: messages are JSON with a NUL behind each, on the browser's file descriptors 3 and 4.
Calls block until they are answered. A page remembers what went wrong in it (`problems`) and what it asked for
(`requests`). https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "browser: no Chromium found; install it (Debian: apt-get install chromium) or name it in CHROMIUM"
DEADLINE_S = 60.0  # nothing here takes a second; a machine may be busy
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}
KEYS |= {"End": 35, "Home": 36, "PageUp": 33, "PageDown": 34}
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}


def find_chromium() -> str | None:
    """The browser that CHROMIUM names, else the first one on the path; None without any."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser process with a profile of its own in `profile`; close it."""

    def __init__(self, binary: str, profile: Path) -> None:
        # The shell puts the two pipes where the browser looks for them. The tests' own pages need no sandbox, which
        # root and many containers cannot have; /dev/shm is small in containers.
        command = [binary, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-dev-shm-usage"]
        command += ["--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking"]
        command += ["--disable-component-update", "--mute-audio", f"--user-data-dir={profile}", "about:blank"]
        self._log = open(profile.with_suffix(".log"), "wb")  # noqa: SIM115 - closed with the browser
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$0" "$@" 3<&0 4>&1 </dev/null >&2', *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        self._unread = b""
        self._last = 0
        self._pages: dict[str, Page] = {}

    def page(self, width: int = 1280, height: int = 900) -> Page:
        """A new tab with a window of that size in CSS pixels."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            page.send(f"{domain}.enable")
        page.send("Page.bringToFront")  # a hidden tab draws nothing, and so never scrolls
        page.resize(width, height)
        return page

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for its result; what happens meanwhile goes to the pages."""
        number = self._post(method, session, parameters)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            message = self._receive(deadline, method)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return dict(message["result"])
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None and "method" in message:
                page.happened(message["method"], message["params"])

    def post(self, method: str, session: str) -> None:
        """Ask for something without waiting."""
        self._post(method, session, {"accept": False} if method == "Page.handleJavaScriptDialog" else {})

    def close(self) -> None:
        """End the browser."""
        try:
            self.send("Browser.close")
            self._process.wait(DEADLINE_S)
        except (OSError, RuntimeError, EOFError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for file in (self._to, self._from, self._log):
            file.close()

    def _post(self, method: str, session: str | None, parameters: dict[str, Any]) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        return self._last

    def _receive(self, deadline: float, what: str) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{what}: no answer from the browser within {DEADLINE_S:g} s")
            more = os.read(self._from.fileno(), 1 << 16)
            if not more:
                said = Path(self._log.name).read_text(errors="replace")[-2000:]
                raise EOFError(f"{what}: the browser has ended\n{said}")
            self._unread += more
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))


class Page:
    """A tab: open a file, look at it with JavaScript, press keys, click, take its picture."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target
        self.problems: list[str] = []  # console errors, exceptions, dialogs, breaches of a content security policy
        self.requests: list[str] = []
        self._loaded = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol for this tab."""
        return self.browser.send(method, self.session, **parameters)

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file or an address, and wait until it is loaded."""
        address = page.resolve().as_uri() if isinstance(page, Path) else page
        before = self._loaded
        found = self.send("Page.navigate", url=address + fragment)
        if found.get("errorText"):
            raise RuntimeError(f"{address}: {found['errorText']}")
        if "loaderId" in found:  # not so where only the fragment is new
            self._await_load(before)

    def reload(self) -> None:
        """Load the page again."""
        before = self._loaded
        self.send("Page.reload")
        self._await_load(before)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (a promise's where it is one) as Python has it."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(f"{expression}: {details.get('exception', {}).get('description', details['text'])}")
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true, or a thing that is there."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never so within {DEADLINE_S:g} s: {expression}; problems: {self.problems}")
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What is to be read in an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, *keys: str) -> None:
        """Press keys one after another: "j", "ArrowRight", "Control+ArrowRight"."""
        for combined in keys:
            *held, key = combined.split("+") if len(combined) > 1 else [combined]
            about: dict[str, Any] = {"key": key, "modifiers": sum(MODIFIERS[name] for name in held)}
            if key in KEYS:
                about["windowsVirtualKeyCode"] = KEYS[key]
            text = "\r" if key == "Enter" else key if len(key) == 1 and not set(held) - {"Shift"} else ""
            down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
            self.send("Input.dispatchKeyEvent", **about, **down)
            self.send("Input.dispatchKeyEvent", **about, type="keyUp")

    def write(self, text: str) -> None:
        """Put text where the cursor is, as a keyboard or an input method would."""
        self.send("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """Click with the mouse on the middle of an element, scrolled to if need be."""
        where = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "if (!e) throw Error('no such element');"
            "e.scrollIntoView({block: 'nearest', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            "return {x: b.x + b.width / 2, y: b.y + b.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def choose(self, selector: str, value: str) -> None:
        """Set a field or a choice to a value, as a user who has done so; an error where it does not take that value."""
        self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            f"if (e.value !== {json.dumps(value)}) throw Error('has no such value');"
            "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
        )

    def resize(self, width: int, height: int) -> None:
        """Another size of the window, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def dark(self, on: bool = True) -> None:
        """Have the user prefer dark or light pages."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Close the tab."""
        self.browser.send("Target.closeTarget", targetId=self.target)

    def happened(self, event: str, about: dict[str, Any]) -> None:
        """Note an event of the browser."""
        if event == "Page.loadEventFired":
            self._loaded += 1
        elif event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {about['message']}")
            self.browser.post("Page.handleJavaScriptDialog", self.session)  # an open dialog holds everything up
        elif event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.problems.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console: {[arg.get('value', arg.get('description')) for arg in about['args']]}")
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{about['entry']['source']}: {about['entry']['text']}")
        elif event == "Audits.issueAdded" and "ContentSecurityPolicy" in about["issue"]["code"]:
            self.problems.append(f"policy: {about['issue']['details']['contentSecurityPolicyIssueDetails']}")

    def _await_load(self, before: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self._loaded == before:
            if time.monotonic() > deadline:
                raise TimeoutError("the page was never loaded")
            self.evaluate("1")  # hears what has happened
            time.sleep(0.02)
