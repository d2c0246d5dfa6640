"""A run's folder: lines are whole or absent, other files are whole or old."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.records import EventRecord, TimingRecord, plain, to_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

ROOT = Path(__file__).resolve().parent.parent


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; floats to nine significant digits, non-finite ones as null."""
    write_atomic(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def commit() -> str:
    """Return the commit of the checkout, with `+` where files differ from it; outside a checkout what SUREFOOT_COMMIT says."""
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("SUREFOOT_COMMIT", "unknown")
    return out.stdout.strip()


def new_folder(preset: str, out: Path | None) -> Path:
    """Make and return `out`, or `runs/<time>-<preset>`. Raises ValueError where a run is already."""
    if out is not None:
        if (out / "events.jsonl").exists():
            raise ValueError(f"--out {out} holds a run already; name another folder")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--out {out} cannot be made: {error.strerror}") from None
        return out
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{preset}"
    for attempt in range(100):
        folder = Path("runs") / (stem if not attempt else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"runs/{stem} and 99 others exist already")


class Log:
    """The two growing files of a run: `events.jsonl` (the same for the same seed) and `timings.jsonl` (measured)."""

    def __init__(self, folder: Path, shield: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self.shield = shield
        self._stack = ExitStack()
        self._events, self._timings = (
            self._stack.enter_context((folder / name).open("x", buffering=1, encoding="utf-8"))
            for name in ("events.jsonl", "timings.jsonl")
        )

    def event(self, record: EventRecord) -> None:
        """Append one line in simulated time."""
        line = to_line(record)
        with self.shield():
            self._events.write(line + "\n")

    def timing(self, record: TimingRecord) -> None:
        """Append one line in wall time."""
        line = to_line(record)
        with self.shield():
            self._timings.write(line + "\n")

    def close(self) -> None:
        """Close both files."""
        self._stack.close()
