"""What a sweep knows of the commands that its trials are: where they write, what they report, whether they go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deploy.config import near, to_tree
from deploy.sweeps.spec import SweepSpec

Reports = list[tuple[int, float]]
"""(steps or episodes done, value so far), in order."""


@dataclass(frozen=True)
class Verb:
    """One command. Places are relative to the folder of a try."""

    out: tuple[tuple[str, str], ...]
    """Options that the sweep gives: where things go."""
    resolved: Callable[[Sequence[str]], dict[str, Any]]
    """What the words of a command line come to. Raises ValueError or KeyError, in one line."""
    fields: tuple[str, ...]
    """Names that a metric may begin with."""
    goes_on: bool = True
    """Whether the same command goes on where an interrupted one was."""
    told_by: Callable[[SweepSpec, Path], Reports] | None = None
    """What a trial under way has found so far."""

    @property
    def placed(self) -> list[str]:
        """The options that say where things go; {folder} stands for the folder of a try."""
        return [word for option, place in self.out for word in (option, f"{{folder}}/{place}")]


def _run(words: Sequence[str]) -> dict[str, Any]:
    from deploy.run_agent import read

    cfg = read(words)
    shown = ("out", "view", "view_host", "view_port", "view_out")
    return {key: value for key, value in to_tree(cfg).items() if key not in shown} | _weights(cfg)


def _evaluate(words: Sequence[str]) -> dict[str, Any]:
    from deploy.evaluate import read

    own, _, cfg = read([*words, "--out", "result.json"])
    return {"episodes": own.episodes, "against": own.against, "videos": own.videos} | to_tree(cfg) | _weights(cfg)


def _weights(cfg: Any) -> dict[str, Any]:
    """Return a checksum of the weights that a config names: another training under the same name is another trial."""
    from deploy.watch import made_with

    return {"made_with": made_with(replace(cfg, goal=""), judged=True)}


def _train(words: Sequence[str]) -> dict[str, Any]:
    from deploy.train import read

    args, model = read(list(words))
    where = ("out", "work", "threads")
    return {key: value for key, value in to_tree(args).items() if key not in where} | {"model": to_tree(model)}


def _collect(words: Sequence[str]) -> dict[str, Any]:
    from deploy.collect import read

    where = ("out", "workers", "address")
    return {key: value for key, value in asdict(read(list(words))).items() if key not in where}


def _curve(spec: SweepSpec, folder: Path) -> Reports:
    """Return the held-out loss of the part that the metric is of, by steps."""
    part = spec.metric.partition(".")[0]
    for path in folder.glob(f"work/*/{part}-*/state.json"):
        curve = json.loads(path.read_text())["curve"]
        return [(int(step), float(held)) for step, _, held in curve if math.isfinite(held)]
    return []


def _episodes(spec: SweepSpec, folder: Path) -> Reports:
    """Return the mean return of the first episodes, by how many these are."""
    from deploy.kept_episodes import decode

    reports: Reports = []
    total = 0.0
    for number, path in enumerate(sorted(folder.glob(f"result.episodes/{spec.preset}/episode-*.npz"))):
        if path.name != f"episode-{number:06d}.npz":
            break
        total += decode(path.read_bytes())[0].episode_return
        reports.append((number + 1, total / (number + 1)))
    return reports


VERBS: dict[str, Verb] = {
    "run": Verb(
        (("--out", "run"),),
        _run,
        (
            *("phases", "control_arm", "false_alarms", "fault_s", "adapted_s", "plan_ms", "plan_age_ms", "late_ms"),
            *("missed_steps", "operator_steps", "held_steps", "nonfinite_rejected", "surprise_max"),
            *("simulated_s", "wall_s"),
        ),
        goes_on=False,
    ),
    "evaluate": Verb(
        (("--out", "result.json"),),
        _evaluate,
        ("mean", "lo", "hi", "success", "plan_ms", "nonfinite_rejected"),
        told_by=_episodes,
    ),
    "train": Verb(
        (("--out", "weights"), ("--work", "work")),
        _train,
        ("proposal", "dynamics", "step", "value", "policy", "jepa", "temporal", "inverse", "decoder", "ensemble"),
        told_by=_curve,
    ),
    "collect": Verb((("--out", "data"),), _collect, ("mean_return", "episodes", "steps")),
}


def result_of(spec: SweepSpec) -> tuple[str, str]:
    """Return where a trial writes the JSON that holds the metric, as a pattern, and the metric's name in it."""
    if spec.verb == "train":
        part, _, field = spec.metric.partition(".")
        return f"weights/{part}.json", field
    places = {"run": "run/summary.json", "evaluate": "result.json", "collect": "data/*/meta/surefoot.json"}
    return places[spec.verb], spec.metric


def direction_of_reports(spec: SweepSpec) -> str:
    """Return whether more or less is better of what trials report; of a training that is a loss."""
    return "min" if spec.verb == "train" else spec.direction


def check(spec: SweepSpec) -> None:
    """Raise ValueError, in one line, for what the command of the spec cannot have."""
    verb = VERBS[spec.verb]
    owned = {option.removeprefix("--") for option, _ in verb.out} | {"seed"}
    for name in (*spec.options, *spec.searched):
        if name in owned:
            raise ValueError(
                f"option {name!r} is given by the sweep itself ({'seeds' if name == 'seed' else 'its folder'})"
            )
    head = spec.metric.partition(".")[0]
    if head not in verb.fields:
        raise ValueError(f"{spec.verb} has no metric {head!r}; near misses: {', '.join(near(head, verb.fields))}")
    if spec.verb == "train" and "." not in spec.metric:
        raise ValueError(f"a metric of train is PART.metrics.NAME, got {spec.metric!r}")
    if spec.asha is not None and (verb.told_by is None or (spec.verb == "evaluate" and spec.metric != "mean")):
        raise ValueError(
            f"asha needs results on the way: train has them, and evaluate with metric mean; "
            f"got {spec.verb} with metric {spec.metric!r}"
        )


def number_in(tree: Any, name: str) -> float:
    """Return the number that a dotted name stands for. Raises ValueError that names what is there instead."""
    at = tree
    for key in name.split("."):
        if not isinstance(at, dict) or key not in at:
            there = near(key, list(at)) if isinstance(at, dict) and at else [repr(at)]
            raise ValueError(f"metric {name!r}: no {key!r}; near misses: {', '.join(there)}")
        at = at[key]
    if not isinstance(at, int | float):
        raise ValueError(f"metric {name!r} must be a number, got {at!r:.80}")
    return float(at)
