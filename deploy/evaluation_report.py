"""The page of an evaluation: its arms with intervals, what may be said of them, the pairs behind it, and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.comparison import Difference, decimals, shown
from deploy.config import to_yaml
from deploy.evaluation_arms import Arm, EarlierArm
from deploy.evaluation_plots import differences_plot, pairs_plot, returns_plot
from deploy.machine import describe_machine
from deploy.render import LIMIT_S, PICTURES, draw
from deploy.report import DRAWN, number, page, pictures, plot, table
from deploy.storyboard import FRAMES, Scene, Shot, Storyboard
from deploy.telemetry import write_atomic

if TYPE_CHECKING:
    from deploy.kept_episodes import EpisodeResult
    from deploy.render import Backend

FPS = 25


def spread(part: Mapping[str, Any]) -> str:
    """Return mean and interval, as `812 [700, 901]`; dashes for what is not known."""
    digits = decimals(part["mean"])
    mean, lo, hi = (number(part[key], digits) for key in ("mean", "lo", "hi"))
    return f"{mean} [{lo}, {hi}]"


def rate(success: Mapping[str, float] | None) -> str:
    """Return a success rate and its interval in percent, as `90 % [79, 96]`."""
    if success is None:
        return "–"
    mean, lo, hi = (number(100 * success[key]) for key in ("mean", "lo", "hi"))
    return f"{mean} % [{lo}, {hi}]"


def write_evaluation(
    path: Path,
    arms: Sequence[Arm | EarlierArm],
    results: Mapping[str, Sequence[EpisodeResult]],
    report: Mapping[str, Any],
    videos: int,
    command: str,
) -> None:
    """Write the page; `results` are those of the arms that ran, the first of which is what the rest is compared with."""
    name = f"surefoot · evaluation of {escape(arms[0].name)} · seed {report['seed']}"
    every = {arms[0].name: report} | {arm["name"]: arm for arm in report["arms"]}
    returns = {arm: [e["return"] for e in part["per_episode"]] for arm, part in every.items()}
    others = {arm: values for arm, values in returns.items() if arm != arms[0].name}
    pairs = (
        "A line joins the two episodes that began from one seed; blue where the left arm earned more, red where less."
    )
    gaps = (
        f"Return of {arms[0].name} minus that of the arm, one dot per seed; the bar is the 95 % interval of its mean."
    )
    body = [
        f"<header><h1>{name}</h1>{_headline(report, arms[0].name)}</header>",
        _arms(arms, every),
        _differences(report),
        plot("Returns", "One dot per episode; the bar is the 95 % interval of the mean.", returns_plot(returns)),
        plot("Pairs", pairs, pairs_plot(arms[0].name, returns[arms[0].name], others)),
        plot("Differences", gaps, differences_plot(report["comparisons"], returns[arms[0].name], others)),
        _shown(arms, results, videos),
        _details(arms, report, command),
    ]
    write_atomic(path, page(name, body))


def _headline(report: Mapping[str, Any], name: str) -> str:
    said = [line for found in report["comparisons"] for line in found["verdict"]]
    lines = said or [f"{name}: mean return {spread(report)}, {report['n']} episode{'s' * (report['n'] > 1)}."]
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _arms(arms: Sequence[Arm | EarlierArm], every: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [
            escape(arm.name),
            escape(arm.about) or "as the first",
            str(every[arm.name]["n"]),
            spread(every[arm.name]),
            rate(every[arm.name]["success"]),
            number(every[arm.name].get("plan_ms", {}).get("p50"), 1, " ms"),
        ]
        for arm in arms
    ]
    head = ("arm", "asked for as", "episodes", "mean return [95 %]", "success [95 %]", "per plan, median")
    note = "Intervals: BCa bootstrap for returns, Wilson for success. A dash: unknown, or no such thing for this robot."
    return f"<section><h2>Arms</h2><p>{note}</p>{table(head, rows, frozenset({1}))}</section>"


def _differences(report: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(found["against"]),
            d["metric"],
            shown(Difference(**d)),
            f"{d['p_wilcoxon']:.2g}",
            f"{d['p_sign']:.2g}",
            f"{d['p_holm']:.2g}",
            "yes" if d["told_apart"] else "no",
        ]
        for found in report["comparisons"]
        for d in found["differences"].values()
    ]
    if not rows:
        return ""
    head = ("against", "metric", "difference [95 %]", "p, Wilcoxon", "p, sign", "p, Holm", "told apart")
    note = (
        "Paired by seed. Told apart: the bootstrap interval leaves 0 out, and p is below 0.05 after Holm's correction."
    )
    return f"<section><h2>Differences</h2><p>{note}</p>{table(head, rows, frozenset({1}))}</section>"


def chosen(results: Sequence[EpisodeResult], count: int) -> list[tuple[str, int]]:
    """Return `count` episodes from the worst to the best by return, with what each is; one alone is the median."""
    ranked = sorted((r for r in results if r.steps), key=lambda r: r.episode_return)
    if not ranked or not count:
        return []
    last, median = len(ranked) - 1, (len(ranked) - 1) // 2
    spots = [median] if count == 1 else [int(x) for x in np.linspace(0, last, min(count, len(ranked)))]
    names = {median: "the median"} if count == 1 else {median: "the median", last: "the best", 0: "the worst"}
    return [(names.get(spot, f"{spot + 1} of {len(ranked)}"), ranked[spot].episode) for spot in dict.fromkeys(spots)]


def storyboard(arms: Mapping[str, Sequence[EpisodeResult]], videos: int, dt_s: float) -> Storyboard:
    """Return the same episodes of all arms, side by side in the video and one above the other in the rows."""
    keys = {name: str(i) if i else "main" for i, name in enumerate(arms)}
    first, stride = next(iter(arms)), max(1, round(1 / (FPS * dt_s)))
    rows: list[tuple[str, Shot]] = []
    scenes: list[Scene] = []
    for what, episode in chosen(arms[first], videos):
        done = {name: results[episode] for name, results in arms.items()}
        longest = max(result.steps for result in done.values())
        for name, result in done.items():
            label = f"{what.capitalize()} of {first}, episode {episode + 1}: {name}, return "
            label += number(result.episode_return, decimals(result.episode_return))
            steps = [round(x) for x in np.linspace(0, longest, FRAMES)]
            rows.append((label, _shot(keys[name], result, steps, dt_s)))
        span = range(0, longest + 1, stride)
        scenes.append(Scene(what, tuple(_shot(keys[name], result, span, dt_s) for name, result in done.items())))
    return Storyboard(tuple(rows), tuple(scenes), {key: name for name, key in keys.items()})


def _shot(arm: str, result: EpisodeResult, steps: Sequence[int], dt_s: float) -> Shot:
    captions = tuple(
        f"over after {result.steps * dt_s:.1f} s"
        if step > result.steps
        else f"#{result.episode + 1} {step * dt_s:.1f} s"
        for step in steps
    )
    return Shot(arm, result.episode, tuple(min(step, result.steps) for step in steps), captions, result.steps)


def _shown(arms: Sequence[Arm | EarlierArm], results: Mapping[str, Sequence[EpisodeResult]], videos: int) -> str:
    """Return the section with pictures of the arms that ran."""
    from envs.robots import robot_spec

    (cfg, *_) = (arm.cfg for arm in arms if isinstance(arm, Arm))
    story = storyboard(results, videos, robot_spec(cfg.robot, cfg.version).dt_s)
    with tempfile.TemporaryDirectory(prefix="surefoot-") as name:
        folder = Path(name)
        for arm, done in zip(story.names, results.values(), strict=True):
            where = folder if arm == "main" else folder / arm
            where.mkdir(exist_ok=True)
            needed = {shot.key: shot.episode for scene in story.scenes for shot in scene.shots if shot.arm == arm}
            poses: dict[str, Any] = {key: done[episode].poses_TP for key, episode in needed.items()}
            np.savez(where / "poses.npz", **poses)
        backend = draw(folder, cfg.robot, cfg.version, story, PICTURES[cfg.pictures], LIMIT_S * max(1, videos))
        return _drawn(pictures(folder, story, backend), backend)


def _drawn(section: str, backend: Backend | None) -> str:
    """Return the section, and at its end what drew it."""
    return section.replace("</section>", f"<p>Pictures: {DRAWN[backend]}.</p></section>") if backend else ""


def _details(arms: Sequence[Arm | EarlierArm], report: Mapping[str, Any], command: str) -> str:
    machine = describe_machine()
    rows = [
        ("status", report["status"]),
        ("commit", report["commit"]),
        ("first seed of an episode", f"{report['per_episode'][0]['env_seed']} (from --seed {report['seed']})"),
        (
            "charged to a plan",
            number(report["plan_latency_s"], 3, " s") if report["plan_latency_s"] is not None else "as measured",
        ),
        ("refused as not finite", str(report["nonfinite_rejected"])),
        ("machine", f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}"),
    ]
    shown_rows = [[escape(name), escape(str(value))] for name, value in rows]
    configs = "".join(
        f"<details><summary>Configuration of {escape(arm.name)}</summary><pre>{escape(to_yaml(arm.cfg))}</pre></details>"
        for arm in arms
        if isinstance(arm, Arm)
    )
    about = f"<pre>{escape(command)}</pre>{table(('', ''), shown_rows)}{configs}"
    return f"<section><h2>About this evaluation</h2>{about}</section>"
