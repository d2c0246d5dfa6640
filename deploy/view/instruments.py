"""The numbers of a frame as a panel of HTML, and in words."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from deploy.guard import Mode
from deploy.realtime.feed import MODES, SOURCES

if TYPE_CHECKING:
    from deploy.realtime.feed import Feed

MARK = 0.75
"""Where on the gauge the threshold is."""
STALE_S = 1.0
"""A frame that is older than this is said to be."""
_TEXT = "font: 13px/1.5 monospace; padding: 2px 10px"
_COLOURS = {Mode.RUNNING: "#2e7d32", Mode.HOLD: "#e65100", Mode.ESTOP: "#c62828"}


def mode_of(frame: Any) -> Mode:
    """Return the mode of a frame."""
    return Mode(MODES[int(frame["mode"])])


def reason_of(frame: Any) -> str:
    """Return why the robot is in that mode."""
    return frame["reason"].tobytes().rstrip(b"\0").decode(errors="replace")


def ms(seconds: float) -> str:
    """Return a duration in words."""
    return f"{1e3 * seconds:.1f} ms" if math.isfinite(seconds) else "none"


def gauge(score: float, threshold: float, alarm: bool) -> str:
    """Return a bar that reaches its mark at the threshold, as HTML."""
    if not threshold > 0:
        return "surprise: not measured"
    share = min(1.0, max(0.0, MARK * score / threshold))
    colour = "#c62828" if alarm or score >= threshold else "#f9a825" if score > 0.6 * threshold else "#2e7d32"
    bar = f'<div id="gauge" style="width: {100 * share:.0f}%; height: 10px; background: {colour}"></div>'
    mark = f'<div style="position: absolute; top: 0; left: {100 * MARK:.0f}%; width: 2px; height: 10px; background: #000"></div>'
    words = f"surprise {score:.2f} of {threshold:.2f}{' ALARM' if alarm else ''}"
    return f'{words}<div style="position: relative; background: #ddd">{bar}{mark}</div>'


def panel(frame: Any, feed: Feed, silent_s: float) -> str:
    """Return the instruments as HTML; `silent_s` [s]: how long ago the frame was new."""
    mode, reason = mode_of(frame), html.escape(reason_of(frame))
    limited = ", ".join(feed.names(int(frame["flags"]))) or "nothing"
    stale = f'<b style="color: #c62828">no news for {silent_s:.0f} s</b>' if silent_s > STALE_S else ""
    lines = [
        f'<b id="mode" style="color: {_COLOURS.get(mode, "#555")}">{mode.value.upper()}</b> {reason} {stale}',
        gauge(float(frame["score"]), float(frame["threshold"]), bool(frame["alarm"])),
        f"source {SOURCES[int(frame['source'])]}, limited by {html.escape(limited)}",
        f"plan age {ms(float(frame['age_s']))}, made in {ms(1e-3 * float(frame['plan_ms']))}",
        f"tick late by {ms(float(frame['late_s']))}",
        f"return {float(frame['return']):.1f}, reward {float(frame['reward']):.2f}",
        f"episode {int(frame['episode'])}, step {int(frame['step'])}, {float(frame['t_s']):.2f} s",
        html.escape(feed.goals.answer),
    ]
    return f'<div style="{_TEXT}">' + "".join(f"<div>{line}</div>" for line in lines) + "</div>"
