"""The target's end of the draft process: asks, waits, and does without while it is gone."""

from __future__ import annotations

import json
import logging
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from deploy.goal_service.draft_process import DraftConfig, Measured, receive
from deploy.goal_service.drafters import Proposal
from deploy.goal_service.rows import Row

_log = logging.getLogger(__name__)
FIRST_S = 0.5
"""A process's first drafts are waited for so long; what it takes is not known yet ..."""
LEAST_S = 0.1
"""... later ones at least so long, or ..."""
PATIENCE = 3.0
"""... so many times what drafting has taken of late. A draft that is later is not used: texts go on without it meanwhile."""
DEAD_S = 5.0
"""A process that is so late is taken for dead."""
START_S = 120.0
"""One that is not up by then is started anew."""
AGAIN_S, LONGEST_S = 1.0, 60.0
"""Pause before another is started: the first, doubled with each that failed, and the longest."""
STEADY_S = 30.0
"""One that has answered for so long did not fail when it goes."""
BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError)
"""What a line to a process that is gone or talks nonsense raises."""


class DraftLink:
    """A draft process that is started in the background, and again when it is gone.

    `ready`, `propose`, `judged` and `end` are for one thread; the others are for any.
    """

    def __init__(self, cfg: DraftConfig) -> None:
        self.cfg, self.seen = cfg, Measured()
        self.restarts, self.hits, self.misses, self.failures, self.late = -1, 0, 0, 0, 0
        """`failures`: in a row, of starts and of processes that did not last; `late`: drafts that were not waited for."""
        self.taken_on_hit = self.taken_on_miss = 0
        """Drafted tokens that were taken, of drafts that were ready and of others."""
        self._line: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, int] = {}
        """Tokens of each text that the process knows."""
        self._accepted: dict[int, int] = {}
        self._ended: set[int] = set()
        self._late_s: float | None = None
        """When the draft was asked for that has not come yet."""
        self._up_s, self._again_s = 0.0, 0.0
        self._closed = threading.Event()
        self._starter = threading.Thread(target=self._start, name="draft process", daemon=True)
        self._starter.start()

    @property
    def up(self) -> bool:
        """Whether there is a process."""
        return self._line is not None

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return None if self._process is None else self._process.pid

    @property
    def state(self) -> str:
        """What the process does, in one line."""
        if self.up:
            return "up" if self._late_s is None else "late"
        if self.again_s > 0:
            return f"gone, {self.failures} in a row; the next is started in {self.again_s:.0f} s"
        return "starting"

    @property
    def again_s(self) -> float:
        """Seconds until another is started; 0 where none is waited for."""
        return max(0.0, self._again_s - time.monotonic())

    @property
    def pause_s(self) -> float:
        """How long after so many failures the next is started."""
        return min(LONGEST_S, AGAIN_S * 2.0 ** min(self.failures - 1, 32)) if self.failures else 0.0

    def stats(self) -> dict[str, float]:
        """Return counters, and what is so at present."""
        found = {"draft_up": self.up, "draft_restarts": max(0, self.restarts), "draft_late": self.late}
        found |= {"draft_failures_in_a_row": self.failures, "draft_retry_seconds": self.again_s}
        found |= {"cache_hits": self.hits, "cache_misses": self.misses}
        found |= {"accepted_on_hit": self.taken_on_hit, "accepted_on_miss": self.taken_on_miss}
        return found | {"prepare_seconds": self.seen.prepare_s, "jit_seconds": self.seen.jit_s}

    @property
    def patience_s(self) -> float:
        """How long a draft is waited for."""
        if not self.seen.prepare_s:
            return FIRST_S
        return min(DEAD_S, max(LEAST_S, PATIENCE * (self.seen.prepare_s + self.seen.jit_s)))

    def wait(self, timeout_s: float) -> bool:
        """Return whether it is up within that time."""
        self._starter.join(timeout_s)
        return self.up

    def ready(self) -> bool:
        """Return whether a draft may be asked for now: there is a process, and it has answered."""
        line = self._line
        if line is None or self._late_s is None:
            return line is not None
        try:
            if line.poll(0):
                _, self.seen = receive(line)
                self._late_s = None
            elif time.monotonic() - self._late_s > DEAD_S:
                raise TimeoutError(f"no draft within {DEAD_S:g} s")
        except BROKEN as error:
            self._lost(error)
        return self.up and self._late_s is None

    def propose(self, rows: Sequence[Row], lookahead: int) -> list[Proposal]:
        """Return a draft for each, and have it drafted on from there; empty ones while the process is gone or late."""
        if not self.ready():
            return [Proposal() for _ in rows]
        try:
            drafts = self._exchange(self._message(rows, lookahead))
        except BROKEN as error:
            self._lost(error)
            drafts = None
        if drafts is None:
            self._accepted |= {row.draftee.uid: -1 for row in rows}
            return [Proposal() for _ in rows]
        for row, draft in zip(rows, drafts, strict=True):
            self.hits += draft.hit
            self.misses += not draft.hit
            row.counts.hits += draft.hit
            row.counts.misses += not draft.hit
        return drafts

    def _exchange(self, message: dict[str, Any]) -> list[Proposal] | None:
        """Return what is drafted, or None where it does not come in time."""
        line = self._line
        assert line is not None
        asked_s = time.monotonic()
        line.send_bytes(json.dumps(message).encode())
        if not line.poll(self.patience_s):
            self._late_s = asked_s
            self.late += 1
            return None
        drafts, self.seen = receive(line)
        return drafts

    def _message(self, rows: Sequence[Row], lookahead: int) -> dict[str, Any]:
        ended = [uid for uid in self._ended if uid in self._known]
        self._ended.clear()
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
        if self._late_s is not None:  # it had none: what was asked for has not come
            return
        self._accepted[row.draftee.uid] = accepted
        if draft.hit:
            self.taken_on_hit += accepted
        else:
            self.taken_on_miss += accepted

    def end(self, uid: int) -> None:
        """Have it forget a text."""
        self._ended.add(uid)

    # --- life ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a process until one is up, less and less often."""
        self._kill()
        while True:
            self._again_s = time.monotonic() + self.pause_s
            if self._closed.wait(self.pause_s):
                return
            ours, process = self._spawn()
            line = Connection(ours.detach())
            try:
                if not line.poll(START_S):
                    raise TimeoutError(f"not up within {START_S:g} s")
                line.recv_bytes()
            except (EOFError, OSError) as error:
                line.close()
                self.failures += 1
                why = f"exit code {process.wait()}" if _ended(process) else str(error)
                _log.warning("the draft process did not start (%s); texts go on without it", why)
                self._kill()
                continue
            self._known, self._accepted, self._late_s, self.seen = {}, {}, None, Measured()
            self._up_s = time.monotonic()
            self.restarts += 1
            self._line = line
            return

    def _spawn(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """Return a new process, and our end of the line to it."""
        ours, theirs = socket.socketpair()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # it may stop in the middle of a message
            ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 1, 0))
        command = [sys.executable, "-m", "deploy.goal_service.draft_process", str(theirs.fileno())]
        self._process = process = subprocess.Popen(
            [*command, json.dumps(asdict(self.cfg))], pass_fds=[theirs.fileno()], start_new_session=True
        )
        theirs.close()
        return ours, process

    def _lost(self, error: Exception) -> None:
        _log.warning("the draft process is gone (%s); texts go on without it until another is up", error)
        line, self._line, self._late_s = self._line, None, None
        if line is not None:
            line.close()
        self.failures = 0 if time.monotonic() - self._up_s > STEADY_S else self.failures + 1
        self._starter = threading.Thread(target=self._start, name="draft process", daemon=True)
        self._starter.start()

    def _kill(self) -> None:
        """End the process, whatever it does: it has nothing to keep."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        self._kill()
        self._starter.join(5)
        self._kill()
        line, self._line = self._line, None
        if line is not None:
            line.close()


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process that has closed its end of the line is over."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return False
    return True
