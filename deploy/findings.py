"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What a finding means."""

    OK = "ok"
    SLOW = "limited"  # everything works, some of it slowly or without pictures
    FAIL = "fails"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was seen, what it means, and what to do about it."""

    name: str
    seen: str
    verdict: Verdict = Verdict.OK
    advice: str = ""
