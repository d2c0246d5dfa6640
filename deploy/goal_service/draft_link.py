"""The target's end of the draft process: asks, waits, and does without while it is gone."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from deploy.goal_service.draft_process import DraftConfig, Measured, receive
from deploy.goal_service.drafters import Proposal
from deploy.goal_service.rows import Row

_log = logging.getLogger(__name__)
WAIT_S = 5.0
"""A draft process that takes longer than this to answer is taken for dead."""
AGAIN_S = 1.0
"""Pause before another is started."""


class DraftLink:
    """A draft process that is started in the background, and again when it is gone."""

    def __init__(self, cfg: DraftConfig) -> None:
        self.cfg, self.seen = cfg, Measured()
        self.restarts, self.hits, self.misses = -1, 0, 0
        self.taken_on_hit = self.taken_on_miss = 0
        """Drafted tokens that were taken, of drafts that were ready and of others."""
        self._line: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, int] = {}
        """Tokens of each text that the process knows."""
        self._accepted: dict[int, int] = {}
        self._closed = threading.Event()
        self._starter = threading.Thread(target=self._start, name="draft process", daemon=True)
        self._starter.start()

    @property
    def up(self) -> bool:
        """Whether there is a process that answers."""
        return self._line is not None

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return None if self._process is None else self._process.pid

    def wait(self, timeout_s: float) -> bool:
        """Return whether it is up within that time."""
        self._starter.join(timeout_s)
        return self.up

    def propose(self, rows: Sequence[Row], lookahead: int) -> list[Proposal]:
        """Return a draft for each, and have it drafted on from there; empty ones while the process is gone."""
        if not self.up:
            return [Proposal() for _ in rows]
        try:
            drafts = self._exchange(self._message(rows, lookahead))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            self._lost(error)
            return [Proposal() for _ in rows]
        for row, draft in zip(rows, drafts, strict=True):
            self.hits += draft.hit
            self.misses += not draft.hit
            row.counts.hits += draft.hit
            row.counts.misses += not draft.hit
        return drafts

    def _exchange(self, message: dict[str, Any]) -> list[Proposal]:
        line = self._line
        assert line is not None
        line.send_bytes(json.dumps(message).encode())
        if not line.poll(WAIT_S):
            raise TimeoutError(f"no draft within {WAIT_S:g} s")
        drafts, self.seen = receive(line)
        return drafts

    def _message(self, rows: Sequence[Row], lookahead: int) -> dict[str, Any]:
        here = {row.draftee.uid for row in rows}
        ended = [uid for uid in self._known if uid not in here]
        begun, told = [], []
        for row in rows:
            who = row.draftee
            if who.uid not in self._known:
                sampling = asdict(who.sampling) | {"deadline_s": 1e9}  # JSON knows no infinity
                begun.append({"uid": who.uid, "tokens": who.tokens, "start": who.start, "sampling": sampling})
                told.append((who.uid, [], 0))
            else:
                told.append((who.uid, who.tokens[self._known[who.uid] :], self._accepted.get(who.uid, 0)))
        for uid in ended:
            del self._known[uid]
            self._accepted.pop(uid, None)
        self._known |= {row.draftee.uid: len(row.tokens) for row in rows}
        return {"ended": ended, "begun": begun, "rows": told, "lookahead": lookahead}

    def judged(self, row: Row, draft: Proposal, accepted: int) -> None:
        """Note how many of its drafted tokens a text took."""
        self._accepted[row.draftee.uid] = accepted
        if draft.hit:
            self.taken_on_hit += accepted
        else:
            self.taken_on_miss += accepted

    # --- life ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a process until one is up."""
        while not self._closed.is_set():
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", "deploy.goal_service.draft_process", str(theirs.fileno())]
            process = subprocess.Popen(
                [*command, json.dumps(asdict(self.cfg))], pass_fds=[theirs.fileno()], start_new_session=True
            )
            theirs.close()
            self._process = process
            line = Connection(ours.detach())
            try:
                line.recv_bytes()
            except (EOFError, OSError):
                line.close()
                _log.warning("the draft process did not start (exit code %s); texts go on without it", process.wait())
                self._closed.wait(AGAIN_S)
                continue
            self._known, self._accepted = {}, {}
            self.restarts += 1
            self._line = line
            return

    def _lost(self, error: Exception) -> None:
        _log.warning("the draft process is gone (%s); texts go on without it until another is up", error)
        self._stop()
        self._starter = threading.Thread(target=self._start, name="draft process", daemon=True)
        self._starter.start()

    def _stop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()
        if self._process is not None:
            try:
                os.kill(self._process.pid, signal.SIGTERM)
                self._process.wait(2)
            except ProcessLookupError:
                pass
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        self._stop()
        self._starter.join(AGAIN_S + 1)
        self._stop()
