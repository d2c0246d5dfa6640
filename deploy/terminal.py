"""What a run looks like while it runs: a live panel on a terminal, one plain line per episode elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np

    from deploy.config import RunConfig
    from deploy.history import History
    from deploy.records import EpisodeRecord
    from deploy.session import View

Speed = Callable[["np.ndarray"], float]
COLOURS = {"healthy": "green", "broken": "red", "adapted": "cyan"}
ALARM_SHOWN_S = 3.0  # of simulated time


def clock(seconds: float) -> str:
    """Return a duration as people write it: 1:05."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}" if math.isfinite(seconds) else "?"


def gauge(score: float, threshold: float, width: int = 32) -> Text:
    """Return a bar on a log scale with the threshold marked at three quarters of it."""
    if not (math.isfinite(score) and math.isfinite(threshold) and threshold > 0):
        return Text("·" * width, style="dim")
    mark = width * 3 // 4
    level = math.log10(max(score / threshold, 1e-2)) / 2 + 1  # 0 at a hundredth of the threshold, 1 at the threshold
    filled = min(width, max(0, round(level * mark)))
    style = "bold red" if score >= threshold else "yellow" if level > 0.85 else "green"
    bar = Text("█" * filled + "·" * (width - filled), style=style)
    bar.stylize("bold white on red" if score >= threshold else "bold white", mark, mark + 1)
    return bar


class Estimate:
    """What remains of a run, from the wall time per simulated second so far."""

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg, self._began_s = cfg, time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Wall time since the start [s]."""
        return time.monotonic() - self._began_s

    def remaining_s(self, view: View, history: History) -> float:
        """Return an estimate of the wall time that is left [s]; infinite before there is one."""
        if view.t_s < 1.0 or math.isinf(self._cfg.max_s):
            return math.inf
        rate = self.elapsed_s / view.t_s
        whole = [e.end_s - e.start_s for e in history.episodes if e.whole]
        typical_s = sum(whole) / len(whole) if whole else view.t_s
        by_count_s = (self._cfg.max_episodes - len(whole)) * typical_s
        left_s = min(self._cfg.max_s - view.t_s, by_count_s)
        if history.fault_s is not None and self._cfg.adapt:
            left_s = min(left_s, self._until_adapted(view, history) + self._episodes_left(history) * typical_s)
        return max(0.0, rate * left_s)

    def _until_adapted(self, view: View, history: History) -> float:
        if history.adapted_s is not None or history.fault_s is None:
            return 0.0
        if view.due_s is not None:
            return max(0.0, view.due_s - view.t_s)
        usual_s = 30.0 if self._cfg.adapt_latency_s is None else self._cfg.adapt_latency_s
        return max(0.0, history.fault_s - view.t_s) + usual_s

    def _episodes_left(self, history: History) -> int:
        done, partial = history.episodes_in("adapted")
        return self._cfg.adapted_episodes - (0 if partial else len(done))


def panel(
    view: View,
    history: History,
    cfg: RunConfig,
    estimate: Estimate,
    speed: Speed,
    arm_done: int | None,
    more: Mapping[str, str],
) -> Panel:
    """Return the live picture of a run; `more` rows come last."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", justify="right")
    rows.add_column()
    returns = " ".join(f"{e.episode_return:.0f}" for e in history.episodes[-8:])
    beside = "" if arm_done is None else f"   (without adaptation: {arm_done} done)"
    rows.add_row("phase", Text(view.phase, style=f"bold {COLOURS[view.phase]}"))
    rows.add_row("episode", f"{view.episode + 1}   at {view.t_s:.2f} s{beside}")
    speed_m_s = math.nan if view.observation is None else speed(view.observation.state_O)
    if math.isfinite(speed_m_s):
        rows.add_row("speed", f"{speed_m_s:+.2f} m/s")
    if view.observation is None or math.isfinite(view.plan_ms):  # nothing but a planner is surprised, and adapts
        rows.add_row("surprise", _surprise(view))
        rows.add_row("plan", f"{view.plan_ms:.1f} ms   age {view.plan_age_ms:.0f} ms")
        rows.add_row("adapting", _adapting(view, history))
    rows.add_row("returns", returns or "-")
    left_s = estimate.remaining_s(view, history)
    rows.add_row("time", f"{clock(estimate.elapsed_s)} elapsed   about {clock(left_s)} left")
    for name, text in more.items():
        rows.add_row(name, text)
    parts: list[RenderableType] = [rows]
    if view.alarm_s is not None and view.t_s - view.alarm_s < ALARM_SHOWN_S:
        parts.append(Text(f" ALARM at {view.alarm_s:.2f} s: this is not the body I know ", style="bold white on red"))
    return Panel(Group(*parts), title=f"surefoot  {cfg.preset}  seed {cfg.seed}", border_style=COLOURS[view.phase])


