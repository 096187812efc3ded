"""Headless Chromium through chromedriver's HTTP interface (W3C WebDriver), with the standard library alone."""

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FOUND = all(map(shutil.which, ("chromium", "chromedriver")))
ESCAPE, ENTER = "\ue00c", "\ue007"


class Browser:
    """One page in a headless Chromium, with no network: any host name fails to resolve. A context manager."""

    def __init__(self, profile: Path):
        command = ["chromedriver", "--port=0", f"--log-path={profile}.log"]
        self._driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started = re.compile(r"started successfully on port (\d+)")
        port = next(found[1] for line in self._driver.stdout if (found := started.search(line)))
        self._root = f"http://127.0.0.1:{port}/session"
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")
        options = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": [*flags, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        try:
            found = self._ask("POST", "", {"capabilities": {"alwaysMatch": options}})
        except BaseException:
            self._driver.kill()
            raise
        self._root += f"/{found['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.kill()
            self._driver.wait()

    def open(self, path: Path) -> None:
        """Load a file."""
        self._ask("POST", "/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns in the page; its arguments are `arguments`."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, key: str) -> None:
        """A key on the keyboard, for whatever has the focus."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})

    def console(self) -> list[str]:
        """Errors and warnings since the last call, failed loads among them."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def emulate(self, width: int, height: int, scheme: str = "light", media: str = "screen") -> None:
        """The size of the window in CSS pixels, the preferred colour scheme, and screen or print."""
        mobile = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        found = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints."""
        path.write_bytes(base64.b64decode(self.devtools("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def devtools(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": method, "params": parameters})

    def _ask(self, verb: str, path: str, content: dict | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self._root + path, body, {"Content-Type": "application/json"}, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error
