"""A real browser without a screen, driven by Chromium's own protocol: what a person would see, point at and type."""

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.visitor import until

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)
CENTRE = """(() => {
  const seen = [...document.querySelectorAll(%s)].find(e => e.innerText.includes(%s) && e.getBoundingClientRect().width);
  const box = seen && seen.getBoundingClientRect();
  return box ? [box.x + box.width / 2, box.y + box.height / 2] : null; })()"""


def installed() -> str | None:
    """The browser on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, program: str, folder: Path) -> None:
        own = [f"--user-data-dir={folder}", "--remote-debugging-port=0", "--window-size=600,500"]
        null = subprocess.DEVNULL
        self._process = subprocess.Popen([program, *FLAGS, *own, "about:blank"], stdout=null, stderr=null)
        port_file = folder / "DevToolsActivePort"
        assert until(lambda: port_file.exists() and "\n" in port_file.read_text(), 60)
        with urllib.request.urlopen(f"http://127.0.0.1:{port_file.read_text().split()[0]}/json") as tabs:
            tab = next(tab for tab in json.load(tabs) if tab["type"] == "page")
        self._socket, self._sent = connect(tab["webSocketDebuggerUrl"], max_size=None), 0

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return what a command of the protocol returns."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while (reply := json.loads(self._socket.recv(60))).get("id") != self._sent:
            pass
        return reply["result"]

    def see(self, script: str) -> Any:
        """Return the value of a script."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    @property
    def text(self) -> str:
        """All that the page says."""
        return self.see("document.body.innerText") or ""

    def click(self, selector: str, text: str = "") -> None:
        """Click on the first visible element with this text."""
        x, y = self.see(CENTRE % (json.dumps(selector), json.dumps(text)))
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what was clicked on."""
        self.call("Input.insertText", text=text)
