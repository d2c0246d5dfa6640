"""Everything that one run needs, as a frozen tree; `config.yaml` beside each run holds it, to be run again."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agents.build import AgentConfig, LinearConfig
from deploy.guard import GuardConfig
from deploy.safety import RobotLimits


@dataclass(frozen=True)
class RunConfig:
    """One run of one robot, with faults, and beside it the same robot without adaptation."""

    preset: tyro.conf.Suppress[str]
    robot: tyro.conf.Suppress[str]
    limits: RobotLimits
    hardware: tyro.conf.Suppress[tyro.conf.Fixed[tuple[str, ...]]] = ()
    """lerobot's options of the real robot that is moved, --robot.type=... first; none: the robot is simulated."""
    agent: AgentConfig = field(default_factory=LinearConfig)
    version: str = "v4"
    """Gymnasium's model of the robot: v4 (as in D4RL) or v5."""
    objective: str = ""
    """What to achieve instead of the task's own reward, e.g. height:1.4 or speed:1.5+0.1*effort."""
    goals: tuple[str, ...] = ()
    """OBJECTIVE@START or SENTENCE@START, in seconds of the run's simulated clock: from then on that is pursued, e.g. speed:1@10
    "stand tall@15" run@20."""
    goal: str = field(default="", repr=False)
    """What to do, in words: "walk backwards slowly"; from the start on, until another goal comes."""
    goal_service: str = field(default="", repr=False)
    """http://HOST:PORT of a goal service (`surefoot goals serve`), asked for what is said in other words; none: nobody is."""
    faults: tuple[str, ...] = ()
    """KIND:TARGET:VALUE@START[-END], in seconds of the run's simulated clock; replaces the preset's list."""
    seed: int = 0
    plan_every: int = 1
    """Least number of control steps between the starts of two plans."""
    plan_latency_s: Annotated[float | None, tyro.conf.arg(name="plan-latency")] = None
    """Seconds of simulated time charged to a plan, in real time the least that one takes; None: as long as it took."""
    compensate: bool = True
    """Whether a plan is made for the time at which it will be there; False: for now, and entered at its first row once it is there."""
    adapt_latency_s: Annotated[float | None, tyro.conf.arg(name="adapt-latency")] = None
    """Seconds of simulated time charged to an adaptation; None: as long as it took."""
    adapt: bool = True
    """Whether an alarm leads to adaptation."""
    control_arm: bool = True
    """Whether the same robot also runs without adaptation, in a second process."""
    adapted_episodes: int = 5
    """The run ends after so many whole episodes with an adapted model ..."""
    max_episodes: int = 100
    """... or after so many episodes ..."""
    max_s: float = 600.0
    """... or after so many simulated seconds."""
    episode_steps: Annotated[int | None, tyro.conf.arg(aliases=("--budget",))] = None
    """Length of an episode in control steps; None: the robot's own."""
    goals_from: Path | None = None
    """LeRobotDataset from which each episode of a world that is seen from above takes its start and its goal; None: random ones."""
    offset: int = 25
    """Recorded control steps from such a start to its goal."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    time: Literal["lockstep", "realtime"] = "lockstep"
    """Lockstep: the world waits while the planner thinks, and is charged for it. Realtime: it does not wait."""
    pictures: Literal["drawn", "mujoco", "none"] = "drawn"
    """The robot in report and video: drawn from its poses, rendered by MuJoCo where OpenGL works, or not at all."""
    out: Path | None = None
    """Folder of the run; None: runs/<time>-<preset>."""
    view: Literal["none", "web", "rerun"] = "none"
    """A live view in a process of its own: a web page with an emergency stop and controls, or a stream to rerun."""
    view_host: str = "127.0.0.1"
    """Address that the view is served at; any other than loopback lets others see the robot and stop it."""
    view_port: int = 8080
    """Port that it is served at; 0: any that is free (web). Rerun also takes the next one."""
    view_out: Path | None = None
    """File (.rrd) that rerun's stream is written to; None: it is served as a page."""

    def __post_init__(self) -> None:
        at_least_1 = ("plan_every", "adapted_episodes", "max_episodes", "episode_steps", "offset")
        for name in at_least_1:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        for name in ("plan_latency_s", "adapt_latency_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be >= 0 and finite, got {value}")
        least = int(self.view == "rerun" and self.view_out is None)
        if not least <= self.view_port <= 65534:
            raise ValueError(f"view_port must be between {least} and 65534, got {self.view_port}")
        if self.view_out is not None and (self.view != "rerun" or self.view_out.suffix != ".rrd"):
            raise ValueError(f"view_out is a file .rrd for --view rerun, got {self.view_out} for --view {self.view}")
        if not self.max_s > 0:
            raise ValueError(f"max_s must be > 0, got {self.max_s}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


def to_tree(cfg: Any) -> Any:
    """Return a config as plain dicts, lists and scalars, as YAML has them."""
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        return {f.name: to_tree(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}
    if isinstance(cfg, tuple | list):
        return [to_tree(item) for item in cfg]
    return str(cfg) if isinstance(cfg, Path) else cfg


def to_yaml(cfg: RunConfig) -> str:
    """Return the resolved config as YAML. `out` and the view are left out: the folder is taken, and who looked is no part of a run."""
    import yaml

    tree = {key: value for key, value in to_tree(cfg).items() if key != "out" and not key.startswith("view")}
    return yaml.safe_dump(tree, sort_keys=False)


def from_yaml(text: str, presets: Mapping[str, RunConfig], origin: str) -> RunConfig:
    """Return the config that `text` holds, over the preset that it names. Raises ValueError, in one line."""
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{origin} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or tree.get("preset") not in presets:
        raise ValueError(f"{origin} needs preset: one of {sorted(presets)}")
    return overlay(presets[tree["preset"]], tree, origin)


def overlay(base: Any, tree: Mapping[str, Any], where: str, **more: Any) -> Any:
    """Return the dataclass `base` with the values of `tree`, and `more` as they are.

    Raises ValueError for a name or a type that it has not.
    """
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    changes = dict(more)
    for key, value in tree.items():
        if key not in fields:
            raise ValueError(f"{where}: no setting {key!r}; near misses: {near(key, fields)}")
        changes[key] = _like(fields[key], value, f"{where}: {key}")
    try:
        return dataclasses.replace(base, **changes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _like(base: Any, value: Any, where: str) -> Any:
    """Return a value from YAML as the type that `base` has; an optional value may be None."""
    if dataclasses.is_dataclass(base):
        if not isinstance(value, dict):
            raise ValueError(f"{where} has settings of its own, got {value!r}")
        return overlay(base, value, where)
    if isinstance(value, list):
        value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
    if value is None or base is None:
        return value
    if isinstance(base, Path) and isinstance(value, str):
        return Path(value)
    if isinstance(base, float) and type(value) is int:
        return float(value)
    if not isinstance(value, type(base)):
        raise ValueError(f"{where} must be {type(base).__name__}, got {value!r}")
    return value


def near(word: str, words: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Return the words most like `word`, or all of them."""
    return difflib.get_close_matches(word, words, n=3, cutoff=0.5) or sorted(words)


def option_names(cfg: Any, prefix: str = "--") -> Iterator[str]:
    """Yield the command line options of a config tree; the real robot has lerobot's."""
    for f in (f for f in dataclasses.fields(cfg) if f.name != "hardware"):
        value, name = getattr(cfg, f.name), f.name.removesuffix("_s" if f.name.endswith("latency_s") else "")
        dashed = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from option_names(value, dashed + ".")
        else:
            yield dashed