def _surprise(view: View) -> Text:
    if view.reading is None:
        return gauge(math.nan, math.nan)
    reading = view.reading
    note = "  provisional" if reading.provisional else ""
    return gauge(reading.score, reading.threshold).append(f"  {reading.score:.2f} / {reading.threshold:.2f}{note}", "")


def _adapting(view: View, history: History) -> str:
    if view.adapting_s is not None:
        if view.due_s is None:
            return f"fitting what happened since {view.adapting_s:.1f} s ..."
        share = (view.t_s - view.adapting_s) / max(view.due_s - view.adapting_s, 1e-9)
        return f"{100 * share:.0f} %   new weights at {view.due_s:.1f} s"
    if not history.adaptations:
        return "-"
    last = history.adaptations[-1]
    verdict = "accepted" if last.accepted else "refused"
    return f"{verdict} at {last.t_s:.1f} s: {last.heldout_before:.3g} -> {last.heldout_after:.3g} ({last.part})"


class Display:
    """Shows a run; `plain` forces one line per episode."""

    def __init__(
        self,
        cfg: RunConfig,
        view: View,
        history: History,
        speed: Speed,
        arm_done: Callable[[], int | None],
        console: Console | None = None,
        rows: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._console = console or Console()
        self._cfg, self._view, self._history = cfg, view, history
        self._speed, self._arm_done, self._rows = speed, arm_done, rows
        self._estimate, self._stack = Estimate(cfg), ExitStack()
        self._told = [0, 0, 0, 0]

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._stack.enter_context(
                Live(get_renderable=self._panel, console=self._console, refresh_per_second=4, transient=True)
            )
        elif keys := self._rows().get("keys"):
            self._console.print(keys, highlight=False, soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _panel(self) -> Panel:
        now = self._arm_done(), self._rows()
        return panel(self._view, self._history, self._cfg, self._estimate, self._speed, *now)

    def tell(self) -> None:
        """Print what has happened since the last call, one line per alarm, adaptation, episode and goal in words."""
        history = self._history
        alarms = [f"ALARM at {reading.t_s:.2f} s, episode {n + 1}" for n, reading in history.alarms]
        verdicts = [f"adaptation at {r.t_s:.1f} s: {_verdict(r.accepted)} ({r.reason})" for r in history.adaptations]
        episodes = [self._episode(e) for e in history.episodes]
        notes = [f"goal at {note.t_s:.1f} s: {note.text}" for note in history.notes]
        for which, lines in enumerate((alarms, verdicts, episodes, notes)):
            for line in lines[self._told[which] :]:
                self._console.print(line, highlight=False, soft_wrap=True)
            self._told[which] = len(lines)

    def _episode(self, e: EpisodeRecord) -> str:
        left_s = self._estimate.remaining_s(self._view, self._history)
        left = f", about {clock(left_s)} left" if math.isfinite(left_s) else ""
        plan = f"  plan {self._view.plan_ms:.0f} ms" if math.isfinite(self._view.plan_ms) else ""
        phase = self._history.phase_at(e.start_s)
        return (
            f"episode {e.episode + 1:3d}  {phase:7s}  {e.start_s:7.2f} .. {e.end_s:7.2f} s  "
            f"return {e.episode_return:8.1f}  {e.ended}{plan}  "
            f"{clock(self._estimate.elapsed_s)} elapsed{left}"
        )


def _verdict(accepted: bool) -> str:
    return "accepted" if accepted else "refused"
