"""Faults: what breaks, when, and a wrapper that breaks it. Grammar `KIND:TARGET:VALUE@START[-END]`, seconds simulated.

For example `actuator_limit:foot_left_joint:0.5@4.0-60 friction:all:0.3@10`. With END the fault is repaired.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np

from envs.fault_effects import ActionEffects, ModelEffects, SensorEffects
from envs.robots import RobotSpec
from envs.world_effects import WorldEffects

_NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_FAULT = re.compile(rf"([^:@]+):([^:@]+):(-|-?{_NUMBER})@({_NUMBER})(?:-({_NUMBER}))?")
PUSH_S = 0.1


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


@dataclass(frozen=True)
class Fault:
    """One fault; `str(fault)` is its text in the grammar. Active from `start_s` until before `end_s`."""

    kind: str
    target: str
    value: float | None  # None where the kind has no value: "-" in the grammar
    start_s: float
    end_s: float = math.inf

    def __str__(self) -> str:
        value = "-" if self.value is None else _plain(float(self.value))
        end = "" if math.isinf(self.end_s) else f"-{_plain(float(self.end_s))}"
        return f"{self.kind}:{self.target}:{value}@{_plain(float(self.start_s))}{end}"

    def is_active(self, t_s: float) -> bool:
        """Whether the fault holds for the control step, or the observation, at time t."""
        return self.start_s <= t_s + 1e-9 < self.end_s


@dataclass(frozen=True)
class _Rule:
    """What a kind may be applied to, and its values: low <= value <= high, or no value at all."""

    part: str  # actuator | joint | body | geom | sensor | robot | object
    low: float = 0.0
    high: float = math.inf
    takes_all: bool = True
    whole: bool = False
    valueless: bool = False


KINDS = {
    "actuator_limit": _Rule("actuator"),
    "actuator_gain": _Rule("actuator", low=-math.inf),
    "joint_lock": _Rule("joint", takes_all=False, valueless=True),
    "joint_damping": _Rule("joint", takes_all=False),
    "mass": _Rule("body", low=1e-3, high=1e3),
    "friction": _Rule("geom"),
    "action_delay": _Rule("robot", high=1000, whole=True),
    "obs_noise": _Rule("sensor"),
    "obs_freeze": _Rule("sensor", valueless=True),
    "obs_drop": _Rule("sensor", high=1.0),
    "push": _Rule("body", low=-math.inf, takes_all=False),
    "teleport": _Rule("object", takes_all=False),  # pixels (on a table: mm), in a random direction
    "colour": _Rule("object", high=1.0, takes_all=False),  # shift of the hue, 1 being the whole circle
    "occlude": _Rule("object", high=1.0, takes_all=False),  # side of a patch over it, in sides of the picture
    "gain": _Rule("object", low=-math.inf, takes_all=False),  # of the actions that move it
    "sticky": _Rule("object", takes_all=False),  # friction of its shape
}


def _targets(kind: str, spec: RobotSpec) -> tuple[str, ...]:
    """Legal targets by name; none where the robot lacks that part."""
    rule = KINDS[kind]
    parts = {
        "actuator": spec.action.names,
        "joint": spec.joints,
        "body": spec.bodies,
        "geom": spec.geoms,
        "sensor": spec.state_names,
        "object": tuple(name for name, kinds in spec.objects.items() if kind in kinds),
    }
    names = parts.get(rule.part, ())
    everything = ("all",) if rule.part == "robot" or (names and rule.takes_all) else ()
    return (*names, *everything)


def _unknown(what: str, name: str, legal: Sequence[str], where: str) -> ValueError:
    near = difflib.get_close_matches(name, legal, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ValueError(f"unknown {what} {name!r} in {where}: {hint}choose from {', '.join(legal)}")


def check_fault(fault: Fault, spec: RobotSpec) -> None:
    """Raise ValueError, in one line that lists what is legal, unless this robot can have this fault."""
    kinds = [kind for kind in KINDS if _targets(kind, spec)]
    if fault.kind not in KINDS:
        raise _unknown("fault kind", fault.kind, kinds, str(fault))
    rule = KINDS[fault.kind]
    targets = _targets(fault.kind, spec)
    if not targets:
        raise ValueError(
            f"fault kind {fault.kind!r} is not available for {spec.name}, which has no {rule.part} to break: "
            f"choose from {', '.join(kinds)}"
        )
    indices = [str(i) for i in range(spec.state_size)] if rule.part == "sensor" else []
    if fault.target not in (*targets, *indices):
        legal = (*targets, f"0 .. {spec.state_size - 1}") if indices else targets
        raise _unknown(f"{fault.kind} target", fault.target, legal, str(fault))
    _check_value(fault, rule)
    if not (math.isfinite(fault.start_s) and 0 <= fault.start_s < fault.end_s):
        raise ValueError(f"fault {fault} must start at 0 s or later, and end after it starts")


def _check_value(fault: Fault, rule: _Rule) -> None:
    value = fault.value
    if rule.valueless:
        return
    if value is None or not (math.isfinite(value) and rule.low <= value <= rule.high):
        raise ValueError(f"value of {fault} must be a number in [{rule.low:g}, {rule.high:g}]")
    if rule.whole and not float(value).is_integer():
        raise ValueError(f"value of {fault} must be a whole number")


def parse_faults(texts: Sequence[str], spec: RobotSpec) -> tuple[Fault, ...]:
    """Return the faults that the texts describe; raises ValueError, in one line that lists what is legal."""
    return tuple(_parse(text, spec) for text in texts)


def _parse(text: str, spec: RobotSpec) -> Fault:
    match = _FAULT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"cannot read fault {text!r}: expected KIND:TARGET:VALUE@START[-END], "
            "for example actuator_limit:foot_left_joint:0.5@4.0-60"
        )
    kind, target, value, start, end = match.groups()
    number = None if value == "-" else float(value)
    fault = Fault(kind, target, number, float(start), math.inf if end is None else float(end))
    check_fault(fault, spec)
    return replace(fault, value=None) if KINDS[kind].valueless else fault


class FaultWrapper(gymnasium.Wrapper):
    """Breaks and repairs a robot made by `make_env`, on a clock `t_s` of simulated seconds that runs across episodes.

    A command is clipped to the action space, then delayed, multiplied, limited and clipped again; the environment is
    given, and charges, the result, which is info["action_applied"]. Faults of one kind add up: gains, masses and
    frictions multiply, delays add, the lowest limit holds. They outlive a reset. A repaired model is the original bit
    for bit. Random faults draw from generators of their own, seeded by the seed of the reset.
    Raises ValueError for a fault that the robot cannot have.
    """

    def __init__(self, env: gymnasium.Env, faults: Sequence[Fault]) -> None:
        super().__init__(env)
        spec: RobotSpec = env.get_wrapper_attr("robot_spec")
        for fault in faults:
            check_fault(fault, spec)
        self.faults = tuple(_bounded(fault, spec.dt_s) for fault in faults)
        self._dt_s = spec.dt_s
        self._steps = 0
        self._actions = ActionEffects(spec, self.faults)
        self._sensors = SensorEffects(spec, self.faults)
        self._body = ModelEffects(env.unwrapped) if spec.bodies else None
        self._world = WorldEffects(env.unwrapped, self.faults) if spec.objects else None  # pyright: ignore
        self._update_body()

    @property
    def t_s(self) -> float:
        """Simulated seconds since this wrapper was made; resets take none."""
        return self._steps * self._dt_s

    def go_to(self, t_s: float) -> None:
        """Let the clock stand at `t_s` [s] from the next reset on: an episode can be repeated without those before it."""
        self._steps = round(t_s / self._dt_s)

    @property
    def active(self) -> tuple[Fault, ...]:
        """The faults that hold at `t_s`."""
        return tuple(fault for fault in self.faults if fault.is_active(self.t_s))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode on the body as it is now; a locked joint is locked anew where the reset puts it."""
        if self._body is not None:
            self._body.unlock()
        state_O, info = self.env.reset(seed=seed, options=options)
        if self._body is not None:
            self._body.learn()
        if self._world is not None:
            self._world.begin(seed, self.active)
        self._update_body()
        self._actions.reset()
        self._sensors.reset(seed)
        return self._sensors.read(state_O, self.active), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control step; info["action_applied"] is what reached the actuators, (A,)."""
        applied_A = self._actions.send(action, self.active)
        if self._body is not None:
            self._body.push(self.active, self.t_s, self._dt_s)
        state_O, reward, terminated, truncated, info = self.env.step(applied_A)
        self._steps += 1
        self._update_body()
        if self._world is not None:
            state_O, info = self._world.apply(self.active, state_O, info)
        state_O = self._sensors.read(state_O, self.active)
        return state_O, float(reward), terminated, truncated, {**info, "action_applied": applied_A.copy()}

    def applied(self, actions_SHA: np.ndarray) -> np.ndarray:
        """Return what would reach the actuators, (S, H, A), if these commands came next and no fault came or went."""
        return self._actions.applied(actions_SHA, self.active)

    def _update_body(self) -> None:
        if self._body is not None:
            self._body.apply(self.active)


def _bounded(fault: Fault, dt_s: float) -> Fault:
    """A push lasts PUSH_S from the first control step at or after its start, or until its end if that is earlier."""
    if fault.kind != "push":
        return fault
    begin_s = math.ceil(fault.start_s / dt_s - 1e-6) * dt_s
    return replace(fault, end_s=min(fault.end_s, begin_s + PUSH_S))
