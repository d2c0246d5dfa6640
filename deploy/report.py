"""`report.html`: a run as a story in one file, without links to anything outside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.config import to_yaml
from deploy.plots import adaptation_plot, returns_plot, surprise_plot
from deploy.render import PICTURES, draw
from deploy.storyboard import Storyboard, storyboard
from deploy.telemetry import write_atomic

if TYPE_CHECKING:
    from deploy.config import RunConfig
    from deploy.history import History
    from deploy.records import EpisodeRecord

STYLE = """
:root { --ink: #24292f; --dim: #66707a; --line: #e1e5e9; --red: #c62828; --blue: #1565c0; --green: #2e7d32; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f8fa; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 64px; }
header p { font-size: 1.3rem; line-height: 1.45; margin: .3rem 0 1.4rem; }
h1 { font-size: 1rem; letter-spacing: .04em; color: var(--dim); margin: 0; font-weight: 600; }
h2 { font-size: 1.1rem; margin: 0 0 .2rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin: 0 0 18px; }
section > p, figcaption { color: var(--dim); font-size: .92rem; margin: 0 0 .8rem; }
figure { margin: 0 0 14px; } figcaption { margin: 0 0 .25rem; }
img, video { width: 100%; height: auto; display: block; border-radius: 6px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 18px; }
.numbers div { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.numbers b { display: block; font-size: 1.5rem; line-height: 1.2; }
.numbers span { color: var(--dim); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; }
th { color: var(--dim); font-weight: 600; }
.healthy { color: var(--green); } .broken { color: var(--red); } .adapted { color: var(--blue); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; background: #f6f8fa; padding: 12px; }
summary { cursor: pointer; color: var(--dim); }
"""

SLOW = 2.0
"""Plans that take more than so many times the time between them cost a robot much of its return (benchmarks/latency.py)."""
DRAWN = {"egl": "MuJoCo (EGL)", "osmesa": "MuJoCo (OSMesa)", "drawn": "drawn from the poses"}


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """Return a number for people; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def scaled(value: float | None, scale: float | None) -> str:
    """Return a return: with a digit after the point where returns are small."""
    return number(value, 1 if scale is not None and abs(scale) < 100 else 0)


def mean_of(part: dict[str, Any] | None) -> str:
    """Return mean and interval, as `812 [700, 901]`."""
    if part is None or part["return_mean"] is None:
        return "–"
    mean, lo, hi = (scaled(part[key], part["return_mean"]) for key in ("return_mean", "lo", "hi"))
    return mean if part["lo"] is None else f"{mean} [{lo}, {hi}]"


def headline(summary: dict[str, Any]) -> str:
    """Return the run in a sentence or two, with its numbers."""
    if summary["fault_s"] is None:
        healthy = summary["phases"]["healthy"]
        told = f"{healthy['episodes']} episodes without a fault: mean return {mean_of(healthy)}. {_false(summary)}"
        return f"{told} {_slow(summary)}".strip()
    said = [f"{', '.join(summary['faults'])}: the robot broke at {summary['fault_s']:.1f} s."]
    real = [a["after_fault_s"] for a in summary["alarms"] if a["after_fault_s"] is not None]
    if real:
        said.append(f"The alarm came {real[0]:.2f} s later.")
    elif _watched(summary):
        said.append("No alarm was raised after it.")
    said.append(_adapted(summary))
    return " ".join([*said, _false(summary), _slow(summary)]).strip()


def _watched(summary: dict[str, Any]) -> bool:
    return summary["surprise_max"] is not None


def _false(summary: dict[str, Any]) -> str:
    count = summary["false_alarms"]
    if not _watched(summary):
        return (
            "Nothing watched for surprise: this agent has no monitor, or none that was calibrated (surefoot calibrate)."
        )
    return f"{count} false alarm{'s' if count != 1 else ''}." if count else "No false alarm."


def _slow(summary: dict[str, Any]) -> str:
    """Return a warning where plans took so long that the run says little about the planner, else nothing."""
    took_ms, due_ms = summary["plan_ms"]["p50"], summary["plan_due_ms"]
    if took_ms is None or due_ms is None or took_ms <= SLOW * due_ms:
        return ""
    return (
        f"PLANS CAME LATE: one took {took_ms:.0f} ms (median), where one is due each {due_ms:.0f} ms. Is the machine busy? With "
        f"--plan-latency {due_ms / 1e3:.3g} the robot moves as on a machine that keeps up."
    )


def _adapted(summary: dict[str, Any]) -> str:
    if summary["adapted_s"] is None:
        tried = len(summary["adaptations"])
        return f"{tried} adaptations were tried, none accepted." if tried else "Nothing was adapted."
    adapted, control = summary["phases"]["adapted"], summary["control_arm"]
    wait_s = summary["adapted_s"] - summary["fault_s"]
    said = (
        f"{wait_s:.0f} s after the break an adapted model took over, with which the mean return is {mean_of(adapted)}"
    )
    if control is None or control["return_mean"] is None:
        return f"{said}."
    return f"{said}; the same robot without adaptation gets {mean_of(control)}."


def inline(path: Path, kind: str) -> str:
    """Return a file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def plot(title: str, about: str, image: bytes | None) -> str:
    """Return a section with one plot; nothing if there is none."""
    if image is None:
        return ""
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return (
        f'<section><h2>{escape(title)}</h2><p>{escape(about)}</p><img alt="{escape(title)}" src="{source}"></section>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: frozenset[int] = frozenset()) -> str:
    """Return a table; cells are HTML already; `text` columns are aligned left."""
    cells = ["".join(f"<td{' class="text"' if n in text else ''}>{c}</td>" for n, c in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def pictures(folder: Path, story: Storyboard, backend: str | None) -> str:
    """Return the frame strips and the video."""
    if backend is None:
        return ""
    video = ""
    if (folder / "video.mp4").exists():
        source = inline(folder / "video.mp4", "video/mp4")
        video = f'<figure><video controls muted loop playsinline src="{source}"></video></figure>'
    strips = "".join(
        f'<figure><figcaption>{escape(label)}</figcaption><img alt="{escape(label)}" '
        f'src="{inline(folder / f"strip-{n}.png", "image/png")}"></figure>'
        for n, (label, _) in enumerate(story.rows)
    )
    return f"<section><h2>What happened</h2>{strips}{video}</section>"


def numbers(summary: dict[str, Any]) -> str:
    """Return the four or five numbers that matter."""
    real = [a["after_fault_s"] for a in summary["alarms"] if a["after_fault_s"] is not None]
    adapted, control = summary["phases"]["adapted"], summary["control_arm"]
    tiles = [
        (number(real[0] if real else None, 2, " s"), "from break to alarm"),
        (mean_of(adapted).split(" ")[0], "return, adapted"),
        (mean_of(control).split(" ")[0], "return, not adapted"),
        (number(summary["plan_ms"]["p50"], 1, " ms"), "per plan, median"),
        (number(summary["plan_age_ms"]["p99"], 0, " ms"), "age of a plan, 99 %"),
    ]
    shown = tiles if summary["fault_s"] is not None else tiles[3:]
    return '<div class="numbers">' + "".join(f"<div><b>{a}</b><span>{b}</span></div>" for a, b in shown) + "</div>"


def phases(summary: dict[str, Any]) -> str:
    """Return the table of phases, with the control arm beside the adapted one."""
    rows = []
    for name, part in [*summary["phases"].items(), ("without adaptation", summary["control_arm"])]:
        if part is None or not part["episodes"]:
            continue
        note = " (partly)" if part["partial"] else ""
        steps = number(part["steps"] / part["episodes"])
        label = f'<span class="{name.split()[0]}">{name}</span>{note}'
        rows.append([label, str(part["episodes"]), steps, mean_of(part)])
    head = ("phase", "episodes", "steps per episode", "mean return [95 %]")
    about = "The last row is the same robot, from the same seeds, over the episodes of the adapted phase."
    note = f"<p>{about}</p>" if summary["control_arm"] else ""
    return f"<section><h2>Phases</h2>{note}{table(head, rows)}</section>"


def adaptations(summary: dict[str, Any]) -> str:
    """Return the table of what was tried, and what the gate said."""
    if not summary["adaptations"]:
        return ""
    rows = [
        [
            number(a["t_s"], 1, " s"),
            escape(a["part"]),
            f"{a['play_steps']} in {a['play_episodes']}",
            number(a["heldout_before"], 4),
            number(a["heldout_after"], 4),
            "accepted" if a["accepted"] else "refused",
            escape(a["reason"]),
        ]
        for a in summary["adaptations"]
    ]
    head = ("at", "part", "steps in episodes", "before", "after", "", "why")
    return f"<section><h2>What was adapted</h2>{table(head, rows, frozenset({6}))}</section>"


def latents(cfg: RunConfig, history: History) -> str:
    """Return what a latent world model imagined, and what it knows; nothing for other agents."""
    from agents.latent import LatentConfig

    if not isinstance(cfg.agent, LatentConfig):
        return ""
    from deploy.dreams import dream, knowledge

    about = (
        "The longest episode, and below it what the model imagines of it from the first picture and the actions alone."
    )
    known = [[escape(name), number(value, 3)] for name, value in knowledge(cfg.agent)]
    head = "<h2>What the latents know</h2><p>Share of the variance that a linear probe reads off single latents, held-out episodes.</p>"
    rows = f"<section>{head}{table(('of', 'R2'), known)}</section>" if known else ""
    return plot("Imagination", about, dream(cfg.agent, cfg.robot, cfg.version, history.episodes)) + rows


def write_report(
    folder: Path, cfg: RunConfig, summary: dict[str, Any], history: History, control: Sequence[EpisodeRecord]
) -> None:
    """Write `report.html`, and `video.mp4` and its frame strips beside it, into the run's folder."""
    story = storyboard(history, control, history.dt_s)
    backend = draw(folder, cfg.robot, cfg.version, story, PICTURES[cfg.pictures])
    about = "How far the robot's reactions are from what its model predicts; log scale."
    heldout = "Error of the model on steps that it was not fitted to; lower is better. Refused ones are never used."
    arms = "Each bar is one episode" + ("; grey: the same seed without adaptation." if control else ".")
    name = f"surefoot · {escape(cfg.preset)} · seed {cfg.seed}"
    body = [
        f"<header><h1>{name}</h1><p>{escape(headline(summary))}</p></header>",
        numbers(summary),
        pictures(folder, story, backend),
        plot("Surprise", about, surprise_plot(history)),
        plot("Returns", arms, returns_plot(history, control)),
        plot("Prediction before and after adaptation", heldout, adaptation_plot(history)),
        latents(cfg, history),
        phases(summary),
        adaptations(summary),
        _details(cfg, summary, backend),
    ]
    write_atomic(folder / "report.html", page(name, body))


def page(name: str, body: Sequence[str]) -> str:
    """Return a whole page; `name` and the parts of `body` are HTML already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>"
    )


def _details(cfg: RunConfig, summary: dict[str, Any], backend: str | None) -> str:
    facts = [
        ("status", summary["status"]),
        ("commit", summary["commit"]),
        ("simulated", number(summary["simulated_s"], 1, " s")),
        ("took", number(summary["wall_s"], 0, " s")),
        ("plan, 50 % / 99 %", " / ".join(number(summary["plan_ms"][p], 1, " ms") for p in ("p50", "p99"))),
        ("plan age, 50 % / 99 %", " / ".join(number(summary["plan_age_ms"][p], 0, " ms") for p in ("p50", "p99"))),
        ("refused as not finite", str(summary["nonfinite_rejected"])),
        ("pictures", DRAWN.get(backend or "", "none")),
        ("certificate", summary["certificate"] or "none"),
    ]
    rows = [[escape(name), escape(str(value))] for name, value in facts]
    config = f"<details><summary>Configuration</summary><pre>{escape(to_yaml(cfg))}</pre></details>"
    return f"<section><h2>About this run</h2>{table(('', ''), rows)}{config}</section>"
