"""Grammars are built here, and tried first in a process that may be ended: some small ones would take minutes, or all memory.

The process is given the vocabulary once, then one grammar after another; the kernel ends it where one takes too much, and another is
started for the next. What has been tried there takes as long again here, and no longer.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from deploy.goal_service.requests import Grammar

_log = logging.getLogger(__name__)
_COMPACT = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
LIMITS = LLParserLimits(max_items_in_row=500, step_max_items=20_000, verbose_errors=False)
"""Ways to read a text that are followed at once: a step with all of them takes tens of milliseconds, a plain one less than one."""
TRIAL_S = 1
"""Of a core, to build a grammar and look at its first tokens; loading the process does not count."""
WALL_S = 30.0
"""The same by the clock."""
TRIAL_BYTES = 1 << 30
"""That building it may take."""


KEPT = 64
"""Grammars that took too much and need not be tried again."""


class Tokens:
    """A vocabulary as llguidance asks for it, without the tokenizer: what is forced is not known."""

    def __init__(self, tokens: Sequence[bytes], eos: int, bos: int | None, special: Sequence[int]) -> None:
        self.tokens, self.eos_token_id, self.bos_token_id, self.special_token_ids = tokens, eos, bos, special

    def __call__(self, text: str) -> list[int]:
        """Return no tokens."""
        return []


def build(tokenizer: LLTokenizer, grammar: Grammar) -> LLMatcher:
    """Return a matcher at the beginning. Raises ValueError, in one line, for what is no grammar, or cannot be followed even there."""
    try:
        if grammar.kind == "json":  # without white space, so that more is forced
            source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=_COMPACT)  # pyright: ignore
        else:
            kinds = {"regex": LLMatcher.grammar_from_regex, "lark": LLMatcher.grammar_from_lark}
            source = kinds[grammar.kind](grammar.source)
    except ValueError as error:
        raise bad(grammar, str(error)) from None
    matcher = LLMatcher(tokenizer, source, log_level=0, limits=LIMITS)
    first = matcher.deep_copy()
    first.compute_bitmask()
    if first.is_error():
        raise bad(grammar, first.get_error())
    return matcher


def bad(grammar: Grammar, why: str) -> ValueError:
    """Return what is said of a grammar that is none."""
    return ValueError(f"bad {grammar.kind} grammar: {one_line(why)}")


def one_line(text: str) -> str:
    """Return a message as one line that is not too long."""
    return " ".join(text.replace("<non-verbose/>", "").split())[:300]


class Trial:
    """The process in which grammars are tried, started when there is one to try; any thread may ask."""

    def __init__(self, tokens: Tokens) -> None:
        texts = [token.decode("latin-1") for token in tokens.tokens]
        known = {"tokens": texts, "eos": tokens.eos_token_id, "bos": tokens.bos_token_id}
        self._known = json.dumps(known | {"special": list(tokens.special_token_ids)}).encode()
        self._lock = threading.Lock()
        self._line: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._refused: deque[Grammar] = deque(maxlen=KEPT)

    def check(self, grammar: Grammar) -> None:
        """Raise ValueError for what is no grammar, or takes too long or too much memory to build."""
        took = bad(grammar, f"to build it takes more than {TRIAL_S} s of a core or {TRIAL_BYTES >> 20} MiB")
        with self._lock:
            if grammar in self._refused:
                raise took
            try:
                line = self._line or self._start()
            except (OSError, EOFError) as error:
                self._end()
                _log.warning("the process that tries grammars does not start (%s); %s is not tried", error, grammar)
                return
            try:
                line.send_bytes(json.dumps(asdict(grammar)).encode())
                said = line.recv_bytes().decode() if line.poll(WALL_S) else None
            except (OSError, EOFError):
                said = None
            if said is None:
                self._end()
                self._refused.append(grammar)
                raise took
        if said:
            raise ValueError(said)

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "deploy.goal_service.building", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._line = line = Connection(ours.detach())
        line.send_bytes(self._known)
        line.recv_bytes()
        return line

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()


def _grown_bytes() -> int:
    """Return the address space that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def main() -> int:
    """Try the grammars that come over the socket that was handed over, each with so much time and memory."""
    line = Connection(int(sys.argv[1]))
    os.nice(5)
    known = json.loads(line.recv_bytes())
    tokens = Tokens([text.encode("latin-1") for text in known["tokens"]], known["eos"], known["bos"], known["special"])
    tokenizer = LLTokenizer(TokenizerWrapper(tokens), n_vocab=len(tokens.tokens))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    line.send_bytes(b"ready")
    while True:
        try:
            grammar = Grammar(**json.loads(line.recv_bytes()))
        except EOFError:
            return 0
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + TRIAL_S
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_AS, (_grown_bytes() + TRIAL_BYTES, resource.RLIM_INFINITY))
        try:
            build(tokenizer, grammar)
            said = ""
        except ValueError as error:
            said = str(error)
        line.send_bytes(said.encode())


if __name__ == "__main__":
    sys.exit(main())
