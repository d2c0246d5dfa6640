"""Who goes first when there are more processes than cores."""

from __future__ import annotations

import os

FIFO = 20


def loop_first() -> str:
    """Put the calling thread before everything that is not real time, where the system grants it; return what came of it.

    What it starts later (threads, processes) does not inherit that.
    """
    if not hasattr(os, "sched_setscheduler"):
        return "normal: this system has no SCHED_FIFO"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(FIFO))
    except PermissionError:
        return "normal: SCHED_FIFO was refused (needs CAP_SYS_NICE or an rtprio limit)"
    return f"SCHED_FIFO {FIFO}"


def loop_like_others() -> None:
    """Put the calling thread back among the others."""
    if hasattr(os, "sched_setscheduler"):
        # only CAP_SYS_NICE may take the flag back, and nobody among the others minds it
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
