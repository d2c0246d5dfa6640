"""A visitor of the live page without a browser: viser's own messages over its web socket."""

import threading
import time
from typing import Any

import msgspec
import zstandard
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, -3.0, 1.0], "fov": 1.0, "near": 0.1,
    "far": 100.0, "image_height": 300, "image_width": 400, "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 0.0, 1.0],
}  # fmt: skip


class Visitor:
    """Knows the elements of his page by label, and answers while `there`."""

    def __init__(self, where: str) -> None:
        import viser
        from websockets.typing import Subprotocol

        self.there, self.elements, self.html, self.answered = True, dict[str, str](), "", 0
        self.nodes, self.notices = set[str](), list[str]()
        protocol = Subprotocol(f"viser-v{viser.__version__}")
        self._socket = connect(where.replace("http", "ws"), subprotocols=[protocol], max_size=None)
        self.values, self._panel = dict[str, Any](), ""
        threading.Thread(target=self._listen, daemon=True).start()
        self.send(CAMERA)

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Close the page."""
        self._socket.close()

    def send(self, message: dict[str, Any]) -> None:
        self._socket.send(msgspec.msgpack.encode(message))

    def put(self, label: str, value: Any) -> None:
        """Change an element, or press a button."""
        self.send({"type": "GuiUpdateMessage", "uuid": self.elements[label], "updates": {"value": value}})

    def _listen(self) -> None:
        try:
            for raw in self._socket:
                assert isinstance(raw, bytes)
                size = int.from_bytes(raw[8:16], "little")
                text = zstandard.ZstdDecompressor().decompress(raw[16 : 16 + size])
                for message in msgspec.msgpack.decode(text)["messages"]:
                    self._take(message)
        except ConnectionClosed:
            return

    def _take(self, message: dict[str, Any]) -> None:
        kind, props = message["type"], message.get("props", {})
        if kind == "GuiHtmlMessage":
            self._panel, self.html = message["uuid"], props["content"]
        elif kind.startswith("Gui") and "label" in props:
            self.elements[props["label"]] = message["uuid"]
            self.values[props["label"]] = message.get("value")
        elif kind == "GuiUpdateMessage" and message["uuid"] == self._panel:
            self.html = message["updates"]["content"]
        elif kind == "GuiUpdateMessage" and "value" in message["updates"]:
            label = next(label for label, uuid in self.elements.items() if uuid == message["uuid"])
            self.values[label] = message["updates"]["value"]
        elif kind == "GuiRemoveMessage":
            self.elements = {label: uuid for label, uuid in self.elements.items() if uuid != message["uuid"]}
        elif kind == "NotificationShowMessage":
            self.notices.append(props["body"])
        elif kind == "LocalStorageGetItemRequestMessage" and self.there:
            self.answered += 1
            reply = {"value": None, "error": None, "request_uuid": message["request_uuid"]}
            self.send({"type": "LocalStorageGetItemResponseMessage", **reply})
        elif "name" in message:
            self.nodes.add(message["name"])


def until(there: Any, longest_s: float = 30.0) -> bool:
    """Wait until `there()`; return whether it is."""
    end_s = time.monotonic() + longest_s
    while not there() and time.monotonic() < end_s:
        time.sleep(0.01)
    return bool(there())
