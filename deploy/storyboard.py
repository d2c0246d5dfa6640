"""Which moments of a run are worth a picture: around the break, and the same episode with and without adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deploy.history import History
    from deploy.records import EpisodeRecord

FRAMES = 6  # pictures in a row
AROUND_S = (2.0, 3.0)  # of the video, before and after the break
ADAPTING = {"main": "adapting", "control": "not adapting"}


@dataclass(frozen=True)
class Shot:
    """Steps of one episode of one arm; an episode that is over by then shows its last pose, and says so."""

    arm: str  # main, or the folder of another's poses
    episode: int
    steps: tuple[int, ...]
    captions: tuple[str, ...]
    last_step: int

    @property
    def key(self) -> str:
        """Where the poses are."""
        return f"episode_{self.episode}"


@dataclass(frozen=True)
class Scene:
    """A part of the video: shots side by side, as long as each other."""

    title: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Storyboard:
    """Rows of pictures for the report, scenes for the video."""

    rows: tuple[tuple[str, Shot], ...]
    scenes: tuple[Scene, ...]
    names: Mapping[str, str] = field(default_factory=lambda: ADAPTING)
    """What the arms are called where several are side by side."""


def at_break(history: History) -> EpisodeRecord | None:
    """Return the episode in which the first fault starts."""
    fault_s = history.fault_s
    if fault_s is None:
        return None
    return next((e for e in history.episodes if e.start_s - 1e-9 <= fault_s < e.end_s and e.steps), None)


def typical(episodes: Sequence[EpisodeRecord]) -> EpisodeRecord | None:
    """Return the episode of median return among those that can be drawn."""
    ranked = sorted((e for e in episodes if e.steps and e.full), key=lambda e: e.episode_return)
    return ranked[(len(ranked) - 1) // 2] if ranked else None


def shot(arm: str, e: EpisodeRecord, steps: Sequence[int], dt_s: float, zero: int = 0) -> Shot:
    """Return the shot of an episode at `steps`, captioned with the time since step `zero`."""
    captions = tuple(
        f"over after {e.steps * dt_s:.1f} s" if step > e.steps else f"{(step - zero) * dt_s:+.2f} s" for step in steps
    )
    return Shot(arm, e.episode, tuple(min(step, e.steps) for step in steps), captions, e.steps)


def storyboard(history: History, control: Sequence[EpisodeRecord], dt_s: float, fps: int = 25) -> Storyboard:
    """Return what to draw of a run, whatever has become of it."""
    stride = max(1, round(1 / (fps * dt_s)))
    rows: list[tuple[str, Shot]] = []
    scenes: list[Scene] = []
    broken = at_break(history)
    if broken is not None and history.fault_s is not None:
        zero = round((history.fault_s - broken.start_s) / dt_s)
        before = min(zero, round(0.5 / dt_s))
        after = min(broken.steps - zero, round(1.5 / dt_s))
        steps = [zero - before, zero - before // 2, zero, *_spread(zero, zero + after, FRAMES - 2)[1:]]
        rows.append((f"The break (0 s), in episode {broken.episode + 1}", shot("main", broken, steps, dt_s, zero)))
        begin, end = zero - round(AROUND_S[0] / dt_s), zero + round(AROUND_S[1] / dt_s)
        span = range(max(0, begin), min(broken.steps, end) + 1, stride)
        scenes.append(Scene("the break", (shot("main", broken, span, dt_s, zero),)))
    last = typical(history.episodes_in("adapted")[0]) or (None if scenes else typical(history.episodes))
    if last is not None:
        rows += _pair_rows(last, _same(control, last), dt_s)
        scenes.append(_pair_scene(last, _same(control, last), dt_s, stride))
    return Storyboard(tuple(rows), tuple(scenes))


def _same(control: Sequence[EpisodeRecord], e: EpisodeRecord) -> EpisodeRecord | None:
    return next((c for c in control if c.episode == e.episode and c.steps), None)


def _spread(begin: int, end: int, count: int) -> list[int]:
    return [round(x) for x in np.linspace(begin, end, count)]


def _pair_rows(e: EpisodeRecord, beside: EpisodeRecord | None, dt_s: float) -> list[tuple[str, Shot]]:
    steps = _spread(0, max(e.steps, beside.steps if beside else 0), FRAMES)
    name = f"episode {e.episode + 1}, return {e.episode_return:.0f}"
    if beside is None:
        return [(name.capitalize(), shot("main", e, steps, dt_s))]
    return [
        (f"After adaptation: {name}", shot("main", e, steps, dt_s)),
        (
            f"The same start without adaptation: return {beside.episode_return:.0f}",
            shot("control", beside, steps, dt_s),
        ),
    ]


def _pair_scene(e: EpisodeRecord, beside: EpisodeRecord | None, dt_s: float, stride: int) -> Scene:
    span = range(0, max(e.steps, beside.steps if beside else 0) + 1, stride)
    if beside is None:
        return Scene(f"episode {e.episode + 1}", (shot("main", e, span, dt_s),))
    shots = (shot("main", e, span, dt_s), shot("control", beside, span, dt_s))
    return Scene("adapted | not adapted", shots)
